"""What must outlive a crash: what is meant, the accepted sources, the serials used.

One folder of plain files, each replaced as a whole, under one lock between processes:

    meant.json          which server the zones are meant to point at, since when, why, by whom
    pin.json            the operator's override, until when, why, by whom; not there: no pin
    seen.json           server -> the checks that it was seen to meet
    history.jsonl       the last switches, a line for each; the newest is the last
    serials.json        zone -> the highest serial ever handed out, written before it is used
    refused.json        zone -> what the primary would not serve, and when it is tried again
    lifted.json         zone -> when it last got a higher serial for a nameserver's sake
    accepted/ZONE.base  the source as last published by a person's word
    accepted/.ZONE.base.retired  the same, of a zone whose source its owner took away
    sync/               what keeping the servers in step came to: see records
    *.damaged           what could not be read, put aside for a person to look at
    lock                held from the decision to the verified primary

What is done with them is converge's business.
"""

import fcntl
import json
import logging
import os
import pwd
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt

from actions import files
from actions.decide import Cause
from exporter import zonefile

log = logging.getLogger(__name__)

VERSION = 1

# Years of an ordinary owner's; a few hours of one whose main server flaps all the time.
_HISTORY_LINES = 1000


# An ended pin is kept for so long, should the clock have been wrong.
_PIN_KEPT = timedelta(days=1)

_RETIRED = ".retired"

# What changes whenever a file is replaced, as one number: there are many of them.
Mark = int


class StateError(Exception):
    """The state folder can't be used: which file, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Record(BaseModel):
    """What is kept in a file of the state folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Model = TypeVar("_Model", bound=Record)


class Meant(Record):
    """Which server the zones are meant to point at.

    `before` is the server that it took over from, because of `cause`; None where nothing was put
    down before.
    """

    server: str
    since: AwareDatetime
    why: str
    by: str
    before: str | None = None
    cause: Cause | None = None


class Pin(Record):
    """The operator's override: this server, until then, whatever the witnesses say."""

    server: str
    until: AwareDatetime
    reason: str
    by: str


class Refused(Record):
    """What the primary would not serve though its checker took it; instead it got `serial`.

    `rendering` is a mark of its text. It is tried again `again`, or when another text is due.
    """

    rendering: str
    serial: int
    again: AwareDatetime
    reason: str


class _MeantFile(Record):
    version: int
    meant: Meant


class _PinFile(Record):
    version: int
    pin: Pin


class _SeenFile(Record):
    version: int
    seen: dict[str, str]


class _SerialsFile(Record):
    version: int
    serials: dict[str, NonNegativeInt]


class _RefusedFile(Record):
    version: int
    refused: dict[str, Refused]


class _LiftedFile(Record):
    version: int
    lifted: dict[str, AwareDatetime]


class State:
    """The folder. Writing asks for the lock, `locked()`, to be held; so does what goes by reading.

    Only to show what is there, it may be read without: each file is whole at any moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._meant = folder / "meant.json"
        self._pin = folder / "pin.json"
        self._seen = folder / "seen.json"
        self._history = folder / "history.jsonl"
        self._serials = folder / "serials.json"
        self._refused = folder / "refused.json"
        self._lifted = folder / "lifted.json"
        self._accepted = folder / "accepted"
        self._lock = folder / "lock"

    def prepare(self) -> None:
        """Make the folder where it is missing; refuse one that belongs to somebody else."""
        for folder in (self.folder, self._accepted):
            prepare(folder)

    def readable(self) -> None:
        """See that the folder can be read, if there is one; StateError says why it can't."""
        try:
            next(self.folder.iterdir(), None)
        except FileNotFoundError:
            pass  # nothing was ever put down
        except OSError as error:
            raise StateError(self.folder, f"can't be read: {error.strerror}") from error

    def sweep(self) -> None:
        """Remove what a killed run has left behind; under the lock."""
        for folder in (self.folder, self._accepted):
            try:
                files.sweep(folder)
            except OSError as error:
                raise StateError(folder, f"can't be cleared up: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock between threads and processes; waits for whoever holds it."""
        with held(self._lock, self._be_there):
            yield

    def meant(self) -> Meant | None:
        """What is put down; None before the first time."""
        file = read(self._meant, _MeantFile)
        return file.meant if file else None

    def put_down(self, meant: Meant) -> None:
        """Record what is meant, before anything is done about it."""
        write(self._meant, _MeantFile(version=VERSION, meant=meant))

    def pin(self, now: datetime) -> Pin | None:
        """The pin that holds; one that has ended is left where it is: `now` may be wrong."""
        pin = self._any_pin()
        return pin if pin and now < pin.until else None

    def pin_or_drop(self, now: datetime) -> Pin | None:
        """The pin that holds; one that ended a day ago is removed.

        A clock set back must not bring it to life again.
        """
        pin = self._any_pin()
        if pin and pin.until + _PIN_KEPT < now:
            self.unpin()
        return pin if pin and now < pin.until else None

    def put_pin(self, pin: Pin) -> None:
        """Set the pin, in place of any before, a damaged one too."""
        write(self._pin, _PinFile(version=VERSION, pin=pin))

    def unpin(self) -> None:
        """Take the pin away, a damaged one too."""
        try:
            self._pin.unlink(missing_ok=True)
            files.sync_folder(self.folder)
        except OSError as error:
            raise StateError(self._pin, f"can't be removed: {error.strerror}") from error

    def seen(self) -> dict[str, str]:
        """Server -> the mark of the checks that it was seen to meet."""
        file = read(self._seen, _SeenFile)
        return dict(file.seen) if file else {}

    def put_seen(self, seen: Mapping[str, str]) -> None:
        """Record who was seen to meet which checks; all of them."""
        write(self._seen, _SeenFile(version=VERSION, seen=dict(seen)))

    def history(self) -> list[Meant]:
        """The last switches, the newest last."""
        try:
            lines = self._history.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError(self._history, f"can't be read: {error.strerror}") from error
        return [_parse(self._history, line, _MeantFile).meant for line in lines]

    def remember(self, switch: Meant) -> None:
        """Add a switch to the history, where it is not the last one already.

        No switch waits for the history: a damaged one is put aside and another one begun, one that
        can't be written is lost.
        """
        try:
            history = self.history()
        except StateError as error:
            log.warning("history put aside", extra={"reason": str(error)})
            history = []
        if history and history[-1] == switch:
            return
        records = (_MeantFile(version=VERSION, meant=m) for m in [*history, switch])
        lines = [f"{record.model_dump_json()}\n".encode() for record in records]
        try:
            if not history and self._history.exists():
                self._history.replace(self._history.with_suffix(".damaged"))
            _put(self._history, b"".join(lines[-_HISTORY_LINES:]))
        except (OSError, StateError) as error:
            log.error("history can't be written", extra={"reason": str(error)})  # noqa: TRY400

    def serials(self) -> dict[str, int]:
        """Zone -> the highest serial handed out."""
        file = read(self._serials, _SerialsFile)
        return dict(file.serials) if file else {}

    def mark_of_serials(self) -> Mark | None:
        """What changes whenever anybody hands out a serial; None before the first."""
        try:
            return mark(self._serials.stat())
        except OSError:
            return None

    def record(self, serials: Mapping[str, int | None]) -> None:
        """Record serials, before they are used; None takes back what was never used."""
        known = {**self.serials(), **serials}
        used = {zone: serial for zone, serial in known.items() if serial is not None}
        write(self._serials, _SerialsFile(version=VERSION, serials=used))

    def refused(self) -> dict[str, Refused]:
        """Zone -> what the primary would not serve."""
        file = read(self._refused, _RefusedFile)
        return dict(file.refused) if file else {}

    def put_refused(self, refused: Mapping[str, Refused]) -> None:
        """Record what the primary would not serve; all of it."""
        write(self._refused, _RefusedFile(version=VERSION, refused=dict(refused)))

    def lifted(self) -> dict[str, datetime]:
        """Zone -> when it last got a higher serial for a nameserver's sake."""
        file = read(self._lifted, _LiftedFile)
        return dict(file.lifted) if file else {}

    def put_lifted(self, lifted: Mapping[str, datetime]) -> None:
        """Record which zones were given a higher serial for a nameserver's sake; all of them."""
        write(self._lifted, _LiftedFile(version=VERSION, lifted=dict(lifted)))

    def accepted(self) -> dict[str, Mark]:
        """Zone -> the mark of its source as last accepted: what was read at this mark holds."""
        return self._sources("", zonefile.SUFFIX)

    def lost(self) -> set[str]:
        """The zones that were given a serial, and whose source is neither accepted nor retired."""
        retired = self._sources(".", f"{zonefile.SUFFIX}{_RETIRED}").keys()
        return self.serials().keys() - self._sources("", zonefile.SUFFIX).keys() - retired

    def source(self, zone: str) -> bytes:
        """A zone's source as last accepted."""
        path = self.path_of(zone)
        try:
            return files.read(path)
        except OSError as error:
            raise StateError(Path(path), f"can't be read: {error.strerror}") from error

    def path_of(self, zone: str) -> str:
        """Where a zone's source is as last accepted; as text, as in `files`."""
        return f"{self._accepted}/{zone}{zonefile.SUFFIX}"

    def accept(self, sources: Iterable[tuple[str, bytes]]) -> None:
        """Keep sources that a person has published; few are in memory at once."""
        accepted = list[str]()

        def differing() -> Iterator[tuple[str, bytes]]:
            for zone, content in sources:
                accepted.append(zone)
                if not self._is(zone, content):
                    yield f"{zone}{zonefile.SUFFIX}", content

        try:
            for error in files.put_all(self._accepted, differing(), mode=0o600).values():
                raise error
            for zone in accepted:
                self._retired(zone).unlink(missing_ok=True)
            files.sync_folder(self._accepted)
        except OSError as error:
            raise StateError(self._accepted, f"can't be written: {error.strerror}") from error

    def retire(self, zone: str) -> None:
        """Put a source aside, as `.ZONE.base.retired`: its owner has taken it away."""
        try:
            if (source := Path(self.path_of(zone))).exists():
                source.replace(self._retired(zone))
            else:
                self._retired(zone).touch()  # it was lost: now that is meant
            files.sync_folder(self._accepted)
        except OSError as error:
            raise StateError(self._accepted, f"can't be written: {error.strerror}") from error

    def _sources(self, prefix: str, suffix: str) -> dict[str, Mark]:
        try:
            with os.scandir(self._accepted) as entries:
                marks = {
                    entry.name.removeprefix(prefix).removesuffix(suffix): mark(
                        entry.stat(follow_symlinks=False)
                    )
                    for entry in entries
                    if entry.name.endswith(suffix) and entry.name.startswith(".") == bool(prefix)
                }
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StateError(self._accepted, f"can't be read: {error.strerror}") from error
        return {name: marks[name] for name in sorted(marks)}

    def _is(self, zone: str, content: bytes) -> bool:
        try:
            return self.source(zone) == content
        except StateError:
            return False

    def _retired(self, zone: str) -> Path:
        return self._accepted / f".{zone}{zonefile.SUFFIX}{_RETIRED}"

    def _any_pin(self) -> Pin | None:
        file = read(self._pin, _PinFile)
        return file.pin if file else None

    def _be_there(self) -> None:
        if not os.path.exists(self._accepted):  # noqa: PTH110  which raises where it can't look
            self.prepare()  # somebody has removed the folder: it is a first start again


# --- any file of the folder -----------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Make a folder where it is missing; refuse one that belongs to somebody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise StateError(folder, f"can't be used: {error.strerror}") from error
    if owner != os.geteuid():
        theirs, ours = _user(owner), _user(os.geteuid())
        remedy = f"run as {theirs}"
        if owner == 0:
            remedy += f", or, if that was a mistake once, sudo chown -R {ours} {folder}"
        raise StateError(folder, f"belongs to user {theirs}, this is {ours}; {remedy}")


@contextmanager
def held(
    lock: Path, be_there: Callable[[], None], waits: Callable[[], None] | None = None
) -> Iterator[int]:
    """Hold a lock between threads and processes, as an open file; waits for whoever holds it.

    `be_there` sees to its folder; `waits` is told that somebody holds it.
    """
    while True:
        be_there()
        # A fresh descriptor each time: flock belongs to the open file, not to the process.
        descriptor = _opened(lock)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waits:
                    waits()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_file(descriptor, lock):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _opened(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StateError(lock, f"can't be opened: {error.strerror}") from error


def _is_file(descriptor: int, lock: Path) -> bool:
    """Whether that is the lock still: while we waited, somebody may have removed the folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StateError(lock, f"can't be read: {error.strerror}") from error


def read(path: Path, model: type[_Model]) -> _Model | None:
    """Read a record; None where there is none."""
    try:
        return _parse(path, path.read_bytes(), model)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(path, f"can't be read: {error.strerror}") from error


def write(path: Path, record: Record) -> None:
    """Put a record in place, durably."""
    _put(path, record.model_dump_json(indent=1).encode() + b"\n")


def put_aside(path: Path) -> str | None:
    """Move a damaged file out of the way; its new name, None where that can't be done."""
    try:
        return path.replace(path.with_suffix(".damaged")).name
    except OSError:
        return None


def _put(path: Path, content: bytes) -> None:
    try:
        files.put(path, content, mode=0o600)
        files.sync_folder(path.parent)
    except OSError as error:
        raise StateError(path, f"can't be written: {error.strerror}") from error


def _parse(path: Path, content: bytes, model: type[_Model]) -> _Model:
    try:
        tree: Any = json.loads(content)
        if not isinstance(tree, dict) or tree.get("version") != VERSION:
            raise StateError(path, f"is not of version {VERSION}, the one that this program knows")
        return model.model_validate(tree)
    except ValueError as error:  # pydantic's is one of them
        raise StateError(path, f"is damaged: {error}") from error


def mark(its: os.stat_result) -> Mark:
    """What changes whenever a file is replaced, or edited."""
    return hash((its.st_ino, its.st_mtime_ns, its.st_ctime_ns, its.st_size))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
