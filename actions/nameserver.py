"""The primary's own programs: its checker and its reload.

Owns running them; what each kind's are told and say is in exporter/kinds.py. Neither proves that a
zone is served: only asking for its SOA does, and that is left to converge.
"""

import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from exporter.config import Primary
from exporter.kinds import KINDS, Kind
from exporter.zonefile import Fault, SourceRefused

# Long enough for ten thousand records on a small machine, and a hung daemon is seen soon enough.
_CHECK_SECONDS = 10.0
_RELOAD_SECONDS = 3.0
_END_SECONDS = 0.5

# Where Debian keeps name servers' programs; a plain user's PATH lacks it.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class ReloadError(Exception):
    """The name server could not be told to reload: its next start, or a retry, may be right."""


def reload(primary: Primary) -> None:
    """Tell the primary to load all zone files that have changed; ReloadError with its own words."""
    kind = KINDS[primary.kind]
    command = [*primary.control, *kind.reload]
    try:
        done = _run(command, _RELOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReloadError(_reason(command, error)) from error
    if done.returncode:
        raise ReloadError(f"{' '.join(command)}: {_words(done, kind)}")


def check(primary: Primary, zone: str, content: bytes, *, within: float = math.inf) -> None:
    """Let the primary's own checker read a rendering; SourceRefused with its complaints.

    It gets it through a pipe: a run that is killed leaves nothing behind. TimeoutError where it has
    to end `within` so many seconds, which are fewer than it is given, and does not.
    """
    kind = KINDS[primary.kind]
    command = [*primary.checker, *kind.check, zone, "/dev/stdin"]
    try:
        done = _run(command, min(within, _CHECK_SECONDS), content)
    except (OSError, subprocess.TimeoutExpired) as error:
        if isinstance(error, subprocess.TimeoutExpired) and within < _CHECK_SECONDS:
            raise TimeoutError from error
        raise SourceRefused(
            (Fault(0, f"not checked: {_reason(primary.checker, error)}"),)
        ) from error
    if done.returncode:
        name = Path(primary.checker[0]).name
        raise SourceRefused(tuple(_faults(name, _words(done, kind), kind)))


def _faults(name: str, words: str, kind: Kind) -> Iterator[Fault]:
    """Each complaint, with its line where it has one: a rendering has its source's line numbers."""
    for line in words.splitlines():
        placed = kind.complaint.fullmatch(line)
        if placed:
            yield Fault(int(placed[1]), f"{name}: {placed[2]}")
        elif line.strip():
            yield Fault(0, f"{name}: {line.strip()}")


def find(program: str) -> str | None:
    """Where a program is, also where a plain user's PATH does not look."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    return shutil.which(program, path=path)


def _run(
    command: Sequence[str], seconds: float, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    program = find(command[0])
    if program is None:
        raise FileNotFoundError(f"no such program: {command[0]}")
    pipe = subprocess.PIPE
    process = subprocess.Popen([program, *command[1:]], stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        said, complained = process.communicate(given, seconds)
    finally:
        _end(process)
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def _end(process: subprocess.Popen[bytes]) -> None:
    """See a program ended, if it may be: another user's, as `sudo` is, is left to itself."""
    if process.poll() is None:
        with suppress(PermissionError):
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with suppress(OSError):  # what was not written is of no use any more
                stream.close()


def _words(done: subprocess.CompletedProcess[bytes], kind: Kind) -> str:
    said = kind.noise.sub("", (done.stderr + done.stdout).decode(errors="replace"))
    return said.strip() or f"exit status {done.returncode}"


def _reason(command: Sequence[str], error: OSError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{command[0]}: no end within {error.timeout:g} s"
    return f"{command[0]}: {error.strerror or error}"
