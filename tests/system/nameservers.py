"""Real name servers on loopback: NSD, BIND and Knot, as the primary or as its secondaries.

    with nameservers(tmp_path, ["example.org"], primary="bind") as them:
        program = Program(configuration.read(them.config))
        them.secondaries["knot"].kill()

All of them work for any user. A primary loads ZONE from the folder that zonerw writes to, and sends
no NOTIFY itself; a secondary transfers from it, and takes NOTIFYs from this machine, both signed
with the key "transfer". A daemon that was made and not yet started has its configuration in `conf`,
for a test that wants another.
"""

import base64
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.tsig
from conftest import free_port

from actions.nameserver import find
from demo.parts import Part, start, stop
from demo.stack import nameserver_answers
from exporter import config
from exporter.kinds import KINDS

ALL_KINDS = {kind: kind for kind in KINDS}

_SECRET = base64.b64encode(b"everyone may know this secret").decode()
KEY = dns.tsig.Key("transfer", _SECRET, "hmac-sha256")

MAIN, BACKUP = "192.0.2.1", "198.51.100.7"

SOURCE = """\
$TTL 60
@ SOA ns1 hostmaster @serial number@ 2h 10m 4w 60
@ NS ns1
ns1 A 192.0.2.53
www A @IP@
"""

# Ten thousand zones take BIND some seconds on a busy machine.
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Daemon:
    """One name server: where it answers, what it is configured with, and its process.

    `zone_folder` holds ZONE for a primary; what a secondary keeps of its own is in `folder`.
    """

    kind: str
    address: str
    port: int
    folder: Path
    conf: Path
    zone_folder: Path
    control: tuple[str, ...]
    part: Part

    @property
    def key(self) -> dns.tsig.Key:
        """What transfers and NOTIFYs are signed with."""
        return KEY

    @property
    def where(self) -> config.Nameserver:
        """For questions to it."""
        return config.Nameserver(address=self.address, port=self.port)

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers."""
        start([self.part], timeout=_START_SECONDS)

    def stop(self) -> None:
        """End it in good order."""
        self.part.stop()

    def kill(self) -> None:
        """End it at once."""
        self.part.kill()


@dataclass(frozen=True)
class Nameservers:
    """A primary and its secondaries, by their labels, and the zonerw.toml that names them."""

    folder: Path
    zones: tuple[str, ...]
    primary: Daemon
    secondaries: Mapping[str, Daemon]
    config: Path

    @property
    def all(self) -> Mapping[str, Daemon]:
        """The primary first."""
        return {"ns1": self.primary, **self.secondaries}

    @property
    def sources(self) -> Path:
        """The folder of ZONE.base."""
        return self.folder / "sources"

    @property
    def published(self) -> Path:
        """The folder of what zonerw writes and the primary loads."""
        return self.folder / "published"

    @property
    def state(self) -> Path:
        """The state folder of actions."""
        return self.folder / "state"


@contextmanager
def nameservers(
    folder: Path,
    zones: Sequence[str],
    primary: str = "nsd",
    secondaries: Mapping[str, str] = ALL_KINDS,
    address: str = "127.0.0.1",
) -> Iterator[Nameservers]:
    """Start a primary of this kind, and secondaries: label -> kind; each with a source (SOURCE).

    Nothing is published yet. `zones` are both sources and what the name servers are configured for;
    write another source to have one that they do not know.
    """
    them = prepare(folder, zones, primary, secondaries, address)
    parts = [daemon.part for daemon in them.all.values()]
    try:
        start(parts, timeout=_START_SECONDS)
        yield them
    finally:
        stop(parts)


def prepare(
    folder: Path,
    zones: Sequence[str],
    primary: str = "nsd",
    secondaries: Mapping[str, str] = ALL_KINDS,
    address: str = "127.0.0.1",
) -> Nameservers:
    """The same, not started: whoever starts one stops it."""
    for name in ("sources", "published"):
        (folder / name).mkdir()
    for zone in zones:
        (folder / "sources" / f"{zone}.base").write_text(SOURCE)
    first = make_primary(primary, folder / "ns1", folder / "published", zones, address)
    others = {
        name: make_secondary(kind, folder / name, zones, first, address)
        for name, kind in secondaries.items()
    }
    return Nameservers(
        folder, tuple(zones), first, others, write_zonerw_toml(folder, first, others)
    )


def write_zonerw_toml(
    folder: Path, primary: Daemon, secondaries: Mapping[str, Daemon], more: str = ""
) -> Path:
    """Configure main and backup, probed where nobody listens, and these name servers."""
    key = folder / "transfer.key"
    key.write_text(f"{_SECRET}\n")
    nobody, control = free_port("127.0.0.1"), ", ".join(f'"{word}"' for word in primary.control)
    text = ""
    for name, address in (("main", MAIN), ("backup", BACKUP)):
        text += f"""\
[servers.{name}]
addresses = ["{address}"]
look_at = ["127.0.0.1"]
checks.web.url = "http://www.example.org:{nobody}/index.html"
"""
    text += f"""\
[zones]
sources = "{folder}/sources"
published = "{primary.zone_folder}"
[actions]
listen = "127.0.0.1:{free_port("127.0.0.1")}"
state = "{folder}/state"
[exporter]
listen = "127.0.0.1:{free_port("127.0.0.1")}"
[primary]
name = "ns1"
kind = "{primary.kind}"
address = "{primary.address}"
port = {primary.port}
control = [{control}]
"""
    for name, daemon in secondaries.items():
        text += f"""\
[secondaries.{name}]
address = "{daemon.address}"
port = {daemon.port}
tsig = {{ name = "transfer", algorithm = "hmac-sha256", secret_file = "{key}" }}
"""
    (folder / "zonerw.toml").write_text(text + more)
    return folder / "zonerw.toml"


def make_primary(
    kind: str, folder: Path, published: Path, zones: Sequence[str], address: str = "127.0.0.1"
) -> Daemon:
    """Configure a primary for what is in `published`, with a new folder of its own."""
    return _make(kind, folder, zones, primary=None, address=address, zone_folder=published)


def make_secondary(
    kind: str, folder: Path, zones: Sequence[str], primary: Daemon, address: str = "127.0.0.1"
) -> Daemon:
    """Configure a secondary of the primary, with a new folder of its own."""
    return _make(kind, folder, zones, primary=primary, address=address, zone_folder=folder)


# --- each kind ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Own:
    """What the configuration of one daemon needs to know."""

    folder: Path
    conf: Path
    zones: Sequence[str]
    primary: Daemon | None
    address: str
    port: int
    zone_folder: Path
    control_port: int  # where only a port will do

    def zone_file(self, zone: str) -> Path:
        """What a primary loads."""
        return self.zone_folder / zone


def _make(  # noqa: PLR0913 - what `_Own` has
    kind: str,
    folder: Path,
    zones: Sequence[str],
    *,
    primary: Daemon | None,
    address: str,
    zone_folder: Path,
) -> Daemon:
    folder.mkdir()
    own = _Own(
        folder,
        folder / f"{kind}.conf",
        zones,
        primary,
        address,
        free_port(address),
        zone_folder,
        free_port("127.0.0.1"),
    )
    writer, argv, control, is_controllable = {
        "nsd": (
            _nsd_conf,
            ("nsd", "-d", "-c", str(own.conf)),
            ("nsd-control", "-c", str(own.conf)),
            (folder / "control").is_socket,
        ),
        "bind": (
            _bind_conf,
            ("named", "-g", "-n", "2", "-c", str(own.conf)),
            ("rndc", "-c", str(folder / "rndc.conf")),
            lambda: _listens("127.0.0.1", own.control_port),
        ),
        "knot": (
            _knot_conf,
            ("knotd", "-c", str(own.conf)),
            ("knotc", "-c", str(own.conf)),
            (folder / "control").is_socket,
        ),
    }[kind]
    own.conf.write_text(writer(own))
    program = _program(argv[0], folder)
    part = Part(
        name=folder.name,
        title=f"{folder.name} ({kind})",
        argv=(program, *argv[1:]),
        log=folder / "output",
        environment=os.environ,
        ready=_ready(own, is_controllable),
    )
    return Daemon(kind, address, own.port, folder, own.conf, zone_folder, control, part)


def _program(name: str, folder: Path) -> str:
    """Where it is. Debian's AppArmor keeps /usr/sbin/named from other folders, but not a copy."""
    found = find(name)
    assert found, f"{name} is not installed"
    return shutil.copy(found, folder) if name == "named" else found


def _ready(own: _Own, is_controllable: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: nameserver_answers(own.address, own.port) and is_controllable()


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _nsd_conf(own: _Own) -> str:
    """What NSD kept of an earlier run is not looked at (`xfrdfile`)."""
    text = f"""\
server:
  ip-address: {own.address}@{own.port}
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  zonesdir: {own.zone_folder}
  pidfile: {own.folder}/pid
  xfrdfile: ""
  zonelistfile: {own.folder}/zone.list
  xfrdir: {own.folder}
  xfrd-reload-timeout: 0
  zonefiles-write: 1
  rrl-ratelimit: 0
  tcp-count: 200
remote-control:
  control-enable: yes
  control-interface: {own.folder}/control
key:
  name: transfer
  algorithm: hmac-sha256
  secret: "{_SECRET}"
pattern:
  name: its
  zonefile: "%s"
"""
    if own.primary is None:
        text += "  provide-xfr: 127.0.0.0/8 transfer\n  provide-xfr: ::1 transfer\n"
    else:
        where = f"{own.primary.address}@{own.primary.port}"
        text += f"""\
  allow-notify: 127.0.0.0/8 transfer
  allow-notify: ::1 transfer
  request-xfr: {where} transfer
"""
    return text + "".join(f"zone:\n  name: {zone}\n  include-pattern: its\n" for zone in own.zones)


def _bind_conf(own: _Own) -> str:
    """The delays that BIND has by default are taken away."""
    secret = f'algorithm hmac-sha256; secret "{_SECRET}";'
    (own.folder / "rndc.conf").write_text(
        f'key "rndc" {{ {secret} }};\n'
        'options { default-key "rndc"; default-server 127.0.0.1; '
        f"default-port {own.control_port}; }};\n"
    )
    listen = {True: "none", False: own.address}
    text = f"""\
key "transfer" {{ {secret} }};
key "rndc" {{ {secret} }};
controls {{
  inet 127.0.0.1 port {own.control_port} allow {{ 127.0.0.1; }} keys {{ "rndc"; }};
}};
options {{
  directory "{own.folder}";
  listen-on port {own.port} {{ {listen[":" in own.address]}; }};
  listen-on-v6 port {own.port} {{ {listen[":" not in own.address]}; }};
  pid-file "{own.folder}/pid";
  lock-file none;
  session-keyfile none;
  recursion no;
  dnssec-validation no;
  empty-zones-enable no;
  notify no;
  notify-delay 0;
  serial-query-rate 1000;
  min-refresh-time 1;
  transfers-in 100;
  transfers-per-ns 100;
  transfers-out 100;
  allow-transfer {{ key "transfer"; }};
  allow-notify {{ key "transfer"; }};
}};
"""
    for zone in own.zones:
        if own.primary is None:
            its = f'type primary; file "{own.zone_file(zone)}";'
        else:
            where = f"{own.primary.address} port {own.primary.port} key transfer"
            its = f'type secondary; file "{zone}"; primaries {{ {where}; }};'
        text += f'zone "{zone}" {{ {its} }};\n'
    return text


def _knot_conf(own: _Own) -> str:
    """A primary's file is all there is, and never written; a secondary has all in its journal."""
    text = f"""\
server:
  rundir: {own.folder}
  pidfile: {own.folder}/pid
  listen: {own.address}@{own.port}
  udp-workers: 1
  tcp-workers: 1
control:
  listen: {own.folder}/control
log:
  - target: stderr
    any: info
database:
  storage: {own.folder}
key:
  - id: transfer
    algorithm: hmac-sha256
    secret: {_SECRET}
acl:
  - id: its
    key: transfer
    action: {"transfer" if own.primary is None else "notify"}
"""
    if own.primary is None:
        template = f"""\
    file: "{own.zone_folder}/%s"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
"""
    else:
        text += f"""\
remote:
  - id: primary
    address: {own.primary.address}@{own.primary.port}
    key: transfer
"""
        template = """\
    master: primary
    zonefile-sync: -1
    zonefile-load: none
    journal-content: all
"""
    text += f"template:\n  - id: default\n    acl: its\n{template}zone:\n"
    return text + "".join(f"  - domain: {zone}\n" for zone in own.zones)
