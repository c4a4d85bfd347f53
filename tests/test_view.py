"""Looking for what status says: damaged files, edited sources, no daemon."""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import StartNsd, free_port
from witnesses import ALERTS, LOOKS

from actions import view, zone
from actions.accept import Standing, Watch
from actions.decide import Decision
from actions.judge import Judgement, Witnesses
from actions.looks import Seen
from actions.outcome import Latest, Outcome, ZoneOutcome
from actions.state import Meant, Pin, State, StateError
from actions.status import Document, UnknownPin
from actions.templates import Accepted
from actions.witness import Alerts
from exporter import config as configuration
from exporter import zonefile
from exporter.config import Config, Listen

NOW = datetime.now(UTC)
MEANT = Meant(server="main", since=NOW, why="", by="start", before="backup", cause="handback")
SOURCE = b"""\
$TTL 60
@ IN SOA ns1 owner @serial number@ 3600 600 864000 60
@ IN NS ns1
ns1 IN A 192.0.2.1
www IN A @IP@
"""
ZONES = ("example.net", "example.org")
FILES = ("meant.json", "pin.json", "seen.json", "history.jsonl", "serials.json")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration whose two zones are accepted, published and at peace; nobody answers."""
    path = tmp_path / "zonerw.toml"
    for folder in ("zones", "published"):
        (tmp_path / folder).mkdir()
    path.write_text(f"""\
[servers.main]
addresses = ["192.0.2.1"]
[servers.backup]
addresses = ["198.51.100.7"]
[zones]
sources = "{tmp_path}/zones"
published = "{tmp_path}/published"
[primary]
name = "ns1"
kind = "nsd"
address = "127.0.0.1"
port = {free_port("127.0.0.1")}
[secondaries.ns2]
address = "127.0.0.1"
port = {free_port("127.0.0.1")}
[actions]
state = "{tmp_path}/state"
listen = "127.0.0.1:{free_port("127.0.0.1")}"
""")
    config = configuration.read(path)
    state = State(config.actions.state)
    state.prepare()
    state.put_down(MEANT)
    state.remember(MEANT)
    state.put_seen({})
    state.put_pin(Pin(server="main", until=NOW + timedelta(days=1), reason="", by="alice"))
    state.record(dict.fromkeys(ZONES, 7))
    state.accept(dict.fromkeys(ZONES, SOURCE).items())
    for name in ZONES:
        (config.zones.sources / f"{name}.base").write_bytes(SOURCE)
        (config.zones.published / name).write_bytes(rendered(config, name))
    return config


def rendered(config: Config, name: str, serial: int = 7, serving: str = "main") -> bytes:
    """What is published of a zone."""
    source = zonefile.parse(name, SOURCE, config.servers)
    return zone.render(source, config.servers, serving, serial)


def looked(config: Config) -> Document:
    """The status without the daemon, whose witnesses say that all is well."""
    quiet = dict.fromkeys(config.servers, ALERTS["quiet"])
    up = Seen(dict.fromkeys(config.servers, LOOKS["up"]), None, frozenset(config.servers), False)
    return view.by_itself(config, Witnesses(lambda: Alerts(quiet), lambda _: up), "it is gone")


def remembered(config: Config, latest: Latest) -> Document:
    """The daemon's status."""
    return view.by_daemon(config, Watch(config, State(config.actions.state)), latest, [])


def test_nothing_is_changed_by_looking(config: Config) -> None:
    """Not a file, neither lock nor what was seen; whether asked of the daemon or not."""

    def everything() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in config.path.parent.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = everything()
    assert config.actions.state / "lock" not in before
    looked(config)
    remembered(config, Latest())
    assert everything() == before


def test_a_lock_that_is_held_holds_up_nobody(config: Config) -> None:
    """A run that takes long is when people ask."""
    with State(config.actions.state).locked():
        assert looked(config).serving == "main"
        assert remembered(config, Latest()).serving == "main"


@pytest.mark.parametrize("damaged", FILES)
def test_a_damaged_file_hides_no_other(config: Config, damaged: str) -> None:
    """It is named, it is no empty one, and the rest is shown."""
    (config.actions.state / damaged).write_text('{"version": 1,')
    for its in (looked(config), remembered(config, Latest())):
        (trouble,) = its.troubles
        assert trouble.file == str(config.actions.state / damaged)
        assert trouble.why.startswith("is damaged: ")
        assert its.serving == (None if damaged == "meant.json" else "main")
        assert isinstance(its.pin, UnknownPin) == (damaged == "pin.json")
        assert its.pin is not None
        assert len(its.switches) == (0 if damaged == "history.jsonl" else 1)
        assert {zone.source.state for zone in its.zones.values() if zone.source} == {"accepted"}


def test_all_files_damaged_are_all_named(config: Config) -> None:
    """In one look, not one after the other is mended."""
    for name in FILES:
        (config.actions.state / name).write_text("{")
    named = {Path(trouble.file).name for trouble in looked(config).troubles}
    assert named == set(FILES)


def test_without_what_was_accepted_no_source_is_called_new(config: Config) -> None:
    """It can't be told: the sources are not shown at all."""
    accepted = config.actions.state / "accepted"
    accepted.rename(accepted.with_name("elsewhere"))
    accepted.touch()
    its = looked(config)
    assert {trouble.file for trouble in its.troubles} == {str(accepted)}
    assert its.zones == {}
    assert its.serving == "main"


def test_one_accepted_source_that_cannot_be_read_hides_no_other(config: Config) -> None:
    """It is told of as the zone's trouble."""
    path = config.actions.state / "accepted" / f"{ZONES[0]}.base"
    path.unlink()
    path.mkdir()
    its = looked(config)
    why = f"{path}: can't be read: Is a directory"
    assert (its.zones[ZONES[0]].failed, its.zones[ZONES[0]].reason) == ("render", why)
    assert its.zones[ZONES[0]].source == Standing("broken", why)
    assert its.zones[ZONES[1]].source == Standing("accepted")


def test_sources_that_cannot_be_read_are_not_called_gone(config: Config) -> None:
    """A folder that is not mounted: it is unknown how they stand."""
    config.zones.sources.rename(config.zones.sources.with_name("elsewhere"))
    its = looked(config)
    assert [trouble.file for trouble in its.troubles] == [str(config.zones.sources)]
    assert {name: zone.source for name, zone in its.zones.items()} == dict.fromkeys(ZONES)
    assert {zone.serial for zone in its.zones.values()} == {7}


def test_how_sources_stand(config: Config) -> None:
    """Edited, new, broken with its line, gone; the nameserver's own checker is asked too."""
    folder = config.zones.sources
    (folder / "example.net.base").unlink()
    (folder / "example.org.base").write_bytes(SOURCE + b"more A 192.0.2.9\n")
    (folder / "new.example.base").write_bytes(SOURCE)
    (folder / "typo.example.base").write_bytes(SOURCE + b"more A @ip@\n")
    (folder / "bad.example.base").write_bytes(SOURCE + b"www CNAME other\n")
    (folder / "Upper.example.base").write_bytes(SOURCE)
    its = {
        name: (zone.source.state, zone.source.why)
        for name, zone in looked(config).zones.items()
        if zone.source
    }
    assert {name: state for name, (state, _) in its.items()} == {
        "example.net": "gone",
        "example.org": "pending",
        "new.example": "pending",
        "typo.example": "broken",
        "bad.example": "broken",
        "Upper.example": "broken",
    }
    assert (its["example.org"][1], its["new.example"][1]) == ("edited", "new")
    assert its["typo.example"][1].startswith(f"{folder}/typo.example.base:6: @ip@ is no marker")
    assert its["bad.example"][1].startswith(f"{folder}/bad.example.base")
    assert its["Upper.example"][1] == f"{folder}/Upper.example.base: not in lower case"


def changed(_: Accepted) -> bytes:
    """Somebody has edited what was accepted."""
    raise StateError(Path("/a/source"), "was changed")


def test_what_the_next_run_would_write_anew_is_said(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Touched by hand, missing, pointing elsewhere, or not fitting the configuration any more."""
    published = config.zones.published
    assert {zone.reason for zone in looked(config).zones.values()} == {""}
    (published / "example.org").write_bytes(rendered(config, "example.org", serving="backup"))
    (published / "example.net").unlink()
    its = looked(config).zones
    assert its["example.org"].serial == 7
    assert its["example.org"].reason == (
        f"{published}/example.org is not what it is meant to be; the next run writes it anew"
    )
    assert (its["example.net"].serial, its["example.net"].reason) == (None, "is not published yet")
    (published / "example.net").write_bytes(b"\0")
    assert "holds no serial" in looked(config).zones["example.net"].reason
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Accepted, "content", changed)
        its = looked(config).zones["example.org"]
    assert (its.failed, its.reason) == (None, "/a/source: was changed")
    fewer = replace(config, servers={"main": config.servers["main"]})
    State(config.actions.state).accept(
        {"example.org": SOURCE.replace(b"@IP@", b"@IP:backup@")}.items()
    )
    names_no_server = (
        "@IP:backup@ names no server; expected one of main;"
        " zonerw rewrite --forced example.org accepts it anew, once it is right"
    )
    unfit = looked(fewer).zones["example.org"]
    assert (unfit.failed, unfit.reason) == (
        "render",
        f"{config.actions.state}/accepted/example.org.base:5: {names_no_server}",
    )


def test_nameservers_are_asked(config: Config, start_nsd: StartNsd) -> None:
    """All are held against the files; so a secondary of a primary that is behind is, too."""
    ns1 = start_nsd({"example.net": 7, "example.org": 6})
    ns2 = start_nsd({"example.net": 5, "example.org": 6})
    its = looked(
        replace(
            config,
            primary=config.primary.model_copy(update={"port": ns1.port}),
            secondaries={"ns2": config.secondaries["ns2"].model_copy(update={"port": ns2.port})},
        )
    )
    stands = {
        (nameserver, name): (stand.serial, stand.serves, stand.reason)
        for nameserver, zones in {**its.primary, **its.secondaries}.items()
        for name, stand in zones.items()
    }
    assert stands == {
        ("ns1", "example.net"): (7, True, ""),
        ("ns1", "example.org"): (6, False, "serves 6, not 7"),
        ("ns2", "example.net"): (5, False, "serves an older serial"),
        ("ns2", "example.org"): (6, False, "serves 6, not 7"),
    }


def test_nobody_answers(config: Config) -> None:
    """Every nameserver says why it is not known."""
    its = looked(config)
    reasons = {
        stand.reason
        for zones in (*its.primary.values(), *its.secondaries.values())
        for stand in zones.values()
    }
    assert reasons == {"connection refused"}
    assert its.daemon_missing == "it is gone"
    assert its.run is None


def test_before_anything_is_there(config: Config) -> None:
    """Without a state folder nothing is put down, and nothing is made."""
    empty = config.path.parent / "nothing"
    actions = config.actions.model_copy(update={"state": empty})
    its = looked(replace(config, actions=actions))
    assert (its.serving, its.why, its.troubles) == (None, "nothing is put down yet", ())
    assert {zone.source.why for zone in its.zones.values() if zone.source} == {"new"}
    assert not empty.exists()


JUDGEMENT = Judgement({}, "main", None, None, False, Decision("main", None, ""))
FAILED = {
    "example.net": ZoneOutcome(8, failed="verify", reason="ns1 answers SERVFAIL"),
    "example.org": ZoneOutcome(7),
}
OUTCOME = Outcome(MEANT, None, JUDGEMENT, None, FAILED)


def test_the_daemon_goes_by_its_last_run(config: Config) -> None:
    """What it published, and what the primary did not serve at the end of it."""
    its = remembered(config, Latest(OUTCOME, None, NOW))
    assert its.run is not None
    assert (its.run.ended, its.run.error, its.run.every) == (NOW, None, 5.0)
    assert (its.zones["example.net"].serial, its.zones["example.net"].failed) == (8, "verify")
    stand = its.primary["ns1"]
    assert (stand["example.net"].serves, stand["example.net"].reason) == (
        False, "ns1 answers SERVFAIL",
    )  # fmt: skip
    assert stand["example.org"].serves


def test_the_files_speak_where_a_command_came_after_the_last_run(config: Config) -> None:
    """`zonerw pin` beside the daemon: shown before the daemon's next run."""
    State(config.actions.state).put_down(MEANT.model_copy(update={"server": "backup"}))
    its = remembered(config, Latest(OUTCOME, None, NOW))
    assert its.serving == "backup"
    assert its.pin is not None


def test_a_run_that_came_to_nothing_leaves_no_old_verdict(config: Config) -> None:
    """The zones are as the files say; who is down was not asked, nor the primary."""
    error = "/s/pin.json: is damaged:\n no"
    judged = Judgement({}, "main", "blind", "missing", False, Decision("main", None, ""))
    outcome = replace(OUTCOME, judgement=judged)
    its = remembered(config, Latest(outcome, error, NOW))
    assert its.run is not None
    assert its.run.error == "/s/pin.json: is damaged: no"
    assert (its.blind, its.missing, its.servers) == (None, None, {})
    assert (its.zones["example.net"].serial, its.primary) == (7, {"ns1": {}})
    assert remembered(config, Latest(outcome, None, NOW)).blind == "blind"


# --- whether it may look, and whether the daemon does ---------------------------------------


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user who may do nothing in particular, where we are root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_who_may_not_look_is_told(config: Config) -> None:
    """One error for the folder; not one for each file, and never an empty state."""
    config.actions.state.chmod(0)
    try:
        with nobody(), pytest.raises(StateError, match="can't be read: Permission denied"):
            looked(config)
    finally:
        config.actions.state.chmod(0o700)


class Answers(BaseHTTPRequestHandler):
    """Answers as the test says, and remembers who asked."""

    status, body = 200, b"{}"
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012 - of the one server of a test

    def do_GET(self) -> None:
        """Answer."""
        self.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def answering(config: Config) -> Iterator[type[Answers]]:
    """Somebody who answers where the daemon should."""

    class Here(Answers):
        asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    listen: Listen = config.actions.listen
    with HTTPServer((listen.host, listen.port), Here) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Here
        server.shutdown()
        thread.join()


def test_the_daemon_is_asked_as_the_operator(config: Config, answering: type[Answers]) -> None:
    """What it says is taken as it is; fields of a newer one are passed over."""
    its = remembered(config, Latest(OUTCOME, None, NOW))
    newer = json.loads(its.model_dump_json(by_alias=True)) | {"phase of the moon": "full"}
    answering.body = json.dumps(newer).encode()
    said = view.from_daemon(config, "secret")
    assert isinstance(said, Document)
    assert said.serving == "main"
    assert answering.asked == [("/status", "Bearer secret")]
    view.from_daemon(config, None)
    assert answering.asked[1:] == [("/status", None)]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"{}", "what answers there is something else"),
        (200, b"<html>", "what answers there is something else"),
        (401, b"{}", "status 401"),
        (302, b"", "status 302"),
        (503, b"", "status 503"),
    ],
)
def test_an_answer_that_is_none(
    config: Config, answering: type[Answers], status: int, body: bytes, said: str
) -> None:
    """The reason names the place."""
    answering.status, answering.body = status, body
    assert view.from_daemon(config, None) == (
        f"zonerw actions does not answer at http://{config.actions.listen}/status: {said}"
    )
    assert len(answering.asked) == 1


def test_nobody_is_there(config: Config) -> None:
    """Nothing listens."""
    said = view.from_daemon(config, None)
    assert isinstance(said, str)
    assert said.endswith(": connection failed")


def test_a_daemon_that_hangs(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and says nothing: nobody waits for long."""
    monkeypatch.setattr(view, "_DAEMON_SECONDS", 0.1)
    listen = config.actions.listen
    with socket.create_server((listen.host, listen.port)):
        said = view.from_daemon(config, None)
    assert isinstance(said, str)
    assert re.search(r": no answer within 0\.1 s$", said)
