"""accept > judge > render > write > reload > verify: brings what is published to what is meant.

Level-triggered: the same run on a webhook, on a timer, by hand and at the start; it changes nothing
where there is nothing to change, and a run that was killed is finished by the next. Owns the order
of the steps, what is put down, and how long the last run can be trusted. Writing zones is left to
`publish.py`, the primary to `primary.py`, following the secondaries to `notify.py`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from actions import files, zone
from actions.accept import Checked, accept, check
from actions.judge import Judgement, Witnesses, judge, mark
from actions.metrics import Metrics, Trigger
from actions.notify import Wanted
from actions.outcome import Latest, Outcome, Tally
from actions.primary import Primary
from actions.publish import Publisher, Seen, Serials
from actions.state import Meant, Pin, State, StateError
from actions.templates import Reading, Templates
from exporter import soa, zonefile
from exporter.config import Config
from exporter.log import tell

log = logging.getLogger(__name__)

# While all is well, most runs trust the last one; this often one looks at every zone again.
_LOOK_AGAIN_SECONDS = 60.0

# These ask who is to be served, as a pin does. A start, or a person, wants all zones looked at.
_TRUSTING: Collection[Trigger] = ("timer", "look", "webhook")


@dataclass(frozen=True)
class Forced:
    """A person's word: accept and publish anew these zones' sources; all, if none is named.

    `checked`: what their checks came to, where somebody had them made beforehand.
    """

    zones: tuple[str, ...] = ()
    checked: Checked | None = None


@dataclass(frozen=True)
class Unpin:
    """A person's word: take the pin away."""


Word = Forced | Pin | Unpin  # what a person can ask for, beside a run


_NOTHING_ACCEPTED = "no source was accepted yet, so nothing is served"
_NOTHING_PUT_DOWN = "it is a first start: where the zones point, or else the preferred server"


@dataclass(frozen=True)
class Around:
    """What converge is connected to: whom it asks, and whom it tells.

    `secondaries` gives the serials that the secondaries have, of these zones, and `stuck` the zones
    that one of them stays behind with; `served` is told what the primary serves, as soon as it
    does; `now` is the time, UTC.
    """

    secondaries: Callable[[Collection[str]], Serials]
    stuck: Callable[[], Collection[str]]
    served: Callable[[Mapping[str, Wanted]], None]
    witnesses: Witnesses
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Converger:
    """Runs converge, and remembers how the last run ended: `latest`, for whoever shows it."""

    def __init__(self, config: Config, metrics: Metrics, around: Around) -> None:
        self._config = config
        self._metrics = metrics
        self._around = around
        self._state = State(config.actions.state)
        self._templates = Templates(self._state, config.servers)
        self.latest = Latest()
        self._last: Outcome | None = None  # the last run's, while it can be trusted
        self._trusted_until = 0.0
        self._serials: object = None  # the mark of those handed out by the end of the last run
        self._meant: Meant | None = None  # what the last run knew of
        self._pinned: Pin | None = None  # in the last run
        self._unserved: Collection[str] = ()  # by the primary, at the end of the last run
        metrics.show_zones(self._published, lambda: around.now().date())

    def prepare(self) -> None:
        """Make the state folder ready; StateError says why it can't be used."""
        self._state.prepare()

    def run(self, trigger: Trigger, word: Word | None = None) -> Outcome:
        """Converge once. StateError when what is put down can't be read or written."""
        self._metrics.converges.labels(trigger).inc()
        last, self._last = self._last, None
        try:
            outcome = None
            while outcome is None:
                # Before the lock: it may take minutes, and others may have their word meanwhile.
                everything = check(self._config, ()) if self._state.meant() is None else None
                if isinstance(word, Forced) and word.checked is None:
                    its = everything if everything and not word.zones else None
                    word = Forced(word.zones, its or check(self._config, word.zones))
                with self._state.locked():
                    if everything is None and self._state.meant() is None:
                        continue  # the state was lost meanwhile: it is a first start now
                    outcome = self._run(trigger, word, everything, last)
                    self._serials = self._state.mark_of_serials()
        except StateError as error:
            self._metrics.failures.labels("state").inc()
            self.latest = Latest(self.latest.outcome, str(error), self._around.now())
            raise
        except Exception as error:  # whatever it was: who shows how it stands has to know
            self._metrics.failures.labels("unexpected").inc()
            self.latest = Latest(self.latest.outcome, repr(error), self._around.now())
            raise
        self.latest = Latest(outcome, None, self._around.now())
        self._last = None if outcome.refused else outcome
        return outcome

    def _published(self) -> Mapping[str, int]:
        return self.latest.outcome.serials if self.latest.outcome else {}

    def _run(
        self, trigger: Trigger, word: Word | None, everything: Checked | None, last: Outcome | None
    ) -> Outcome:
        pin = self._pin(word)
        before = self._state.meant()
        if self._meant and before and before != self._meant:
            _tell_switch(before, self._metrics)  # by another process
        self._meant = before
        trusting = trigger in _TRUSTING or isinstance(word, Pin | Unpin)
        known = last if last and trusting and self._holds(last, before) else None
        judgement = None
        if before and before.server in self._config.servers:
            judgement = self._judge(before.server, pin)
        only = None
        if known and judgement and judgement.decision.server == known.meant.server:
            # While all is well, the last run's outcome is trusted without reading a zone.
            only = known.failing
            if not only:
                return replace(_unchanged(known), pin=pin, judgement=judgement)
        else:
            self._trusted_until = time.monotonic() + _LOOK_AGAIN_SECONDS
            self._state.sweep()
        run = _Run(self._config, self._state, self._metrics, self._around)
        run.accept(word if isinstance(word, Forced) else None, None if before else everything)
        run.read(self._templates.read(), only)
        if judgement is None:
            judgement = self._judge(run.pointed_at(), pin)
        by_pin = pin and judgement.decision.cause == "pin"
        meant = run.put_down(before, judgement, pin.by if pin and by_pin else trigger)
        self._meant = meant
        served = known.served if known else {}
        run.converge(meant, served, hopeless=self._unserved, insist=only is None)
        zones = run.tally.zones
        if known and only is not None:
            zones = {**_unchanged(known).zones, **zones}
        self._unserved = {n for n, its in zones.items() if its.failed == "verify"}
        switched_from = meant.before if meant != before else None
        return Outcome(meant, pin, judgement, switched_from, zones)

    def _holds(self, last: Outcome, before: Meant | None) -> bool:
        """Whether what the last run found can be gone by."""
        return (
            time.monotonic() < self._trusted_until
            and before == last.meant
            and self._serials == self._state.mark_of_serials()
        )

    def _pin(self, word: Word | None) -> Pin | None:
        """The pin that holds, after a person's word."""
        if isinstance(word, Pin):
            self._state.put_pin(word)
            log.info("pinned", extra={"server": word.server, "until": word.until, "by": word.by})
        elif isinstance(word, Unpin):
            self._state.unpin()
            log.info("unpinned")
        pin = self._state.pin_or_drop(self._around.now())
        if pin is None and self._pinned and self._pinned.until <= self._around.now():
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
        self.tally = Tally(metrics)
        self._moved: set[str] = set()  # forced: their serial moves whatever the content
        self._sources = Reading({}, {})

    def accept(self, forced: Forced | None, everything: Checked | None) -> None:
        """Take over the sources that a person's word names; on the very first start, `everything`.

        Nothing is put down before that is done: a first start that was killed in the middle begins
        anew.
        """
        checks = {its.zones: its for its in (everything, forced and forced.checked) if its}
        for checked in checks.values():
            with self.tally.step("accept"):
                verdicts = accept(self._config, self._state, checked)
            for name, verdict in verdicts.items():
                if verdict.kind == "refused":
                    self.tally.fail(name, "accept", verdict.why)
                elif verdict.kind != "accepted":
                    self.tally.say(name, verdict.why)
                elif forced and checked.zones == forced.zones:
                    self._moved.add(name)

    def read(self, sources: Reading, only: Collection[str] | None) -> None:
        """Go by these accepted sources; by some of them only, if it is said which."""
        if only is not None:
            sources = Reading(
                {name: its for name, its in sources.accepted.items() if name in only},
                {name: why for name, why in sources.refused.items() if name in only},
            )
        self._sources = sources
        for name, why in sources.refused.items():
            self.tally.fail(name, "render", why)

    def pointed_at(self) -> str:
        """Which server most published zones point at; with none, the preferred one."""
        votes: Counter[str] = Counter()
        unread: StateError | None = None
        folder = self._config.zones.published
        for name, accepted in self._sources.accepted.items():
            try:
                published, content = files.read(f"{folder}/{name}"), accepted.content()
            except OSError:
                continue  # publish will say so, where there is one
            except StateError as error:
                unread = error
                continue
            source = zonefile.parse(name, content, self._config.servers)
            if server := zone.points_to(source, published, self._config.servers):
                votes[server] += 1
        if unread and not votes:
            raise unread  # else all would go to the preferred one, without a word
        return votes.most_common(1)[0][0] if votes else self._config.preferred

    def put_down(self, before: Meant | None, judgement: Judgement, by: str) -> Meant:
        """Record what is meant before anything is done about it, and a switch in the history.

        While no source is accepted there is nothing that could point anywhere: then nothing
        is put down, and the next run is a first start too.
        """
        decision = judgement.decision
        if before and before.cause:
            self._state.remember(before)  # its run may have been killed before it got there
        if before and before.server == decision.server:
            meant = before
        elif not before and not self._sources.accepted:
            now = self._around.now()
            return Meant(server=decision.server, since=now, why=_NOTHING_ACCEPTED, by=by)
        else:
            meant = Meant(
                server=decision.server,
                since=self._around.now(),
                why=decision.why if decision.cause else _NOTHING_PUT_DOWN,
                by=by,
                before=judgement.serving if decision.cause else None,
                cause=decision.cause,
            )
            self._state.put_down(meant)
            if not before:
                number = len(self._sources.accepted)
                log.info("first start", extra={"serving": meant.server, "accepted": number})
            _tell_switch(meant, self._metrics)
            if meant.cause:
                self._state.remember(meant)
        self._metrics.meant(meant.server, meant.since)
        return meant

    def converge(
        self, meant: Meant, known: Mapping[str, int], hopeless: Collection[str], *, insist: bool
    ) -> None:
        """Write what differs, and see the primary serve it.

        `known` serials it serves for sure; zones that it would not serve the last time are
        `hopeless`, and without `insist` it is not told to reload for them alone, if nothing was
        written.
        """
        config, sources = self._config, self._sources.accepted
        primary = Primary(config.primary, self.tally)
        answers = primary.ask([name for name in sources if name not in known])
        at_primary = {n: its.serial for n, its in answers.items() if isinstance(its, soa.Serial)}
        seen = Seen(
            primary={**known, **at_primary},
            secondaries=self._around.secondaries(sources),
            stuck=self._around.stuck(),
        )
        self._publisher = Publisher(
            config, self._state, self.tally, meant.server, self._around.now()
        )
        self._publisher.publish(sources, seen, self._moved)
        wanted = {
            n: its.serial
            for n, its in self.tally.zones.items()
            if its.serial is not None and (its.written or n not in known)
        }
        unknown = soa.NoSerial("not asked yet")
        primary.see_served(
            wanted,
            {name: answers.get(name, unknown) for name in wanted},
            hopeless,
            self,
            insist=insist or any(its.written for its in self.tally.zones.values()),
        )
        self.tally.count_failures()

    # Whom the primary's answers concern: the publisher, and the followers.

    @property
    def refusable(self) -> Collection[str]:
        """Zones that can be given back."""
        return self._publisher.refusable

    def served(self, zones: Mapping[str, soa.Serial]) -> None:
        """The primary serves these."""
        self._publisher.served(zones)
        wanted = {name: self._publisher.wanted(name, its) for name, its in zones.items()}
        self._around.served(wanted)
        written = [name for name in zones if self.tally.zones[name].written]
        tell(log, "primary serves", written, lambda name: {"serial": zones[name].serial})

    def give_back(self, zones: Collection[str]) -> Mapping[str, int]:
        """The primary refuses these."""
        return self._publisher.give_back(zones)


def _tell_switch(meant: Meant, metrics: Metrics) -> None:
    """Tell of a switch, if that is what was put down."""
    if meant.before is None or meant.cause is None:
        return
    metrics.switched(meant.before, meant.server, meant.cause)
    log.info(
        "switch",
        extra={
            "from": meant.before,
            "to": meant.server,
            "cause": meant.cause,
            "why": meant.why,
            "by": meant.by,
        },
    )


def _unchanged(outcome: Outcome) -> Outcome:
    """What a next run comes to that finds nothing to do."""
    if outcome.switched_from is None and not any(its.written for its in outcome.zones.values()):
        return outcome
    zones = {name: replace(its, written=False) for name, its in outcome.zones.items()}
    return replace(outcome, switched_from=None, zones=zones)
