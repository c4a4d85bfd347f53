"""The HTTP interface of actions, over real sockets; what a run comes to is made up here."""

import html
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from actions import decide
from actions.app import Parts, create_app
from actions.auth import MAX_BODY_BYTES, Tokens
from actions.converge import Forced, Unpin, Word
from actions.judge import Judgement
from actions.metrics import Metrics, Trigger
from actions.outcome import Outcome, ZoneOutcome
from actions.state import Meant, Pin, StateError
from actions.status import Files, Moment, document
from actions.text import tell
from actions.witness import Heard
from actions.worker import Worker
from exporter import config as configuration
from exporter.version import version

WEBHOOK, OPERATOR = "w" * 32, "o" * 32
QUIET = decide.Testimony(
    decide.Alert("quiet", "no alert"), decide.Look("up", "up in 3 looks"), seen_up=True
)
JUDGEMENT = Judgement(
    testimonies={"main": QUIET, "backup": QUIET},
    serving="main",
    blind=None,
    missing=None,
    looking=False,
    decision=decide.Decision("main", None, "w"),
)
DONE = Outcome(
    Meant(server="main", since=datetime(2026, 11, 22, tzinfo=UTC), why="w", by="start"),
    pin=None,
    judgement=JUDGEMENT,
    switched_from=None,
    zones={"example.org": ZoneOutcome(serial=2026112200)},
)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MAIN_DOWN = {"status": "firing", "labels": {"alertname": "MainDown", "server": "main"}}


class Daemon:
    """The app behind uvicorn, with a converge whose outcome the test sets."""

    def __init__(self) -> None:
        self.outcome: Outcome | StateError = DONE
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[tuple[Trigger, Word | None]] = []
        config = configuration.read(Path("examples/zonerw.toml"))
        self.metrics = Metrics(config)
        self.worker = Worker(self._converge, every=3600)
        tokens = Tokens({"webhook": WEBHOOK.encode(), "operator": OPERATOR.encode()})
        self.heard = Heard()
        self.status = document(
            config,
            Files(DONE.meant, None, {}, (), {}, {}, {}, ()),
            Moment(NOON, None, None, JUDGEMENT, DONE.zones, {}, {}),
        )
        parts = Parts(config, self.metrics, self.worker, [], self.heard, lambda: self.status)
        app = create_app(parts, tokens)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self.url = "http://{}:{}".format(*self.address)
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        self._thread = threading.Thread(target=self._server.run, args=([self._listening],))

    def _converge(self, trigger: Trigger, word: Word | None) -> Outcome:
        self.runs.append((trigger, word))
        assert self.gate.wait(30)
        if isinstance(self.outcome, StateError):
            raise self.outcome
        return self.outcome

    def start(self) -> None:
        """Start, and wait for the first run."""
        self._thread.start()
        self.worker.start()
        self.worker.wake("webhook").result(10)
        self.runs.clear()

    def stop(self) -> None:
        """End both threads."""
        self._server.should_exit = True
        self._thread.join()
        self.worker.stop()
        self._listening.close()

    def post(self, path: str, body: object, token: str = WEBHOOK) -> requests.Response:
        """Post JSON with a token."""
        return self.ask("POST", path, body, token)

    def ask(self, method: str, path: str, body: object, token: str) -> requests.Response:
        """Ask with a token; with JSON, if there is any."""
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, self.url + path, json=body, headers=headers, timeout=20)

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are; all that is answered before the end."""
        with socket.create_connection(self.address, timeout=20) as connection:
            connection.sendall(request)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A running daemon."""
    daemon = Daemon()
    daemon.start()
    yield daemon
    daemon.stop()


def payload(*alerts: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Make Alertmanager's payload, with fields that we do not read."""
    return {"version": "4", "status": "firing", "truncatedAlerts": 0, "alerts": alerts} | changes


def test_an_alert_of_ours_wakes_the_worker(daemon: Daemon) -> None:
    """The answer says who serves, and each zone's serial; the alert is counted."""
    answer = daemon.post("/webhook", payload(MAIN_DOWN))
    assert answer.status_code == 200
    assert answer.json()["serving"] == "main"
    assert answer.json()["zones"] == {}  # there may be thousands: only what is wrong is said
    assert daemon.runs == [("webhook", None)]
    page = requests.get(daemon.url + "/metrics", timeout=5).text
    assert 'zonerw_webhook_alerts_total{alertname="MainDown",status="firing"} 1.0' in page


def test_an_alert_of_another_name_is_ignored(daemon: Daemon) -> None:
    """It is answered with 200, so that Alertmanager does not send it again, and wakes nobody."""
    other = {"status": "firing", "labels": {"alertname": "DiskFull", "server": "nobody"}}
    assert daemon.post("/webhook", payload(other)).status_code == 200
    assert daemon.post("/webhook", payload()).status_code == 200
    assert daemon.runs == []


def test_an_unknown_server_is_said(daemon: Daemon) -> None:
    """The rules and the configuration do not fit: 422 with both names."""
    alert = {"status": "firing", "labels": {"alertname": "MainDown", "server": "mian"}}
    answer = daemon.post("/webhook", payload(MAIN_DOWN, alert))
    assert answer.status_code == 422
    assert answer.json()["error"] == "unknown server: 'mian'; expected one of main, backup"
    assert daemon.runs == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "body: Invalid JSON: EOF while parsing"),
        (b"[]", "body: Input should be an object"),
        (b"", "body: Invalid JSON: EOF while parsing"),
        (b"[" * 100_000, "body: Invalid JSON: recursion limit exceeded"),
        (b'{"version": "\xff"}', "body: Invalid JSON: "),
        (b'{"version": "4", "alerts": [' + b"{}," * 300_000 + b"{}]}", "body.alerts.0.status"),
        (b'{"version": "3", "alerts": []}', "body.version: Input should be '4'"),
        (b'{"version": "4"}', "body.alerts: Field required"),
        (b'{"version": "4", "alerts": [{"status": "on", "labels": {}}]}', "body.alerts.0.status"),
        (b'{"version": "4", "alerts": [{"status": "firing"}]}', "body.alerts.0.labels"),
        (b'{"version": "4", "alerts": [{"status": "firing", "labels": {"a": 1}}]}', "labels.a"),
        (b"\xff\xfe", "body: Invalid JSON: "),
    ],
)
def test_a_malformed_payload_is_refused_with_the_place(
    daemon: Daemon, body: bytes, said: str
) -> None:
    """422 says where and what was expected; nothing runs."""
    answer = requests.post(
        daemon.url + "/webhook",
        data=body,
        headers={"Authorization": f"Bearer {WEBHOOK}", "Content-Type": "application/json"},
        timeout=5,
    )
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    assert len(answer.content) < 1000
    assert daemon.runs == []


def test_only_json_is_read(daemon: Daemon) -> None:
    """A web page that somebody has open can send text unasked, but not JSON."""
    answer = requests.post(
        daemon.url + "/webhook",
        data=json.dumps(payload(MAIN_DOWN)),
        headers={"Authorization": f"Bearer {WEBHOOK}", "Content-Type": "text/plain"},
        timeout=5,
    )
    assert answer.status_code == 415
    assert answer.json()["error"] == "Content-Type: 'text/plain'; expected application/json"
    assert daemon.runs == []


def test_an_open_page_reads_no_body(daemon: Daemon) -> None:
    """Nobody in particular can make the program keep megabytes."""
    answer = daemon.raw(
        b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 900000\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/webhook", None, 401),
        ("/webhook", "Bearer " + "x" * 32, 401),
        ("/webhook", f"Bearer {OPERATOR}", 403),
        ("/rewrite", None, 401),
        ("/rewrite", f"Bearer {WEBHOOK}", 403),
        ("/nowhere", None, 401),
        ("/nowhere", f"Bearer {WEBHOOK}", 403),
        ("/nowhere", f"Bearer {OPERATOR}", 404),
    ],
)
def test_who_may_not(daemon: Daemon, path: str, authorization: str | None, status: int) -> None:
    """No or an unknown token is 401, the wrong one 403, whatever the body is."""
    headers = {"Authorization": authorization} if authorization else {}
    answer = requests.post(daemon.url + path, data=b"{", headers=headers, timeout=5)
    assert answer.status_code == status
    assert daemon.runs == []


def test_a_stranger_is_answered_before_sending_the_body(daemon: Daemon) -> None:
    """401 comes after the headers; the body that was announced is never waited for."""
    answer = daemon.raw(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_large_body_is_refused_by_its_announced_length(daemon: Daemon) -> None:
    """413 comes before any of it is read."""
    answer = daemon.raw(
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n" % (WEBHOOK.encode(), MAX_BODY_BYTES + 1)
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_large_chunked_body_is_refused_when_it_gets_large(daemon: Daemon) -> None:
    """Without a length, reading stops at the limit: the last chunk is never sent here."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = daemon.raw(
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        % WEBHOOK.encode()
        + chunk * (MAX_BODY_BYTES // 0x10000 + 1)
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_of_just_the_limit_is_read(daemon: Daemon) -> None:
    """The limit itself is allowed, sent in one piece or in chunks."""
    body = json.dumps(payload(MAIN_DOWN)).encode()
    body += b" " * (MAX_BODY_BYTES - len(body))
    headers = {"Authorization": f"Bearer {WEBHOOK}", "Content-Type": "application/json"}
    for data in (body, iter([body[:1000], body[1000:]])):
        answer = requests.post(daemon.url + "/webhook", data=data, headers=headers, timeout=5)
        assert answer.status_code == 200


def test_a_person_can_force_a_rewrite(daemon: Daemon) -> None:
    """Both modes reach the worker as they were meant."""
    for body in ({"mode": "minimal"}, {"mode": "forced"}, {"mode": "forced", "zones": ["a.b"]}):
        assert daemon.post("/rewrite", body, OPERATOR).status_code == 200
    assert [(trigger, type(word)) for trigger, word in daemon.runs] == [
        ("request", type(None)),
        ("request", Forced),
        ("request", Forced),
    ]
    for run, zones in zip(daemon.runs[1:], ((), ("a.b",)), strict=True):
        word = run[1]
        assert isinstance(word, Forced)
        assert word.checked  # before the worker was asked: no switch waits for that
        assert word.zones == word.checked.zones == zones


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "body.mode: Field required"),
        ({"mode": "full"}, "body.mode: Input should be 'minimal' or 'forced'"),
        ({"mode": "minimal", "zones": ["a.b"]}, 'zones: only with mode "forced"'),
        ({"mode": "forced", "zone": ["a.b"]}, "body.zone: Extra inputs are not permitted"),
        ({"mode": "forced", "zones": ["a/b"]}, "body.zones.0: String should match pattern"),
        ({"mode": "forced", "zones": ["\ud800"]}, "body: Invalid JSON"),
    ],
)
def test_a_wrong_request_is_refused(daemon: Daemon, body: object, said: str) -> None:
    """422 says what was expected."""
    answer = daemon.post("/rewrite", body, OPERATOR)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(said)


REFUSED = {"example.org": ZoneOutcome(failed="accept", reason="example.org.base:3: no")}
FAILED = {"example.org": ZoneOutcome(serial=1, failed="verify", reason="ns1 answers SERVFAIL")}


@pytest.mark.parametrize(
    ("outcome", "mode", "status"),
    [
        pytest.param(replace(DONE, zones=REFUSED), "forced", 422, id="a refused source: 422"),
        pytest.param(replace(DONE, zones=FAILED), "minimal", 503, id="a step failed: 503"),
        pytest.param(replace(DONE, zones=REFUSED | {"b": FAILED["example.org"]}), "forced", 503,
                     id="both: a retry helps one of them: 503"),
        pytest.param(StateError(Path("/s/meant.json"), "is damaged"), "minimal", 503,
                     id="no state: 503"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_said(
    daemon: Daemon, outcome: Outcome | StateError, mode: str, status: int
) -> None:
    """The status says whether a retry helps, the body which step of which zone and why."""
    daemon.outcome = outcome
    answer = daemon.post("/rewrite", {"mode": mode}, OPERATOR)
    assert answer.status_code == status
    if isinstance(outcome, StateError):
        assert answer.json() == {"error": "step state: /s/meant.json: is damaged"}
    else:
        for name, its in outcome.zones.items():
            assert answer.json()["zones"][name]["failed"] == its.failed
            assert answer.json()["zones"][name]["reason"] == its.reason


def test_a_webhook_is_told_that_looks_are_under_way(daemon: Daemon) -> None:
    """202: nothing is decided yet; a person who asks for a run is told what it came to."""
    daemon.outcome = replace(DONE, judgement=replace(JUDGEMENT, looking=True))
    assert daemon.post("/webhook", payload(MAIN_DOWN)).status_code == 202
    assert daemon.post("/rewrite", {"mode": "minimal"}, OPERATOR).status_code == 200


def test_a_person_can_pin_a_server(daemon: Daemon) -> None:
    """For a day, or as long as is said; the pin says by whom; the answer is that of a rewrite."""
    until = datetime(2036, 11, 23, 12, 30, 15, 999, tzinfo=UTC)
    daemon.outcome = replace(DONE, pin=Pin(server="main", until=until, reason="disk", by="alice"))
    began = datetime.now(UTC)
    answer = daemon.ask("PUT", "/pin", {"server": "backup"}, OPERATOR)
    assert answer.status_code == 200
    assert answer.json()["serving"] == "main"
    assert answer.json()["pin"] == {
        "server": "main", "until": "2036-11-23T12:30:15+00:00", "reason": "disk", "by": "alice",
    }  # fmt: skip
    wish = {"server": "main", "for": "1h30m", "reason": " a new\n disk\t"}
    assert daemon.ask("PUT", "/pin", wish, OPERATOR).status_code == 200
    (_, a_day), (_, longer) = daemon.runs
    assert isinstance(a_day, Pin)
    assert isinstance(longer, Pin)
    assert (a_day.server, a_day.reason, a_day.by) == ("backup", "", "HTTP from 127.0.0.1")
    assert timedelta() <= a_day.until - began - timedelta(hours=24) < timedelta(minutes=1)
    assert (longer.server, longer.reason) == ("main", "a new disk")
    assert timedelta() <= longer.until - began - timedelta(minutes=90) < timedelta(minutes=1)


def test_a_person_can_take_the_pin_away(daemon: Daemon) -> None:
    """Whether there is one or not: the run says how it stands then."""
    answer = daemon.ask("DELETE", "/pin", None, OPERATOR)
    assert answer.status_code == 200
    assert answer.json()["pin"] is None
    assert daemon.runs == [("request", Unpin())]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"server": "mian"}, "unknown server: 'mian'; expected one of main, backup"),
        ({"server": ""}, "unknown server: ''; expected one of main, backup"),
        ({}, "body.server: Field required"),
        ({"server": "main", "until": "1h"}, "body.until: Extra inputs are not permitted"),
        ({"server": "main", "for": "1 day"}, "body.for: expected a duration such as "),
        ({"server": "main", "for": 60}, "body.for: expected a duration such as "),
        ({"server": "main", "for": "0s"}, "body.for: expected a duration such as "),
        ({"server": "main", "reason": 1}, "body.reason: Input should be a valid string"),
        ([], "body: Input should be an object"),
    ],
)
def test_a_wrong_pin_is_refused(daemon: Daemon, body: object, said: str) -> None:
    """422 says what was expected; nothing runs."""
    answer = daemon.ask("PUT", "/pin", body, OPERATOR)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(said)
    assert daemon.runs == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_only_the_operator_pins(daemon: Daemon, method: str) -> None:
    """Alertmanager's token moves no pin."""
    assert daemon.ask(method, "/pin", {"server": "main"}, WEBHOOK).status_code == 403
    assert daemon.ask(method, "/pin", {"server": "main"}, "x" * 32).status_code == 401
    assert daemon.runs == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_pin_that_fails_is_said_like_a_rewrite(daemon: Daemon, method: str) -> None:
    """503 with the step where a retry can help, and where the state can't be used."""
    daemon.outcome = replace(DONE, zones=FAILED)
    answer = daemon.ask(method, "/pin", {"server": "main"}, OPERATOR)
    assert answer.status_code == 503
    assert answer.json()["zones"]["example.org"]["failed"] == "verify"
    daemon.outcome = StateError(Path("/s/pin.json"), "can't be written: No space left on device")
    answer = daemon.ask(method, "/pin", {"server": "main"}, OPERATOR)
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("step state: /s/pin.json: can't be written")


def test_an_answer_says_what_the_witnesses_say(daemon: Daemon) -> None:
    """In the same words as the status."""
    answer = daemon.post("/rewrite", {"mode": "minimal"}, OPERATOR).json()
    status = daemon.ask("GET", "/status", None, OPERATOR).json()
    for name in ("serving", "since", "why", "by", "pin", "blind", "alone", "missing", "servers"):
        assert answer[name] == status[name]
    assert answer["servers"]["main"]["alert"] == {"state": "quiet", "why": "no alert"}


def test_the_status_waits_for_no_run(daemon: Daemon) -> None:
    """It is answered while a run is under way."""
    daemon.gate.clear()
    daemon.worker.request(None)
    answer = daemon.ask("GET", "/status", None, OPERATOR)
    daemon.gate.set()
    assert answer.status_code == 200
    assert answer.json()["serving"] == "main"
    assert answer.json()["at"] == "2026-11-22T12:00:00+00:00"
    assert answer.json()["zones"]["example.org"]["serial"] == 2026112200


def test_only_the_operator_sees_the_status(daemon: Daemon) -> None:
    """It says where everything is, and what is wrong with it."""
    assert daemon.ask("GET", "/status", None, WEBHOOK).status_code == 403
    assert requests.get(daemon.url + "/status", timeout=5).status_code == 401


def test_the_landing_page_says_how_it_stands_and_leads_on(daemon: Daemon) -> None:
    """In one line first; a browser shows the token as a password, and every link works."""
    answer = requests.get(daemon.url + "/", auth=("anybody", OPERATOR), timeout=5)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    text = tell(daemon.status)
    first, _, rest = text.partition("\n")
    assert f"<p><strong>{first}</strong></p>" in answer.text
    assert f"<pre>{html.escape(rest)}</pre>" in answer.text
    assert f"Version {version()}." in answer.text
    links = re.findall(r'href="([^"]+)"', answer.text)
    assert set(links) == {"/status", "/metrics", "/-/healthy", "/-/ready"}
    assert {daemon.ask("GET", link, None, OPERATOR).status_code for link in links} == {200}


def test_what_others_say_is_text_on_the_landing_page(daemon: Daemon) -> None:
    """A pin's reason, for example, is anybody's who may pin."""
    daemon.status = daemon.status.model_copy(update={"why": "<script>alert(1)</script>"})
    answer = daemon.ask("GET", "/", None, OPERATOR)
    assert "<script>" not in answer.text
    assert "&lt;script&gt;" in answer.text


def test_only_the_operator_sees_the_landing_page(daemon: Daemon) -> None:
    """It says what the status does; a browser is asked for the token."""
    assert daemon.ask("GET", "/", None, WEBHOOK).status_code == 403
    answer = requests.get(daemon.url + "/", timeout=5)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="zonerw"'


def test_a_long_run_is_answered_in_time(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alertmanager would cancel after 10 s: 202 says that it goes on, and it does."""
    monkeypatch.setattr("actions.app._ANSWER_SECONDS", 0.2)
    daemon.gate.clear()
    answer = daemon.post("/webhook", payload(MAIN_DOWN))
    assert answer.status_code == 202
    daemon.gate.set()
    assert daemon.worker.wake("webhook").result(5) is DONE


def test_the_open_pages_need_no_token(daemon: Daemon) -> None:
    """Prometheus and health checks ask without one."""
    for path, said in [
        ("/metrics", "# HELP zonerw_"),
        ("/-/healthy", "healthy"),
        ("/-/ready", "ready"),
    ]:
        answer = requests.get(daemon.url + path, timeout=5)
        assert answer.status_code == 200
        assert said in answer.text


def test_not_ready_before_the_first_run_has_ended() -> None:
    """Ready means: what is published is what is meant, as far as it goes."""
    daemon = Daemon()
    daemon.gate.clear()
    daemon._thread.start()
    daemon.worker.start()
    try:
        assert requests.get(daemon.url + "/-/ready", timeout=5).status_code == 503
    finally:
        daemon.gate.set()
        daemon.stop()
