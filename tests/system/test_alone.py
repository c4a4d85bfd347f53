"""Parts of the whole missing: the cron-only way, and webhooks alone."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from demo.stack import Stack, http, wait_for

SOON = 30.0
WEB_AND_DNS = ("web-main", "web-backup", "ns1", "ns2", "ns3")


def no_alertmanager(text: str) -> str:
    """Take the section out of the configuration."""
    changed = re.sub(r"(?m)^\[alertmanager\].*\n(?:[^\[\n].*\n|\n)*", "", text)
    assert changed != text
    return changed


def at(stack: Stack, address: str) -> bool:
    """Whether every nameserver points every zone there."""
    return {stack.address_of(ns, zone) for ns in stack.nameservers for zone in stack.zones} == {
        address
    }


def seen_up(stack: Stack) -> bool:
    """Whether the daemon has seen both servers up: from then on one can be voted down."""
    page = http("GET", stack.layout.url("actions") + "/metrics").text
    return all(f'zonerw_server_seen_up{{server="{s}"}} 1.0' in page for s in ("main", "backup"))


@pytest.fixture
def alone() -> Iterator[Stack]:
    """Web servers and name servers only."""
    with Stack(parts=WEB_AND_DNS, edit=no_alertmanager) as stack:
        yield stack


def test_the_cron_only_way(alone: Stack) -> None:
    """`zonerw rewrite` from cron: it looks by itself, and says nothing when nothing changed."""
    first = alone.zonerw("rewrite")
    assert (first.returncode, first.stderr) == (0, "")
    assert at(alone, alone.main)
    serial = alone.serial_of("ns3", "example.org")
    assert serial is not None

    quiet = alone.zonerw("rewrite")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")

    alone.parts["web-main"].kill()
    over = alone.zonerw("rewrite")
    assert over.returncode == 0
    assert over.stdout.startswith("serving backup since ")
    said = "main: no alerts are asked for, down in 3 looks (web: connection refused)"
    assert said in over.stdout
    assert f"example.org {serial + 1} published\n  ns2 serves it\n  ns3 serves it\n" in over.stdout
    assert at(alone, alone.backup)

    alone.parts["web-main"].start()
    assert alone.zonerw("rewrite").stdout.startswith("serving main since ")
    assert at(alone, alone.main)
    assert alone.serial_of("ns3", "example.org") == serial + 2


def test_the_cron_only_way_with_an_unreachable_secondary(alone: Stack) -> None:
    """It is reported, and it is no failure; the next run brings it up to date."""
    alone.zonerw("rewrite")
    alone.parts["ns3"].kill()
    done = alone.zonerw("rewrite", "--forced", timeout=60)
    assert done.returncode == 0
    assert re.search(r"example\.org \d+ published\n  ns2 serves it\n  ns3 not yet", done.stdout)
    quiet = alone.zonerw("rewrite")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    alone.parts["ns3"].start()
    assert alone.zonerw("rewrite").returncode == 0
    assert alone.serial_of("ns3", "example.org") == alone.serial_of("ns1", "example.org")


def lose_the_backups_disk(stack: Stack) -> None:
    """What zonerw remembers, and what it and the primary had of the zones, is gone."""
    stack.parts["ns1"].stop()
    shutil.rmtree(stack.layout.folder / "state")
    for path in stack.layout.published.iterdir():
        path.unlink()
    stack.parts["ns1"].start()


def alike(stack: Stack) -> bool:
    """Whether all name servers serve the same serial."""
    return all(
        len({stack.serial_of(nameserver, zone) for nameserver in stack.nameservers}) == 1
        for zone in stack.zones
    )


def test_secondaries_that_are_ahead_are_overtaken(alone: Stack) -> None:
    """The backup was installed anew the same day: they would never take a lower serial."""
    for _ in range(4):
        alone.zonerw("rewrite", "--forced")
    serial = alone.serial_of("ns3", "example.org")
    assert serial is not None
    lose_the_backups_disk(alone)
    assert alone.zonerw("rewrite").returncode == 0
    assert alike(alone)
    assert alone.serial_of("ns3", "example.org") == serial + 1
    alone.parts["web-main"].kill()
    assert alone.zonerw("rewrite").returncode == 0
    assert at(alone, alone.backup)


def test_secondaries_that_are_ahead_are_overtaken_by_the_daemon() -> None:
    """It learns of them only by following them, after its first run."""
    parts = (*WEB_AND_DNS, "actions")
    with Stack(parts=parts, poll="100ms", edit=no_alertmanager) as stack:
        for _ in range(4):
            forced = stack.post("/rewrite", {"mode": "forced"}, stack.layout.operator_token)
            assert forced.status_code == 200
        serial = stack.serial_of("ns3", "example.org")
        assert serial is not None
        stack.parts["actions"].stop()
        lose_the_backups_disk(stack)
        stack.parts["actions"].start()
        wait_for(lambda: alike(stack), SOON, "the same serials everywhere")
        assert stack.serial_of("ns3", "example.org") == serial + 1
        wait_for(lambda: seen_up(stack), SOON, "both servers to be seen up")
        stack.parts["web-main"].kill()
        wait_for(lambda: at(stack, stack.backup), SOON, "the backup")


def test_a_refused_source_on_the_command_line(alone: Stack) -> None:
    """Exit status 1, file and line on standard error, the old zone served on."""
    alone.zonerw("rewrite")
    serial = alone.serial_of("ns1", "example.org")
    path = alone.layout.sources / "example.org.base"
    path.write_text(path.read_text() + "broken A 192.0.2.300\n")
    done = alone.zonerw("rewrite", "--forced", "example.org")
    assert done.returncode == 1
    line = path.read_text().count("\n")
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"example.org: refused: {path}:{line}: ")
    assert "example.org " in done.stdout
    assert "example.net" not in done.stdout
    assert alone.serial_of("ns1", "example.org") == serial


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rewrite", "example.org"), "zones can be named with --forced only"),
        (("rewrite", "--config", "/nowhere.toml"), "/nowhere.toml: "),
        (("rewrit",), "No such command"),
    ],
)
def test_wrong_usage(alone: Stack, words: tuple[str, ...], said: str) -> None:
    """Exit status 2, and one clear reason."""
    done = alone.zonerw(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_daemon_without_alertmanager() -> None:
    """It looks by itself, and moves the zones when so many looks in a row failed."""
    with Stack(parts=(*WEB_AND_DNS, "actions"), poll="100ms", edit=no_alertmanager) as stack:
        wait_for(lambda: at(stack, stack.main) and seen_up(stack), SOON, "main")
        stack.parts["web-main"].kill()
        wait_for(lambda: at(stack, stack.backup), SOON, "the backup")
        stack.parts["web-main"].start()
        wait_for(lambda: at(stack, stack.main), SOON, "main")


def test_the_webhook_alone_is_enough() -> None:
    """With a poll that never comes: Alertmanager's word arrives when it fires and resolves."""
    with Stack(poll="1h") as stack:
        stack.settle()
        stack.parts["web-main"].kill()
        wait_for(lambda: at(stack, stack.backup), SOON, "the backup")
        stack.parts["web-main"].start()
        wait_for(lambda: at(stack, stack.main), SOON, "main")


def test_a_dead_alertmanager_is_no_evidence() -> None:
    """A webhook that can't be checked makes us look, and moves nothing by itself."""
    with Stack(parts=("ns1", "actions"), poll="100ms") as stack:
        firing = {"status": "firing", "labels": {"alertname": "MainDown", "server": "main"}}
        payload = {"version": "4", "alerts": [firing]}
        answer = stack.post("/webhook", payload, stack.layout.webhook_token)
        assert answer.status_code == 202
        assert answer.json()["missing"] == "Alertmanager can't be asked: connection failed"
        assert stack.address_of("ns1", "example.org") == stack.main
        forced = stack.post("/rewrite", {"mode": "forced"}, stack.layout.operator_token)
        assert forced.status_code == 200
        page = requests.get(stack.layout.url("actions") + "/metrics", timeout=5).text
        assert "zonerw_alertmanager_up 0.0" in page


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_the_daemon_ends_when_it_is_told_to(number: signal.Signals, status: int) -> None:
    """Also in the middle of a run that takes long: main is silent, and looked at."""
    parts = ("web-main", "web-backup", "ns1")
    with Stack(parts=parts, poll="100ms", edit=no_alertmanager) as stack:
        stack.parts["web-main"].silence()
        program = ("-m", "actions", "--config", str(stack.layout.config))
        daemon = subprocess.Popen([sys.executable, *program], stderr=subprocess.PIPE)
        try:
            url = stack.layout.url("actions")
            wait_for(lambda: answers(f"{url}/-/healthy"), SOON, "the daemon")
            assert http("GET", f"{url}/-/ready").status_code == 503
            daemon.send_signal(number)
            assert daemon.wait(30) == status
        finally:
            daemon.kill()
            daemon.communicate()


def answers(url: str) -> bool:
    """Whether anybody answers."""
    try:
        return http("GET", url).ok
    except requests.ConnectionError:
        return False


def test_what_keeps_the_daemon_from_starting() -> None:
    """One line says which file or address, and what was expected."""
    with Stack(parts=("ns1", "actions")) as stack:
        taken = stack.zonerw("actions")
        assert taken.returncode == 1
        assert 'msg="can\'t listen"' in taken.stderr
        (stack.layout.folder / "transfer.key").write_text("not base64!")
        key = stack.zonerw("actions")
        assert key.returncode == 2
        assert "transfer.key: expected the secret in base64" in key.stderr
        rewrite = stack.zonerw("rewrite")
        assert (rewrite.returncode, rewrite.stdout) == (2, "")
        assert "transfer.key: expected the secret in base64" in rewrite.stderr


def test_the_command_line_without_a_witness_or_a_state() -> None:
    """Nobody can say anything, or the state is damaged: that is told, and nothing changes."""
    with Stack(parts=("ns1",)) as stack:
        blind = stack.zonerw("rewrite")
        assert (blind.returncode, stack.address_of("ns1", "example.org")) == (1, stack.main)
        assert "alerts: Alertmanager can't be asked: connection failed\n" in blind.stderr
        assert "nothing is decided: too little is known by alerts" in blind.stderr
        forced = stack.zonerw("rewrite", "--forced")
        assert forced.returncode == 0
        (stack.layout.folder / "state" / "meant.json").write_text("{")
        damaged = stack.zonerw("rewrite", "--forced")
        assert damaged.returncode == 1
        assert "meant.json: is damaged" in damaged.stderr
