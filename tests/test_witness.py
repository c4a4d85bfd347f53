"""Who says that a server is down. The real Alertmanager is asked in the system tests."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from actions import witness
from actions.decide import Word
from exporter import config as configuration
from exporter.config import Alertmanager, Config, Server


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


def config(alertmanager: str | None = None, **servers: Server) -> Config:
    """The example's configuration with another Alertmanager, or none, and other servers."""
    example = configuration.read(Path("examples/zonerw.toml"))
    url = Alertmanager.model_validate({"url": alertmanager}) if alertmanager else None
    return replace(example, alertmanager=url, servers=servers or example.servers)


def alert(name: str, server: str, state: str = "active") -> dict[str, Any]:
    """An alert as GET /api/v2/alerts gives it."""
    labels = {"alertname": name, "server": server}
    return {"labels": labels, "status": {"state": state}, "fingerprint": "f"}


def test_an_alert_says_that_its_server_is_down(web: Web) -> None:
    """Servers without an alert are not down; the reason names the alert."""
    web.answers = [(200, json.dumps([alert("MainDown", "main")]).encode())]
    evidence = witness.ask(config(web.url))
    assert evidence.missing is None
    assert evidence.words == {
        "main": Word(True, "MainDown is firing"),
        "backup": Word(False, "no alert says that it is down"),
    }


def test_a_silenced_alert_counts(web: Web) -> None:
    """A silence mutes mail; so suppressed alerts are asked for, and believed."""
    web.answers = [(200, json.dumps([alert("MainDown", "main", "suppressed")]).encode())]
    assert witness.ask(config(web.url + "/")).words["main"].down is True
    asked = urlsplit(web.asked[0])
    assert asked.path == "/api/v2/alerts"
    assert parse_qs(asked.query) == {
        "active": ["true"],
        "silenced": ["true"],
        "inhibited": ["true"],
        "filter": ['alertname=~"MainDown|BackupDown"'],
    }


def test_alerts_that_say_nothing_of_a_server_of_ours_are_passed_over(web: Web) -> None:
    """Another name, another server or no server: no evidence."""
    alerts = [
        alert("DiskFull", "main"),
        alert("MainDown", "x"),
        {"labels": {"alertname": "MainDown"}},
    ]
    web.answers = [(200, json.dumps(alerts).encode())]
    assert [word.down for word in witness.ask(config(web.url)).words.values()] == [False, False]


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
    """Every server is then unknown, never up."""
    web.answers = [answer]
    evidence = witness.ask(config(web.url))
    assert evidence.missing == f"Alertmanager can't be asked: {reason}"
    assert {word.down for word in evidence.words.values()} == {None}


def test_a_dead_alertmanager_is_no_evidence_of_health() -> None:
    """A refused connection leaves every server unknown."""
    dead = Web()
    dead.stop()
    evidence = witness.ask(config(dead.url))
    assert evidence.missing == "Alertmanager can't be asked: connection failed"
    assert {word.down for word in evidence.words.values()} == {None}


def server(web: Web) -> Server:
    """A server whose check goes to this web server."""
    return Server.model_validate(
        {"addresses": ["127.0.0.1"], "checks": {"web": {"url": f"{web.url}/index.html"}}}
    )


def test_without_alertmanager_so_many_looks_must_agree(web: Web) -> None:
    """Main is up in three looks; nobody looks further."""
    evidence = witness.ask(config(main=server(web), backup=server(web)))
    assert evidence.words == {"main": Word(False, "up in 3 looks")}
    assert len(web.asked) == 3


def test_a_server_that_is_down_in_every_look_is_down() -> None:
    """The next one is looked at too, and the reason is kept."""
    dead, alive = Web(), Web()
    dead.stop()
    words = witness.ask(config(main=server(dead), backup=server(alive))).words
    alive.stop()
    assert words == {
        "main": Word(True, "down in 3 looks (web: connection refused)"),
        "backup": Word(False, "up in 3 looks"),
    }


@pytest.mark.parametrize("statuses", [[503, 200], [503, 503, 200], [200, 503], [200, 200, 503]])
def test_looks_that_do_not_agree_say_nothing(web: Web, statuses: list[int]) -> None:
    """One lost look is no evidence, and one good look in between is none either."""
    web.answers = [(status, b"") for status in statuses]
    words = witness.ask(config(main=server(web), backup=server(web))).words
    assert words == {"main": Word(None, "3 looks do not agree")}
