"""What a run of converge comes to, zone by zone.

Owns the words for it. What is done is the business of converge and the steps; what is made of it,
of whoever shows it.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from actions.judge import Judgement
from actions.metrics import Metrics, Step
from actions.state import Meant, Pin


@dataclass(frozen=True, slots=True)
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
        return bool(self.failing)

    @property
    def failing(self) -> Collection[str]:
        """The zones of which a step failed that a retry may pass."""
        return {n for n, its in self.zones.items() if its.failed not in (None, "accept")}

    @property
    def troubles(self) -> Mapping[str, ZoneOutcome]:
        """The zones of which something has to be said."""
        return {n: its for n, its in self.zones.items() if its.failed or its.reason}

    @property
    def served(self) -> Mapping[str, int]:
        """Zone -> the serial on disk, of those that the primary was seen to serve."""
        return {n: its.serial for n, its in self.zones.items() if its.serial and not its.failed}

    @property
    def serials(self) -> Mapping[str, int]:
        """Zone -> the serial on disk."""
        return {n: its.serial for n, its in self.zones.items() if its.serial is not None}


@dataclass(frozen=True)
class Latest:
    """How the last run ended, and when; `outcome` is the last one that there was.

    `error`: why the run came to none.
    """

    outcome: Outcome | None = None
    error: str | None = None
    ended: datetime | None = None


class Tally:
    """What has become of each zone so far, in a run under way."""

    def __init__(self, metrics: Metrics) -> None:
        self.zones: dict[str, ZoneOutcome] = {}
        self._metrics = metrics

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Time a step."""
        with self._metrics.step_seconds.labels(step).time():
            yield

    def put(self, name: str, serial: int, *, written: bool = False) -> None:
        """Note the serial on disk."""
        before = self.zones.get(name)
        self.zones[name] = (
            replace(before, serial=serial, written=written)
            if before
            else ZoneOutcome(serial, written)
        )

    def fail(self, name: str, step: Step, reason: str) -> None:
        """Note what failed; the first failure is the one that the others come from.

        But for a refused source: what was accepted before is published all the same.
        """
        before = self.zones.get(name, ZoneOutcome())
        if before.failed == "accept" != step:
            reason = f"{reason}; and its source is refused: {before.reason}"
        if before.failed in (None, "accept"):
            self.zones[name] = replace(before, failed=step, reason=reason)

    def say(self, name: str, reason: str) -> None:
        """Note what the owner should know."""
        self.zones[name] = ZoneOutcome(reason=reason)

    def count_failures(self) -> None:
        """Count each step that failed, once for the run."""
        for step in {its.failed for its in self.zones.values()} - {None}:
            self._metrics.failures.labels(step).inc()
