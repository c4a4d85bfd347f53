"""A primary and its secondary, both NSD, on loopback addresses of their own, for any zones.

Owns their configuration. What is in the primary's zone files is the caller's business.
"""

import base64
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actions import nameserver
from demo.layout import free_ports, own_block
from demo.parts import Part, start, stop
from demo.shipped import MissingError
from demo.stack import nameserver_answers

# To read 10,000 zones takes NSD some seconds.
_READY_SECONDS = 60.0

_SERVER = """\
server:
    ip-address: {address}@{port}
    server-count: 1
    username: ""
    chroot: ""
    database: ""
    zonesdir: "{zones}"
    pidfile: ""
    logfile: "{own}/log"
    xfrdfile: ""
    zonelistfile: "{own}/zone.list"
    xfrdir: "{own}"
    xfrd-reload-timeout: 0
    rrl-ratelimit: 0
    tcp-count: 1000    # the secondary asks for thousands of transfers at once
remote-control:
    control-enable: yes
    control-interface: "{own}/nsd.ctl"
key:
    name: "transfer"
    algorithm: hmac-sha256
    secret: "{secret}"
pattern:
    name: "benchmark"
"""
_PRIMARY = """\
    zonefile: "%s"
    provide-xfr: {secondary} transfer
"""
_NOTIFY = "    notify: {secondary}@{port} transfer\n"
_SECONDARY = """\
    allow-notify: 127.0.0.0/8 transfer
    request-xfr: {primary}@{port} transfer
    outgoing-interface: {secondary}
"""
_ZONE = 'zone:\n    name: "{zone}"\n    include-pattern: "benchmark"\n'

# Counts its calls, one byte for each, and is nsd-control otherwise.
_CONTROL = '#!/bin/sh\nprintf . >>"{folder}/calls"\nexec "{program}" -c "{conf}" "$@"\n'


@dataclass(frozen=True)
class Pair:
    """Where the two are, and the files around them."""

    folder: Path
    primary: str
    secondary: str
    port: int

    @property
    def published(self) -> Path:
        """The folder of the primary's zone files."""
        return self.folder / "published"

    @property
    def key(self) -> Path:
        """The file of the secret that signs transfers and NOTIFYs."""
        return self.folder / "transfer.key"

    @property
    def control(self) -> Path:
        """`nsd-control` for the primary."""
        return self.folder / "control"

    @property
    def calls(self) -> int:
        """How often `control` was called."""
        return (self.folder / "calls").stat().st_size

    @contextmanager
    def running(self) -> Iterator[None]:
        """Both run while the block does."""
        parts = [self._part("primary", self.primary), self._part("secondary", self.secondary)]
        try:
            start(parts, timeout=_READY_SECONDS)
            yield
        finally:
            stop(parts)

    def _part(self, name: str, address: str) -> Part:
        return Part(
            name=name,
            title=f"NSD, {name}",
            argv=(_program("nsd"), "-d", "-c", str(self.folder / name / "nsd.conf")),
            log=self.folder / name / "output",
            environment=os.environ,
            ready=lambda: nameserver_answers(address, self.port),
        )


@contextmanager
def pair(folder: Path, zones: Sequence[str], *, notifies: bool) -> Iterator[Pair]:
    """Make the folder, and the files of two that do not run yet.

    `notifies`: whether the primary sends NOTIFYs by itself.
    """
    with own_block() as block:
        secondary, primary = f"{block}.1", f"{block}.2"
        made = Pair(folder, primary, secondary, free_ports(primary, secondary).dns)
        for each in (folder, made.published, folder / "primary", folder / "secondary"):
            each.mkdir()
        secret = base64.b64encode(secrets.token_bytes(32)).decode()
        made.key.write_text(f"{secret}\n")
        values = {**vars(made), "secret": secret}
        own = folder / "primary"
        pattern = _PRIMARY + (_NOTIFY if notifies else "")
        text = (_SERVER + pattern).format(**values, address=primary, zones=made.published, own=own)
        (own / "nsd.conf").write_text(text + _zones(zones))
        control = _CONTROL.format(
            folder=folder, program=_program("nsd-control"), conf=own / "nsd.conf"
        )
        made.control.write_text(control)
        made.control.chmod(0o700)
        (folder / "calls").touch()
        own = folder / "secondary"
        text = (_SERVER + _SECONDARY).format(**values, address=secondary, zones=own, own=own)
        (own / "nsd.conf").write_text(text + _zones(zones))
        yield made


def _zones(zones: Sequence[str]) -> str:
    return "".join(_ZONE.format(zone=zone) for zone in zones)


def _program(name: str) -> str:
    program = nameserver.find(name)
    if program is None:
        raise MissingError(f"not installed: {name}; do: apt-get install nsd")
    return program
