"""What the alerts say of each server. The real Alertmanager is asked in the system tests."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from actions import payload, witness
from actions.decide import Alert
from actions.witness import Alerts, Heard
from exporter import config as configuration
from exporter.config import Alertmanager, Config


class Web:
    """A web server that answers as the test says, status and body, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [(200, b"[]")]  # the last one is repeated
        self.asked: list[str] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                status, body = web.answers.pop(0) if len(web.answers) > 1 else web.answers[0]
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """End it: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    """A running web server."""
    web = Web()
    yield web
    web.stop()


def config(alertmanager: str | None = None) -> Config:
    """The example's configuration with another Alertmanager, or none."""
    example = configuration.read(Path("examples/zonerw.toml"))
    url = Alertmanager.model_validate({"url": alertmanager}) if alertmanager else None
    return replace(example, alertmanager=url)


def ask(alertmanager: str | None, heard: Heard | None = None) -> Alerts:
    """What the alerts say."""
    return witness.alerts(config(alertmanager), heard or Heard())


def states(alerts: Alerts) -> dict[str, str]:
    """The same in a word for each server."""
    return {server: alert.state for server, alert in alerts.by_server.items()}


def alert(name: str, server: str, state: str = "active") -> dict[str, Any]:
    """An alert as GET /api/v2/alerts gives it."""
    labels = {"alertname": name, "server": server}
    return {"labels": labels, "status": {"state": state}, "fingerprint": "f"}


WATCHED = [alert("ServerWatched", "main"), alert("ServerWatched", "backup")]


def test_only_who_is_watched_is_quiet(web: Web) -> None:
    """Firing, or quiet by positive evidence; the reason names the alert."""
    web.answers = [(200, json.dumps([alert("MainDown", "main"), *WATCHED]).encode())]
    assert ask(web.url) == Alerts(
        {
            "main": Alert("firing", "MainDown is firing"),
            "backup": Alert("quiet", "no alert says that it is down"),
        }
    )


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        pytest.param([], {"main": "unknown", "backup": "unknown"}, id="nobody watches"),
        pytest.param(WATCHED[:1], {"main": "quiet", "backup": "unknown"}, id="one is watched"),
        pytest.param(WATCHED, {"main": "quiet", "backup": "quiet"}, id="both are"),
        pytest.param(
            [alert("MainDown", "main")], {"main": "firing", "backup": "unknown"}, id="firing alone"
        ),
        pytest.param(
            [alert("MainDown", "main"), alert("BackupDown", "backup"), *WATCHED],
            {"main": "firing", "backup": "firing"},
            id="both down",
        ),
    ],
)
def test_an_alert_that_is_not_there_is_no_evidence_of_health(
    web: Web, active: list[dict[str, Any]], expected: dict[str, str]
) -> None:
    """A dead exporter or Prometheus, or a restarted Alertmanager, says nothing of anybody."""
    web.answers = [(200, json.dumps(active).encode())]
    alerts = ask(web.url)
    assert (states(alerts), alerts.missing) == (expected, None)


def test_a_silenced_alert_counts(web: Web) -> None:
    """A silence mutes mail; so suppressed alerts are asked for, and believed."""
    web.answers = [(200, json.dumps([alert("MainDown", "main", "suppressed")]).encode())]
    assert states(ask(web.url + "/"))["main"] == "firing"
    asked = urlsplit(web.asked[0])
    assert asked.path == "/api/v2/alerts"
    assert parse_qs(asked.query) == {
        "active": ["true"],
        "silenced": ["true"],
        "inhibited": ["true"],
        "filter": ['alertname=~"MainDown|BackupDown|ServerWatched"'],
    }


def test_alerts_that_say_nothing_of_a_server_of_ours_are_passed_over(web: Web) -> None:
    """Another name, another server or no server: no evidence."""
    alerts = [
        alert("DiskFull", "main"),
        alert("MainDown", "x"),
        {"labels": {"alertname": "MainDown"}},
        *WATCHED,
    ]
    web.answers = [(200, json.dumps(alerts).encode())]
    assert states(ask(web.url)) == {"main": "quiet", "backup": "quiet"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((503, b"[]"), "status 503"),
        ((302, b"[]"), "status 302"),
        ((200, b"<html>"), "its answer is not a list of alerts"),
        ((200, b'{"status": "ok"}'), "its answer is not a list of alerts"),
        ((200, b'[{"labels": 3}]'), "its answer is not a list of alerts"),
    ],
)
def test_an_answer_that_is_none_is_no_evidence_of_health(
    web: Web, answer: tuple[int, bytes], reason: str
) -> None:
    """Every server is then unknown, never quiet."""
    web.answers = [answer]
    alerts = ask(web.url)
    assert alerts.missing == f"Alertmanager can't be asked: {reason}"
    assert states(alerts) == {"main": "unknown", "backup": "unknown"}


def test_a_dead_alertmanager_is_no_evidence_of_health() -> None:
    """A refused connection leaves every server unknown."""
    dead = Web()
    dead.stop()
    alerts = ask(dead.url)
    assert alerts.missing == "Alertmanager can't be asked: connection failed"
    assert states(alerts) == {"main": "unknown", "backup": "unknown"}


def test_an_alertmanager_that_hangs_is_no_evidence_of_health(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the connection and says nothing; nobody waits for it for long."""
    monkeypatch.setattr("actions.witness._ALERTMANAGER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        began = time.monotonic()
        alerts = ask(f"http://127.0.0.1:{hangs.getsockname()[1]}")
        assert time.monotonic() - began < 30
    assert alerts.missing == "Alertmanager can't be asked: no answer within 0.2 s"
    assert states(alerts) == {"main": "unknown", "backup": "unknown"}


def test_without_alertmanager_nothing_is_known_by_alerts() -> None:
    """And nothing is missing: it is meant so."""
    alerts = ask(None)
    assert (states(alerts), alerts.missing) == ({"main": "unknown", "backup": "unknown"}, None)


# --- heard by webhook -------------------------------------------------------------------------


def heard(*alerts: tuple[str, str, str]) -> Heard:
    """Webhooks with these alerts: name, server, status."""
    heard = Heard()
    for name, server, status in alerts:
        labels = {"alertname": name, "server": server}
        heard.note([payload.Alert.model_validate({"status": status, "labels": labels})])
    return heard


@pytest.fixture
def dead() -> str:
    """The URL of an Alertmanager that is gone."""
    web = Web()
    web.stop()
    return web.url


def test_what_a_webhook_said_counts_where_alertmanager_is_gone(dead: str) -> None:
    """Alert by alert, and only that a server is down: health takes asking."""
    alerts = ask(dead, heard(("MainDown", "main", "firing"), ("BackupDown", "backup", "resolved")))
    assert states(alerts) == {"main": "firing", "backup": "unknown"}
    assert alerts.by_server["main"].why == "a webhook said that MainDown is firing"


def test_what_was_taken_back_no_longer_counts(dead: str) -> None:
    """Resolved says that nobody knows, not that the server is well."""
    twice = heard(("MainDown", "main", "firing"), ("MainDown", "main", "resolved"))
    assert states(ask(dead, twice))["main"] == "unknown"


def test_what_was_heard_counts_for_a_minute(dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After that nobody knows."""
    once = heard(("MainDown", "main", "firing"))
    now = time.monotonic()
    monkeypatch.setattr("actions.witness.time.monotonic", lambda: now + 59)
    assert states(ask(dead, once))["main"] == "firing"
    monkeypatch.setattr("actions.witness.time.monotonic", lambda: now + 61)
    assert states(ask(dead, once))["main"] == "unknown"


def test_what_a_webhook_said_is_nothing_where_alertmanager_can_be_asked(web: Web) -> None:
    """Anybody can forge one, and a late one says how it was."""
    web.answers = [(200, json.dumps(WATCHED).encode())]
    assert states(ask(web.url, heard(("MainDown", "main", "firing"))))["main"] == "quiet"
