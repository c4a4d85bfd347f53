"""The primary's own programs: its checker and its reload.

Owns what differs between kinds of name server. Neither proves that a zone is served: only asking
for its SOA does, and that is left to converge.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.config import Primary
from exporter.zonefile import Fault, SourceRefused

# Long enough for ten thousand records on a small machine, and a hung daemon is seen soon enough.
_CHECK_SECONDS = 10.0
_RELOAD_SECONDS = 3.0

# What NSD's programs put before a line: time and process, new each time, so that a lasting failure
# would look like a new one.
_STAMP = r"(?m)^\[[^\]]*\] \S+\[\d+\]: "

# Where Debian keeps name servers' programs; a plain user's PATH lacks it.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class ReloadError(Exception):
    """The name server could not be told to reload: its next start, or a retry, may be right."""


@dataclass(frozen=True)
class Kind:
    """What one kind of name server is told."""

    reload: tuple[str, ...]
    check: Callable[[str, str], tuple[str, ...]]  # zone, file -> the checker's arguments


KINDS = {
    "nsd": Kind(reload=("reload",), check=lambda zone, file: (zone, file)),
}


def reload(primary: Primary) -> None:
    """Tell the primary to load all zone files that have changed; ReloadError with its own words."""
    command = [*primary.control, *KINDS[primary.kind].reload]
    try:
        done = _run(command, _RELOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReloadError(_reason(command, error)) from error
    if done.returncode:
        raise ReloadError(f"{' '.join(command)}: {_words(done)}")


def check(primary: Primary, zone: str, content: bytes) -> None:
    """Let the primary's own checker read a rendering; SourceRefused with its complaints."""
    try:
        with tempfile.TemporaryDirectory(prefix="zonerw-") as folder:
            file = Path(folder, zone)
            file.write_bytes(content)
            command = [*primary.checker, *KINDS[primary.kind].check(zone, str(file))]
            done = _run(command, _CHECK_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceRefused(
            (Fault(0, f"not checked: {_reason(primary.checker, error)}"),)
        ) from error
    if done.returncode:
        raise SourceRefused(_complaints(_words(done), file, primary.checker[0]))


def _complaints(words: str, file: Path, checker: str) -> tuple[Fault, ...]:
    """Read `… FILE:LINE: text` lines; a rendering has its source's line numbers."""
    name = Path(checker).name
    placed = re.findall(rf"{re.escape(str(file))}:(\d+):\s*(.+)", words)
    if placed:
        return tuple(Fault(int(line), f"{name}: {text}") for line, text in placed)
    return (Fault(0, f"{name}: {words}"),)


def find(program: str) -> str | None:
    """Where a program is, also where a plain user's PATH does not look."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    return shutil.which(program, path=path)


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    program = find(command[0])
    if program is None:
        raise FileNotFoundError(f"no such program: {command[0]}")
    return subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )


def _words(done: subprocess.CompletedProcess[str]) -> str:
    said = re.sub(_STAMP, "", (done.stderr + done.stdout).strip())
    return said or f"exit status {done.returncode}"


def _reason(command: Sequence[str], error: OSError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{command[0]}: no end within {error.timeout:g} s"
    return f"{command[0]}: {error.strerror or error}"
