"""One check of one server, against real sockets that behave well, badly or not at all."""

import contextlib
import errno
import gzip
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Literal

import certifi
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from certificates import make_certificate
from conftest import StartNsd, StartWeb, free_port
from responder import Responder

from exporter import line
from exporter.config import Address, DnsCheck, HttpCheck, Reference, Server, TcpCheck
from exporter.probes import Down, OutOfResourcesError, Up, ask_reference, judge, look, probe
from exporter.reasons import explain, network_reason

LOOPBACK = ip_address("127.0.0.1")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwelcome"
EXPIRY = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
# What a deadline may be missed by on a busy machine.
SLACK = 2.0


class Listening:
    """A server on a port of its own; what it does with each connection is the test's choice."""

    def __init__(
        self, answer: Callable[[socket.socket], None] | None, address: str = "127.0.0.1"
    ) -> None:
        self.heard = b""
        self._answer = answer
        self._ended = threading.Event()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self.port: int = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                self._threads.append(threading.Thread(target=self._serve, args=[connection]))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client left
            if self._answer:
                self.heard += connection.recv(65536)
                self._answer(connection)
            else:
                self._ended.wait()

    def wait(self, seconds: float) -> None:
        """Be slow, until the end of the test."""
        self._ended.wait(seconds)

    def drip(self, connection: socket.socket, content: bytes) -> None:
        """Send byte by byte, far quicker than any read times out, until the client leaves."""
        for byte in content:
            connection.sendall(bytes([byte]))
            if self._ended.wait(0.02):
                return


class Greeting(Listening):
    """A server that speaks first, and leaves the last word to the client."""

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self._answer:
                self._answer(connection)
            self.heard += connection.recv(65536)


def says(content: bytes) -> Callable[[socket.socket], None]:
    """Answer every request with these bytes."""
    return lambda connection: connection.sendall(content)


def pours(head: bytes) -> Callable[[socket.socket], None]:
    """Answer with this head and a body without end."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(bytes(65536))

    return answer


def http_check(port: int, host: str = "www.example.invalid") -> HttpCheck:
    return HttpCheck(url=f"http://{host}:{port}/index.html")


def timed(check: HttpCheck, timeout: float, address: Address = LOOPBACK) -> tuple[Up | Down, float]:
    started = time.monotonic()
    result = probe(check, address, timeout)
    return result, time.monotonic() - started


def assert_timeout(check: HttpCheck, stage: str) -> None:
    """The one deadline held, and the probe tells where it was by then."""
    result, seconds = timed(check, 0.5)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == ("timeout", f"nothing more within 0.5 s while {stage}")
    assert 0.5 <= result.seconds <= seconds < 0.5 + SLACK


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """A probe leaves neither thread nor socket behind, however it ended."""
    probe(HttpCheck(url="http://127.0.0.1:1/"), LOOPBACK, 0.1)  # what is opened once for all
    threads, sockets = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == sockets  # noqa: PTH208


# --- up, and what it says -------------------------------------------------------------------


def test_200_is_up() -> None:
    """A page with status 200 is all it takes."""
    with Listening(says(OK)) as web:
        result, seconds = timed(http_check(web.port), 2)
    assert isinstance(result, Up)
    assert 0 < result.seconds <= seconds


@pytest.mark.parametrize("status", ["503 Service Unavailable", "404 Not Found", "204 No Content"])
def test_any_other_status_is_down(status: str) -> None:
    """The reason is the status, the detail the server's words for it."""
    with Listening(says(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status.encode())) as web:
        result = probe(http_check(web.port), LOOPBACK, 2)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == (f"status {status[:3]}", status)


def test_a_redirect_is_down_and_not_followed() -> None:
    """A 301 says that the page is not here, even if it is elsewhere."""
    with Listening(says(OK)) as elsewhere:
        head = b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:%d/\r\n" % elsewhere.port
        with Listening(says(head + b"Content-Length: 0\r\n\r\n")) as web:
            result = probe(http_check(web.port), LOOPBACK, 2)
        assert isinstance(result, Down)
        assert result.reason == "status 301"
        assert elsewhere.heard == b""


def test_the_body_of_a_redirect_is_not_read() -> None:
    """However long it is: the status says it all, at once."""
    with Listening(pours(b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n")) as web:
        result, seconds = timed(http_check(web.port), 5)
    assert isinstance(result, Down)
    assert result.reason == "status 301"
    assert seconds < 3


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"],
    ids=["without an end", "of 100 MB"],
)
def test_a_body_is_read_so_far_and_no_further(head: bytes) -> None:
    """A page that grows makes no server down."""
    with Listening(pours(head)) as web:
        result, seconds = timed(http_check(web.port), 5)
    assert isinstance(result, Up)
    assert seconds < 3


# --- whom it asks ---------------------------------------------------------------------------


def test_the_address_is_asked_whatever_the_name_says() -> None:
    """A name that resolves nowhere will do; it stands in the Host header, with the port."""
    with Listening(says(OK)) as web:
        assert isinstance(probe(http_check(web.port), LOOPBACK, 2), Up)
        lines = web.heard.decode().split("\r\n")
    assert lines[0] == "GET /index.html HTTP/1.1"
    assert f"Host: www.example.invalid:{web.port}" in lines


def test_no_name_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead resolver makes no server down, and delays nothing."""
    resolve = socket.getaddrinfo

    def only_addresses(host: str, *args: object, **kwargs: object) -> object:
        ip_address(host)
        return resolve(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", only_addresses)
    with Listening(says(OK)) as web:
        assert isinstance(probe(http_check(web.port, "localhost"), LOOPBACK, 2), Up)


def test_an_ipv6_address_is_asked_too() -> None:
    """The default check of an IPv6 address has brackets in its URL."""
    with Listening(says(OK), "::1") as web:
        result = probe(http_check(web.port, "[2001:db8::1]"), IPv6Address("::1"), 2)
        assert isinstance(result, Up)
        assert f"Host: [2001:db8::1]:{web.port}\r\n".encode() in web.heard


def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy that cron or a shell has set is not what is watched."""
    with Listening(says(OK)) as proxy, Listening(says(OK)) as web:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert isinstance(probe(http_check(web.port), LOOPBACK, 2), Up)
        assert proxy.heard == b""
        assert b"GET /index.html HTTP/1.1" in web.heard


# --- down by silence ------------------------------------------------------------------------


def test_a_server_that_accepts_and_says_nothing_is_down() -> None:
    """The silence of a dying server ends with the deadline."""
    with Listening(None) as web:
        assert_timeout(http_check(web.port), "waiting for the answer")


def test_a_server_that_does_not_even_accept_is_down() -> None:
    """Packets that vanish, as after a power cut: here a queue that is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as queue:
        for _ in range(2):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        assert_timeout(http_check(full.getsockname()[1]), "connecting")


def test_a_stopped_web_server_is_down(start_web: StartWeb) -> None:
    """SIGSTOP: the kernel goes on accepting, nobody answers."""
    web = start_web()
    assert isinstance(probe(http_check(web.port), LOOPBACK, 5), Up)
    web.silence()
    assert_timeout(http_check(web.port), "waiting for the answer")
    web.resume()
    assert isinstance(probe(http_check(web.port), LOOPBACK, 5), Up)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_headers_that_drip_are_cut_off(scheme: str) -> None:
    """Each byte would start a socket's timeout anew; the deadline is one for all."""
    # Over TLS the drip is a handshake record of 16 KiB that does not come to its end.
    content = b"HTTP/1.1 200 OK\r\n" if scheme == "http" else b"\x16\x03\x03\x40\x00\x02"
    with Listening(lambda connection: web.drip(connection, content + bytes(9999))) as web:
        check = HttpCheck(url=f"{scheme}://www.example.invalid:{web.port}/")
        assert_timeout(check, "waiting for the answer")


@pytest.mark.parametrize("length", [b"Content-Length: 9999\r\n", b""], ids=["length", "no length"])
def test_a_body_that_drips_is_cut_off(length: bytes) -> None:
    """A page whose end is the connection's is not complete because we cut the connection."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n%s\r\n" % length)
        web.drip(connection, bytes(9999))

    with Listening(answer) as web:
        assert_timeout(http_check(web.port), "reading the body")


# --- down at once ---------------------------------------------------------------------------


def resets(connection: socket.socket) -> None:
    """Close with a RST instead of a FIN."""
    linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"220 mail.example.invalid ESMTP\r\n"), "not http"),
        (says(b""), "connection closed"),
        (resets, "connection reset"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nwel"), "broken off"),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwel"), "broken off"),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nwel"), "not http"),
        (says(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n"), "not http"),
    ],
    ids=[
        "another protocol",
        "nothing",
        "reset",
        "short body",
        "short chunk",
        "negative chunk",
        "200 headers",
    ],
)
def test_half_an_answer_is_down(answer: Callable[[socket.socket], None], reason: str) -> None:
    """What comes instead of a page decides the reason."""
    with Listening(answer) as web:
        result = probe(http_check(web.port), LOOPBACK, 2)
    assert isinstance(result, Down)
    assert result.reason == reason
    assert result.detail


def test_a_closed_port_is_down_at_once() -> None:
    """Nothing listens: the kernel says so, nobody waits."""
    with Listening(None) as gone:
        pass
    result, seconds = timed(http_check(gone.port), 5)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == (
        "connection refused",
        "[Errno 111] Connection refused",
    )
    assert seconds < 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no route"),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), "no route"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "timeout"),
        (OSError(errno.EIO, "Input/output error"), "network error"),
        (OSError(errno.EMFILE, "Too many open files"), "out of resources"),
    ],
    ids=lambda value: value if isinstance(value, str) else errno.errorcode[value.errno],
)
def test_reasons_are_few(error: OSError, reason: str) -> None:
    """They are a label's values: what is rare shares one."""
    assert network_reason(error) == reason


@pytest.mark.parametrize("check", [TcpCheck(tcp=1), DnsCheck(dns="example.org", port=1)])
def test_a_want_of_descriptors_here_makes_nobody_down(
    check: TcpCheck | DnsCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no look at all."""

    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("exporter.line.socket.create_connection", none_left)
    monkeypatch.setattr("exporter.talk._connected", none_left)
    with pytest.raises(OutOfResourcesError):
        probe(check, LOOPBACK, 1)


def test_a_connection_that_nobody_can_watch_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, for example."""

    def no_more(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("exporter.line.threading.Timer.start", no_more)
    with Listening(None) as silent, pytest.raises(RuntimeError):
        probe(TcpCheck(tcp=silent.port), LOOPBACK, 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://.example.invalid/",
        "https://example..invalid:{}/",
        f"https://{'x' * 64}.invalid:{{}}/",
    ],
    ids=["a dot in front", "two dots", "a label of 64"],
)
def test_a_url_that_nobody_can_ask_for_is_down(url: str) -> None:
    """The fault is ours, and told as such, whatever the configuration has let pass."""
    with Listening(None) as web:
        check = HttpCheck.model_construct(url=url.format(web.port))
        result = probe(check, LOOPBACK, 2)
    assert isinstance(result, Down)
    assert result.reason == "unusable url"
    assert result.detail


# --- a page's text, and redirects -----------------------------------------------------------


def page(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def redirect(location: str) -> bytes:
    head = f"HTTP/1.1 301 Moved Permanently\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return head.encode()


@pytest.mark.parametrize(
    "body",
    [b"welcome", b"<h1>Be welcome!</h1>", bytes(65533) + b"welcome", b"caf\xe9 \xff welcome"],
    ids=["all of it", "amidst", "where two pieces meet", "in no known encoding"],
)
def test_a_page_with_the_text_is_up(body: bytes) -> None:
    """Wherever in it."""
    with Listening(says(page(body))) as web:
        check = HttpCheck(url=f"http://www.example.invalid:{web.port}/", contains="welcome")
        assert isinstance(probe(check, LOOPBACK, 5), Up)


def test_the_text_is_looked_for_in_utf_8() -> None:
    """As the configuration is written."""
    with Listening(says(page("Grüß Gott".encode()))) as web:
        check = HttpCheck(url=f"http://www.example.invalid:{web.port}/", contains="Grüß")
        assert isinstance(probe(check, LOOPBACK, 5), Up)


@pytest.mark.parametrize(
    ("body", "length"),
    [(b"Welcome", 7), (b"", 0), (bytes(2**20) + b"welcome", 2**20)],
    ids=["another case", "empty", "behind a MiB"],
)
def test_a_page_without_the_text_is_down(body: bytes, length: int) -> None:
    """An error page with status 200 is no page; of a long one the first MiB counts."""
    with Listening(says(page(body))) as web:
        check = HttpCheck(url=f"http://www.example.invalid:{web.port}/", contains="welcome")
        result = probe(check, LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "text missing"
    assert result.detail == f'"welcome" is not in the {length} bytes of the page'


def test_a_page_is_asked_for_as_it_is() -> None:
    """One that comes compressed all the same does not hold the text; the detail says why."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    body = gzip.compress(b"welcome", mtime=0)
    with Listening(says(head % len(body) + body)) as web:
        check = HttpCheck(url=f"http://www.example.invalid:{web.port}/", contains="welcome")
        result = probe(check, LOOPBACK, 5)
    assert b"\r\nAccept-Encoding: identity\r\n" in web.heard
    assert isinstance(result, Down)
    where = f"the {len(body)} bytes of the page, which came as gzip"
    assert result.detail == f'"welcome" is not in {where}'


@pytest.mark.parametrize("early", [b"103 Early Hints", b"102 Processing", b"100 Continue"])
def test_what_comes_before_an_answer_is_passed_over(early: bytes) -> None:
    """However often (RFC 9110, section 15.2)."""
    hints = b"HTTP/1.1 " + early + b"\r\nLink: </style.css>\r\n\r\n"
    with Listening(says(hints * 3 + OK)) as web:
        assert isinstance(probe(http_check(web.port), LOOPBACK, 5), Up)


@pytest.mark.parametrize("early", [b"103 Early Hints", b"100 Continue"])
def test_what_comes_before_an_answer_has_to_end(early: bytes) -> None:
    """Who sends such without end can do so faster than it is read, deadline or not."""

    def on_and_on(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 " + early + b"\r\n\r\n")

    with Listening(on_and_on) as web:
        result, seconds = timed(http_check(web.port), 5)
    assert isinstance(result, Down)
    assert result.reason == "not http"
    assert seconds < 5


def test_what_the_other_side_says_is_told_printable_and_short() -> None:
    """It could be somebody's terminal, and anybody's server."""
    steps: list[str] = []
    said = b"503 \x1b[2J\x07" + b"x" * 50_000
    with Listening(says(b"HTTP/1.1 " + said + b"\r\nContent-Length: 0\r\n\r\n")) as web:
        result = probe(http_check(web.port), LOOPBACK, 5, tell=steps.append)
    assert isinstance(result, Down)
    assert result.reason == "status 503"
    assert result.detail.startswith("503 \\x1b[2J\\x07xxx")
    assert result.detail.endswith("x…")
    for told in (result.detail, *steps):
        assert told.isprintable()
        assert len(told) < 400


def test_a_status_that_came_late_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is certain, whatever the clock says by then."""
    monkeypatch.setattr("exporter.line.Line.over", lambda its: its.stage != "connecting")
    with Listening(says(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")) as web:
        result = probe(http_check(web.port), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "status 503"


def test_a_redirect_is_not_followed_unasked() -> None:
    """It is down, and tells where it would have led."""
    with Listening(says(redirect("https://www.example.invalid/"))) as web:
        result = probe(http_check(web.port), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "status 301"
    assert result.detail == "301 Moved Permanently, to https://www.example.invalid/"


@pytest.mark.parametrize(
    ("location", "host"),
    [("/new", "www.example.invalid:{}"), ("http://other.example.invalid:{}/new", None)],
    ids=["on the same host", "to another name"],
)
def test_a_redirect_is_followed_where_asked_for(location: str, host: str | None) -> None:
    """To the same address, whatever the name: what another server serves is no sign of this one."""

    def answer(connection: socket.socket) -> None:
        again = b"GET /new " in web.heard
        connection.sendall(OK if again else redirect(location.format(web.port)))

    with Listening(answer) as web:
        url = f"http://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url, follow_redirects=True), LOOPBACK, 5)
        wanted = (host or "other.example.invalid:{}").format(web.port)
    assert isinstance(result, Up)
    assert f"GET /new HTTP/1.1\r\nHost: {wanted}\r\n".encode() in web.heard


def test_a_followed_redirect_has_to_end_well() -> None:
    """The last answer counts."""

    def answer(connection: socket.socket) -> None:
        again = b"GET /new " in web.heard
        gone = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(gone if again else redirect("/new"))

    with Listening(answer) as web:
        url = f"http://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url, follow_redirects=True), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "status 410"


def test_redirects_in_a_circle_are_left_after_ten() -> None:
    """Well before the deadline."""
    with Listening(says(redirect("/again"))) as web:
        url = f"http://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url, follow_redirects=True), LOOPBACK, 20)
        assert web.heard.count(b"GET ") == 11
    assert isinstance(result, Down)
    assert result.reason == "too many redirects"


def test_redirects_have_one_deadline() -> None:
    """Each is a connection of its own; when time is up none begins any more."""

    def slowly(connection: socket.socket) -> None:
        web.wait(0.2)
        connection.sendall(redirect("/again"))

    with Listening(slowly) as web:
        url = f"http://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url, follow_redirects=True), LOOPBACK, 0.5)
        assert web.heard.count(b"GET ") < 5
    assert isinstance(result, Down)
    assert result.reason == "timeout"
    assert 0.5 <= result.seconds < 0.5 + SLACK


def test_no_connection_begins_after_the_deadline() -> None:
    """As that of a redirect would, however quick the network."""
    with Listening(None) as silent, contextlib.ExitStack() as opened:
        late = line.Line(LOOPBACK, time.monotonic(), lambda _: None)
        opened.callback(late.close)
        with pytest.raises(TimeoutError):
            opened.enter_context(late.connect(silent.port))


def test_a_redirect_that_grows_is_left_before_it_eats_the_time() -> None:
    """To read a URL of a megabyte takes seconds, which no deadline cuts."""
    with Listening(says(redirect("%" * 60_000 + "/"))) as web:
        url = f"http://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url, follow_redirects=True), LOOPBACK, 5)
        assert web.heard.count(b"GET ") == 1
    assert isinstance(result, Down)
    assert result.reason == "unusable url"


@pytest.mark.parametrize("location", ["gopher://www.example.invalid/", "http://[", "https:///"])
def test_a_redirect_to_nowhere_is_down(location: str) -> None:
    """What can't be asked for is no answer."""
    with Listening(says(redirect(location))) as web:
        url = f"http://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url, follow_redirects=True), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "unusable url"


# --- TLS ------------------------------------------------------------------------------------


@contextlib.contextmanager
def tls_server(
    certificate: Path,
    key: Path,
    kind: type[Listening] = Listening,
    content: bytes = OK,
    answer: Callable[[socket.socket], None] | None = None,
) -> Iterator[tuple[Listening, list[str]]]:
    """A server with this certificate, and the server names that clients asked it for."""
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, name, __: names.append(name)

    class Wrapped(kind):  # type: ignore[misc, valid-type]
        def _serve(self, connection: socket.socket) -> None:
            with contextlib.suppress(OSError):  # it believes nothing of this, and leaves
                super()._serve(context.wrap_socket(connection, server_side=True))

    with Wrapped(answer or says(content)) as server:
        yield server, names


@pytest.mark.parametrize(
    ("ends", "host", "trusted", "reason"),
    [
        ("20990101000000Z", "www.example.invalid", True, None),
        ("20990101000000Z", "www.example.invalid", False, "certificate not trusted"),
        ("20990101000000Z", "example.invalid", True, "certificate for another name"),
        ("20200102000000Z", "www.example.invalid", True, "certificate expired"),
    ],
    ids=["good", "self-signed", "another name", "expired"],
)
def test_the_certificate_has_to_be_right(
    tmp_path: Path, ends: str, host: str, trusted: bool, reason: str | None
) -> None:
    """The URL's name is asked for in TLS and verified, though the address was given."""
    certificate, key = make_certificate(tmp_path, ends)
    trust = ssl.create_default_context(cafile=certificate) if trusted else None
    with tls_server(certificate, key) as (web, names):
        url = f"https://{host}:{web.port}/"
        result = probe(HttpCheck(url=url), LOOPBACK, 2, trust=trust)
        assert names == [host]
        assert bool(web.heard) == (reason is None)
    assert (result.reason if isinstance(result, Down) else None) == reason


def test_the_deadline_holds_behind_the_handshake(tmp_path: Path) -> None:
    """Headers that drip, one byte in each TLS record."""
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trust = ssl.create_default_context(cafile=certificate)

    def drip(connection: socket.socket) -> None:
        web.drip(connection, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9999)

    with tls_server(certificate, key, answer=drip) as (web, _):
        url = f"https://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url), LOOPBACK, 0.5, trust=trust)
    assert isinstance(result, Down)
    assert result.reason == "timeout"
    assert 0.5 <= result.seconds < 0.5 + SLACK


def test_by_default_certificates_and_names_are_verified() -> None:
    """By what the machine trusts, and by the list that comes with us."""
    context = line.trust()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    ours = ssl.create_default_context(cafile=certifi.where())
    theirs = {str(each) for each in context.get_ca_certs()}
    assert {str(each) for each in ours.get_ca_certs()} <= theirs


def test_an_authority_that_is_new_to_the_machine_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart: main's next certificate may be by one that came with an update."""
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(Path(certifi.where()).read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with tls_server(certificate, key) as (web, _):
        check = HttpCheck(url=f"https://www.example.invalid:{web.port}/")
        before = probe(check, LOOPBACK, 5)
        trusted.write_text(trusted.read_text() + certificate.read_text())
        after = probe(check, LOOPBACK, 5)
    assert isinstance(before, Down)
    assert before.reason == "certificate not trusted"
    assert isinstance(after, Up)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (9, "certificate not yet valid"),
        (20, "certificate not trusted"),
        (21, "certificate not trusted"),
        (64, "certificate for another name"),
        (23, "certificate"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_one_of_a_few(code: int, reason: str) -> None:
    """OpenSSL's numbers (X509_V_ERR_*); one that is rare, as revoked, is only a certificate's."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    assert explain(error)[0] == reason


def test_of_several_certificates_on_the_way_the_first_end_counts(tmp_path: Path) -> None:
    """A redirect is followed only while each of them is right."""
    (tmp_path / "soon").mkdir()
    (tmp_path / "late").mkdir()
    soon = make_certificate(tmp_path / "soon", "20900101000000Z")
    late = make_certificate(tmp_path / "late", "20990101000000Z")
    trust = ssl.create_default_context()
    for certificate, _ in (soon, late):
        trust.load_verify_locations(certificate)
    with tls_server(*late) as (second, _):
        onward = f"https://www.example.invalid:{second.port}/"
        with tls_server(*soon, content=redirect(onward)) as (first, _):
            url = f"https://www.example.invalid:{first.port}/"
            check = HttpCheck(url=url, follow_redirects=True)
            result = probe(check, LOOPBACK, 5, trust=trust)
    assert isinstance(result, Up)
    assert result.expiry == datetime(2090, 1, 1, tzinfo=UTC).timestamp()


def test_the_certificate_s_end_is_told_whatever_the_page(tmp_path: Path) -> None:
    """As long as the certificate is right, up or down."""
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trust = ssl.create_default_context(cafile=certificate)
    with tls_server(certificate, key) as (web, _):
        url = f"https://www.example.invalid:{web.port}/"
        up = probe(HttpCheck(url=url), LOOPBACK, 5, trust=trust)
        down = probe(HttpCheck(url=url, contains="shop"), LOOPBACK, 5, trust=trust)
    assert isinstance(up, Up)
    assert isinstance(down, Down)
    assert up.expiry == down.expiry == EXPIRY


def test_https_to_a_plain_web_server_is_down() -> None:
    """No TLS is no page."""
    with Listening(says(OK)) as web:
        url = f"https://www.example.invalid:{web.port}/"
        result = probe(HttpCheck(url=url), LOOPBACK, 2)
    assert isinstance(result, Down)
    assert result.reason == "tls"


# --- TCP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "banner"),
    [
        (b"", None),
        (b"220 mail.example.invalid ESMTP\r\n", "220 "),
        (b"* OK [CAPABILITY IMAP4rev1] ready\r\n", "* OK"),
        (b"220", "220"),
    ],
    ids=["a connection is enough", "SMTP", "IMAP", "not a byte more"],
)
def test_a_tcp_check_that_is_greeted_is_up(said: bytes, banner: str | None) -> None:
    """It says nothing itself."""
    with Greeting(says(said)) as mail:
        result = probe(TcpCheck(tcp=mail.port, banner=banner), LOOPBACK, 5)
    assert isinstance(result, Up)
    assert mail.heard == b""


def test_a_banner_in_pieces_is_one() -> None:
    """However slowly it comes, within the deadline."""
    with Greeting(lambda connection: mail.drip(connection, b"220 x\r\n")) as mail:
        assert isinstance(probe(TcpCheck(tcp=mail.port, banner="220 x"), LOOPBACK, 5), Up)


@pytest.mark.parametrize(
    ("said", "reason", "detail"),
    [
        (
            b"421 too busy\r\ncome again\r\n",
            "wrong banner",
            'it says "421 too busy", expected "220 "',
        ),
        (b"\xff\x00\r\n", "wrong banner", 'it says "\\xff\\x00", expected "220 "'),
        (b"\r\n220 ", "wrong banner", 'it says "", expected "220 "'),
        (b"4", "wrong banner", 'it says "4", expected "220 "'),
    ],
    ids=["busy", "no text", "an empty line first", "a byte that says it all"],
)
def test_another_banner_is_down(said: bytes, reason: str, detail: str) -> None:
    """At once: its first line says it all."""
    with Greeting(says(said)) as mail:
        result = probe(TcpCheck(tcp=mail.port, banner="220 "), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == (reason, detail)
    assert result.seconds < 3


def test_a_connection_that_ends_within_the_banner_is_down() -> None:
    """As with a server whose programs are not started yet, behind one that accepts for it."""

    def leave(connection: socket.socket) -> None:
        connection.sendall(b"22")
        connection.shutdown(socket.SHUT_WR)

    with Greeting(leave) as mail:
        result = probe(TcpCheck(tcp=mail.port, banner="220 "), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == (
        "connection closed",
        "after 2 bytes of a banner",
    )


def test_a_port_without_a_listener_is_down() -> None:
    """Refused, whatever it should have said."""
    result = probe(TcpCheck(tcp=free_port("127.0.0.1")), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "connection refused"


def test_a_banner_that_never_comes_is_a_timeout() -> None:
    """A program that hangs still accepts: the kernel does that for it."""
    with Greeting(None) as mail:
        result = probe(TcpCheck(tcp=mail.port, banner="220 "), LOOPBACK, 0.5)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == (
        "timeout",
        "nothing more within 0.5 s while waiting for the banner",
    )


@pytest.mark.parametrize(
    ("name", "trusted", "reason"),
    [
        ("www.example.invalid", True, None),
        ("imap.example.invalid", True, "certificate for another name"),
        ("www.example.invalid", False, "certificate not trusted"),
    ],
    ids=["good", "another name", "self-signed"],
)
def test_tls_on_tcp_is_verified_and_then_greets(
    tmp_path: Path, name: str, trusted: bool, reason: str | None
) -> None:
    """As IMAPS does: TLS from the first byte, by the name that the check gives."""
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trust = ssl.create_default_context(cafile=certificate) if trusted else None
    with tls_server(certificate, key, Greeting, b"* OK ready\r\n") as (imaps, names):
        check = TcpCheck(tcp=imaps.port, tls=name, banner="* OK")
        result = probe(check, LOOPBACK, 5, trust=trust)
    assert names == [name]
    assert (result.reason if isinstance(result, Down) else None) == reason
    assert result.expiry == (EXPIRY if reason is None else None)


def test_a_banner_that_drips_over_tls_is_cut_off(tmp_path: Path) -> None:
    """One byte in each TLS record, and never enough of them."""
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trust = ssl.create_default_context(cafile=certificate)

    def drip(connection: socket.socket) -> None:
        imaps.drip(connection, b"x" * 9999)

    with tls_server(certificate, key, Greeting, answer=drip) as (imaps, _):
        check = TcpCheck(tcp=imaps.port, tls="www.example.invalid", banner="x" * 9999)
        result = probe(check, LOOPBACK, 0.5, trust=trust)
    assert isinstance(result, Down)
    assert result.reason == "timeout"
    assert 0.5 <= result.seconds < 0.5 + SLACK


def test_tls_to_a_plain_server_is_down() -> None:
    """What it says is no TLS."""
    with Greeting(says(b"220 mail.example.invalid ESMTP\r\n")) as mail:
        result = probe(TcpCheck(tcp=mail.port, tls="www.example.invalid"), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "tls"


def test_tls_that_never_begins_is_a_timeout() -> None:
    """The handshake is under the same deadline."""
    with Listening(None) as silent:
        result = probe(TcpCheck(tcp=silent.port, tls="www.example.invalid"), LOOPBACK, 0.5)
    assert isinstance(result, Down)
    assert result.reason == "timeout"
    assert 0.5 <= result.seconds < 0.5 + SLACK


# --- DNS ------------------------------------------------------------------------------------


def test_a_nameserver_with_the_zone_is_up(start_nsd: StartNsd) -> None:
    """It serves the zone's SOA, with authority."""
    nsd = start_nsd({"example.org": 2026010101})
    assert isinstance(probe(DnsCheck(dns="example.org", port=nsd.port), LOOPBACK, 5), Up)


def test_a_nameserver_without_the_zone_is_down(start_nsd: StartNsd) -> None:
    """An answer, but not the one that counts."""
    nsd = start_nsd({"example.org": 2026010101})
    result = probe(DnsCheck(dns="example.net", port=nsd.port), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == ("REFUSED", "no SOA of example.net: REFUSED")


def test_a_resolver_s_answer_is_none() -> None:
    """Whoever has it from somewhere else does not serve the zone."""

    def resolver(_: Responder, question: dns.message.Message) -> list[bytes]:
        reply = dns.message.make_response(question)
        soa = "example.org. 60 IN SOA ns1.example.org. owner.example.org. 1 2 3 4 5"
        reply.answer.append(dns.rrset.from_text(*soa.split(" ", 4)))
        return [reply.to_wire()]

    with Responder(resolver) as responder:
        result = probe(DnsCheck(dns="example.org", port=responder.nameserver.port), LOOPBACK, 5)
    assert isinstance(result, Down)
    assert result.reason == "not authoritative"


def test_a_silent_nameserver_is_a_timeout() -> None:
    """After several tries: one lost packet is no dead server."""
    with Responder(says_nothing) as responder:
        check = DnsCheck(dns="example.org", port=responder.nameserver.port)
        result = probe(check, LOOPBACK, 0.5)
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == (
        "timeout",
        "nothing more within 0.5 s while waiting for the answer",
    )
    assert 0.5 <= result.seconds < 0.5 + SLACK
    assert len(responder.asked) == 3


def test_a_truncated_answer_that_comes_late_has_no_time_of_its_own() -> None:
    """It is asked for again over TCP, where nobody says anything, until the one deadline."""

    def late(responder: Responder, question: dns.message.Message) -> list[bytes]:
        if len(responder.asked) < 3:
            return []
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.TC
        return [reply.to_wire()]

    with Responder(late) as responder:
        port = responder.nameserver.port
        with socket.create_server(("127.0.0.1", port)):
            result = probe(DnsCheck(dns="example.org", port=port), LOOPBACK, 1.5)
    assert isinstance(result, Down)
    assert result.reason == "timeout"
    assert 1.5 <= result.seconds < 2.3


# --- the steps, for a person ----------------------------------------------------------------


def test_each_step_is_told_as_it_happens(tmp_path: Path) -> None:
    """What was asked, what came of it, and what it comes to."""
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trust = ssl.create_default_context(cafile=certificate)
    steps: list[str] = []
    with tls_server(certificate, key) as (web, _):
        url = f"https://www.example.invalid:{web.port}/"
        check = HttpCheck(url=url, contains="shop")
        probe(check, LOOPBACK, 5, trust=trust, tell=steps.append)
    assert steps == [
        f"connecting to 127.0.0.1, port {web.port}",
        "connected",
        "TLSv1.3, with a certificate that holds until 2099-01-01 00:00:00Z",
        f"GET {url} was answered 200 OK",
        "read 7 bytes of its body",
        'down, text missing: "shop" is not in the 7 bytes of the page',
    ]


def test_a_look_tells_of_which_check_at_which_address(start_nsd: StartNsd) -> None:
    """They run side by side, so each step says whose it is."""
    nsd = start_nsd({"example.org": 2026010101})
    steps: list[tuple[str, Address, str]] = []
    with Greeting(says(b"220 x\r\n")) as mail:
        checks = {
            "dns": DnsCheck(dns="example.org", port=nsd.port),
            "mail": TcpCheck(tcp=mail.port, banner="220 "),
        }
        server = Server(addresses=("127.0.0.1",), checks=checks)
        look(server, 5, tell=lambda *step: steps.append(step))
    by_check = {name: [what for its, _, what in steps if its == name] for name in checks}
    assert by_check == {
        "dns": [
            f"asking 127.0.0.1, port {nsd.port}, for the SOA of example.org",
            "it serves 2026010101",
            "up",
        ],
        "mail": [
            f"connecting to 127.0.0.1, port {mail.port}",
            "connected",
            'it says "220 x"',
            "up",
        ],
    }


# --- a server: all its checks ---------------------------------------------------------------


def test_reading_whom_to_trust_costs_no_server_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second in a fresh process on a busy machine: the server was held for down."""
    waits = threading.Event()

    def slow() -> ssl.SSLContext:
        waits.wait(1.0)
        return ssl.create_default_context()

    monkeypatch.setattr("exporter.line.trust", slow)
    with Listening(says(OK)) as web:
        assert isinstance(probe(http_check(web.port), LOOPBACK, 0.9), Up)


def test_all_checks_at_all_addresses_share_the_deadline() -> None:
    """Four silences take as long as one, and leave the check behind them its time."""
    everywhere = "0.0.0.0"  # noqa: S104  both addresses, with the same port
    with Listening(None, everywhere) as silent, Listening(says(OK), everywhere) as web:
        checks = {
            "mail": http_check(silent.port),
            "shop": http_check(silent.port),
            "web": http_check(web.port),
        }
        server = Server(addresses=("192.0.2.1",), look_at=("127.0.0.1", "127.0.0.2"), checks=checks)
        started = time.monotonic()
        looked = look(server, 3.0)
        seconds = time.monotonic() - started
    other = ip_address("127.0.0.2")
    assert {place: type(result) for place, result in looked.items()} == {
        ("mail", LOOPBACK): Down,
        ("shop", LOOPBACK): Down,
        ("web", LOOPBACK): Up,
        ("mail", other): Down,
        ("shop", other): Down,
        ("web", other): Up,
    }
    assert 3.0 <= seconds < 3.0 + SLACK


def test_a_server_without_checks_has_the_default_page() -> None:
    """GET /index.html at its address, on port 80."""
    server = Server(addresses=("127.0.0.1",))
    assert list(look(server, 1)) == [("web", LOOPBACK)]


@pytest.mark.parametrize(
    ("first", "second", "other_address", "verdict"),
    [
        (Up(0.1), Up(0.2), Up(0.3), Up(0.2)),
        (Up(0.1), Up(0.2), Down("timeout", "…", 1), Up(0.2)),
        (Up(0.1), Down("status 503", "…", 1), Up(0.3), Down("mail: status 503", "…", 1)),
        (Down("tls", "…", 1), Down("timeout", "…", 2), Up(0.3), Down("web: tls", "…", 1)),
    ],
    ids=["all up", "another address is down", "one check is down", "both checks are down"],
)
def test_the_first_address_judges(
    first: Up | Down, second: Up | Down, other_address: Up | Down, verdict: Up | Down
) -> None:
    """Every check has to be up there; the reason says which one is not."""
    checks = {"web": http_check(80), "mail": http_check(81)}
    server = Server(addresses=("127.0.0.1", "::1"), checks=checks)
    looked = {
        ("web", LOOPBACK): first,
        ("mail", LOOPBACK): second,
        ("web", IPv6Address("::1")): other_address,
        ("mail", IPv6Address("::1")): other_address,
    }
    assert judge(server, looked) == verdict


def test_a_check_that_is_not_required_makes_nothing_down() -> None:
    """It is looked at all the same; the first that is required is the reason."""
    checks = {
        "news": HttpCheck(url="http://www.example.invalid/", required=False),
        "web": http_check(80),
    }
    server = Server(addresses=("127.0.0.1",), checks=checks)
    down = Down("status 503", "…", 1)
    assert judge(server, {("news", LOOPBACK): down, ("web", LOOPBACK): Up(0.2)}) == Up(0.2)
    both = judge(server, {("news", LOOPBACK): Down("tls", "…", 2), ("web", LOOPBACK): down})
    assert both == Down("web: status 503", "…", 1)
    assert list(server.judged.checks_at(LOOPBACK)) == ["web"]


# --- references -----------------------------------------------------------------------------


def web_reference(port: int, scheme: Literal["http", "https"] = "http") -> Reference:
    return Reference(scheme, LOOPBACK, port, f"{scheme}://127.0.0.1:{port}/")


def assert_silence(reference: Reference, stage: str) -> None:
    """The one deadline held, as for a check."""
    started = time.monotonic()
    result = ask_reference(reference, 0.5)
    seconds = time.monotonic() - started
    assert isinstance(result, Down)
    assert (result.reason, result.detail) == ("timeout", f"nothing more within 0.5 s while {stage}")
    assert 0.5 <= result.seconds <= seconds < 0.5 + SLACK


def refuses(_: Responder, question: dns.message.Message) -> list[bytes]:
    """What a nameserver says that does not know the zone."""
    reply = dns.message.make_response(question)
    reply.set_rcode(dns.rcode.REFUSED)
    return [reply.to_wire()]


def says_nothing(_: Responder, __: dns.message.Message) -> list[bytes]:
    """Nothing."""
    return []


def at(responder: Responder) -> Reference:
    """The reference that it is."""
    return Reference("dns", LOOPBACK, responder.nameserver.port)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_tcp_reference_answers_by_being_connected(address: str) -> None:
    """Not a word need be said."""
    with Listening(None, address) as silent:
        result = ask_reference(Reference("tcp", ip_address(address), silent.port), 5)
    assert isinstance(result, Up)
    assert 0 < result.seconds < 3


def test_a_tcp_reference_that_does_not_accept_is_silent() -> None:
    """Packets that vanish: what a dead line looks like."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as queue:
        for _ in range(2):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        assert_silence(Reference("tcp", LOOPBACK, full.getsockname()[1]), "connecting")


@pytest.mark.parametrize(
    "status", ["200 OK", "301 Moved Permanently", "404 Not Found", "503 Service Unavailable"]
)
def test_any_status_is_a_web_reference_s_answer(status: str) -> None:
    """Whatever it thinks of the question: the line to it works. It is asked for its own URL."""
    head = f"HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/\r\n\r\n"
    with Listening(pours(head.encode())) as web:
        started = time.monotonic()
        result = ask_reference(web_reference(web.port), 5)
        assert time.monotonic() - started < 3  # of an endless body nothing is read
        assert web.heard.startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % web.port)
    assert isinstance(result, Up)


def test_a_web_reference_without_a_status_is_down() -> None:
    """It was connected to, and that is not what it was chosen for."""
    with Listening(says(b"220 mail.example.invalid ESMTP\r\n")) as mail:
        result = ask_reference(web_reference(mail.port), 2)
    assert isinstance(result, Down)
    assert result.reason == "not http"


def test_a_web_reference_that_drips_is_cut_off() -> None:
    """Headers that never end are no answer, however lively."""
    content = b"HTTP/1.1 200 OK\r\n" + bytes(9999)
    with Listening(lambda connection: web.drip(connection, content)) as web:
        assert_silence(web_reference(web.port), "waiting for the answer")


@pytest.mark.parametrize(
    ("trusted", "reason"), [(True, None), (False, "certificate not trusted")], ids=["good", "own"]
)
def test_a_web_reference_s_certificate_has_to_be_right(
    tmp_path: Path, trusted: bool, reason: str | None
) -> None:
    """Or a box on our own side of the line could answer in its name."""
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trust = ssl.create_default_context(cafile=certificate) if trusted else None
    with tls_server(certificate, key) as (web, _):
        result = ask_reference(web_reference(web.port, "https"), 2, trust=trust)
    assert (result.reason if isinstance(result, Down) else None) == reason


def test_a_real_nameserver_s_refusal_is_an_answer(start_nsd: StartNsd) -> None:
    """NSD knows nothing of the root, and says so."""
    nsd = start_nsd({})
    assert isinstance(ask_reference(Reference("dns", nsd.address, nsd.port), 5), Up)


def test_a_dns_reference_is_asked_for_the_root() -> None:
    """Any nameserver knows it or refuses it; nobody is asked to find something out for us."""
    with Responder(refuses) as responder:
        assert isinstance(ask_reference(at(responder), 5), Up)
    (asked,) = responder.asked
    assert (asked.question[0].name, asked.question[0].rdtype) == (
        dns.name.root,
        dns.rdatatype.SOA,
    )
    assert not asked.flags & dns.flags.RD


def test_a_lost_packet_is_no_dead_line() -> None:
    """The question is asked again well before the deadline."""

    def second_time(responder: Responder, question: dns.message.Message) -> list[bytes]:
        return refuses(responder, question) if len(responder.asked) > 1 else []

    with Responder(second_time) as responder:
        started = time.monotonic()
        result = ask_reference(at(responder), 1.5)
        seconds = time.monotonic() - started
    assert isinstance(result, Up)
    assert 0.5 <= seconds < 0.5 + SLACK


def test_a_silent_dns_reference_is_a_timeout_after_several_tries() -> None:
    """And no longer than the deadline."""
    with Responder(says_nothing) as responder:
        assert_silence(at(responder), "waiting for the answer")
    assert len(responder.asked) == 3


def test_a_stream_of_nonsense_is_no_reply() -> None:
    """Another id, the question itself, a scrap: passed over, and the deadline is kept."""

    def nonsense(responder: Responder, question: dns.message.Message) -> list[bytes]:
        (right,) = refuses(responder, question)
        other_id = (int.from_bytes(right[:2]) ^ 1).to_bytes(2) + right[2:]
        return [other_id, question.to_wire(), right[:5], b"\0"] * 10

    with Responder(nonsense) as responder:
        assert_silence(at(responder), "waiting for the answer")
    assert len(responder.asked) == 3  # nonsense is no reason to ask more often


def test_references_that_are_closed_say_so_at_once() -> None:
    """Over UDP too: the kernel knows, nobody waits."""
    port = free_port("127.0.0.1")
    everyone = (Reference("tcp", LOOPBACK, port), Reference("dns", LOOPBACK, port))
    for reference in (*everyone, web_reference(port)):
        started = time.monotonic()
        result = ask_reference(reference, 5)
        assert time.monotonic() - started < 3
        assert isinstance(result, Down)
        assert result.reason == "connection refused"
