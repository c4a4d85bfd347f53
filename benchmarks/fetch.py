"""Asks an exporter for many pages as Prometheus does: over HTTP, many at once, none waits its turn.

Owns HTTP by hand, for a client library would take longer for a request than the exporter does.
Connections are kept, and used again where the other side keeps them too.
"""

import gzip
import re
import selectors
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

# What Prometheus 2.42 sends.
_REQUEST = """\
GET {path} HTTP/1.1\r
Host: {host}\r
User-Agent: Prometheus/2.42.0\r
Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r
Accept-Encoding: gzip\r
X-Prometheus-Scrape-Timeout-Seconds: {timeout:g}\r
\r
"""
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\nTransfer-Encoding: chunked", re.IGNORECASE)
_GZIP = re.compile(rb"\r\nContent-Encoding: gzip", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"

_PIECE = 2**18


@dataclass
class Answer:
    """What has come so far of an answer."""

    came: bytearray = field(default_factory=bytearray)
    head: bytes = b""
    length: int | None = None  # of the body, where it is said

    def complete(self) -> bool:
        """Whether all of it has come; where the other side closes to say so, that is not seen."""
        if not self.head:
            head, end, body = self.came.partition(b"\r\n\r\n")
            if not end:
                return False
            self.head, self.came = bytes(head), body
            said = _LENGTH.search(self.head)
            self.length = int(said[1]) if said else None
        if self.length is not None:
            return len(self.came) >= self.length
        return bool(_CHUNKED.search(self.head)) and self.came.endswith(_LAST_CHUNK)

    def text(self) -> str:
        """The body, as it was before it was packed; ValueError if the status is not 200."""
        if self.head.split(maxsplit=2)[1] != b"200":
            raise ValueError(f"{self.head!r}: {bytes(self.came)!r}")
        body = _joined(bytes(self.came)) if _CHUNKED.search(self.head) else bytes(self.came)
        return (gzip.decompress(body) if _GZIP.search(self.head) else body).decode()


class Client:
    """One who asks one exporter, with so many connections at the most."""

    def __init__(self, address: str, port: int, connections: int) -> None:
        self._where = address, port
        self._connections = connections
        self._idle: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Nothing is open yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open."""
        for connection in self._idle:
            connection.close()

    def get(self, paths: Sequence[str], timeout: float) -> list[Answer]:
        """Ask for all of them; the answers come in the same order.

        `timeout`: the seconds that the exporter is told. TimeoutError when nothing has come for
        three times as long.
        """
        host = f"{self._where[0]}:{self._where[1]}"
        requests = [
            _REQUEST.format(path=path, host=host, timeout=timeout).encode() for path in paths
        ]
        answers = [Answer() for _ in paths]
        waiting = iter(range(len(paths)))
        with selectors.DefaultSelector() as selector:

            def ask_next(connection: socket.socket | None) -> None:
                place = next(waiting, None)
                if place is None:
                    if connection:
                        self._idle.append(connection)
                    return
                connection = connection or self._connected()
                connection.send(requests[place])
                selector.register(connection, selectors.EVENT_READ, place)

            for _ in range(min(self._connections, len(paths))):
                ask_next(self._idle.pop() if self._idle else None)
            while selector.get_map():
                ready = selector.select(3 * timeout)
                if not ready:
                    raise TimeoutError(f"{len(selector.get_map())} requests are not answered")
                for key, _ in ready:
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)  # noqa: S101 - for the type checker
                    piece = connection.recv(_PIECE)
                    answers[key.data].came += piece
                    if answers[key.data].complete() and not _closes(answers[key.data].head):
                        selector.unregister(connection)
                        ask_next(connection)
                    elif not piece:
                        selector.unregister(connection)
                        connection.close()
                        ask_next(None)
        return answers

    def _connected(self) -> socket.socket:
        connected = socket.create_connection(self._where)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected


def _closes(head: bytes) -> bool:
    return head.startswith(b"HTTP/1.0") or b"connection: close" in head.lower()


def _joined(chunks: bytes) -> bytes:
    """The body of its chunks (RFC 9112, section 7.1)."""
    body, rest = b"", chunks
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            return body
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
