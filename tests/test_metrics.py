"""The metrics of actions: their words, and what they start with."""

import re
import subprocess
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from prometheus_client import generate_latest
from witnesses import of

from actions.accept import Standing
from actions.decide import Decision
from actions.judge import Judgement
from actions.metrics import Metrics
from actions.records import SyncRecord
from exporter import config as configuration
from exporter.config import CommandJob, UnisonJob

GOLDEN = Path(__file__).parent / "golden" / "actions.txt"


JUDGEMENT = Judgement(
    of(main="firing down", backup="unknown unclear"),
    serving="main",
    blind=None,
    missing=None,
    looking=True,
    decision=Decision("main", None, ""),
)


REFUSED = SyncRecord(
    since=datetime(2026, 11, 1, tzinfo=UTC),
    ended=datetime(2026, 11, 22, 6, tzinfo=UTC),
    succeeded=datetime(2026, 11, 22, 5, tzinfo=UTC),
    outcome="refused",
    reason="it would delete 512 of 2000 messages",
    seconds=0.25,
    end=None,
    skipped=2,
    failed=1,
    paths={"/a/cur/1": "conflicting updates"},
    too_many=512,
    allowable=True,
    runs_total=3000,
    failures_total=7,
    transferred_total=4711,
    deleted_total=321,
    files={},
)
WELL = REFUSED.model_copy(
    update={"outcome": "done", "succeeded": REFUSED.ended, "end": 0, "too_many": 0, "skipped": 0}
)
MAIL = UnisonJob(unison=["/a", "/b"], every="10m")
SYNCS = {
    "mail": (MAIL, REFUSED),
    "new": (MAIL, None),
    "never": (MAIL, WELL.model_copy(update={"succeeded": None})),
    "site": (CommandJob(command=["true"], every="1h"), WELL),
}


def page(metrics: Metrics) -> str:
    """The page as Prometheus gets it; when a series was created is nobody's business here."""
    text = generate_latest(metrics.registry).decode()
    lines = [line for line in text.splitlines(keepends=True) if "_created" not in line]
    return re.sub(r"(?m)^# TYPE \S+_created .*\n", "", "".join(lines))


def lively() -> Metrics:
    """Metrics in which everything has happened once."""
    metrics = Metrics(configuration.read(Path("examples/zonerw.toml")))
    metrics.meant("main", datetime(2026, 11, 22, tzinfo=UTC))
    metrics.meant("backup", datetime(2026, 11, 22, 3, tzinfo=UTC))
    metrics.switched("main", "backup", "down")
    metrics.judged(JUDGEMENT)
    metrics.pinned(datetime(2026, 11, 23, tzinfo=UTC))
    metrics.converges.labels("webhook").inc()
    metrics.failures.labels("reload").inc()
    metrics.step_seconds.labels("write").observe(0.02)
    metrics.show_zones(lambda: {"example.org": 2026112201}, lambda: date(2026, 11, 22))
    metrics.show_sources(
        lambda: {
            "example.com": Standing("unchecked"),
            "example.net": Standing("broken", "no SOA record"),
            "example.org": Standing("accepted"),
            "new.example": Standing("pending", "new"),
            "old.example": Standing("gone"),
        }
    )
    metrics.show_syncs(lambda: SYNCS)
    metrics.alertmanager(datetime(2026, 11, 22, 4, tzinfo=UTC), up=True)
    metrics.alertmanager(datetime(2026, 11, 22, 5, tzinfo=UTC), up=False)
    metrics.webhook_alerts.labels("MainDown", "firing").inc()
    observer = metrics.observer()
    observer.notified("ns2", 3)
    observer.notify_failed("ns2", 1)
    observer.arrived("ns2", 0.03)
    return metrics


def test_the_page_reads_as_it_always_did() -> None:
    """Dashboards, rules and other people's queries depend on these names and labels."""
    assert page(lively()) == GOLDEN.read_text()


def test_promtool_finds_nothing_to_complain_about() -> None:
    """Names, units and help texts are as Prometheus wants them."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],  # noqa: S607 - Debian's, wherever it is
        input=page(lively()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_known_series_are_there_from_the_start() -> None:
    """A counter that first shows itself at 1 has no increase; what is unknown is absent."""
    text = page(Metrics(configuration.read(Path("examples/zonerw.toml"))))
    for series in (
        'zonerw_converges_total{trigger="webhook"} 0.0',
        'zonerw_converge_failures_total{step="verify"} 0.0',
        'zonerw_switches_total{cause="handback",from="backup",to="main"} 0.0',
        'zonerw_notifies_total{nameserver="ns3"} 0.0',
        'zonerw_notify_failures_total{nameserver="ns2"} 0.0',
        'zonerw_propagation_seconds_count{nameserver="ns2"} 0.0',
        'zonerw_webhook_alerts_total{alertname="BackupDown",status="resolved"} 0.0',
    ):
        assert series in text
    assert "zonerw_intended_server{" not in text
    for name in ("alertmanager_up", "blind", "alone", "pinned", "witness", "server_seen_up"):
        assert not re.search(rf"(?m)^zonerw_{name}[ {{]", text)


def test_a_pin_that_is_gone_has_no_expiry() -> None:
    """What is not there is absent, never 0."""
    metrics = lively()
    metrics.pinned(None)
    text = page(metrics)
    assert "zonerw_pinned 0.0" in text
    assert "zonerw_pin_expiry_timestamp_seconds" not in text
    metrics.pinned(datetime(2026, 11, 24, tzinfo=UTC))
    assert "zonerw_pin_expiry_timestamp_seconds 1.79" in page(metrics)


def test_sources_that_cant_be_looked_at_are_not_told_of() -> None:
    """The rest of the page is as it is; the status says what is wrong."""
    metrics = Metrics(configuration.read(Path("examples/zonerw.toml")))

    def look() -> dict[str, Standing]:
        raise PermissionError

    metrics.show_sources(look)
    assert "zonerw_converges_total" in page(metrics)
    assert "source_valid" not in page(metrics)


def test_alone_is_who_has_no_alert_of_anybody() -> None:
    """One server's alert is enough to be not alone; blind has its reason."""
    metrics = lively()
    assert "zonerw_alone 0.0" in page(metrics)
    said = of(main="unknown down", backup="unknown up")
    metrics.judged(replace(JUDGEMENT, testimonies=said, blind="no reference answers"))
    assert "zonerw_alone 1.0\n" in page(metrics)
    assert "zonerw_blind 1.0\n" in page(metrics)
