"""Puts a whole file in place, or nothing: no reader ever sees half of one, no crash leaves one.

Owns the order of the steps (write, fsync, rename, fsync of the folder), the names of the files that
stand beside it meanwhile, and the fresh mtime that name servers go by. What is written, and where,
is left to the callers, who hold the lock.
"""

import os
from collections.abc import Collection
from pathlib import Path

_ONE_SECOND_NS = 1_000_000_000

# Fixed names, so that what a crash leaves behind goes with the next run.
_TEMPORARY, _LAST = ".tmp", ".last"


def put(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` with `content`, durably once `sync_folder` has run too; may raise OSError."""
    temporary = _beside(path, _TEMPORARY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Whatever the umask: another user's name server reads it.
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            _freshen(file.fileno(), path)
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  there are thousands: as plain as it gets
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep(path: Path) -> None:
    """Keep what stands at `path` beside it, until `drop`; may raise OSError."""
    last = _beside(path, _LAST)
    try:
        os.link(path, last)
    except FileExistsError:
        Path(last).unlink()
        os.link(path, last)


def kept(path: Path) -> bytes | None:
    """What was kept of `path`; None if nothing was. May raise OSError."""
    try:
        return Path(_beside(path, _LAST)).read_bytes()
    except FileNotFoundError:
        return None


def drop(path: Path) -> None:
    """Keep it no longer; may raise OSError."""
    Path(_beside(path, _LAST)).unlink(missing_ok=True)


def keeping(folder: Path) -> set[str]:
    """The names of the files in `folder` of which something is kept; may raise OSError."""
    return set(_names(folder, _LAST))


def sweep(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove what a crash has left of writing, these files or any; may raise OSError."""
    for name in _names(folder, _TEMPORARY):
        if names is None or name in names:
            Path(_beside(folder / name, _TEMPORARY)).unlink(missing_ok=True)


def _names(folder: Path, suffix: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name[1 : -len(suffix)]
            for entry in entries
            if entry.name.startswith(".") and entry.name.endswith(suffix)
        ]


def _beside(path: Path, suffix: str) -> str:
    folder, name = os.path.split(path)
    return f"{folder}/.{name}{suffix}"


def _freshen(descriptor: int, replaced: Path) -> None:
    """Give the new file an mtime later than the old one's, whatever the clock says.

    NSD takes a file with the same mtime for the same file, BIND one with an older mtime too.
    """
    try:
        old = replaced.stat().st_mtime_ns
    except FileNotFoundError:
        return
    if os.fstat(descriptor).st_mtime_ns <= old:
        os.utime(descriptor, ns=(old + _ONE_SECOND_NS, old + _ONE_SECOND_NS))
