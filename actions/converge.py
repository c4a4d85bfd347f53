"""accept > judge > render > write > reload > verify: brings what is published to what is meant.

Level-triggered: the same run on a webhook, on a timer, by hand and at the start; it changes nothing
where there is nothing to change, and a run that was killed is finished by the next. Owns the order
of the steps and what becomes of each zone. Following the secondaries comes after it, elsewhere.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dns.rdtypes.ANY.SOA import SOA
from dns.serial import Serial

from actions import files, nameserver, zone
from actions.accept import accept
from actions.judge import Judgement, Witnesses, judge, mark
from actions.metrics import Metrics, Step, Trigger
from actions.state import Meant, Pin, State, StateError
from exporter import soa, zonefile
from exporter.config import Config

log = logging.getLogger(__name__)

# The primary is on this machine: it answers at once, or not at all.
_PRIMARY_SECONDS = 0.5

# NSD loads a zone in some ten milliseconds; a webhook has to be answered within 7 s.
_VERIFY_SECONDS = 4.0
# No faster: NSD answers no more than 200 questions a second.
_ASK_EVERY_SECONDS = 0.01
# Name servers lose reloads: ask for it again when the serial does not come.
_RELOAD_AGAIN_SECONDS = 0.25

# A nameserver that stays ahead of an unchanged zone is overtaken this often.
_OVERTAKE_EVERY_SECONDS = 3600.0

# While all is well, a timer's run trusts the last one; this often it looks at every zone again.
_LOOK_AGAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Forced:
    """A person's word: accept and publish anew these zones' sources; all, if none is named."""

    zones: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unpin:
    """A person's word: take the pin away."""


Word = Forced | Pin | Unpin  # what a person can ask for, beside a run


@dataclass(frozen=True)
class ZoneOutcome:
    """What became of a zone: the serial on disk, whether this run wrote it, and what failed.

    `reason` says why it failed; without `failed`, what the owner should know.
    """

    serial: int | None = None
    written: bool = False
    failed: Step | None = None
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run came to: what is meant, by which judgement, and what became of each zone."""

    meant: Meant
    pin: Pin | None
    judgement: Judgement
    switched_from: str | None
    zones: Mapping[str, ZoneOutcome]

    @property
    def refused(self) -> bool:
        """Whether a source was refused: a retry can't help."""
        return any(outcome.failed == "accept" for outcome in self.zones.values())

    @property
    def failed(self) -> bool:
        """Whether a step failed that a retry may pass."""
        return any(outcome.failed not in (None, "accept") for outcome in self.zones.values())


@dataclass(frozen=True)
class Latest:
    """How the last run ended, and when; `outcome` is the last one that there was.

    `error`: why the run came to none.
    """

    outcome: Outcome | None = None
    error: StateError | None = None
    ended: datetime | None = None


_NOTHING_PUT_DOWN = "nothing was put down: it is where the zones pointed, or the preferred one"

Answers = Mapping[str, soa.Serial | soa.NoSerial]  # by zone
Serials = Mapping[str, Mapping[str, int]]  # nameserver -> zone -> serial


@dataclass(frozen=True)
class Around:
    """What converge is connected to: whom it asks, and whom it tells.

    `secondaries` gives the serials that the secondaries have, of these zones; `served` is told
    what the primary serves, as soon as it does; `now` is the time, UTC.
    """

    secondaries: Callable[[Collection[str]], Serials]
    served: Callable[[Mapping[str, SOA]], None]
    witnesses: Witnesses
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Converger:
    """Runs converge, and remembers how the last run ended: `latest`, for whoever shows it."""

    def __init__(self, config: Config, metrics: Metrics, around: Around) -> None:
        self._config = config
        self._metrics = metrics
        self._around = around
        self._state = State(config.actions.state)
        self.latest = Latest()
        self._last: Outcome | None = None  # the last run's, while it can be trusted
        self._trusted_until = 0.0
        self._serials: object = None  # the mark of those handed out by the end of the last run
        self._pinned: Pin | None = None  # in the last run
        self._unserved: frozenset[str] = frozenset()  # by the primary, at the end of the last run

    def prepare(self) -> None:
        """Make the state folder ready; StateError says why it can't be used."""
        self._state.prepare()

    def run(self, trigger: Trigger, word: Word | None = None) -> Outcome:
        """Converge once. StateError when what is put down can't be read or written."""
        self._metrics.converges.labels(trigger).inc()
        last, self._last = self._last, None
        try:
            with self._state.locked():
                outcome = self._run(trigger, word, last)
                self._serials = self._state.mark_of_serials()
        except StateError as error:
            self._metrics.failures.labels("state").inc()
            self.latest = Latest(self.latest.outcome, error, self._around.now())
            raise
        self.latest = Latest(outcome, None, self._around.now())
        if not (outcome.failed or outcome.refused):
            self._last = _unchanged(outcome)
        self._unserved = frozenset(n for n, z in outcome.zones.items() if z.failed == "verify")
        return outcome

    def _run(self, trigger: Trigger, word: Word | None, last: Outcome | None) -> Outcome:
        pin = self._pin(word)
        before = self._state.meant()
        judgement = None
        if before and before.server in self._config.servers:
            judgement = self._judge(before.server, pin)
            # While all is well, the last run's outcome is trusted without reading a zone.
            if (
                last
                and trigger in ("timer", "look")
                and time.monotonic() < self._trusted_until
                and before == last.meant
                and self._serials == self._state.mark_of_serials()
                and judgement.decision.server == before.server
            ):
                return replace(last, pin=pin, judgement=judgement)
        self._trusted_until = time.monotonic() + _LOOK_AGAIN_SECONDS
        run = _Run(self._config, self._state, self._metrics, self._around)
        run.accept(word if isinstance(word, Forced) else None, first_start=before is None)
        if judgement is None:
            judgement = self._judge(run.pointed_at(), pin)
        by_pin = pin and judgement.decision.cause == "pin"
        run.put_down(before, judgement, pin.by if pin and by_pin else trigger)
        run.publish()
        run.verify(hopeless=self._unserved)
        return run.outcome(pin, judgement)

    def _pin(self, word: Word | None) -> Pin | None:
        """The pin that holds, after a person's word."""
        if isinstance(word, Pin):
            self._state.put_pin(word)
            log.info("pinned", extra={"server": word.server, "until": word.until, "by": word.by})
        elif isinstance(word, Unpin):
            self._state.unpin()
            log.info("unpinned")
        pin = self._state.pin(self._around.now())
        if pin is None:
            self._state.drop_old_pin(self._around.now())
            if self._pinned and self._pinned.until <= self._around.now():
                log.info("pin expired", extra={"server": self._pinned.server})
        self._pinned = pin
        self._metrics.pinned(pin.until if pin else None)
        return pin

    def _judge(self, serving: str, pin: Pin | None) -> Judgement:
        seen_up = self._state.seen()
        judgement = judge(self._config, self._around.witnesses, serving, pin, seen_up)
        marks = {
            server: mark(self._config.servers[server])
            for server, its in judgement.testimonies.items()
            if its.seen_up
        }
        # Who was seen with other checks keeps that mark: the configuration may be put right again.
        if not marks.items() <= seen_up.items():
            self._state.put_seen({**seen_up, **marks})
        if self._config.alertmanager is not None:
            self._metrics.alertmanager(self._around.now(), up=judgement.missing is None)
        self._metrics.judged(judgement)
        return judgement


class _Run:
    """One run under way: its steps in their order, and what became of each zone so far."""

    def __init__(self, config: Config, state: State, metrics: Metrics, around: Around) -> None:
        self._config = config
        self._state = state
        self._metrics = metrics
        self._around = around
        self._sources: dict[str, zonefile.Source] = {}
        self._moved: set[str] = set()  # forced: their serial moves whatever the content
        self._zones: dict[str, ZoneOutcome] = {}
        self._at_primary: Answers = {}  # before anything was written
        self._meant: Meant
        self._switched_from: str | None = None

    def accept(self, forced: Forced | None, *, first_start: bool) -> None:
        """Take over the sources that a person's word names; on the very first start, all."""
        # Nothing is put down before all of them are accepted: a first start that was killed in
        # the middle begins anew.
        words: list[tuple[str, ...]] = [()] if first_start else []
        if forced and forced.zones not in words:
            words.append(forced.zones)
        for names in words:
            with self._step("accept"):
                verdicts = accept(self._config, self._state, names)
            for name, verdict in verdicts.items():
                if verdict.kind == "refused":
                    self._fail(name, "accept", verdict.why)
                elif verdict.kind != "accepted":
                    self._zones[name] = ZoneOutcome(reason=verdict.why)
                elif forced and names == forced.zones:
                    self._moved.add(name)
        for name, content in self._state.accepted().items():
            try:
                source = zonefile.parse(name, content, self._config.servers)
                zone.check_left_out(source, self._config.servers)
                self._sources[name] = source
            except zonefile.SourceRefused as refused:
                # It was right when it was accepted: the configuration has changed since.
                self._fail(name, "render", "; ".join(map(str, refused.faults)))

    def pointed_at(self) -> str:
        """Which server most published zones point at; with none, the preferred one."""
        votes: Counter[str] = Counter()
        for name, source in self._sources.items():
            try:
                published = self._read(name)
            except OSError:
                continue  # publish will say so
            server = published and zone.points_to(source, published, self._config.servers)
            if server:
                votes[server] += 1
        return votes.most_common(1)[0][0] if votes else self._config.preferred

    def put_down(self, before: Meant | None, judgement: Judgement, by: str) -> None:
        """Record what is meant before anything is done about it, and a switch in the history."""
        decision = judgement.decision
        if before and before.cause:
            self._state.remember(before)  # its run may have been killed before it got there
        if before and before.server == decision.server:
            self._meant = before
        else:
            self._meant = Meant(
                server=decision.server,
                since=self._around.now(),
                why=decision.why if decision.cause else _NOTHING_PUT_DOWN,
                by=by,
                before=judgement.serving if decision.cause else None,
                cause=decision.cause,
            )
            self._state.put_down(self._meant)
        if decision.cause:
            self._switched_from = judgement.serving
            self._metrics.switched(judgement.serving, decision.server, decision.cause)
            log.info(
                "switch",
                extra={
                    "from": judgement.serving,
                    "to": decision.server,
                    "cause": decision.cause,
                    "why": decision.why,
                    "by": by,
                },
            )
            self._state.remember(self._meant)
        self._metrics.meant(self._meant.server, self._meant.since)

    def publish(self) -> None:
        """Write each zone that differs, with a serial that is recorded before it is used."""
        self._at_primary = self._ask_primary(self._sources)
        primary = {n: a.serial for n, a in self._at_primary.items() if isinstance(a, soa.Serial)}
        secondaries = self._around.secondaries(self._sources)
        seen = {self._config.primary.name: primary, **secondaries}
        recorded = self._state.serials()
        with self._step("render"):
            due = self._due(seen, recorded)
        if due:
            self._state.record(due)
            with self._step("write"):
                unused = self._write(due)
            # Else a folder that can't be written would use up a serial at every tick.
            if taken_back := {name: recorded[name] for name in unused & recorded.keys()}:
                self._state.record(taken_back)
        self._metrics.published(
            {n: z.serial for n, z in self._zones.items() if z.serial is not None}
        )

    def verify(self, hopeless: Collection[str]) -> None:
        """See the primary serve what is on disk, asking it to reload as often as that takes.

        Zones that it would not serve the last time either are `hopeless`: they get less time.
        """
        wanted = {n: z.serial for n, z in self._zones.items() if z.serial is not None}
        late = self._not_served(wanted, self._at_primary)
        if not late:
            return
        began = time.monotonic()
        reload_at, reload_after = 0.0, _RELOAD_AGAIN_SECONDS
        with self._step("verify"):
            while late and time.monotonic() - began < (
                _VERIFY_SECONDS if late.keys() - hopeless else _RELOAD_AGAIN_SECONDS
            ):
                if time.monotonic() >= reload_at:
                    if not self._reload(late):
                        return
                    reload_at, reload_after = time.monotonic() + reload_after, reload_after * 2
                else:
                    time.sleep(_ASK_EVERY_SECONDS)
                late = self._not_served(
                    {name: wanted[name] for name in late}, self._ask_primary(late)
                )
        for name, reason in late.items():
            self._fail(name, "verify", f"{self._config.primary.name} {reason}")

    def outcome(self, pin: Pin | None, judgement: Judgement) -> Outcome:
        """What the run came to."""
        for step in {z.failed for z in self._zones.values()} - {None}:
            self._metrics.failures.labels(step).inc()
        return Outcome(self._meant, pin, judgement, self._switched_from, self._zones)

    def _due(self, seen: Serials, recorded: Mapping[str, int]) -> dict[str, int]:
        """Zone -> the serial to write it with, for those that are not as they should be."""
        today = self._around.now().date()
        due = {}
        for name, source in self._sources.items():
            try:
                published = self._read(name)
            except OSError as error:
                self._fail(name, "render", f"{self._path(name)}: {error.strerror}")
                continue
            current = zone.serial_of(name, published) if published is not None else None
            ours = [n for n in (current, recorded.get(name)) if n is not None]
            theirs = {label: zones[name] for label, zones in seen.items() if name in zones}
            if (
                current is not None
                and name not in self._moved
                and self._render(source, current) == published
                and not Serial(recorded.get(name, current)) > Serial(current)
                and not (zone.ahead(today, current, ours, theirs) and self._is_old(name))
            ):
                self._zones[name] = replace(self._outcome(name), serial=current)
                continue
            next_ = zone.next_serial(today, ours, theirs)
            for doubt in next_.doubts:
                log.warning("serial doubted", extra={"zone": name, "reason": doubt})
            due[name] = next_.serial
        return due

    def _write(self, due: Mapping[str, int]) -> set[str]:
        """Write zones with their serials; those whose serial was not used."""
        unused = set()
        for name, serial in due.items():
            path = self._path(name)
            try:
                files.put(path, self._render(self._sources[name], serial))
            except OSError as error:
                self._fail(name, "write", f"{path}: {error.strerror}")
                unused.add(name)
                continue
            self._zones[name] = replace(self._outcome(name), serial=serial, written=True)
            log.info(
                "published", extra={"zone": name, "serial": serial, "serving": self._meant.server}
            )
        folder = self._config.zones.published
        try:
            files.sync_folder(folder)
        except OSError as error:
            for name in due:
                self._fail(name, "write", f"{folder}: can't be synced: {error.strerror}")
        return unused

    def _reload(self, late: Mapping[str, str]) -> bool:
        try:
            with self._step("reload"):
                nameserver.reload(self._config.primary)
        except nameserver.ReloadError as error:
            for name in late:
                self._fail(name, "reload", str(error))
            return False
        return True

    def _ask_primary(self, zones: Collection[str]) -> Answers:
        return soa.ask(self._config.primary, list(zones), _PRIMARY_SECONDS)

    def _not_served(self, wanted: Mapping[str, int], answers: Answers) -> dict[str, str]:
        """Zone -> why, by the primary's answer, it is not served as it should be."""
        late, served = {}, {}
        for name, serial in wanted.items():
            answer = answers[name]
            if isinstance(answer, soa.NoSerial):
                late[name] = f"answers {answer.reason}"
            elif answer.serial != serial:
                late[name] = f"serves {answer.serial}, not {serial}"
            else:
                served[name] = answer.soa
                if self._zones[name].written:
                    log.info("primary serves", extra={"zone": name, "serial": answer.serial})
        if served:
            self._around.served(served)
        return late

    def _render(self, source: zonefile.Source, serial: int) -> bytes:
        return zone.render(source, self._config.servers, self._meant.server, serial)

    def _path(self, name: str) -> Path:
        return self._config.zones.published / name

    def _read(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def _is_old(self, name: str) -> bool:
        """Whether a nameserver that is ahead may have a zone written anew for that alone.

        One that numbers zones by itself would be ahead of every serial of ours, at once.
        """
        age = self._around.now().timestamp() - self._path(name).stat().st_mtime
        return age > _OVERTAKE_EVERY_SECONDS

    def _outcome(self, name: str) -> ZoneOutcome:
        return self._zones.get(name, ZoneOutcome())

    def _fail(self, name: str, step: Step, reason: str) -> None:
        """Note what failed; the first failure is the one that the others come from."""
        if self._outcome(name).failed is None:
            self._zones[name] = replace(self._outcome(name), failed=step, reason=reason)

    @contextmanager
    def _step(self, step: Step) -> Iterator[None]:
        with self._metrics.step_seconds.labels(step).time():
            yield


def _unchanged(outcome: Outcome) -> Outcome:
    """What a next run comes to that finds nothing to do."""
    zones = {name: replace(its, written=False) for name, its in outcome.zones.items()}
    return replace(outcome, switched_from=None, zones=zones)
