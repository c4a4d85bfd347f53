"""Puts a whole file in place, or nothing: no reader ever sees half of one, no crash leaves one.

Owns the order of the steps (write, fsync, rename, fsync of the folder) and the fresh mtime that
name servers go by. What is written, and where, is left to the callers.
"""

import os
from pathlib import Path

_ONE_SECOND_NS = 1_000_000_000


def put(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` with `content`, durably once `sync_folder` has run too; may raise OSError.

    The temporary file's name is fixed, so that what a crash leaves behind goes with the next run;
    the callers hold the lock.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Whatever the umask: another user's name server reads it.
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            _freshen(file.fileno(), path)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
