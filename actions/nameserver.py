"""The primary's own programs: its checker and its reload.

Owns running them; what each kind's are told and say is in exporter/kinds.py. Neither proves that a
zone is served: only asking for its SOA does, and that is left to converge.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from exporter.config import Primary
from exporter.kinds import KINDS, Kind
from exporter.zonefile import Fault, SourceRefused

# Long enough for ten thousand records on a small machine, and a hung daemon is seen soon enough.
_CHECK_SECONDS = 10.0
_RELOAD_SECONDS = 3.0

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


def check(primary: Primary, zone: str, content: bytes) -> None:
    """Let the primary's own checker read a rendering; SourceRefused with its complaints.

    It gets it through a pipe: a run that is killed leaves nothing behind.
    """
    kind = KINDS[primary.kind]
    command = [*primary.checker, *kind.check, zone, "/dev/stdin"]
    try:
        done = _run(command, _CHECK_SECONDS, content)
    except (OSError, subprocess.TimeoutExpired) as error:
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
    return subprocess.run(
        [program, *command[1:]], input=given, capture_output=True, timeout=seconds, check=False
    )


def _words(done: subprocess.CompletedProcess[bytes], kind: Kind) -> str:
    said = kind.noise.sub("", (done.stderr + done.stdout).decode(errors="replace"))
    return said.strip() or f"exit status {done.returncode}"


def _reason(command: Sequence[str], error: OSError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{command[0]}: no end within {error.timeout:g} s"
    return f"{command[0]}: {error.strerror or error}"
