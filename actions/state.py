"""What must outlive a crash: what is meant, the accepted sources, the serials used.

One folder of plain files, each replaced as a whole, under one lock between processes:

    meant.json          which server the zones are meant to point at, since when, why, by whom
    serials.json        zone -> the highest serial ever handed out, written before it is used
    accepted/ZONE.base  the source as last published by a person's word
    lock                held from the decision to the verified primary

What is done with them is converge's business.
"""

import fcntl
import json
import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from actions import files
from exporter import zonefile

_VERSION = 1


class StateError(Exception):
    """The state folder can't be used: which file, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Model = TypeVar("_Model", bound=_Record)


class Meant(_Record):
    """Which server the zones are meant to point at."""

    server: str
    since: datetime
    why: str
    by: str


class _MeantFile(_Record):
    version: int
    meant: Meant


class _SerialsFile(_Record):
    version: int
    serials: dict[str, NonNegativeInt]


class State:
    """The folder. Reading and writing ask for the lock, `locked()`, to be held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._meant = folder / "meant.json"
        self._serials = folder / "serials.json"
        self._accepted = folder / "accepted"

    def prepare(self) -> None:
        """Make the folder where it is missing; refuse one that belongs to somebody else."""
        try:
            self._accepted.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.folder.stat().st_uid
        except OSError as error:
            raise StateError(self.folder, f"can't be used: {error.strerror}") from error
        if owner != os.geteuid():
            raise StateError(
                self.folder,
                f"belongs to user {_user(owner)}, this is {_user(os.geteuid())};"
                f" run as {_user(owner)}",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock between threads and processes; waits for whoever holds it."""
        # A fresh descriptor each time: flock belongs to the open file, not to the process.
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def meant(self) -> Meant | None:
        """What is put down; None before the first time."""
        file = self._read(self._meant, _MeantFile)
        return file.meant if file else None

    def put_down(self, meant: Meant) -> None:
        """Record what is meant, before anything is done about it."""
        self._write(self._meant, _MeantFile(version=_VERSION, meant=meant))

    def serials(self) -> dict[str, int]:
        """Zone -> the highest serial handed out."""
        file = self._read(self._serials, _SerialsFile)
        return dict(file.serials) if file else {}

    def record(self, serials: Mapping[str, int]) -> None:
        """Record serials, before they are used."""
        known = {**self.serials(), **serials}
        self._write(self._serials, _SerialsFile(version=_VERSION, serials=known))

    def accepted(self) -> dict[str, bytes]:
        """Zone -> the source as last accepted."""
        try:
            return {
                path.name.removesuffix(zonefile.SUFFIX): path.read_bytes()
                for path in sorted(self._accepted.glob(f"[!.]*{zonefile.SUFFIX}"))
            }
        except OSError as error:
            raise StateError(self._accepted, f"can't be read: {error.strerror}") from error

    def accept(self, sources: Mapping[str, bytes]) -> None:
        """Keep sources that a person has published."""
        if not sources:
            return
        try:
            for zone, content in sources.items():
                files.put(self._accepted / f"{zone}{zonefile.SUFFIX}", content, mode=0o600)
            files.sync_folder(self._accepted)
        except OSError as error:
            raise StateError(self._accepted, f"can't be written: {error.strerror}") from error

    def retire(self, zone: str) -> None:
        """Put a source aside, as `.ZONE.base.retired`: its owner has taken it away."""
        path = self._accepted / f"{zone}{zonefile.SUFFIX}"
        try:
            path.replace(path.with_name(f".{path.name}.retired"))
            files.sync_folder(self._accepted)
        except OSError as error:
            raise StateError(self._accepted, f"can't be written: {error.strerror}") from error

    def _open_lock(self) -> int:
        try:
            return os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(self.folder / "lock", f"can't be opened: {error.strerror}") from error

    def _read(self, path: Path, model: type[_Model]) -> _Model | None:
        try:
            tree: Any = json.loads(path.read_bytes())
            if not isinstance(tree, dict) or tree.get("version") != _VERSION:
                raise StateError(
                    path, f"is not of version {_VERSION}, the one that this program knows"
                )
            return model.model_validate(tree)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(path, f"can't be read: {error.strerror}") from error
        except (ValueError, ValidationError) as error:
            raise StateError(path, f"is damaged: {error}") from error

    def _write(self, path: Path, record: _Record) -> None:
        try:
            files.put(path, record.model_dump_json(indent=1).encode() + b"\n", mode=0o600)
            files.sync_folder(self.folder)
        except OSError as error:
            raise StateError(path, f"can't be written: {error.strerror}") from error


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
