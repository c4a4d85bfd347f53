"""Real parts that several tests stand on."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from actions.nameserver import find
from demo.layout import is_free
from demo.parts import Part
from demo.stack import nameserver_answers
from exporter.config import Nameserver

# Started in the background by a shell, we would ignore Ctrl-C, and so would all that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)

StartNsd = Callable[..., Nameserver]
StartWeb = Callable[[], "Web"]

# Below those of demo/layout.py. Of pytest-xdist's workers each has its own; and each run begins
# elsewhere, so that two at once seldom meet.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PORTS = range(10000, 21000)[_WORKER % _WORKERS :: _WORKERS]
_ports = itertools.cycle(random.sample(_PORTS, len(_PORTS)))

ZONE_FILE = """\
$ORIGIN {zone}.
$TTL 60
@ IN SOA ns1 owner {serial} 3600 600 864000 60
@ IN NS ns1
ns1 IN A 192.0.2.1
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests: begun last, they would run on while other workers are done."""
    items.sort(key=lambda item: item.path.name != "test_kill.py")


@pytest.fixture
def start_nsd(tmp_path: Path) -> Iterator[StartNsd]:
    """Start NSD with these zones and serials, and with `more` at the end of its configuration."""
    program = find("nsd")
    assert program, "nsd is not installed"
    with contextlib.ExitStack() as running:

        def start(
            serials: Mapping[str, int], more: str = "", address: str = "127.0.0.1"
        ) -> Nameserver:
            nameserver = Nameserver(address=address, port=free_port(address))
            folder = tmp_path / f"nsd-{nameserver.port}"
            folder.mkdir()
            for zone, serial in serials.items():
                (folder / zone).write_text(ZONE_FILE.format(zone=zone, serial=serial))
            zones = "".join(f"zone:\n  name: {z}\n  zonefile: {z}\n" for z in serials)
            (folder / "nsd.conf").write_text(nsd_conf(folder, nameserver) + zones + more)
            nsd = Part(
                name="nsd",
                title="NSD",
                argv=(program, "-d", "-c", str(folder / "nsd.conf")),
                log=folder / "output",
                environment=os.environ,
                ready=lambda: nameserver_answers(str(nameserver.address), nameserver.port),
            )
            running.callback(nsd.kill)
            nsd.start()
            return nameserver

        yield start


@dataclass(frozen=True)
class Web:
    """A web server of its own process that serves /index.html."""

    process: subprocess.Popen[str]
    port: int

    def silence(self) -> None:
        """Let the kernel go on accepting, and nobody answer."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the silence."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it; its port refuses from now on."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_web(tmp_path: Path) -> Iterator[StartWeb]:
    """Start a web server."""
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "index.html").write_text("welcome")
    with contextlib.ExitStack() as running:

        def start() -> Web:
            words = ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]
            process = running.enter_context(
                subprocess.Popen(
                    [sys.executable, *words],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            running.callback(process.kill)
            assert process.stdout
            told = process.stdout.readline()  # Serving HTTP on 127.0.0.1 port 12345 (http://…
            return Web(process, int(told.split(" port ")[1].split()[0]))

        yield start


def write_config(
    folder: Path,
    servers: Mapping[str, int],
    nameservers: Mapping[str, Nameserver],
    zones: Sequence[str] = (),
) -> Path:
    """Configure servers by the port of their web server, and nameservers, the first as primary."""
    sources = folder / "zones"
    sources.mkdir()
    for zone in zones:
        (sources / f"{zone}.base").touch()
    text = f"""\
[zones]
sources = "{sources}"
published = "{folder}/published"
[exporter]
listen = "127.0.0.1:{free_port("127.0.0.1")}"
"""
    for number, (name, port) in enumerate(servers.items(), 1):
        text += f"""\
[servers.{name}]
addresses = ["192.0.2.{number}"]
look_at = ["127.0.0.1"]
checks.web.url = "http://www.example.org:{port}/index.html"
"""
    for number, (name, nameserver) in enumerate(nameservers.items()):
        head = (
            f"[secondaries.{name}]\n" if number else f'[primary]\nname = "{name}"\nkind = "nsd"\n'
        )
        text += f'{head}address = "{nameserver.address}"\nport = {nameserver.port}\n'
    (folder / "zonerw.toml").write_text(text)
    return folder / "zonerw.toml"


def free_port(address: str) -> int:
    """A port that nobody uses, for TCP and UDP, and that was not handed out before.

    It is below those that the kernel gives to outgoing connections: nobody takes it meanwhile.
    """
    return next(port for port in _ports if is_free(address, port))


def nsd_conf(folder: Path, nameserver: Nameserver) -> str:
    """The settings with which NSD works for any user."""
    return f"""\
server:
  ip-address: {nameserver.address}@{nameserver.port}
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  zonesdir: {folder}
  pidfile: {folder}/pid
  logfile: {folder}/log
  xfrdfile: {folder}/xfrd.state
  zonelistfile: {folder}/zone.list
  xfrdir: {folder}
remote-control:
  control-enable: no
"""
