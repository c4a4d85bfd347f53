"""The whole system on loopback: the one place that starts and stops its parts.

The demo tells its story on it; the system tests and the benchmarks stand on it. Which files the
parts read is layout.py's, how a process is handled parts.py's.

    with Stack() as stack:
        stack.settle()
        stack.parts["web-main"].kill()
        wait_for(lambda: stack.address_of("ns3", "example.org") == stack.backup, 10, "the switch")

A stack has 127.53.N.0/24 to itself: .1 is main, .2 the backup with all that watches, .3 a third
party with a nameserver. Everything it writes is in one temporary folder. Both are free again at the
end, however that comes, but for a SIGKILL of ours.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.query
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import requests

from actions import nameserver
from demo.layout import Layout, free_ports, own_block, write
from demo.parts import Part, Progress, ended_as_interrupted, signals_held, start, stop
from demo.shipped import MissingError

# What runs where: each machine's parts, and what a person calls them.
MACHINES: Mapping[str, Mapping[str, str]] = {
    "main": {
        "web-main": "main's web server",
        "ns2": "NSD ns2 (main's, secondary)",
    },
    "backup": {
        "web-backup": "the backup's web server",
        "ns1": "NSD ns1 (the backup's, primary)",
        "prometheus": "Prometheus",
        "alertmanager": "Alertmanager",
        "exporter": "exporter",
        "actions": "actions",
    },
    "third": {
        "ns3": "NSD ns3 (a third party's, secondary)",
    },
}
TITLES = {name: title for parts in MACHINES.values() for name, title in parts.items()}
PARTS = tuple(TITLES)

# The Debian package of each program that is not ours, by the part that needs it.
_PROGRAMS: Mapping[str, Mapping[str, str]] = {
    "ns1": {"nsd": "nsd", "nsd-control": "nsd", "nsd-checkzone": "nsd"},
    "ns2": {"nsd": "nsd"},
    "ns3": {"nsd": "nsd"},
    "prometheus": {"prometheus": "prometheus"},
    "alertmanager": {"prometheus-alertmanager": "prometheus-alertmanager"},
}

_LOOK_SECONDS = 0.02
_ANSWER_SECONDS = 0.5  # on loopback answers take milliseconds: later is as good as never

T = TypeVar("T")


class Stack:
    """Parts that run; where they are, and questions to them.

    They are ready when the block is entered, and gone when it is left.
    """

    layout: Layout
    zones: tuple[str, ...]
    parts: Mapping[str, Part]

    def __init__(  # noqa: PLR0913 - choices, each by its name
        self,
        *,
        parts: Collection[str] = PARTS,
        sources: Mapping[str, str] | None = None,
        poll: str = "1s",
        edit: Callable[[str], str] = lambda text: text,
        flags: Mapping[str, Collection[str]] | None = None,
        keep: bool = False,
        progress: Progress = lambda _: None,
    ) -> None:
        """Choose what to start.

        `parts`: their names. `sources`: base files by zone, beside or instead of the shipped ones.
        `poll`: how often actions asks. `edit`: changes the text of zonerw.toml before it is read.
        `flags`: further arguments, by the part that gets them. `keep`: leave the folder, and name
        it, when the block ends in an exception. `progress`: is told each step.
        """
        self._wanted = tuple(name for name in PARTS if name in parts)
        self._sources = sources or {}
        self._poll = poll
        self._edit = edit
        self._flags = flags or {}
        self._keep = keep
        self._progress = progress
        self._leaving = ExitStack()

    def __enter__(self) -> Self:
        """Start everything; MissingError or PartError where that can't be done."""
        programs = _programs(self._wanted)
        with ExitStack() as leaving:
            leaving.enter_context(ended_as_interrupted())
            block = leaving.enter_context(own_block())
            folder = leaving.enter_context(_own_folder(self._keep, self._progress))
            main, backup, third = (f"{block}.{number}" for number in (1, 2, 3))
            self.layout = Layout(folder, main, backup, third, free_ports(main, backup, third))
            self.zones = write(self.layout, self._sources, self._poll, self._edit)
            self.parts = {name: self._part(name, programs) for name in self._wanted}
            leaving.callback(stop, self.parts.values())
            start(self.parts.values(), self._progress)
            self._leaving = leaving.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop everything; the folder and the addresses are given back."""
        self._leaving.__exit__(kind, error, traceback)

    # --- where things are -------------------------------------------------------------------

    @property
    def main(self) -> str:
        """Main's address."""
        return self.layout.main

    @property
    def backup(self) -> str:
        """The backup's address."""
        return self.layout.backup

    @property
    def nameservers(self) -> tuple[str, ...]:
        """The names of those that were chosen, the primary first."""
        return tuple(name for name in self.layout.nameservers if name in self.parts)

    def on(self, machine: str) -> list[Part]:
        """The parts on "main", "backup" or "third": they die together."""
        return [self.parts[name] for name in MACHINES[machine] if name in self.parts]

    # --- questions --------------------------------------------------------------------------

    def address_of(self, nameserver: str, zone: str) -> str | None:
        """Where `nameserver` says that www.ZONE is; None if it gives no answer."""
        for record in self._ask(nameserver, f"www.{zone}", dns.rdatatype.A):
            return str(record.to_text())
        return None

    def serial_of(self, nameserver: str, zone: str) -> int | None:
        """The serial with which `nameserver` serves the zone; None if it gives no answer."""
        for record in self._ask(nameserver, zone, dns.rdatatype.SOA):
            return int(record.to_text().split()[2])
        return None

    def published(self, zone: str) -> bytes | None:
        """What zonerw has written for the primary; None before it has."""
        path = self.layout.published / zone
        return path.read_bytes() if path.exists() else None

    def alerts(self) -> set[tuple[str, str]]:
        """What Alertmanager holds active now: name and server."""
        url = self.layout.url("alertmanager") + "/api/v2/alerts"
        labels = [alert["labels"] for alert in http("GET", url).json()]
        return {(its["alertname"], its.get("server", "")) for its in labels}

    def post(self, path: str, body: object, token: str | None) -> requests.Response:
        """POST `body` as JSON to actions, with a bearer token or without any."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return http("POST", self.layout.url("actions") + path, headers=headers, json=body)

    def zonerw(self, *words: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run the operator's command with this stack's configuration."""
        program = "from actions.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", program, *words],
            env=environment() | {"ZONERW_CONFIG": str(self.layout.config)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def settle(self, timeout: float = 20.0) -> None:
        """Wait until every zone is served alike everywhere, and every server is watched.

        The second where Prometheus and Alertmanager run: from then on nothing warms up any more.
        """
        began = time.monotonic()
        wait_for(self._served_alike, timeout, f"{', '.join(self.zones)} on every nameserver")
        self._progress(f"zones on every nameserver, {time.monotonic() - began:.1f} s")
        if {"prometheus", "alertmanager", "exporter"} <= self.parts.keys():
            watched = {("ServerWatched", "main"), ("ServerWatched", "backup")}
            wait_for(lambda: watched <= self.alerts(), timeout, "both servers to be watched")
            self._progress(f"both servers watched, {time.monotonic() - began:.1f} s")

    def _served_alike(self) -> bool:
        for zone in self.zones:
            serials = {self.serial_of(nameserver, zone) for nameserver in self.nameservers}
            if len(serials) > 1 or None in serials:
                return False
        return True

    def _ask(self, nameserver: str, name: str, kind: dns.rdatatype.RdataType) -> list[Any]:
        address, port = self.layout.nameservers[nameserver], self.layout.ports.dns
        reply = _reply(address, port, dns.message.make_query(name, kind, flags=dns.flags.Flag(0)))
        if reply is None or not reply.flags & dns.flags.AA:
            return []
        return [record for rrset in reply.answer if rrset.rdtype == kind for record in rrset]

    # --- parts ------------------------------------------------------------------------------

    def _part(self, name: str, programs: Mapping[str, str]) -> Part:
        return Part(
            name=name,
            title=TITLES[name],
            argv=(*self._argv(name, programs), *self._flags.get(name, ())),
            log=self.layout.folder / f"{name}.log",
            environment=environment(),
            ready=self._readiness(name),
        )

    def _argv(self, name: str, programs: Mapping[str, str]) -> tuple[str, ...]:
        folder, ports = self.layout.folder, self.layout.ports
        python = (sys.executable, "-m")
        match name:
            case "web-main" | "web-backup":
                address = self.main if name == "web-main" else self.backup
                root = str(folder / name)
                where = ("--bind", address, "--directory", root, str(ports.web))
                return (*python, "http.server", *where)
            case "prometheus":
                return (
                    programs["prometheus"],
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    f"--web.listen-address={self.backup}:{ports.prometheus}",
                )
            case "alertmanager":
                return (
                    programs["prometheus-alertmanager"],
                    f"--config.file={folder / 'alertmanager.yml'}",
                    f"--storage.path={folder / 'alertmanager'}",
                    f"--web.listen-address={self.backup}:{ports.alertmanager}",
                    "--cluster.listen-address=",
                )
            case "exporter" | "actions":
                return (*python, name, "--config", str(self.layout.config))
            case _:
                return (programs["nsd"], "-d", "-c", str(folder / name / "nsd.conf"))

    def _readiness(self, name: str) -> Callable[[], bool]:
        match name:
            case "web-main" | "web-backup":
                address = self.main if name == "web-main" else self.backup
                return lambda: is_ok(f"http://{address}:{self.layout.ports.web}/index.html")
            case "prometheus" | "alertmanager" | "actions":
                return lambda: is_ok(f"{self.layout.url(name)}/-/ready")
            case "exporter":
                return lambda: is_ok(f"{self.layout.url(name)}/-/healthy")
            case _:
                where = self.layout.nameservers[name], self.layout.ports.dns
                return lambda: nameserver_answers(*where)


def wait_for(condition: Callable[[], T], timeout: float, what: str) -> T:
    """Wait until the condition's answer is true, and return it; TimeoutError tells the last one."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}; at the end: {answer!r}")
        time.sleep(_LOOK_SECONDS)


def http(method: str, url: str, *, timeout: float = 10.0, **more: Any) -> requests.Response:
    """One request, with no proxy or password of this machine's user between."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=timeout, allow_redirects=False, **more)


def nameserver_answers(address: str, port: int) -> bool:
    """Whether it answers at all. A primary that has no zone file yet says so: SERVFAIL."""
    return _reply(address, port, dns.message.make_query(".", dns.rdatatype.SOA)) is not None


def is_ok(url: str) -> bool:
    """Whether there is such a page."""
    try:
        return http("GET", url, timeout=_ANSWER_SECONDS).ok
    except requests.RequestException:
        return False


def environment() -> dict[str, str]:
    """What parts get: ours, and the packages that we were imported from."""
    packages = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((packages, inherited) if inherited else (packages,)),
        # Python's web server looks up its own address's name before it listens. Without network
        # that takes it 10 s; the C library's resolver asks nobody now.
        "RES_OPTIONS": "attempts:0",
    }


def _reply(address: str, port: int, question: dns.message.Message) -> dns.message.Message | None:
    """What a nameserver answers. A connected socket learns at once that nobody is there."""
    with socket.socket(dns.inet.af_for_address(address), socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sock.setblocking(False)
        try:
            return dns.query.udp(question, address, _ANSWER_SECONDS, port, sock=sock)
        except (OSError, dns.exception.DNSException):
            return None


def _programs(parts: Collection[str]) -> dict[str, str]:
    """Where the programs for these parts are; MissingError names all that lack, and the remedy."""
    packages = {
        program: package
        for part, needed in _PROGRAMS.items()
        if part in parts
        for program, package in needed.items()
    }
    found = {program: nameserver.find(program) for program in packages}
    lacking = [program for program, where in found.items() if where is None]
    if lacking:
        remedy = " ".join(sorted({packages[program] for program in lacking}))
        raise MissingError(f"not installed: {', '.join(lacking)}; do: apt-get install {remedy}")
    return {program: where for program, where in found.items() if where is not None}


@contextmanager
def _own_folder(keep: bool, progress: Progress) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="zonerw-"))
    kept = False
    try:
        yield folder
    except BaseException:
        kept = keep
        raise
    finally:
        if kept:
            progress(f"everything is kept in {folder}")
        else:
            with signals_held():
                shutil.rmtree(folder)
