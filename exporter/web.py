"""The exporter's HTTP interface: /metrics, /probe, /-/healthy and a landing page.

Owns routes, status codes and how much of a scrape's time the looks may take. Leaves to
`collector` what is looked at, and to prometheus_client how it is written down.
"""

import html
import logging
import math
import socketserver
import sys
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder

from exporter import collector, probes
from exporter.config import Address, Config, Server
from exporter.version import version

log = logging.getLogger(__name__)

# A look takes this long at most, and when nobody says how long a scrape may take.
LONGEST = 5.0
# Nobody would be up in less.
_SHORTEST = 0.01
# Of the scrape's own timeout this share is left for what is not a look: Prometheus' clock has been
# running since it connected, and the page has to be written and sent, on a busy machine too...
_MARGIN = 0.1
# ...which takes a time of its own, however short the timeout.
_LEAST_MARGIN = 0.1


class Listener(ThreadingHTTPServer):
    """Serves the interface where the configuration says, a thread for each request."""

    daemon_threads = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.last_seen = collector.LastSeen()
        listen = config.exporter.listen
        self.address_family = listen.family
        super().__init__((listen.host, listen.port), _Request)

    def server_bind(self) -> None:
        """Bind, and no more: http.server would look up this machine's name, and wait for that."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what went wrong; that a client did not wait for its answer is nothing."""
        del request
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("request failed", exc_info=error, extra={"client": client_address})


class _Request(BaseHTTPRequestHandler):
    """One request and its answer."""

    server: Listener
    timeout = 10  # seconds for a client to send more of its request: none is silent for good

    def do_GET(self) -> None:
        """Find the page."""
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST, "This is no path.\n")
            return
        if url.path == "/metrics":
            self._metrics(url.query)
        elif url.path == "/probe":
            self._probe(url.query)
        elif url.path == "/-/healthy":
            self._answer(HTTPStatus.OK, "zonerw exporter is healthy.\n")
        elif url.path == "/":
            page = _landing_page(self.server.config, self.server.last_seen)
            self._answer(HTTPStatus.OK, page, "text/html; charset=utf-8")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "Not found. The metrics are at /metrics.\n")

    do_HEAD = do_GET  # noqa: N815  http.server's names

    def do_POST(self) -> None:
        """Nothing can be changed here."""
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD.\n", allow="GET, HEAD")

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = do_POST  # noqa: N815

    def _metrics(self, query: str) -> None:
        try:
            groups = _groups(query)
            timeout = _timeout(self.headers.get("X-Prometheus-Scrape-Timeout-Seconds"))
        except ValueError as error:
            self._answer(HTTPStatus.BAD_REQUEST, f"{error}\n")
            return
        try:
            seen = collector.collect(self.server.config, self.server.last_seen, groups, timeout)
        except collector.SourcesError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"No zones to ask for: {error}\n")
            return
        self._answer_metrics(seen)

    def _probe(self, query: str) -> None:
        """One look at one server; with debug=true each of its steps, for a person."""
        config = self.server.config
        try:
            name, debug = _probed(query, config)
            timeout = _timeout(self.headers.get("X-Prometheus-Scrape-Timeout-Seconds"))
        except ValueError as error:
            self._answer(HTTPStatus.BAD_REQUEST, f"{error}\n")
            return
        steps: list[str] = []
        began = time.monotonic()

        def tell(check: str, address: Address, step: str) -> None:
            steps.append(f"{time.monotonic() - began:7.3f} s  {check} at {address}: {step}")

        looked, seen = collector.look_at(config, name, timeout, tell)
        if not debug:
            self._answer_metrics(seen)
            return
        parts = (
            "\n".join(steps),
            "\n".join(_summary(config.servers[name], name, looked)),
            "The metrics of a scrape:\n\n" + generate_latest(seen).decode(),
        )
        self._answer(HTTPStatus.OK, "\n\n".join(parts))

    def _answer_metrics(self, seen: CollectorRegistry) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, encode(seen), content_type)

    def _answer(
        self,
        status: HTTPStatus,
        body: str | bytes,
        content_type: str = "text/plain; charset=utf-8",
        *,
        allow: str | None = None,
    ) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        if allow:
            self.send_header("Allow", allow)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """What the Server header says."""
        return "zonerw"

    def log_message(self, *_: object) -> None:
        """Requests come every second and change nothing: not worth a line."""


def _groups(query: str) -> Sequence[str]:
    """What `collect[]` asks for, everything without it; ValueError names what there is."""
    groups = parse_qs(query, keep_blank_values=True).get("collect[]", collector.GROUPS)
    for group in groups:
        if group not in collector.GROUPS:
            known = ", ".join(collector.GROUPS)
            raise ValueError(f"collect[]={group}: unknown; expected one of {known}")
    return groups


def _probed(query: str, config: Config) -> tuple[str, bool]:
    """Which server `server` names, and whether `debug` is true; ValueError names what there is."""
    asked = parse_qs(query, keep_blank_values=True)
    name, debug = asked.get("server", [""])[-1], asked.get("debug", ["false"])[-1]
    if name not in config.servers:
        known = ", ".join(config.servers)
        raise ValueError(f"server={name}: unknown; expected one of {known}")
    if debug not in ("true", "false"):
        raise ValueError(f"debug={debug}: expected true or false")
    return name, debug == "true"


def _summary(server: Server, name: str, looked: collector.Looked) -> Iterator[str]:
    """What each check came to, and whether it counts; then the server."""
    for (check, address), result in looked.items():
        said = "up" if isinstance(result, probes.Up) else f"down, {result.reason}"
        its = server.checks_at(address)[check]
        if not its.required:
            said += " (only shown: it is not required)"
        elif address != server.looked_at[0]:
            said += " (only shown: the server is judged by its first address)"
        yield f"{check} at {address}: {said}"
    verdict = probes.judge(server, looked)
    yield f"{name} is {'up' if isinstance(verdict, probes.Up) else 'down'}"


def _timeout(header: str | None) -> float:
    """Seconds that the looks may take, of those that Prometheus waits."""
    if header is None:
        return LONGEST
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0
    if not (seconds >= _SHORTEST and math.isfinite(seconds)):
        raise ValueError(f"X-Prometheus-Scrape-Timeout-Seconds: {header!r} is no time to wait")
    margin = min(max(seconds * _MARGIN, _LEAST_MARGIN), seconds / 2)
    return min(seconds - margin, LONGEST)


def _landing_page(config: Config, last_seen: collector.LastSeen) -> str:
    state = last_seen.servers or "Nobody has asked for the servers yet."
    looks = "".join(
        f'<li><a href="/probe?server={name}&amp;debug=true">A look at {name}, step by step</a></li>'
        for name in config.servers
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>zonerw exporter</title></head>
<body>
<h1>zonerw exporter</h1>
<p>{html.escape(state)}</p>
<ul>
{looks}
<li><a href="/metrics">All metrics</a></li>
<li><a href="/metrics?collect[]=servers">Those of the servers</a></li>
<li><a href="/metrics?collect[]=zones">Those of the zones</a></li>
<li><a href="/metrics?collect[]=references">Those of the references</a></li>
<li><a href="/-/healthy">Health of this program</a></li>
</ul>
<p>Version {html.escape(version())}. It looks when it is asked, and changes nothing.</p>
</body>
</html>
"""
