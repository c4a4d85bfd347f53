"""Where a stack is, and the files that are written before it starts.

Owns loopback addresses, ports, secrets and the temporary folder's contents: the shipped
configurations with these filled in. Starts nothing.
"""

import base64
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path

import dns.inet

from demo import shipped
from demo.shipped import MissingError

_BLOCKS = 256  # 127.53.0 to 127.53.255

# The kernel gives away ports above 32767 by itself; below, only who asks gets one.
_PORTS = range(21000, 32768)


@dataclass(frozen=True)
class Ports:
    """One for each service, free on all three addresses."""

    web: int
    dns: int
    prometheus: int
    alertmanager: int
    exporter: int
    actions: int


def _secret() -> str:
    """A key's or a token's worth of randomness."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True)
class Layout:
    """Addresses, ports and secrets of one stack, and its folder."""

    folder: Path
    main: str
    backup: str
    third: str
    ports: Ports
    transfer_key: str = field(default_factory=_secret, repr=False)
    webhook_token: str = field(default_factory=_secret, repr=False)
    operator_token: str = field(default_factory=_secret, repr=False)

    @property
    def config(self) -> Path:
        """The configuration of exporter and actions."""
        return self.folder / "zonerw.toml"

    @property
    def sources(self) -> Path:
        """The folder of ZONE.base."""
        return self.folder / "sources"

    @property
    def published(self) -> Path:
        """The folder of what zonerw writes and the primary loads."""
        return self.folder / "published"

    @property
    def nameservers(self) -> Mapping[str, str]:
        """Their addresses, the primary's first."""
        return {"ns1": self.backup, "ns2": self.main, "ns3": self.third}

    def url(self, service: str) -> str:
        """Where one of the watching programs answers."""
        return f"http://{self.backup}:{getattr(self.ports, service)}"


@contextmanager
def own_block() -> Iterator[str]:
    """Yield the first three numbers of loopback addresses that no other stack uses meanwhile.

    A socket's name in the kernel's abstract namespace marks them: it can be had once, and goes
    with the process, however that ends.
    """
    for number in range(_BLOCKS):
        block = f"127.53.{number}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mark:
            try:
                mark.bind(f"\0zonerw demo {block}")
            except OSError:
                continue
            yield block
            return
    raise MissingError(f"{_BLOCKS} stacks run already: there is no free block of addresses")


def free_ports(*addresses: str) -> Ports:
    """Ports that are free at all the addresses, for TCP and UDP."""
    free = (port for port in _PORTS if all(is_free(address, port) for address in addresses))
    found = tuple(islice(free, len(fields(Ports))))
    if len(found) < len(fields(Ports)):
        raise MissingError(f"no free ports between {_PORTS.start} and {_PORTS.stop - 1}")
    return Ports(*found)


def is_free(address: str, port: int) -> bool:
    """Whether nobody uses the port there, neither for TCP nor for UDP."""
    family = dns.inet.af_for_address(address)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


# --- files ----------------------------------------------------------------------------------


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each key by its value, in one pass; a key that is not there is an error.

    The keys are what a shipped file says: one that is missing means that the file has changed, and
    that what stands there now would slip through.
    """
    missing = [key for key in values if key not in text]
    if missing:
        raise ValueError(f"expected {missing[0]!r} in the shipped file beginning {text[:60]!r}")
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], text)


def write(
    layout: Layout, more_sources: Mapping[str, str], poll: str, edit: Callable[[str], str]
) -> tuple[str, ...]:
    """Write everything that the parts read; returns the zones."""
    ships = shipped.folder()
    for name in ("sources", "published", "state", "ns1", "ns2", "ns3", "web-main", "web-backup"):
        (layout.folder / name).mkdir()
    for server in ("main", "backup"):
        page = f"<!doctype html>\n<title>{server}</title>\n<p>This is {server}.\n"
        (layout.folder / f"web-{server}" / "index.html").write_text(page)
    _write_secrets(layout)
    zones = _write_sources(layout, ships, more_sources)
    _write_nsd(layout, ships, zones)
    _write_watching(layout, ships)
    example = (ships / "examples" / "zonerw.toml").read_text()
    layout.config.write_text(edit(fill(example, _zonerw_values(layout, poll))))
    return zones


def _write_secrets(layout: Layout) -> None:
    clause = 'key:\n    name: "transfer"\n    algorithm: hmac-sha256\n    secret: "{}"'
    contents = {
        "transfer.key": layout.transfer_key,
        "nsd.key": clause.format(layout.transfer_key),
        "webhook.token": layout.webhook_token,
        "operator.token": layout.operator_token,
    }
    for name, secret in contents.items():
        path = layout.folder / name
        path.touch(mode=0o600)
        path.write_text(f"{secret}\n")


def _write_sources(layout: Layout, ships: Path, more: Mapping[str, str]) -> tuple[str, ...]:
    shipped_ones = (ships / "examples" / "zones").glob("*.base")
    texts = {path.name: path.read_bytes() for path in sorted(shipped_ones)}
    texts |= {f"{zone}.base": text.encode() for zone, text in more.items()}
    for name, text in texts.items():
        (layout.sources / name).write_bytes(text)
    return tuple(name.removesuffix(".base") for name in texts)


def _write_nsd(layout: Layout, ships: Path, zones: tuple[str, ...]) -> None:
    primary = (ships / "examples" / "nsd" / "backup.conf").read_text()
    secondary = (ships / "examples" / "nsd" / "main.conf").read_text()
    key = {'"/etc/nsd/transfer.key"': f'"{layout.folder / "nsd.key"}"'}
    for name, address in layout.nameservers.items():
        own = layout.folder / name
        if name == "ns1":
            text = fill(primary, key | _primary_values(layout, own))
        else:
            text = fill(secondary, key | _secondary_values(layout, own, address))
            text += "\nremote-control:\n    control-enable: no\n"
        further = (zone for zone in zones if f'name: "{zone}"' not in text)
        text += "".join(
            f'\nzone:\n    name: "{zone}"\n    include-pattern: "zonerw"\n' for zone in further
        )
        (own / "nsd.conf").write_text(text + _unprivileged(own, address, layout.ports.dns))


def _primary_values(layout: Layout, own: Path) -> dict[str, str]:
    return {
        # Without a state file: its usual place is the system's, and a primary has no use for it.
        '"/var/lib/nsd/zones"': f'"{layout.published}"\n    xfrdfile: ""',
        '"/run/nsd.ctl"': f'"{own / "nsd.ctl"}"',
        "provide-xfr: 192.0.2.1 ": f"provide-xfr: {layout.main} ",
        "provide-xfr: 203.0.113.53 ": f"provide-xfr: {layout.third} ",
    }


def _secondary_values(layout: Layout, own: Path, address: str) -> dict[str, str]:
    transfer = f"request-xfr: {layout.backup}@{layout.ports.dns} transfer"
    return {
        '"/var/lib/nsd"': f'"{own}"',
        # What we send on loopback comes from 127.0.0.1, whatever the addresses we listen on.
        "allow-notify: 198.51.100.7 ": "allow-notify: 127.0.0.0/8 ",
        # Likewise: the primary gives the zones away to these addresses only.
        "request-xfr: 198.51.100.7 transfer": f"{transfer}\n    outgoing-interface: {address}",
    }


def _unprivileged(own: Path, address: str, port: int) -> str:
    """Settings that let NSD run as anybody, beside the system's own. NSD takes the last of each."""
    return f"""
server:
    ip-address: {address}@{port}
    username: ""
    chroot: ""
    pidfile: ""
    zonelistfile: "{own / "zone.list"}"
    xfrdir: "{own}"
    rrl-ratelimit: 0    # being watched closely is no attack
"""


def _write_watching(layout: Layout, ships: Path) -> None:
    ports, backup = layout.ports, layout.backup
    fast = ships / "prometheus" / "fast"
    (layout.folder / "rules.yml").write_text((fast / "rules.yml").read_text())
    prometheus = {
        '"127.0.0.1:9093"': f'"{backup}:{ports.alertmanager}"',
        '"127.0.0.1:9853"': f'"{backup}:{ports.exporter}"',
        '"127.0.0.1:9854"': f'"{backup}:{ports.actions}"',
    }
    text = (fast / "prometheus.yml").read_text()
    (layout.folder / "prometheus.yml").write_text(fill(text, prometheus))
    alertmanager = {
        "http://127.0.0.1:9854/": f"{layout.url('actions')}/",
        "/etc/zonerw/webhook.token": f"{layout.folder / 'webhook.token'}",
        # Nobody is mailed from a demo: this port is nobody's.
        '"127.0.0.1:25"': f'"{backup}:1"',
    }
    text = (ships / "alertmanager" / "fast.yml").read_text()
    (layout.folder / "alertmanager.yml").write_text(fill(text, alertmanager))


def _zonerw_values(layout: Layout, poll: str) -> dict[str, str]:
    folder, ports = layout.folder, layout.ports
    url = f'url = "http://www.example.org:{ports.web}/index.html"'
    where = f'address = "{layout.backup}"\nport = {ports.dns}\n'
    control = f'control = ["nsd-control", "-c", "{folder / "ns1" / "nsd.conf"}"]\n'
    return {
        'addresses = ["192.0.2.1", "2001:db8::1"]': f'addresses = ["{layout.main}"]',
        'url = "http://www.example.org/index.html"': url,
        'addresses = ["198.51.100.7"]': f'addresses = ["{layout.backup}"]',
        'look_at = ["127.0.0.1"]': f'look_at = ["{layout.backup}"]',
        # Nothing of a demo leaves the machine: a third party is the third address here.
        'quad9 = "tcp://9.9.9.9:53" ': f'third = "dns://{layout.third}:{ports.dns}" ',
        'google = "tcp://8.8.8.8:53"\n': "",
        # The backup's check is the default one, port 80, in the shipped file.
        "[zones]\n": f"[servers.backup.checks.web]\n{url}\n\n[zones]\n",
        "/etc/zonerw/zones": f"{layout.sources}",
        "/var/lib/nsd/zones": f"{layout.published}",
        'address = "127.0.0.1"\nport = 53\n': where + control,
        'address = "192.0.2.1"\n': f'address = "{layout.main}"\nport = {ports.dns}\n',
        'address = "203.0.113.53"\n': f'address = "{layout.third}"\nport = {ports.dns}\n',
        "/etc/zonerw/transfer.key": f"{folder / 'transfer.key'}",
        "http://127.0.0.1:9093": layout.url("alertmanager"),
        'poll = "5s"': f'poll = "{poll}"',
        'every = "5s"': f'every = "{poll}"',
        "127.0.0.1:9853": f"{layout.backup}:{ports.exporter}",
        "127.0.0.1:9854": f"{layout.backup}:{ports.actions}",
        "/var/lib/zonerw": f"{folder / 'state'}",
        "/etc/zonerw/webhook.token": f"{folder / 'webhook.token'}",
        "/etc/zonerw/operator.token": f"{folder / 'operator.token'}",
    }
