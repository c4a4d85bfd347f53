"""The metrics that actions emits: their names, labels and first values.

Who counts what is decided where it happens; this module owns the words.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from itertools import permutations
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from actions import witness, zone
from actions.accept import Standing
from actions.decide import AlertState, Cause, LookState
from actions.judge import Judgement
from actions.notify import Observer
from actions.records import SyncRecord
from actions.state import StateError
from exporter.config import Config, Job, UnisonJob

# What makes converge run, and where it can fail.
Trigger = Literal["start", "webhook", "timer", "look", "request"]
Step = Literal["state", "accept", "render", "write", "reload", "verify", "unexpected"]

# From the steps of a switch on loopback (milliseconds) to one that waits out its deadline.
_STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_PROPAGATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


class Metrics:
    """One registry with every metric; known series exist from the start."""

    def __init__(self, config: Config) -> None:
        self.registry = CollectorRegistry()
        self._servers = tuple(config.servers)
        self._intended = self._gauge(
            "intended_server", "1 for the server that the zones are meant to point at.", ["server"]
        )
        self._since = self._gauge(
            "intended_since_timestamp_seconds", "Since when that server is meant.", ["server"]
        )
        self._witness = self._gauge(
            "witness", "1 for what this witness says of the server.", ["server", "witness", "state"]
        )
        self._seen_up = self._gauge(
            "server_seen_up",
            "Whether the server was ever seen to meet its checks as they are configured.",
            ["server"],
        )
        self._switches = self._counter(
            "switches", "Decisions for another server.", ["from", "to", "cause"]
        )
        self.converges = self._counter("converges", "Runs of converge.", ["trigger"])
        self.failures = self._counter(
            "converge_failures", "Runs of converge in which a step failed.", ["step"]
        )
        self.step_seconds = Histogram(
            "zonerw_step_duration_seconds",
            "How long the steps of converge took.",
            ["step"],
            registry=self.registry,
            buckets=_STEP_BUCKETS,
        )
        self._notifies = self._counter("notifies", "NOTIFY messages sent.", ["nameserver"])
        self._notify_failures = self._counter(
            "notify_failures", "NOTIFY messages not answered with NOERROR.", ["nameserver"]
        )
        self._propagation = Histogram(
            "zonerw_propagation_seconds",
            "From the primary serving a zone to the secondary serving it.",
            ["nameserver"],
            registry=self.registry,
            buckets=_PROPAGATION_BUCKETS,
        )
        self.webhook_alerts = self._counter(
            "webhook_alerts", "Alerts of ours received by webhook.", ["alertname", "status"]
        )
        self._alertmanager_up = self._late(
            "alertmanager_up", "Whether Alertmanager could be asked the last time."
        )
        self._alertmanager_answer = self._late(
            "alertmanager_last_answer_timestamp_seconds", "When Alertmanager answered last."
        )
        self._blind = self._late("blind", "Whether no reference answers, or none did just now.")
        self._alone = self._late("alone", "Whether no alert is known: our own looks decide alone.")
        self._pinned = self._late("pinned", "Whether a person has pinned a server.")
        self._pin_expiry = self._late("pin_expiry_timestamp_seconds", "When the pin ends.")
        self._registered: set[Gauge] = set()
        self._start(config)

    def meant(self, server: str, since: datetime) -> None:
        """Show which server is meant."""
        for name in self._servers:
            self._intended.labels(name).set(name == server)
        self._since.clear()
        self._since.labels(server).set(since.timestamp())

    def judged(self, judgement: Judgement) -> None:
        """Show what the witnesses say."""
        for server, its in judgement.testimonies.items():
            for alert in get_args(AlertState):
                self._witness.labels(server, "alert", alert).set(alert == its.alert.state)
            for look in get_args(LookState):
                self._witness.labels(server, "look", look).set(look == its.look.state)
            self._seen_up.labels(server).set(its.seen_up)
        self._set(self._blind, judgement.blind is not None)
        self._set(self._alone, judgement.alone)

    def pinned(self, until: datetime | None) -> None:
        """Show whether a server is pinned, and until when."""
        self._set(self._pinned, until is not None)
        if until is not None:
            self._set(self._pin_expiry, until.timestamp())
        elif self._pin_expiry in self._registered:
            self._registered.remove(self._pin_expiry)
            self.registry.unregister(self._pin_expiry)

    def switched(self, before: str, after: str, cause: Cause) -> None:
        """Count a decision for another server."""
        self._switches.labels(before, after, cause).inc()

    def show_zones(
        self, serials: Callable[[], Mapping[str, int]], today: Callable[[], date]
    ) -> None:
        """Show on each scrape the serials on disk, and how many are left of today's."""

        def collect() -> Iterator[Metric]:
            now, published = today(), serials()
            yield _by_zone("published_serial", "The serial in the published zone file.", published)
            left = {
                name: left
                for name, serial in published.items()
                if (left := zone.serials_left(now, serial)) is not None
            }
            yield _by_zone("serials_left", "How many serials of today's are left above it.", left)

        self.registry.register(_OnScrape(collect))

    def show_sources(self, standings: Callable[[], Mapping[str, Standing]]) -> None:
        """Show on each scrape how the sources stand to what was accepted of them."""

        def collect() -> Iterator[Metric]:
            try:
                stand = standings()
            except (OSError, StateError):
                return  # which folder can't be read, and why, is for the status to say
            valid = {
                name: its.state != "broken"
                for name, its in stand.items()
                if its.state in ("accepted", "pending", "broken")
            }
            yield _by_zone("source_valid", "Whether the source passes all checks.", valid)
            yield _by_zone(
                "source_pending",
                "Whether the source is other than what was accepted, or gone.",
                {name: its.state != "accepted" for name, its in stand.items()},
            )

        self.registry.register(_OnScrape(collect))

    def show_syncs(self, stand: Callable[[], Mapping[str, tuple[Job, SyncRecord | None]]]) -> None:
        """Show on each scrape how the jobs stand that keep the servers in step."""
        self.registry.register(_OnScrape(lambda: _syncs(stand())))

    def alertmanager(self, now: datetime, *, up: bool) -> None:
        """Show whether Alertmanager answered."""
        self._set(self._alertmanager_up, up)
        if up:
            self._set(self._alertmanager_answer, now.timestamp())

    def observer(self) -> Observer:
        """What followers tell of the secondaries."""
        return Observer(
            notified=lambda name, count: self._notifies.labels(name).inc(count),
            notify_failed=lambda name, count: self._notify_failures.labels(name).inc(count),
            arrived=lambda name, seconds: self._propagation.labels(name).observe(seconds),
        )

    def _start(self, config: Config) -> None:
        for trigger in get_args(Trigger):
            self.converges.labels(trigger)
        for step in get_args(Step):
            self.failures.labels(step)
        for before, after in permutations(config.servers, 2):
            for cause in get_args(Cause):
                self._switches.labels(before, after, cause)
        for name in config.secondaries:
            self._notifies.labels(name)
            self._notify_failures.labels(name)
            self._propagation.labels(name)
        for alertname in witness.DOWN_ALERTS:
            for status in ("firing", "resolved"):
                self.webhook_alerts.labels(alertname, status)

    def _set(self, gauge: Gauge, value: float) -> None:
        gauge.set(value)
        if gauge not in self._registered:
            self._registered.add(gauge)
            self.registry.register(gauge)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(f"zonerw_{name}", text, labels, registry=self.registry)

    def _late(self, name: str, text: str) -> Gauge:
        """Make one that is registered when its value is known: it would start as 0."""
        return Gauge(f"zonerw_{name}", text, registry=None)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"zonerw_{name}", text, labels, registry=self.registry)


@dataclass(frozen=True)
class _OnScrape(Collector):
    """What is looked up when somebody asks: of thousands of zones nothing is kept for that."""

    families: Callable[[], Iterator[Metric]]

    def collect(self) -> Iterator[Metric]:
        return self.families()

    def describe(self) -> Iterator[Metric]:
        return iter(())  # else it would be collected to learn its names


def _by_zone(name: str, text: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"zonerw_zone_{name}", text, labels=["zone"])
    for zone_name, value in values.items():
        family.add_metric([zone_name], value)
    return family


def _syncs(stand: Mapping[str, tuple[Job, SyncRecord | None]]) -> Iterator[Metric]:
    """All that is told of the jobs, who ever ran them."""
    records = {name: record for name, (_, record) in stand.items() if record}
    unison = {n: its for n, its in records.items() if isinstance(stand[n][0], UnisonJob)}
    yield _by_job(
        "interval_seconds", "How often the job is run.", {n: j.every for n, (j, _) in stand.items()}
    )
    yield _by_job(
        "since_timestamp_seconds",
        "When the job was first run.",
        {name: its.since.timestamp() for name, its in records.items()},
    )
    yield _by_job(
        "last_success_timestamp_seconds",
        "When a run last did all it could.",
        {n: its.succeeded.timestamp() for n, its in records.items() if its.succeeded},
    )
    yield _by_job(
        "duration_seconds",
        "How long the last run took.",
        {name: its.seconds for name, its in records.items()},
    )
    yield _by_job(
        "exit_status",
        "The exit status of the last run's program, where it ended by itself.",
        {name: its.end for name, its in records.items() if its.end is not None},
    )
    yield _by_job(
        "skipped",
        "Files that the last run left, as for a conflict.",
        {name: its.skipped for name, its in unison.items()},
    )
    yield _by_job(
        "failed",
        "Files that the last run could not copy.",
        {name: its.failed for name, its in unison.items()},
    )
    yield _by_job(
        "refused_deletions",
        "Messages that the last run would have deleted, and was refused.",
        {name: its.too_many for name, its in unison.items()},
    )
    for total, text, values in (
        ("runs", "Runs.", {n: its.runs_total if its else 0 for n, (_, its) in stand.items()}),
        (
            "failures",
            "Runs that failed, or were refused.",
            {n: its.failures_total if its else 0 for n, (_, its) in stand.items()},
        ),
        (
            "transferred",
            "Files and folders changed on either side.",
            {n: its.transferred_total for n, its in unison.items()},
        ),
        (
            "deleted",
            "Messages deleted on either side.",
            {n: its.deleted_total for n, its in unison.items()},
        ),
    ):
        counter = CounterMetricFamily(f"zonerw_sync_{total}", text, labels=["job"])
        for name, value in values.items():
            counter.add_metric([name], value)
        yield counter


def _by_job(name: str, text: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"zonerw_sync_{name}", text, labels=["job"])
    for job, value in values.items():
        family.add_metric([job], value)
    return family
