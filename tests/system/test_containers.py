"""docker-compose.yml as it runs; engine.py says what stands for an engine, and for which image."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import ROOT, SECONDS, Engine

from demo.stack import wait_for

MAIN, BACKUP = "192.0.2.1", "192.0.2.7"
OURS = ("MainDown", "BackupDown", "ServerWatched")
ENDS = "secrets"
NOT_TRIED = "grafana"  # no package registry has it

HOLD = """
import sys
from pathlib import Path
from engine import Engine
with Engine(Path(sys.argv[1])) as engine:
    engine.up("backup")
    print(engine.containers["backup"].first)
    input()
"""
GET = """
import sys, urllib.request as r
print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=5).read().decode())
"""
ASK = """
import sys, dns.exception, dns.resolver
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = sys.argv[1:2]
try:
    print(*resolver.resolve("www.example.org", "A", lifetime=5))
except dns.exception.DNSException as error:
    print(error)
"""
CONNECT = """
import socket, sys
for port in sys.argv[2:]:
    with socket.socket() as sock:
        sock.settimeout(5)
        print(port, sock.connect_ex((sys.argv[1], int(port))) == 0)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The demo: all of it is healthy, in the order that it waits for each other."""
    with Engine(tmp_path_factory.mktemp("engine"), "demo") as engine:
        engine.up(*(name for name in engine.services if name != NOT_TRIED))
        yield engine


@pytest.fixture
def engine(running: Engine) -> Engine:
    """The same, with main serving everywhere and both servers watched."""
    wait_for(lambda: quiet(running), SECONDS, "both servers to be watched, and up")
    everywhere(running, MAIN)
    return running


def test_what_runs_may_do_no_more_than_the_file_says(engine: Engine) -> None:
    """Nobody is root, or could become it, or writes to where the programs are."""
    for name, container in engine.containers.items():
        if name == ENDS:
            continue
        uid, gid = container.service["user"].split(":")
        status = dict(
            re.findall(r"(?m)^(\w+):\t(.*)$", Path(f"/proc/{container.first}/status").read_text())
        )
        assert (set(status["Uid"].split()), set(status["Gid"].split())) == ({uid}, {gid}), name
        assert {int(status[f"Cap{which}"], 16) for which in ("Bnd", "Eff", "Inh", "Prm")} == {0}
        assert status["NoNewPrivs"] == "1", name
        mounts = Path(f"/proc/{container.first}/mountinfo").read_text()
        root = re.findall(r"(?m)^\S+ \S+ \S+ \S+ / (\w+)", mounts)
        assert root[-1:] == ["ro"], name


@pytest.mark.parametrize(
    ("ends", "returns"), [(Engine.stop, Engine.start), (Engine.pause, Engine.unpause)]
)
def test_main_dies_and_returns(
    engine: Engine,
    ends: Callable[[Engine, str], None],
    returns: Callable[[Engine, str], None],
) -> None:
    """`docker compose stop web-main`, or pause: both nameservers move, and are handed back."""
    ends(engine, "web-main")
    try:
        everywhere(engine, BACKUP)
        assert engine.run("actions", "zonerw", "status", "--serving") == "backup\n"
        last = status(engine)["switches"][0]
        assert "MainDown is firing, down in 3 looks" in json.dumps(last)
        wait_for(lambda: told(engine, "MainDown"), SECONDS, "Alertmanager to send the webhook")
    finally:
        returns(engine, "web-main")
    everywhere(engine, MAIN)


def test_what_was_decided_outlives_the_containers(engine: Engine) -> None:
    """A pin is in a volume, as the zones are that nsd serves from the start."""
    engine.run("actions", "zonerw", "pin", "backup")
    everywhere(engine, BACKUP)
    try:
        for name in ("actions", "nsd", "ns2"):
            engine.stop(name)
        engine.start("nsd")
        assert answer(engine, BACKUP) == BACKUP
        engine.start("ns2")
        engine.start("actions")
        assert status(engine)["pin"]["server"] == "backup"
        everywhere(engine, BACKUP)
    finally:
        engine.start("actions")
        engine.run("actions", "zonerw", "unpin")
    everywhere(engine, MAIN)


def test_a_person_publishes_what_was_edited(engine: Engine) -> None:
    """NSD's checker and its control work in the container of actions."""
    said = engine.run("actions", "zonerw", "rewrite", "--forced")
    assert "example.org" in said
    everywhere(engine, MAIN)


def test_nobody_elsewhere_reaches_what_watches(engine: Engine) -> None:
    """Not from main either: the nameserver and the web server are all that answers there."""
    ports = ("53", "80", "9090", "9093", "9853", "9854")
    found = engine.run("web-main", "python3", "-c", CONNECT, BACKUP, *ports)
    assert [line.split() for line in found.splitlines()] == [
        [port, str(port in ("53", "80"))] for port in ports
    ]


def test_each_secret_is_read_by_whom_it_is_for(engine: Engine) -> None:
    """They are in one volume; the users' numbers keep them apart."""
    secrets = "/etc/zonerw/secrets"
    places = {"nsd": secrets, "ns2": secrets, "actions": secrets, "alertmanager": "/etc/zonerw"}
    readable = {
        name: {
            secret
            for secret in ("transfer.key", "operator.token", "webhook.token", "nsd.key")
            if engine.containers[name].run("cat", f"{place}/{secret}").returncode == 0
        }
        for name, place in places.items()
    }
    assert readable == {
        "nsd": {"nsd.key"},
        "ns2": {"nsd.key"},
        "actions": {"transfer.key", "operator.token", "webhook.token", "nsd.key"},
        "alertmanager": {"webhook.token"},
    }


def test_secrets_are_made_once(engine: Engine) -> None:
    """Each start looks; what is there stays, what was lost half-way is made anew."""
    folder = engine.volume("secrets")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(set(before.values())) == len(before) == 4
    engine.run_once("secrets")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "operator.token").rename(folder / "operator.token.new")
    engine.run_once("secrets")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    assert after["operator.token"] != before["operator.token"]
    assert len(after["operator.token"]) == len(before["operator.token"])


def test_what_the_readme_says_for_good_comes_up(tmp_path: Path) -> None:
    """The examples as they are, copied as it says, instead of the demo's folder."""
    text = (ROOT / "README.md").read_text()
    (copies,) = re.findall(r"(?m)^    mkdir etc\n(?:    cp [\w ./-]+\n)+", text)
    own = tmp_path / "checkout"
    own.mkdir()
    for path in ROOT.iterdir():
        (own / path.name).symlink_to(path)
    subprocess.run(["/bin/sh", "-e", "-c", copies], cwd=own, check=True)
    with Engine(tmp_path, ZONERW_ETC=str(own / "etc")) as engine:
        entries = [it for service in engine.services.values() for it in service.get("volumes", ())]
        sources = [Path(entry["source"]) for entry in entries if not isinstance(entry, str)]
        assert [source for source in sources if not source.exists()] == []
        engine.up("actions")
        assert "example.org" in engine.run("nsd", "nsd-control", "zonestatus")
        assert "main serves" in engine.run("actions", "zonerw", "status")


def test_what_runs_ends_with_its_engine(tmp_path: Path) -> None:
    """SIGKILL leaves nothing, of those who have become another user neither."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        process = Path("/proc", program.stdout.readline().strip())
        assert process.exists()
        program.kill()
    wait_for(lambda: not process.exists(), SECONDS, "its first process to be gone")


# --- questions --------------------------------------------------------------------------------


def everywhere(engine: Engine, address: str) -> None:
    """Wait until the primary and the secondary give out this address."""
    for nameserver in (BACKUP, MAIN):
        wait_for(
            lambda nameserver=nameserver: answer(engine, nameserver) == address,  # type: ignore[misc]
            SECONDS,
            f"{nameserver} to say {address}",
        )


def answer(engine: Engine, nameserver: str) -> str:
    """Return what a nameserver says of www.example.org, asked from the backup."""
    return engine.run("exporter", "python3", "-c", ASK, nameserver).strip()


def quiet(engine: Engine) -> bool:
    """Return whether both servers are watched, and neither is said to be down."""
    found = json.loads(get(engine, "http://127.0.0.1:9093/api/v2/alerts"))
    alerts = {(alert["labels"]["alertname"], alert["labels"].get("server")) for alert in found}
    return {alert for alert in alerts if alert[0] in OURS} == {
        ("ServerWatched", "main"),
        ("ServerWatched", "backup"),
    }


def told(engine: Engine, alert: str) -> bool:
    """Return whether actions has been told of it, by a webhook with the right token."""
    line = rf'zonerw_webhook_alerts_total{{alertname="{alert}",status="firing"}} [1-9]'
    return re.search(line, get(engine, "http://127.0.0.1:9854/metrics")) is not None


def status(engine: Engine) -> dict[str, Any]:
    """Return what `zonerw status` knows."""
    found = json.loads(engine.run("actions", "zonerw", "status", "--json"))
    assert isinstance(found, dict)
    return found


def get(engine: Engine, url: str) -> str:
    """Return a page, as seen on the backup."""
    return engine.run("actions", "python3", "-c", GET, url)
