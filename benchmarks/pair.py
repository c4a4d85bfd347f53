"""A primary and its secondary, both NSD, on loopback addresses of their own, for any zones.

Owns their configuration. What is in the primary's zone files is the caller's business.
"""

import base64
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.nsd import READY_SECONDS, nsd, program, server
from demo.layout import free_ports, own_block
from demo.parts import Part, start, stop

_MORE = """\
    xfrd-reload-timeout: 0
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
            start(parts, timeout=READY_SECONDS)
            yield
        finally:
            stop(parts)

    def _part(self, name: str, address: str) -> Part:
        return nsd(f"NSD, {name}", address, self.port, self.folder / name)


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
        text = server(primary, made.port, made.published, own)
        text += (_MORE + pattern).format(**values, own=own)
        (own / "nsd.conf").write_text(text + _zones(zones))
        control = _CONTROL.format(
            folder=folder, program=program("nsd-control", "nsd"), conf=own / "nsd.conf"
        )
        made.control.write_text(control)
        made.control.chmod(0o700)
        (folder / "calls").touch()
        own = folder / "secondary"
        text = server(secondary, made.port, own, own)
        text += (_MORE + _SECONDARY).format(**values, own=own)
        (own / "nsd.conf").write_text(text + _zones(zones))
        yield made


def _zones(zones: Sequence[str]) -> str:
    return "".join(_ZONE.format(zone=zone) for zone in zones)
