"""What its owner does and sees, on the whole stack: pins; the status, by the daemon and without."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from observed import (
    BACK,
    SOON,
    down_alerts,
    everywhere,
    holds,
    log,
    metrics,
    moved,
    raised,
    serials,
    switches,
    webhook,
)

from demo.stack import Stack, http, wait_for

FIRING = {"status": "firing", "labels": {"alertname": "MainDown", "server": "main"}}

# What a pin there counts as.
PINNED = ("main", "backup", "pin")

STATE_FAILURES = 'zonerw_converge_failures_total{step="state"}'


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """One stack for all tests here: starting it takes longer than most of them."""
    with Stack(poll="250ms") as stack:
        stack.settle()
        at_peace(stack)
        yield stack


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The stack at peace: nothing pinned, all run, main serves everywhere; so again afterwards."""
    yield running
    for part in running.parts.values():
        part.resume()
        part.start()
    ask(running, "DELETE", "/pin")
    everywhere(running, running.main)
    at_peace(running)


def at_peace(stack: Stack) -> None:
    """Wait until the daemon knows it too: all alerts are quiet, every zone is served alike."""
    everything = len(stack.zones) * len(stack.nameservers)

    def is_at_peace() -> bool:
        its = status(stack)
        stands = [
            stand["serves"]
            for zones in (*its["primary"].values(), *its["secondaries"].values())
            for stand in zones.values()
        ]
        alerts = {server["alert"]["state"] for server in its["servers"].values()}
        looks = {server["look"]["why"] for server in its["servers"].values()}
        quiet = alerts == {"quiet"} and looks == {"not looked at while all is quiet"}
        return quiet and its["serving"] == "main" and len(stands) == everything and all(stands)

    wait_for(is_at_peace, SOON, "peace")


def state(stack: Stack) -> Path:
    """The state folder."""
    return stack.layout.folder / "state"


def ask(stack: Stack, method: str, path: str, body: object = None) -> requests.Response:
    """Ask the daemon as the operator."""
    headers = {"Authorization": f"Bearer {stack.layout.operator_token}"}
    return http(method, stack.layout.url("actions") + path, headers=headers, json=body)


def status(stack: Stack) -> dict[str, Any]:
    """The daemon's status."""
    answer = ask(stack, "GET", "/status")
    assert answer.status_code == 200
    return dict(answer.json())


def files(folder: Path) -> Mapping[str, tuple[int, bytes]]:
    """All that stands in a folder, and since when."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_a_pin_moves_the_zones_and_holds_while_main_is_fine(stack: Stack) -> None:
    """Until it is taken away: then the zones are handed back."""
    before, counted = serials(stack), switches(stack)
    answer = ask(stack, "PUT", "/pin", {"server": "backup", "for": "1h", "reason": "new disks"})
    assert answer.status_code == 200
    assert answer.json()["serving"] == "backup"
    pin = answer.json()["pin"]
    assert (pin["server"], pin["reason"]) == ("backup", "new disks")
    assert pin["by"].startswith("HTTP from 127.")
    until = datetime.fromisoformat(pin["until"])
    assert abs(until - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=5)
    moved(stack, stack.backup, raised(before, 1))
    holds(stack, stack.backup, raised(before, 1))
    shown = metrics(stack)
    assert shown["zonerw_pinned"] == 1
    assert abs(shown["zonerw_pin_expiry_timestamp_seconds"] - until.timestamp()) < 1
    assert status(stack)["pin"] == pin

    answer = ask(stack, "DELETE", "/pin")
    assert answer.status_code == 200
    assert (answer.json()["serving"], answer.json()["pin"]) == ("main", None)
    moved(stack, stack.main, raised(before, 2))
    shown = metrics(stack)
    assert shown["zonerw_pinned"] == 0
    assert "zonerw_pin_expiry_timestamp_seconds" not in shown
    more = {way: number - counted.get(way, 0) for way, number in switches(stack).items()}
    assert {way for way, number in more.items() if number} == {PINNED, BACK}
    assert (more[PINNED], more[BACK]) == (1, 1)


def test_a_pin_ends_by_itself(stack: Stack) -> None:
    """When its time is over, nobody has to remember it."""
    before = serials(stack)
    answer = ask(stack, "PUT", "/pin", {"server": "backup", "for": "10s"})
    assert (answer.status_code, answer.json()["serving"]) == (200, "backup")
    moved(stack, stack.main, raised(before, 2))
    assert any('msg="pin expired"' in line for line in log(stack))
    assert metrics(stack)["zonerw_pinned"] == 0
    assert status(stack)["pin"] is None


def test_a_pin_from_the_command_line_beside_the_daemon(stack: Stack) -> None:
    """The command moves the zones itself; the daemon keeps to it from its next poll on."""
    before = serials(stack)
    done = stack.zonerw("pin", "backup", "--for", "2h", "--reason", "new disks")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("backup is pinned until ")
    assert "\nserving backup since " in done.stdout
    assert "  ns3 serves it\n" in done.stdout
    moved(stack, stack.backup, raised(before, 1))
    wait_for(lambda: metrics(stack)["zonerw_pinned"] == 1, SOON, "the daemon to see it")
    holds(stack, stack.backup, raised(before, 1))

    done = stack.zonerw("unpin")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing is pinned\nserving main since ")
    moved(stack, stack.main, raised(before, 2))
    again = stack.zonerw("unpin")
    assert (again.returncode, again.stderr) == (0, "")
    assert serials(stack) == raised(before, 2)


def test_a_pinned_server_is_served_though_it_is_down(stack: Stack) -> None:
    """A person knows better than both witnesses, and is warned; unpinned, the witnesses decide."""
    before = serials(stack)
    assert ask(stack, "PUT", "/pin", {"server": "main"}).status_code == 200
    stack.parts["web-main"].kill()
    wait_for(lambda: down_alerts(stack) == {"MainDown"}, SOON, "MainDown")
    holds(stack, stack.main, before)
    done = stack.zonerw("pin", "main")
    assert done.returncode == 0
    assert "main is pinned, but looks down: MainDown is firing, " in done.stderr
    said = stack.zonerw("status").stdout
    assert "main looks down, and is served all the same; zonerw unpin ends that\n" in said
    assert serials(stack) == before
    assert ask(stack, "DELETE", "/pin").status_code == 200
    moved(stack, stack.backup, raised(before, 1))


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_pin_survives_a_restart(stack: Stack, how: str) -> None:
    """It is on disk before anything is done about it."""
    before = serials(stack)
    assert ask(stack, "PUT", "/pin", {"server": "backup"}).status_code == 200
    moved(stack, stack.backup, raised(before, 1))
    pin = status(stack)["pin"]
    actions = stack.parts["actions"]
    if how == "stopped":
        actions.stop()
    else:
        actions.kill()
    actions.start()
    assert status(stack)["pin"] == pin
    holds(stack, stack.backup, raised(before, 1))
    assert metrics(stack)["zonerw_pinned"] == 1


def test_the_status_of_the_daemon(stack: Stack) -> None:
    """In words, as JSON, in one word: the same, and nobody is told of a missing daemon."""
    said = stack.zonerw("status")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("main serves since ")
    assert "main: no alert says that it is down, not looked at while all is quiet\n" in said.stdout
    assert "\n2 zones on 3 name servers, all as they should be (" in said.stdout
    done = stack.zonerw("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    its, daemons = json.loads(done.stdout), status(stack)
    assert its.keys() == daemons.keys()
    for name in its.keys() - {"at", "run"}:
        assert its[name] == daemons[name]
    assert its["daemon_missing"] is None
    assert its["run"]["error"] is None
    one_word = stack.zonerw("status", "--serving")
    assert (one_word.returncode, one_word.stdout, one_word.stderr) == (0, "main\n", "")


def test_the_status_says_who_says_what(stack: Stack) -> None:
    """Main is gone: the zones are the backup's, and everything that is wrong is named."""
    source = stack.layout.sources / "example.org.base"
    good = source.read_bytes()
    for part in stack.on("main"):
        part.kill()
    source.write_bytes(good + b"more IN A @ip@\n")
    try:
        everywhere(stack, stack.backup, "ns1", "ns3")
        late = "  ns2: connection refused: example.net, example.org\n"
        wait_for(lambda: late in stack.zonerw("status").stdout, SOON, "ns2 to be missed")
        said = stack.zonerw("status").stdout
        assert said.startswith("backup serves since ")
        assert "\nmain is down: MainDown is firing, down in 3 looks (web: connection r" in said
        assert "\nbackup is up: no alert says that it is down, up in 3 looks\n" in said
        assert "\nthe zones are handed back as soon as main is up\n" in said
        line = good.count(b"\n") + 1
        assert (
            "\nthe source of example.org is broken; it is served on as it was accepted:\n"
            f"  {source}:{line}: @ip@ is no marker"
        ) in said
        assert " UTC from main to backup (down), because main: MainDown is firing, " in said
    finally:
        source.write_bytes(good)


def test_the_status_without_the_daemon(stack: Stack) -> None:
    """Looked for by the command itself, which says so and changes nothing."""
    daemons = status(stack)
    stack.parts["actions"].kill()
    stack.parts["web-main"].kill()
    wait_for(lambda: down_alerts(stack) == {"MainDown"}, SOON, "MainDown")
    before = files(state(stack)), files(stack.layout.published)
    said = stack.zonerw("status")
    assert said.returncode == 0
    missing = (
        f"zonerw actions does not answer at {stack.layout.url('actions')}/status: connection failed"
    )
    assert said.stderr.startswith(f"{missing}; what follows was seen without it,\n")
    assert said.stdout.startswith("main serves since ")
    assert "\nmain is down: MainDown is firing, down in 3 looks (web: connection r" in said.stdout
    assert "\n2 zones on 3 name servers, all as they should be (" in said.stdout

    done = stack.zonerw("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    its = json.loads(done.stdout)
    assert its["daemon_missing"] == missing
    for name in ("serving", "since", "why", "by", "pin", "zones", "primary", "secondaries"):
        assert its[name] == daemons[name]
    assert its["switches"] == daemons["switches"]
    assert stack.zonerw("status", "--serving").stdout == "main\n"
    assert (files(state(stack)), files(stack.layout.published)) == before


def test_the_status_beside_a_daemon_that_hangs(stack: Stack) -> None:
    """It accepts and does not answer: the command looks by itself, after a while."""
    stack.parts["actions"].silence()
    said = stack.zonerw("status")
    assert said.returncode == 0
    assert "/status: no answer within 5 s; what follows" in said.stderr
    assert said.stdout.startswith("main serves since ")


def test_a_damaged_pin_holds_things_as_they_are(stack: Stack) -> None:
    """Nobody takes it for no pin; it is shown, and unpinning heals it."""
    before = serials(stack)
    failures = metrics(stack)[STATE_FAILURES]
    path = state(stack) / "pin.json"
    path.write_text("{")
    wait_for(lambda: metrics(stack)[STATE_FAILURES] > failures, SOON, "the metric")
    stack.parts["web-main"].kill()
    wait_for(lambda: down_alerts(stack) == {"MainDown"}, SOON, "MainDown")
    assert webhook(stack, FIRING) == 503
    its = status(stack)
    assert its["serving"] == "main"
    assert its["pin"]["unknown"].startswith(f"{path}: is damaged: ")
    assert [trouble["file"] for trouble in its["troubles"]] == [str(path)]
    assert its["run"]["error"].startswith(f"{path}: is damaged: ")
    said = stack.zonerw("status").stdout
    assert "whether a server is pinned is not known, so nothing is decided:\n" in said
    assert "the last run came to nothing: nothing moves, be main dead or not\n" in said
    assert (serials(stack), path.read_text()) == (before, "{")

    done = stack.zonerw("unpin")
    assert (done.returncode, done.stderr) == (0, "")
    moved(stack, stack.backup, raised(before, 1))
    wait_for(lambda: status(stack)["run"]["error"] is None, SOON, "the daemon to go on")
    assert status(stack)["troubles"] == []


def test_a_new_pin_takes_a_damaged_ones_place(stack: Stack) -> None:
    """By the daemon and by the command."""
    before = serials(stack)
    path = state(stack) / "pin.json"
    path.write_text("{")
    assert ask(stack, "PUT", "/pin", {"server": "backup"}).status_code == 200
    moved(stack, stack.backup, raised(before, 1))
    path.write_text("{")
    assert stack.zonerw("pin", "main").returncode == 0
    moved(stack, stack.main, raised(before, 2))


def test_a_damaged_record_of_what_is_meant_is_shown(stack: Stack) -> None:
    """Nothing is decided; the status says why, and all else that it knows."""
    before = serials(stack)
    path = state(stack) / "meant.json"
    good = path.read_bytes()
    path.write_text("{")
    try:
        wait_for(lambda: status(stack)["run"]["error"] is not None, SOON, "a run to find it")
        assert webhook(stack, FIRING) == 503
        its = status(stack)
        assert (its["serving"], its["since"], its["pin"]) == (None, None, None)
        assert its["why"].startswith(f"{path}: is damaged: ")
        assert [trouble["file"] for trouble in its["troubles"]] == [str(path)]
        assert {zone["source"]["state"] for zone in its["zones"].values()} == {"accepted"}
        said = stack.zonerw("status")
        assert said.returncode == 0
        assert said.stdout.startswith(f"who serves is not known: {path}: is damaged: ")
        one_word = stack.zonerw("status", "--serving")
        assert (one_word.returncode, one_word.stdout) == (1, "")
        assert one_word.stderr.startswith(f"{path}: is damaged: ")
    finally:
        path.write_bytes(good)
    wait_for(lambda: status(stack)["run"]["error"] is None, SOON, "the daemon to go on")
    holds(stack, stack.main, before)
