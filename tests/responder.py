"""A nameserver of our own, for what no good nameserver does."""

import contextlib
import socket
import threading
from collections.abc import Callable

import dns.message
import dns.tsig
from conftest import free_port

from exporter.config import Nameserver


class Responder:
    """A nameserver on UDP; the test says which datagrams answer a question.

    Signed questions are for one that has their key.
    """

    def __init__(
        self,
        answer: Callable[["Responder", dns.message.Message], list[bytes]],
        key: dns.tsig.Key | None = None,
    ) -> None:
        self.asked: list[dns.message.Message] = []
        self._answer = answer
        self._key = key
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.nameserver = Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))
        self._socket.bind(("127.0.0.1", self.nameserver.port))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Responder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            wire, client = self._socket.recvfrom(65536)
            if not wire:
                return
            self.asked.append(dns.message.from_wire(wire, keyring=self._key))
            for reply in self._answer(self, self.asked[-1]):
                with contextlib.suppress(OSError):  # it has left
                    self._socket.sendto(reply, client)
