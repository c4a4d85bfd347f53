"""A probe's connection: to one address, and cut at one deadline, whatever is spoken over it.

Owns connecting, TLS, and HTTP led over such a connection. What is asked over it, and what counts as
an answer, is the business of `probes`. No name is resolved here.
"""

import contextlib
import functools
import http
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse
from urllib3.util import parse_url

from exporter.config import Address

# Is told each step of a look, as it happens, in words for a person.
Tell = Callable[[str], None]

# A redirect that leads to a longer one, and on, would cost more time than it is given.
_LONGEST_URL = 8192

_HEADERS = {
    "User-Agent": "zonerw",
    "Accept": "*/*",
    "Accept-Encoding": "identity",  # what is counted is what is there
    "Connection": "close",
}


class Line:
    """A connection to an address, shut at the deadline (on time.monotonic's clock).

    A socket's own timeout starts anew with every byte. So a timer holds a second descriptor of
    the connection and shuts it down, which ends any read, TLS or not, however slowly it drips.
    """

    def __init__(self, address: Address, deadline: float, tell: Tell) -> None:
        self.stage = "connecting"
        self.tell = tell
        self.expiry: float | None = None  # of the certificate that it showed, Unix time
        self._address = address
        self._deadline = deadline
        self._opened = contextlib.ExitStack()

    def left(self) -> float:
        """Seconds until the deadline; never 0, which a socket takes for "do not wait"."""
        return max(self._deadline - time.monotonic(), 0.001)

    def over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._deadline

    def connect(self, port: int) -> socket.socket:
        """Connect to this port; the socket is the caller's to close."""
        if self.over():  # a redirect takes a connection of its own
            raise TimeoutError
        self.tell(f"connecting to {self._address}, port {port}")
        with contextlib.ExitStack() as failing:
            connected = socket.create_connection((str(self._address), port), self.left())
            failing.callback(connected.close)
            watched = self._opened.enter_context(connected.dup())
            timer = threading.Timer(self.left(), _shut, [watched])
            timer.daemon = True
            timer.start()
            failing.pop_all()
        self._opened.callback(timer.join)
        self._opened.callback(timer.cancel)
        self.tell("connected")
        self.reached("waiting for the answer")
        return connected

    def secure(self, connected: socket.socket, name: str, trust: ssl.SSLContext) -> ssl.SSLSocket:
        """TLS over a connection, from its first byte; the certificate has to be for this name."""
        secured = trust.wrap_socket(connected, server_hostname=name)
        self.secured(secured)
        return secured

    def secured(self, connection: ssl.SSLSocket) -> None:
        """Note until when the certificate holds that was shown, and found right."""
        certificate: dict[str, Any] = connection.getpeercert() or {}
        if not_after := certificate.get("notAfter"):
            expiry = float(ssl.cert_time_to_seconds(not_after))
            # Of several on the way of a redirect, the one that fails first.
            self.expiry = min(expiry, self.expiry or expiry)
            until = datetime.fromtimestamp(expiry, UTC)
            self.tell(f"{connection.version()}, with a certificate that holds until {until:%F %T}Z")

    def reached(self, stage: str) -> None:
        """Note how far it came in time; headers that were cut off look complete from above."""
        if not self.over():
            self.stage = stage

    def close(self) -> None:
        """End what watches the deadline."""
        self._opened.close()


@contextlib.contextmanager
def response(url: str, line: Line, trust: ssl.SSLContext) -> Iterator[BaseHTTPResponse]:
    """The answer to GET, its body not read yet; a redirect is an answer like any other."""
    with contextlib.closing(_connection(url, line, trust)) as connection:
        path = parse_url(url).request_uri
        connection.request(
            "GET", path, headers=_HEADERS, preload_content=False, decode_content=False
        )
        with contextlib.closing(connection.getresponse()) as got:
            line.tell(f"GET {url} was answered {got.status} {got.reason}")
            yield got


def trust() -> ssl.SSLContext:
    """What the machine trusts, an own authority for example, and requests' own list.

    The latter for machines without one: they would hold every certificate for wrong. Read again
    when a file has changed: an authority that is new to the machine makes no server down.
    """
    files = ssl.get_default_verify_paths().cafile, DEFAULT_CA_BUNDLE_PATH
    return _trust(tuple(Path(file).stat().st_mtime_ns for file in files if file))


@functools.lru_cache(maxsize=1)
def _trust(_: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was quicker
        connection.shutdown(socket.SHUT_RDWR)


# --- HTTP, led over a line ------------------------------------------------------------------


def _connection(url: str, line: Line, trusted: ssl.SSLContext) -> HTTPConnection:
    """Not connected yet. No proxy and no netrc: what is asked is this very server."""
    if len(url) > _LONGEST_URL:
        raise http.client.InvalidURL(f"a URL of {len(url)} characters")
    place = parse_url(url)
    if not place.host:
        raise http.client.InvalidURL(f"{url}: no host")
    # TLS encodes it too, but with a socket that it then leaves open.
    host = place.host.strip("[]").encode("idna").decode()
    match place.scheme:
        case "http":
            return _Http(host, place.port, line=line)
        case "https":
            return _Https(host, place.port, line=line, ssl_context=trusted)
    raise http.client.InvalidURL(f"{url}: neither http nor https")


class _Response(http.client.HTTPResponse):
    """Whatever comes before the answer is passed over (RFC 9110, section 15.2), within reason.

    What was received before the deadline can still be read after it, and somebody may send faster.
    """

    _early = 0

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if status[1] >= http.HTTPStatus.OK or status[1] == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return status
            self._early += 1
            if self._early > _ENOUGH_EARLY:
                raise http.client.BadStatusLine(f"{self._early} times {status[1]} before an answer")
            http.client.parse_headers(self.fp)


_ENOUGH_EARLY = 10


class _Http(HTTPConnection):
    """Connects over a line; the URL's host goes into the Host header only."""

    response_class = _Response

    def __init__(self, *args: Any, line: Line, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line

    def _new_conn(self) -> socket.socket:
        return self._line.connect(self.port)


class _Https(HTTPSConnection):
    """Connects over a line; the URL's host goes into the Host header and TLS."""

    response_class = _Response

    def __init__(self, *args: Any, line: Line, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line

    def connect(self) -> None:
        super().connect()
        if isinstance(self.sock, ssl.SSLSocket):
            self._line.secured(self.sock)

    def _new_conn(self) -> socket.socket:
        return self._line.connect(self.port)
