"""Which zones differ from what is meant, their next serials, and writing them.

Owns the published files. Which server is meant is decided elsewhere; that the primary serves what
is written is seen to by `primary.py`, and what it refuses comes back here.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from dns.serial import Serial

from actions import files, zone
from actions.metrics import Step
from actions.notify import Wanted
from actions.outcome import Tally
from actions.state import Refused, State, StateError, put_aside
from actions.templates import Accepted
from exporter import soa
from exporter.config import Config
from exporter.log import tell

log = logging.getLogger(__name__)

# A nameserver that is ahead of an unchanged zone is overtaken this often: one that numbers zones by
# itself would be ahead of every serial of ours, at once.
_OVERTAKE_EVERY = timedelta(hours=1)
# A secondary that stays behind gets a higher serial this often: most need just that.
_LIFT_EVERY = timedelta(days=1)

# What the primary refused is tried again after this: the fault may have been its own.
_TRY_AGAIN = timedelta(hours=1)

# With so many zones the files of old contents are kept, as `.ZONE.spare`, and written anew.
MANY = 200

_T = TypeVar("_T")

Serials = Mapping[str, Mapping[str, int]]  # nameserver -> zone -> serial


@dataclass(frozen=True)
class Seen:
    """What the nameservers serve before anything is written.

    `stuck`: zones that a secondary stays behind with, though it answers.
    """

    primary: Mapping[str, int]
    secondaries: Serials
    stuck: Collection[str]


class Publisher:
    """The published zones in one run: for one server that is meant to be served."""

    def __init__(
        self, config: Config, state: State, tally: Tally, serving: str, now: datetime
    ) -> None:
        self._config = config
        self._state = state
        self._tally = tally
        self._serving = serving
        self._now = now
        self._values = {name: zone.values(config.servers, name) for name in config.servers}
        self._sources: Mapping[str, Accepted] = {}
        self._theirs: Serials = {}
        self._recorded: dict[str, int] = {}
        self._spares = False
        self._refused: dict[str, Refused] = {}
        self._kept: set[str] = set()  # zones with a last good content beside them
        self._held: set[str] = set()  # zones that go on with theirs
        self._unwritten: set[str] = set()
        self._found: dict[str, int] = {}  # serials that are published, and not recorded
        self._doubts: dict[str, str] = {}  # serials that are yet to be told of

    def publish(self, sources: Mapping[str, Accepted], seen: Seen, moved: Collection[str]) -> None:
        """Write each zone that differs; those that a person `moved` too."""
        self._sources = sources
        self._theirs = {self._config.primary.name: seen.primary, **seen.secondaries}
        self._read_recorded()
        self._refused = self._known(self._state.refused)
        with self._tally.step("render"):
            self._clear_up()
            due = self._due(moved, seen.stuck)
            self._tell_doubts()
        if not due and not self._found:
            return
        try:
            self._record({**self._found, **{name: its.serial for name, its in due.items()}})
        except StateError as error:  # what is on the disk is to be served all the same
            for name in self._found:
                self._tally.fail(name, "state", str(error))
            for name, its in due.items():
                if its.published is not None:
                    self._tally.put(name, its.published)
                    self._held.add(name)
                self._tally.fail(name, "state", str(error))
            return
        if not due:
            return
        with self._tally.step("write"):
            self._unwritten = self._write(due, seen.primary)
        unused = self._unwritten
        lifts = {n: self._now for n, its in due.items() if its.lifted and n not in unused}
        try:
            # Else a folder that can't be written would use up a serial at every tick.
            if unused:
                self._state.record({name: due[name].recorded for name in unused})
            if lifts:
                self._state.put_lifted({**self._known(self._state.lifted), **lifts})
        except StateError as error:  # a serial is lost, or a lift comes twice: no harm is done
            log.error("unused serial or lift not put down", extra={"reason": str(error)})  # noqa: TRY400

    def served(self, serials: Collection[str]) -> None:
        """Let go of what was kept for zones that are served now."""
        # The disk may be full: then what it takes is more worth than to be quick the next time.
        spare = self._spares and not self._unwritten
        for name in self._kept & set(serials):
            with contextlib.suppress(OSError):  # the next run tries again
                files.drop(self._path(name), spare=spare)
            self._kept.discard(name)
        if over := self._refused.keys() & set(serials) - self._held:
            self._refused = {n: its for n, its in self._refused.items() if n not in over}
            try:
                self._state.put_refused(self._refused)
            except StateError as error:  # it does no harm there
                log.error("refusal can't be forgotten", extra={"reason": str(error)})  # noqa: TRY400

    def give_back(self, names: Collection[str]) -> Mapping[str, int]:
        """Publish refused zones' last good contents anew; the serials of those that had any."""
        last = dict(self._last_contents(set(names) & self.refusable))
        refused = {name: its for name, (its, _) in last.items()}
        self._tell_doubts()
        step, reasons = self._put_anew(last)
        if reasons:  # as they were they take no room; then there is that of what was refused
            for name in reasons:
                with contextlib.suppress(OSError):
                    files.put_back(self._path(name))
            step, reasons = self._put_anew({name: last[name] for name in reasons})
        back = {name: its.serial for name, its in refused.items() if name not in reasons}
        for name, reason in reasons.items():
            why = f"last content can't be put back with serial {refused[name].serial}: {reason}"
            self._tally.fail(name, step, why)
            with contextlib.suppress(OSError):
                there = zone.serial_of(name, files.read(self._path(name)))
                if there is not None and there != self._tally.zones[name].serial:
                    back[name] = there
                    refused[name] = self._refusal(name, refused[name].rendering, there)
        if reasons:  # else what was refused would be tried again at once
            self._refused = {**self._refused, **refused}
            with contextlib.suppress(StateError):
                self._state.put_refused(self._refused)
        for name, serial in back.items():
            self._held.add(name)
            self._tally.put(name, serial, written=True)
            self._tally.fail(name, "verify", refused[name].reason)
        tell(
            log, "last content put back", back, lambda n: {"serial": back[n]}, level=logging.WARNING
        )
        return back

    def _last_contents(self, names: Collection[str]) -> Iterator[tuple[str, tuple[Refused, bytes]]]:
        """What is to be put down of these zones, and what was served of them with a new serial."""
        for name in names:
            try:
                last = files.kept(self._path(name)) or b""
            except OSError:
                continue
            serial = self._next(name, [self._recorded.get(name), self._tally.zones[name].serial])
            if content := zone.with_serial(name, last, serial):
                rendering = ""  # where its source can't be read now, no text is held back
                with contextlib.suppress(StateError):
                    rendering = self._mark(name, self._sources[name].content())
                yield name, (self._refusal(name, rendering, serial), content)

    def _refusal(self, name: str, rendering: str, serial: int) -> Refused:
        again = self._now + _TRY_AGAIN
        return Refused(
            rendering=rendering,
            serial=serial,
            again=again,
            reason=f"{self._config.primary.name} answers SERVFAIL to what its checker took;"
            f" its last content is back, with serial {serial}; tried again at"
            f" {again:%H:%M} UTC, or by zonerw rewrite --forced {name}",
        )

    def _put_anew(
        self, last: Mapping[str, tuple[Refused, bytes]]
    ) -> tuple[Step, Mapping[str, str]]:
        """Write last contents; what failed, and why, of those that could not be."""
        folder = self._config.zones.published
        try:
            # Put down first: a run that is killed before the file is in place begins anew.
            self._refused = {**self._refused, **{name: its for name, (its, _) in last.items()}}
            self._state.put_refused(self._refused)
            self._record({name: its.serial for name, (its, _) in last.items()})
            failed = files.put_all(folder, ((name, text) for name, (_, text) in last.items()))
            files.sync_folder(folder)
        except StateError as error:
            return "state", dict.fromkeys(last, str(error))
        except OSError as error:
            return "write", dict.fromkeys(last, str(error.strerror))
        return "write", {name: str(error.strerror) for name, error in failed.items()}

    @property
    def refusable(self) -> set[str]:
        """The zones that have a last good content which could be put back."""
        return self._kept - self._held

    def wanted(self, name: str, served: soa.Serial) -> Wanted:
        """What a secondary should serve of a zone that the primary serves now."""
        template = self._sources[name].template
        if name in self._held:  # where that points is not known here
            return Wanted(served)
        addresses = template.addresses(self._values[self._serving])
        return Wanted(served, template.pointer if addresses else None, addresses)

    # What differs.

    def _due(self, moved: Collection[str], stuck: Collection[str]) -> dict[str, "_Due"]:
        lifted = self._known(self._state.lifted)
        due = dict[str, _Due]()
        for name in self._sources:
            path = self._path(name)
            try:
                published = files.read(path)
            except FileNotFoundError:
                published = None
            except OSError as error:
                self._tally.fail(name, "render", f"{path}: {error.strerror}")
                continue
            recorded, lift = self._recorded.get(name), False
            try:
                content = self._sources[name].content()
            except StateError as error:
                self._tally.fail(name, "render", str(error))
                continue
            current, same = self._compare(name, content, published, recorded)
            if current is not None and name not in moved:
                if held := self._is_held(name, content, current):
                    self._held.add(name)
                    self._tally.put(name, current)
                    self._tally.fail(name, "verify", held.reason)
                    continue
                used = recorded is not None and _later(recorded, current)
                lift = same and not used and self._lift(name, current, recorded, stuck, lifted)
                if same and not used and not lift:
                    self._tally.put(name, current)
                    if recorded != current:
                        self._found[name] = current
                    continue
            due[name] = _Due(self._next(name, [current, recorded]), current, recorded, lift)
        return due

    def _compare(
        self, name: str, content: bytes, published: bytes | None, recorded: int | None
    ) -> tuple[int | None, bool]:
        """The published serial, and whether the file is what it is meant to be."""
        if published is None:
            return None, False
        template = self._sources[name].template

        def is_for(server: str, serial: int) -> bool:
            return template.render(content, self._values[server], serial) == published

        # It holds the recorded serial, nearly always: reading a zone takes longer than rendering.
        if recorded is not None:
            if is_for(self._serving, recorded):
                return recorded, True
            if any(is_for(other, recorded) for other in self._values if other != self._serving):
                return recorded, False
        current = zone.serial_of(name, published)
        return current, current is not None and is_for(self._serving, current)

    def _is_held(self, name: str, content: bytes, current: int) -> Refused | None:
        """What says that a zone goes on with its last good content, if that is so."""
        refused = self._refused.get(name)
        if (
            refused
            and refused.serial == current
            and timedelta(0) < refused.again - self._now <= _TRY_AGAIN  # the clock may be set
            and refused.rendering == self._mark(name, content)
        ):
            return refused
        return None

    def _lift(
        self,
        name: str,
        current: int,
        recorded: int | None,
        stuck: Collection[str],
        lifted: Mapping[str, datetime],
    ) -> bool:
        """Whether an unchanged zone gets a higher serial for a nameserver's sake."""
        theirs = self._seen_at(name)
        since = self._now - lifted[name] if name in lifted else None
        if since is None or since < timedelta(0):  # the clock may have been wrong
            since = timedelta.max
        if any(serial != current for serial in theirs.values()) and since > _OVERTAKE_EVERY:
            ours = [n for n in (current, recorded) if n is not None]
            if zone.ahead(self._now.date(), current, ours, theirs):
                return True
        return name in stuck and since > _LIFT_EVERY

    def _next(self, name: str, ours: Iterable[int | None]) -> int:
        known = [serial for serial in ours if serial is not None]
        next_ = zone.next_serial(self._now.date(), known, self._seen_at(name))
        if next_.doubts:
            self._doubts[name] = "; ".join(next_.doubts)
        return next_.serial

    def _tell_doubts(self) -> None:
        doubts = self._doubts
        tell(log, "serial doubted", doubts, lambda n: {"reason": doubts[n]}, level=logging.WARNING)
        self._doubts = {}

    def _seen_at(self, name: str) -> dict[str, int]:
        return {label: zones[name] for label, zones in self._theirs.items() if name in zones}

    def _mark(self, name: str, content: bytes) -> str:
        values = self._values[self._serving]
        return hashlib.sha256(self._sources[name].template.render(content, values, 0)).hexdigest()

    # Files.

    def _clear_up(self) -> None:
        """Remove what a killed run has left behind, and see what it has kept."""
        folder = self._config.zones.published
        try:
            files.sweep(folder, self._sources)
            self._kept = files.keeping(folder) & self._sources.keys()
        except OSError:
            self._kept = set()  # a folder that can't be read is told of with each zone

    def _write(self, due: Mapping[str, "_Due"], primary: Mapping[str, int]) -> set[str]:
        """Write zones with their serials; those whose serial was not used."""
        folder = self._config.zones.published
        # What the primary serves is kept, should it refuse what comes.
        good = {n for n, its in due.items() if its.published and primary.get(n) == its.published}
        unwritten = set[str]()
        failed = files.put_all(folder, self._rendered(due, unwritten), keep=good)
        self._kept |= good
        for name, error in failed.items():
            beside = "" if error.filename in (None, f"{folder}/{name}") else f" {error.filename}:"
            self._tally.fail(name, "write", f"{folder / name}:{beside} {error.strerror}")
        unwritten |= failed.keys()
        written = [name for name in due if name not in unwritten]
        for name in written:
            self._tally.put(name, due[name].serial, written=True)
        tell(log, "published", written, lambda n: {"serial": due[n].serial}, serving=self._serving)
        try:
            files.sync_folder(folder)
        except OSError as error:
            for name in due:
                self._tally.fail(name, "write", f"{folder}: can't be synced: {error.strerror}")
        return unwritten

    def _rendered(
        self, due: Mapping[str, "_Due"], unreadable: set[str]
    ) -> Iterator[tuple[str, bytes]]:
        """What is to be written, as each is its turn; adds those whose source can't be read."""
        values = self._values[self._serving]
        for name, its in due.items():
            try:
                rendering = self._sources[name].render(values, its.serial)
            except StateError as error:
                self._tally.fail(name, "render", str(error))
                unreadable.add(name)
            else:
                yield name, rendering

    def _read_recorded(self) -> None:
        recorded = self._state.serials()
        # By the names that are in memory already: there may be thousands.
        self._recorded = {name: recorded[name] for name in self._sources if name in recorded}
        self._spares = len(recorded.keys() | self._sources.keys()) >= MANY

    def _record(self, serials: Mapping[str, int]) -> None:
        self._state.record(serials)
        self._recorded.update(serials)

    def _known(self, read: Callable[[], dict[str, _T]]) -> dict[str, _T]:
        """What was put down to hold something back; a damaged file of that holds up no switch."""
        try:
            return read()
        except StateError as error:
            aside = put_aside(error.path)
            log.warning("put aside", extra={"to": aside, "reason": str(error)})
            return {}

    def _path(self, name: str) -> str:
        """As text, as in `files`: there are thousands."""
        return f"{self._config.zones.published}/{name}"


@dataclass(frozen=True, slots=True)
class _Due:
    """A zone to be written with `serial`; the serials in its file and recorded before.

    `lifted`: for a nameserver's sake alone.
    """

    serial: int
    published: int | None
    recorded: int | None
    lifted: bool


def _later(one: int, other: int) -> bool:
    """RFC 1982."""
    return one != other and Serial(one) > Serial(other)
