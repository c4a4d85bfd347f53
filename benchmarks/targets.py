"""Two web servers and three name servers, all real, and the exporters that look at them.

Owns their configuration, on loopback addresses of their own. What is asked of the exporters is the
business of whoever measures.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.nsd import READY_SECONDS, nsd, program, server
from demo import shipped
from demo.layout import free_ports, own_block
from demo.parts import Part, start, stop
from demo.stack import environment, is_ok

_BLACKBOX = "prometheus-blackbox-exporter"
# Each server's, by the names of checks and files, and what has to be on each.
PAGES = ("index", "shop")
_TEXT = "welcome"

_CONTROL = "remote-control:\n    control-enable: no\n"
_NSD_ZONE = 'zone:\n    name: "{zone}"\n    zonefile: "{zone}"\n'

_ZONERW = """\
[zones]
sources = "{sources}"
published = "{folder}/published"
[primary]
kind = "nsd"
address = "{ns1}"
port = {dns}
[secondaries.ns2]
address = "{ns2}"
port = {dns}
[secondaries.ns3]
address = "{ns3}"
port = {dns}
[exporter]
listen = "{address}:{exporter}"
"""
_SERVER = """\
[servers.{name}]
addresses = ["{public}"]
look_at = ["{address}"]
"""
_CHECK = """\
[servers.{name}.checks.{page}]
url = "http://www.example.org:{port}/{page}.html"
contains = "{text}"
"""

# What the other exporter does for a page of ours, or for a zone.
_PAGE = f"""\
  page:
    prober: http
    timeout: 5s
    http:
      preferred_ip_protocol: ip4
      headers: {{Host: www.example.org}}
      fail_if_body_not_matches_regexp: ["{_TEXT}"]
"""
_SOA = """\
  {zone}:
    prober: dns
    timeout: 5s
    dns:
      preferred_ip_protocol: ip4
      query_name: "{zone}"
      query_type: SOA
      recursion_desired: false
"""


class Targets:
    """What is looked at, and the files of all in a folder; `exporters`: addresses for those.

    Every server has PAGES, and every name server all the zones.
    """

    def __init__(self, folder: Path, block: str, number: int) -> None:
        self.zones = [f"zone-{zone:05d}.example" for zone in range(number)]
        self.nameservers = {f"ns{n}": f"{block}.{n}" for n in (1, 2, 3)}
        self.servers = {"main": f"{block}.4", "backup": f"{block}.5"}
        self.exporters = [f"{block}.{n}" for n in (6, 7, 8)]
        addresses = *self.nameservers.values(), *self.servers.values(), *self.exporters
        self.ports = free_ports(*addresses)
        self._folder = folder
        self._write()

    @contextmanager
    def running(self) -> Iterator[Mapping[str, Part]]:
        """All run while the block does."""
        parts = {name: self._nsd(name) for name in self.nameservers}
        parts |= {name: self._web(name) for name in self.servers}
        try:
            start(parts.values(), timeout=READY_SECONDS)
            yield parts
        finally:
            stop(parts.values())

    def zonerw(self, title: str, address: str, *, pointers: bool = True) -> Part:
        """Our exporter; without `pointers` it can ask for no more than the SOAs."""
        text = _ZONERW.format(
            **self.nameservers,
            **vars(self.ports),
            folder=self._folder,
            sources=self._folder / ("sources" if pointers else "empty"),
            address=address,
        )
        for number, (name, its) in enumerate(self.servers.items(), 1):
            text += _SERVER.format(name=name, public=f"192.0.2.{number}", address=its)
            for page in PAGES:
                text += _CHECK.format(name=name, page=page, port=self.ports.web, text=_TEXT)
        config = self._folder / f"{address}.toml"
        config.write_text(text)
        words = "-m", "exporter", "--config", str(config)
        return self._exporter(title, address, (sys.executable, *words))

    def blackbox_for_pages(self, title: str, address: str) -> Part:
        """The other exporter, with a module for a page."""
        return self._blackbox(title, address, _PAGE)

    def blackbox_for_zones(self, title: str, address: str) -> Part:
        """The other exporter, with a module for each zone's SOA."""
        return self._blackbox(title, address, "".join(_SOA.format(zone=z) for z in self.zones))

    def _write(self) -> None:
        for page in PAGES:
            (self._folder / f"{page}.html").write_text(f"<!doctype html>\n<p>{_TEXT}\n")
        sources, empty, published = (
            self._folder / each for each in ("sources", "empty", "published")
        )
        for each in (sources, empty, published):
            each.mkdir()
        example = (shipped.folder() / "examples/zones/example.org.base").read_text()
        for zone in self.zones:
            text = example.replace("example.org", zone)
            (sources / f"{zone}.base").write_text(text)
            # That there is such a zone is all that an empty source says.
            (empty / f"{zone}.base").touch()
            (published / zone).write_text(_at_main(text))

    def _nsd(self, name: str) -> Part:
        address, own = self.nameservers[name], self._folder / name
        own.mkdir()
        zones = self._folder / "published"
        text = server(address, self.ports.dns, zones, own) + _CONTROL
        text += "".join(_NSD_ZONE.format(zone=zone) for zone in self.zones)
        (own / "nsd.conf").write_text(text)
        return nsd(f"NSD {name}", address, self.ports.dns, own)

    def _web(self, name: str) -> Part:
        address, port = self.servers[name], self.ports.web
        where = "--bind", address, "--directory", str(self._folder), str(port)
        return Part(
            name=name,
            title=f"web server {name}",
            argv=(sys.executable, "-m", "http.server", *where),
            log=self._folder / f"{name}.log",
            environment=environment(),
            ready=lambda: is_ok(f"http://{address}:{port}/index.html"),
        )

    def _blackbox(self, title: str, address: str, modules: str) -> Part:
        config = self._folder / f"{address}.yml"
        config.write_text(f"modules:\n{modules}")
        where = f"--web.listen-address={address}:{self.ports.exporter}"
        argv = program(_BLACKBOX, _BLACKBOX), f"--config.file={config}", where
        return self._exporter(title, address, argv)

    def _exporter(self, title: str, address: str, argv: tuple[str, ...]) -> Part:
        return Part(
            name=title,
            title=title,
            argv=argv,
            log=self._folder / f"{address}.log",
            environment=environment(),
            ready=lambda: is_ok(f"http://{address}:{self.ports.exporter}/-/healthy"),
        )


@contextmanager
def targets(folder: Path, number: int) -> Iterator[tuple[Targets, Mapping[str, Part]]]:
    """So many zones, and all that is looked at; it runs while the block does.

    MissingError if something is not installed.
    """
    program(_BLACKBOX, _BLACKBOX)
    with own_block() as block:
        made = Targets(folder, block, number)
        with made.running() as parts:
            yield made, parts


def _at_main(source: str) -> str:
    """A source with values, the same for all that could be rendered apart."""
    lines = [line for line in source.splitlines(keepends=True) if "AAAA  @IP@" not in line]
    text = "".join(lines).replace("@serial number@", "2026010100")
    for marker in ("@IP@", "@IP:main@", "@IP:backup@"):
        text = text.replace(marker, "192.0.2.1")
    return text
