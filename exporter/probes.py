"""One check of one server, or one reference, tried once: Up, or Down with its reason.

Owns what is asked and what counts as an answer. Leaves the connection and its single deadline to
`line`, questions to nameservers to `soa`, and to others how often to look and what follows from it.
Connects to the server's address whatever a URL's name resolves to: no name is resolved, so that a
dead resolver makes no server down.
"""

import contextlib
import http
import http.client
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urljoin

import dns.flags
import dns.message
import dns.rdatatype
import urllib3.exceptions
from urllib3.response import BaseHTTPResponse

from exporter import line, soa
from exporter.config import (
    Address,
    Check,
    DnsCheck,
    HttpCheck,
    Nameserver,
    Reference,
    Server,
    TcpCheck,
)
from exporter.line import Line, Tell
from exporter.reasons import OUT_OF_RESOURCES, explain, shown

# A page that grows must not cause a failover: of a longer body this much is read.
_ENOUGH = 2**20
_PIECE = 2**16

_REDIRECTS = 10

# Of a banner so much is read, or looked at, as its first line may have (RFC 5321, 4.5.3.1.5).
_BANNER = 512


class OutOfResourcesError(Exception):
    """It could not be looked, for want of descriptors or memory here: that makes nobody down."""


@dataclass(frozen=True)
class Up:
    """The check got what it wants, after so many seconds.

    `expiry`: until when the certificate holds that it was shown, Unix time; None without TLS.
    """

    seconds: float
    expiry: float | None = None


@dataclass(frozen=True)
class Down:
    """The check failed after so many seconds: `reason` is one of a few, `detail` says it all.

    `expiry` as for Up, where the certificate was not what failed.
    """

    reason: str
    detail: str
    seconds: float
    expiry: float | None = None


# Is told each step of a look, from any thread: of which check, at which address.
TellStep = Callable[[str, Address, str], None]


def _silent(*_: object) -> None:
    """Nobody wants to know."""


def look(
    server: Server, timeout: float, *, tell: TellStep = _silent
) -> dict[tuple[str, Address], Up | Down]:
    """Try every check at every looked-at address, side by side, within `timeout` seconds in all."""
    deadline = time.monotonic() + timeout
    checks = {
        (name, address): check
        for address in server.looked_at
        for name, check in server.checks_at(address).items()
    }

    def one(place: tuple[str, Address]) -> Up | Down:
        left = deadline - time.monotonic()
        return probe(checks[place], place[1], left, tell=lambda step: tell(*place, step))

    with ThreadPoolExecutor(len(checks)) as pool:
        return dict(zip(checks, pool.map(one, checks), strict=True))


def judge(server: Server, looked: Mapping[tuple[str, Address], Up | Down]) -> Up | Down:
    """The server as a whole: by its first looked-at address, where what is required must be Up."""
    failed = first_failing(server, looked)
    if failed is None:
        return Up(max(result.seconds for _, result in _what_counts(server, looked)))
    name, down = failed
    return Down(f"{name}: {down.reason}", down.detail, down.seconds)


def first_failing(
    server: Server, looked: Mapping[tuple[str, Address], Up | Down]
) -> tuple[str, Down] | None:
    """The check that makes the server down, and how it failed; None while the server is up."""
    for name, result in _what_counts(server, looked):
        if isinstance(result, Down):
            return name, result
    return None


def _what_counts(
    server: Server, looked: Mapping[tuple[str, Address], Up | Down]
) -> Iterator[tuple[str, Up | Down]]:
    judged = server.judged
    (address,) = judged.looked_at
    for name in judged.checks_at(address):
        yield name, looked[name, address]


def probe(
    check: Check,
    address: Address,
    timeout: float,
    *,
    trust: ssl.SSLContext | None = None,
    tell: Tell = _silent,
) -> Up | Down:
    """Try one check at one address, from connecting to the last byte within `timeout` seconds.

    `trust` says which certificates are believed; by default the machine's and requests' own.
    OutOfResourcesError where it could not be tried.
    """
    believed = trust or line.trust()  # reading it takes a while, the first time: no server's fault

    def say(step: str) -> None:
        tell(shown(step))

    match check:
        case HttpCheck():
            return _try(address, timeout, say, lambda its: _get(check, its, believed))
        case TcpCheck():
            return _try(address, timeout, say, lambda its: _greet(check, its, believed))
        case DnsCheck():
            return _ask(address, timeout, say, check)


def ask_reference(
    reference: Reference, timeout: float, *, trust: ssl.SSLContext | None = None
) -> Up | Down:
    """Whether anything at all comes back from a reference, within `timeout` seconds.

    That is a connection (TCP), a status of any kind (HTTP), a reply of any kind (DNS). `trust` is
    as for `probe`.
    """
    if reference.scheme == "dns":
        return _ask_for_the_root(reference, timeout)
    believed = trust or line.trust()

    def attempt(its: Line) -> _Failure | None:
        if reference.url:
            with line.response(reference.url, its, believed):
                return None
        its.connect(reference.port).close()
        return None

    return _try(reference.address, timeout, _silent, attempt)


# Reason and detail of a failure.
_Failure = tuple[str, str]

# What a look may raise. The libraries wrap most of it, but not all: a negative chunk size is a bare
# ValueError, a name that TLS can't ask for a UnicodeError, which is one too.
_RAISED = (
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)


def _try(
    address: Address, timeout: float, tell: Tell, attempt: Callable[[Line], _Failure | None]
) -> Up | Down:
    started = time.monotonic()
    its = Line(address, started + timeout, tell)
    failure = None
    try:
        with contextlib.closing(its):
            failure = attempt(its)
    except _RAISED as error:
        failure = explain(error)
    seconds = time.monotonic() - started
    # A connection that was cut looks like many things from above: closed, reset, or a page that
    # ended. Only a status came for certain.
    if its.over() and not (failure and failure[0].startswith("status ")):
        failure = "timeout", _nothing_more(timeout, its.stage)
    return _ended(failure, seconds, its.expiry, tell)


def _nothing_more(timeout: float, stage: str) -> str:
    return f"nothing more within {timeout:.3g} s while {stage}"


def _ended(failure: _Failure | None, seconds: float, expiry: float | None, tell: Tell) -> Up | Down:
    if failure is None:
        tell("up")
        return Up(seconds, expiry)
    reason, detail = failure
    if reason == OUT_OF_RESOURCES:
        raise OutOfResourcesError(detail)
    tell(f"down, {reason}: {detail}")
    return Down(reason, shown(detail), seconds, expiry)


# --- what is asked, and what counts as an answer --------------------------------------------


def _get(check: HttpCheck, its: Line, trust: ssl.SSLContext) -> _Failure | None:
    """A page with status 200, and with the text that it has to hold."""
    url = check.url
    for _ in range(_REDIRECTS + 1):
        with line.response(url, its, trust) as answer:
            location = answer.get_redirect_location()
            if location and check.follow_redirects:
                # Wherever it leads to, this server is asked: what another one serves is no sign.
                try:
                    url = urljoin(url, location)
                except ValueError:
                    return "unusable url", f"a redirect to {location}"
                continue
            if answer.status != http.HTTPStatus.OK:
                to = f", to {location}" if location else ""
                return f"status {answer.status}", f"{answer.status} {answer.reason}{to}"
            return _read(check, its, answer)
    return "too many redirects", f"more than {_REDIRECTS}, the last one to {url}"


def _read(check: HttpCheck, its: Line, answer: BaseHTTPResponse) -> _Failure | None:
    its.reached("reading the body")
    body = bytearray()
    while len(body) < _ENOUGH and (piece := answer.read(_PIECE)):
        body += piece
    its.tell(f"read {len(body)} bytes of its body")
    if check.contains and check.contains.encode() not in body:
        coding = answer.headers.get("Content-Encoding")
        how = f", which came as {coding}" if coding else ""
        where = f"the {len(body)} bytes of the page{how}"
        return "text missing", f'"{check.contains}" is not in {where}'
    return None


def _greet(check: TcpCheck, its: Line, trust: ssl.SSLContext) -> _Failure | None:
    """A connection, TLS where asked for, and a banner that begins as it should."""
    with contextlib.ExitStack() as opened:
        connected = opened.enter_context(its.connect(check.tcp))
        if check.tls:
            connected = opened.enter_context(its.secure(connected, check.tls, trust))
        if not check.banner:
            return None
        its.reached("waiting for the banner")
        wanted, banner = check.banner.encode(), b""
        while len(banner) < len(wanted) and wanted.startswith(banner):
            piece = connected.recv(max(len(wanted), _BANNER))
            if not piece:
                return "connection closed", f"after {len(banner)} bytes of a banner"
            banner += piece
        first_line = banner.splitlines()[0][:_BANNER].decode(errors="backslashreplace")
        its.tell(f'it says "{first_line}"')
        if not banner.startswith(wanted):
            return "wrong banner", f'it says "{first_line}", expected "{check.banner}"'
    return None


def _ask(address: Address, timeout: float, tell: Tell, check: DnsCheck) -> Up | Down:
    """The zone's SOA, with authority."""
    asked = _Asked(address, check.port, timeout)
    tell(f"asking {address}, port {check.port}, for the SOA of {check.dns}")
    answer = soa.ask(asked.nameserver, [check.dns], timeout, enough=asked.over)[check.dns]
    if isinstance(answer, soa.NoSerial):
        return asked.ended(answer.reason, f"no SOA of {check.dns}: {answer.reason}", tell)
    tell(f"it serves {answer.serial}")
    return asked.ended(None, "", tell)


def _ask_for_the_root(reference: Reference, timeout: float) -> Up | Down:
    """Any reply to a question for the SOA of the root."""
    asked = _Asked(reference.address, reference.port, timeout)

    def question() -> dns.message.Message:
        # RD is cleared: no work for it, a refusal will do.
        return dns.message.make_query(".", dns.rdatatype.SOA, flags=dns.flags.Flag(0))

    replies = soa.exchange(asked.nameserver, [question], timeout, enough=asked.over)
    reply = replies[0] if replies else soa.NoReply("timeout")
    if isinstance(reply, soa.NoReply):
        return asked.ended(reply.reason, f"no reply: {reply.reason}", _silent)
    return asked.ended(None, "", _silent)


class _Asked:
    """A nameserver that is asked one question, and since when."""

    def __init__(self, address: Address, port: int, timeout: float) -> None:
        self.nameserver = Nameserver(address=str(address), port=port)  # type: ignore[arg-type]  # it reads text
        self._timeout = timeout
        self._began = time.monotonic()

    def over(self) -> bool:
        return time.monotonic() >= self._began + self._timeout

    def ended(self, reason: str | None, detail: str, tell: Tell) -> Up | Down:
        if reason == "timeout":
            detail = _nothing_more(self._timeout, "waiting for the answer")
        failure = (reason, detail) if reason else None
        return _ended(failure, time.monotonic() - self._began, None, tell)
