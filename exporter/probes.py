"""One check of one server, or one reference, tried once: Up, or Down with its reason.

Owns the connection, the single deadline above all of it, and the words for what went wrong.
Leaves to others how often to look and what follows from it. Connects to the server's address
whatever the URL's name resolves to: no name is resolved here, a dead resolver makes no server down.
"""

import contextlib
import errno
import functools
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.rdatatype
import requests
import urllib3.connection
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from exporter.config import Address, Check, Reference, Server

# A page that grows must not cause a failover: of a longer body this much is read, and it is Up.
_ENOUGH = 2**20
_PIECE = 2**16

# A packet that got lost on the way must not look like a dead line: a question is sent so often.
_TRIES = 3

_HEADERS = {
    "User-Agent": "zonerw",
    "Accept-Encoding": "identity",  # what is counted is what is there
    "Connection": "close",
}


@dataclass(frozen=True)
class Up:
    """The check got what it wants, after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Down:
    """The check failed after so many seconds: `reason` is one of a few, `detail` says it all."""

    reason: str
    detail: str
    seconds: float


def look(server: Server, timeout: float) -> dict[tuple[str, Address], Up | Down]:
    """Try every check at every looked-at address, side by side, within `timeout` seconds in all."""
    deadline = time.monotonic() + timeout
    checks = {
        (name, address): check
        for address in server.looked_at
        for name, check in server.checks_at(address).items()
    }

    def one(place: tuple[str, Address]) -> Up | Down:
        return probe(checks[place], place[1], deadline - time.monotonic())

    with ThreadPoolExecutor(len(checks)) as pool:
        return dict(zip(checks, pool.map(one, checks), strict=True))


def judge(server: Server, looked: Mapping[tuple[str, Address], Up | Down]) -> Up | Down:
    """The server as a whole: by its first looked-at address, where every check has to be Up."""
    failed = first_failing(server, looked)
    if failed is None:
        address = server.looked_at[0]
        return Up(max(looked[name, address].seconds for name in server.checks_at(address)))
    name, down = failed
    return Down(f"{name}: {down.reason}", down.detail, down.seconds)


def first_failing(
    server: Server, looked: Mapping[tuple[str, Address], Up | Down]
) -> tuple[str, Down] | None:
    """The check that makes the server down, and how it failed; None while the server is up."""
    address = server.looked_at[0]
    for name in server.checks_at(address):
        result = looked[name, address]
        if isinstance(result, Down):
            return name, result
    return None


def probe(
    check: Check, address: Address, timeout: float, *, trust: ssl.SSLContext | None = None
) -> Up | Down:
    """GET the check's URL from `address`, from connecting to the body within `timeout` seconds.

    `trust` says which certificates are believed; by default the machine's and requests' own.
    """
    believed = trust or _trust()  # reading it takes a while, the first time: no server's fault
    return _try(address, timeout, lambda line: _get(check.url, line, believed))


def ask_reference(
    reference: Reference, timeout: float, *, trust: ssl.SSLContext | None = None
) -> Up | Down:
    """Whether anything at all comes back from a reference, within `timeout` seconds.

    That is a connection (TCP), a status of any kind (HTTP), a reply of any kind (DNS). `trust` is
    as for `probe`.
    """
    believed = trust or _trust()

    def attempt(line: _Line) -> _Failure | None:
        if reference.scheme == "dns":
            return _ask_for_the_root(reference, line)
        if reference.url:
            with _response(reference.url, line, believed):
                return None
        line.connect(reference.port).close()
        return None

    return _try(reference.address, timeout, attempt)


def network_reason(error: OSError) -> str:
    """The short reason of an error that the network (or the system) gave."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return _NETWORK.get(error.errno or 0, "network error")


# Reason and detail of a failure.
_Failure = tuple[str, str]

# What a look may raise. The libraries wrap most of it, but not all: a negative chunk size is a bare
# ValueError, a name that TLS can't ask for a UnicodeError, which is one too.
_RAISED = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)


def _try(
    address: Address, timeout: float, attempt: "Callable[[_Line], _Failure | None]"
) -> Up | Down:
    started = time.monotonic()
    line = _Line(address, started + timeout)
    failure = None
    try:
        with contextlib.closing(line):
            failure = attempt(line)
    except _RAISED as error:
        failure = _explain(error)
    seconds = time.monotonic() - started
    # A connection that was cut looks like many things from above: closed, reset, or a page that
    # ended. Only a status came for certain.
    if line.over() and not (failure and failure[0].startswith("status ")):
        failure = "timeout", f"nothing more within {timeout:.3g} s while {line.stage}"
    return Down(*failure, seconds) if failure else Up(seconds)


def _get(url: str, line: "_Line", trust: ssl.SSLContext) -> _Failure | None:
    with _response(url, line, trust) as response:
        if response.status_code != http.HTTPStatus.OK:
            return f"status {response.status_code}", f"{response.status_code} {response.reason}"
        line.reached("reading the body")
        left = _ENOUGH
        while left > 0 and (piece := response.raw.read(_PIECE, decode_content=False)):
            left -= len(piece)
    return None


@contextlib.contextmanager
def _response(url: str, line: "_Line", trust: ssl.SSLContext) -> Iterator[requests.Response]:
    """The answer to GET, its body not read yet."""
    with _Session() as session:
        session.trust_env = False  # no proxy and no netrc: what is asked is this very server
        session.mount("http://", _Adapter(line, trust))
        session.mount("https://", _Adapter(line, trust))
        with session.get(
            url, headers=_HEADERS, timeout=line.left(), stream=True, allow_redirects=False
        ) as response:
            yield response


def _ask_for_the_root(reference: Reference, line: "_Line") -> _Failure | None:
    """Ask for the SOA of the root until any reply is there, or no time is left."""
    question = dns.message.make_query(".", dns.rdatatype.SOA)
    question.flags &= ~dns.flags.RD  # no work for it: a refusal will do
    place = str(reference.address), reference.port
    patience = line.left() / _TRIES
    until = time.monotonic()
    with socket.socket(dns.inet.af_for_address(place[0]), socket.SOCK_DGRAM) as connected:
        connected.connect(place)  # or nobody would tell us of a closed port
        line.reached("waiting for the answer")
        for _ in range(_TRIES):
            connected.send(question.to_wire())
            until += patience
            while (left := until - time.monotonic()) > 0:
                connected.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    if _is_reply(question, connected.recv(_PIECE)):
                        return None
    return "timeout", f"no reply to {_TRIES} questions"


def _is_reply(question: dns.message.Message, wire: bytes) -> bool:
    try:
        return question.is_response(dns.message.from_wire(wire))
    except dns.exception.DNSException:
        return False


# --- the connection -------------------------------------------------------------------------


class _Line:
    """A probe's connection: to the server's address, and cut at the deadline.

    A socket's own timeout starts anew with every byte. So a timer holds a second descriptor of
    the connection and shuts it down, which ends any read, TLS or not, however slowly it drips.
    """

    def __init__(self, address: Address, deadline: float) -> None:
        self.stage = "connecting"
        self._address = address
        self._deadline = deadline
        self._opened = contextlib.ExitStack()

    def left(self) -> float:
        """Seconds until the deadline; never 0, which a socket takes for "do not wait"."""
        return max(self._deadline - time.monotonic(), 0.001)

    def over(self) -> bool:
        return time.monotonic() >= self._deadline

    def connect(self, port: int) -> socket.socket:
        connected = socket.create_connection((str(self._address), port), self.left())
        watched = self._opened.enter_context(connected.dup())
        timer = threading.Timer(self.left(), _shut, [watched])
        timer.daemon = True
        timer.start()
        self._opened.callback(timer.join)
        self._opened.callback(timer.cancel)
        self.reached("waiting for the answer")
        return connected

    def reached(self, stage: str) -> None:
        """Note how far it came in time; headers that were cut off look complete from above."""
        if not self.over():
            self.stage = stage

    def close(self) -> None:
        self._opened.close()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was quicker
        connection.shutdown(socket.SHUT_RDWR)


class _Http(urllib3.connection.HTTPConnection):
    """Connects over a line; the URL's host goes into the Host header only."""

    def __init__(self, *args: Any, line: _Line, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line

    def _new_conn(self) -> socket.socket:
        return self._line.connect(self.port)


class _Https(urllib3.connection.HTTPSConnection):
    """Connects over a line; the URL's host goes into the Host header and TLS."""

    def __init__(self, *args: Any, line: _Line, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line

    def _new_conn(self) -> socket.socket:
        self.host.encode("idna")  # what TLS does too, but with a socket that it then leaves open
        return self._line.connect(self.port)


class _Adapter(HTTPAdapter):
    """requests' way to a connection, led over a line."""

    def __init__(self, line: _Line, trust: ssl.SSLContext) -> None:
        self._line = line
        self._trust = trust
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._trust, **kwargs)

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leave the verification to the TLS context; requests would read its file each time."""

    def get_connection_with_tls_context(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(request, *args, **kwargs)
        connection = _Https if pool.scheme == "https" else _Http
        pool.ConnectionCls = functools.partial(connection, line=self._line)
        return pool


class _Session(requests.Session):
    def get_redirect_target(self, *_: Any, **__: Any) -> None:
        """A redirect is an answer, and nowhere to go.

        Without this requests reads a redirect's body to its end, however long, even if it is told
        not to follow.
        """


@functools.cache
def _trust() -> ssl.SSLContext:
    """What the machine trusts, an own authority for example, and requests' own list.

    The latter for machines without one: they would hold every certificate for wrong.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


# --- words for failures ---------------------------------------------------------------------

_NETWORK = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "no route",
    errno.EHOSTDOWN: "no route",
    errno.ENETUNREACH: "no route",
    errno.ENETDOWN: "no route",
    errno.EADDRNOTAVAIL: "no route",  # an IPv6 address, and no IPv6 here
    errno.EAFNOSUPPORT: "no route",
}

# OpenSSL's X509_V_ERR_*; Python names none of them.
_CERTIFICATE = {
    9: "certificate not yet valid",
    10: "certificate expired",
    18: "certificate not trusted",  # self-signed
    19: "certificate not trusted",  # a self-signed authority
    20: "certificate not trusted",  # an unknown authority, or its certificate is not sent along
    21: "certificate not trusted",
    62: "certificate for another name",
    64: "certificate for another name",  # an address
}

_KINDS: dict[type[BaseException], str] = {
    requests.exceptions.InvalidURL: "unusable url",
    UnicodeError: "unusable url",  # its host is no name
    ssl.SSLError: "tls",
    http.client.RemoteDisconnected: "connection closed",
    http.client.IncompleteRead: "broken off",
    TimeoutError: "timeout",
}


def _explain(error: BaseException) -> tuple[str, str]:
    """Reason and detail, by the innermost cause that says something; requests wraps it thrice."""
    for cause in _causes(error):
        reason = _reason(cause)
        if reason:
            return reason, str(cause) or type(cause).__name__
    return "not http", str(error)


def _reason(cause: BaseException) -> str | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(cause.verify_code, "certificate")
    for kind, reason in _KINDS.items():
        if isinstance(cause, kind):
            return reason
    if isinstance(cause, OSError) and cause.errno:  # those of requests are OSErrors without one
        return network_reason(cause)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps, outermost first."""
    seen: list[object] = []
    left: list[object] = [error]
    while left:
        cause = left.pop(0)
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            yield cause
            left += [*cause.args, getattr(cause, "reason", None), cause.__cause__]
            left.append(cause.__context__)
