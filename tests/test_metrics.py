"""The metrics of actions: their words, and what they start with."""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import generate_latest

from actions.metrics import Metrics
from exporter import config as configuration

GOLDEN = Path(__file__).parent / "golden" / "actions.txt"


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
    metrics.switched("main", "backup", "webhook")
    metrics.converges.labels("webhook").inc()
    metrics.failures.labels("reload").inc()
    metrics.step_seconds.labels("write").observe(0.02)
    metrics.published({"example.net": 2026112200})
    metrics.published({"example.org": 2026112201})
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
        'zonerw_notifies_total{nameserver="ns3"} 0.0',
        'zonerw_notify_failures_total{nameserver="ns2"} 0.0',
        'zonerw_propagation_seconds_count{nameserver="ns2"} 0.0',
        'zonerw_webhook_alerts_total{alertname="BackupDown",status="resolved"} 0.0',
    ):
        assert series in text
    assert "zonerw_intended_server{" not in text
    assert "zonerw_alertmanager_up 0" not in text
    assert "zonerw_alertmanager_last_answer_timestamp_seconds 0" not in text
