"""Puts a whole file in place, or nothing: no reader ever sees half of one, no crash leaves one.

Owns the order of the steps (write, fsync, rename, fsync of the folder), the names of the files that
stand beside it meanwhile, and the fresh mtime that name servers go by. What is written, and where,
is left to the callers, who hold the lock.
"""

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

_ONE_SECOND_NS = 1_000_000_000

# So many files are open at once; a process may have 1024.
_TOGETHER = 200
_BUFFER = 512  # bytes: each content is written at once
# So many are synced at once: the disk writes its journal once for all of them.
_SYNCING = 8

# A path is kept as text where there are thousands: pathlib takes longer, and remembers each part.
_StrPath = str | os.PathLike[str]

# Fixed names, so that what a crash leaves behind goes with the next run.
_TEMPORARY, _LAST, _SPARE = ".tmp", ".last", ".spare"


def read(path: str) -> bytes:
    """What a file holds; may raise OSError."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()


def put(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` with `content`, durably once `sync_folder` has run too; may raise OSError."""
    for error in put_all(path.parent, {path.name: content}.items(), mode=mode).values():
        raise error


def put_all(
    folder: Path,
    contents: Iterable[tuple[str, bytes]],
    *,
    keep: Collection[str] = (),
    mode: int = 0o644,
) -> dict[str, OSError]:
    """Replace files in `folder`, durably once `sync_folder` has run too; which could not be.

    Some are written, then synced, then renamed together: a disk that has many to sync takes little
    longer than for one. Of those named in `keep`, what stood there is kept until `drop`.
    """
    failed, remaining = dict[str, OSError](), iter(contents)
    while some := list(islice(remaining, _TOGETHER)):
        with ExitStack() as opened:
            written = {}
            for name, content in some:
                try:
                    written[name] = opened.enter_context(
                        _written(f"{folder}/{name}", content, mode)
                    )
                except OSError as error:
                    failed[name] = error
            for (name, file), unsynced in zip(written.items(), _synced(written), strict=True):
                try:
                    if unsynced:
                        raise unsynced
                    if name in keep:
                        _keep(f"{folder}/{name}")
                    os.replace(file.name, f"{folder}/{name}")  # noqa: PTH105
                except OSError as why:
                    with suppress(OSError):  # the next run tries again
                        Path(file.name).unlink(missing_ok=True)
                    failed[name] = why
    return failed


def _synced(written: Mapping[str, BinaryIO]) -> list[OSError | None]:
    """See the files on the disk; why not, for each that is not."""

    def sync(file: BinaryIO) -> OSError | None:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            return error
        return None

    if len(written) <= 1:
        return list(map(sync, written.values()))
    with ThreadPoolExecutor(_SYNCING) as pool:
        return list(pool.map(sync, written.values()))


def _written(path: str, content: bytes, mode: int) -> BinaryIO:
    """Write a temporary file beside `path`; it is left open."""
    temporary, spare = _beside(path, _TEMPORARY), _beside(path, _SPARE)
    with suppress(OSError):  # none there, mostly
        status = os.lstat(spare)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.rename(spare, temporary)  # noqa: PTH104
        else:  # a link is nothing of ours; by another name it may be what is served, or a backup
            Path(spare).unlink()
    # Only what is too much is cut off, at the end: emptied first, a spare would take twice as long.
    file = open(  # noqa: SIM115  the caller closes it; a link is nothing of ours
        temporary,
        "wb",
        buffering=_BUFFER,
        opener=lambda name, flags: os.open(name, flags & ~os.O_TRUNC | os.O_NOFOLLOW, mode),
    )
    try:
        # Whatever the umask: another user's name server reads it.
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.truncate()
        _freshen(file.fileno(), path)
    except OSError:
        with suppress(OSError):  # what is not flushed is written in vain once more
            file.close()
        with suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise
    return file


def _keep(path: str) -> None:
    """Keep what stands at `path` beside it, until `drop`, where that can be done."""
    last = _beside(path, _LAST)
    with suppress(OSError):  # to have what comes is worth more than to have a way back
        try:
            os.link(path, last)
        except FileExistsError:
            Path(last).unlink()
            os.link(path, last)


def sync_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kept(path: _StrPath) -> bytes | None:
    """What was kept of `path`; None if nothing was. May raise OSError."""
    try:
        return read(_beside(path, _LAST))
    except FileNotFoundError:
        return None


def put_back(path: str) -> None:
    """Put what was kept of `path` in its place, which takes no room; may raise OSError."""
    temporary = _beside(path, _TEMPORARY)
    Path(temporary).unlink(missing_ok=True)
    os.link(_beside(path, _LAST), temporary)
    try:
        _freshen(temporary, path)
        os.replace(temporary, path)  # noqa: PTH105  which does nothing where they are one file
    finally:
        Path(temporary).unlink(missing_ok=True)  # else what is written next goes into what is kept


def drop(path: _StrPath, *, spare: bool = False) -> None:
    """Keep it no longer; may raise OSError. As a `spare`, the file is used for the next content.

    To make a file takes ext4 ten times as long where thousands were removed minutes ago.
    """
    if spare:
        with suppress(FileNotFoundError):
            os.rename(_beside(path, _LAST), _beside(path, _SPARE))  # noqa: PTH104
    else:
        Path(_beside(path, _LAST)).unlink(missing_ok=True)


def clear(path: _StrPath) -> None:
    """Remove all that may stand beside `path`; may raise OSError."""
    for suffix in (_TEMPORARY, _LAST, _SPARE):
        Path(_beside(path, suffix)).unlink(missing_ok=True)


def keeping(folder: Path) -> set[str]:
    """The names of the files in `folder` of which something is kept; may raise OSError."""
    return set(_names(folder, _LAST))


def sweep(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove what a crash has left of writing, these files or any; may raise OSError."""
    for name in _names(folder, _TEMPORARY):
        if names is None or name in names:
            Path(_beside(f"{folder}/{name}", _TEMPORARY)).unlink(missing_ok=True)


def _names(folder: Path, suffix: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name[1 : -len(suffix)]
            for entry in entries
            if entry.name.startswith(".")
            and entry.name.endswith(suffix)
            and entry.is_file(follow_symlinks=False)  # else it is none of ours
        ]


def _beside(path: _StrPath, suffix: str) -> str:
    folder, name = os.path.split(path)
    return f"{folder}/.{name}{suffix}"


def _freshen(new: int | str, replaced: str) -> None:
    """Give the new file, open or not, an mtime later than the old one's, whatever the clock says.

    NSD takes a file with the same mtime for the same file, BIND one with an older mtime too.
    """
    try:
        old = os.stat(replaced).st_mtime_ns  # noqa: PTH116
    except FileNotFoundError:
        return
    if os.stat(new).st_mtime_ns <= old:  # noqa: PTH116
        os.utime(new, ns=(old + _ONE_SECOND_NS, old + _ONE_SECOND_NS))
