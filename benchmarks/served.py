"""Sees from when on a nameserver serves every zone with a serial, without getting in its way.

Owns questions for SOAs and the reading of their answers: a measure of its own, not the code that is
measured, and quick, for there may be ten thousand zones.
"""

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import dns.flags
import dns.message
import dns.rdatatype

# Between two questions for a zone that is not there yet; also the precision of what is measured.
_LOOK_SECONDS = 0.01
_ANSWER_SECONDS = 0.5
# So many questions at once while the answers are the awaited ones: they fit into the socket.
_AT_ONCE = 50

_HEADER_BYTES = 12
_TO_LENGTH = 10  # from a record's start, its owner being two bytes, to its data's length
_SERIAL_FROM_END = 20  # of the SOA's data: five numbers of four bytes, the serial first


def questions(zones: Sequence[str]) -> list[bytes]:
    """For the SOA of each zone; the id is the zone's place in the sequence."""
    return [
        dns.message.make_query(zone, dns.rdatatype.SOA, id=number, flags=0).to_wire()
        for number, zone in enumerate(zones)
    ]


class Served:
    """One nameserver, asked for one zone after the other until each has the serial.

    The last zone comes first: it is waited for longest, mostly, and spares the others the asking.
    """

    def __init__(self, address: str, port: int, asked: Sequence[bytes], serial: int) -> None:
        self._serial = serial
        self._missing = {number: asked[number] for number in reversed(range(len(asked)))}
        self._at_once = 1
        self._since: float | None = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((address, port))
        self._socket.settimeout(_ANSWER_SECONDS)

    @property
    def since(self) -> float | None:
        """When it began to answer with nothing but the serial (monotonic); None: not all yet."""
        return None if self._missing else self._since

    def look(self) -> None:
        """Ask for those that were not there until one is not, or all are."""
        while self._missing and self._ask(dict(islice(self._missing.items(), self._at_once))):
            self._at_once = _AT_ONCE

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _ask(self, asked: Mapping[int, bytes]) -> bool:
        """Whether all of these are there."""
        for wire in asked.values():
            self._socket.send(wire)
        waiting = set(asked)
        while waiting:
            try:
                answer = self._socket.recv(4096)
            except OSError:  # silence, or nobody there
                break
            number = int.from_bytes(answer[:2])
            if number not in waiting:
                continue  # late: it was asked for again meanwhile
            waiting.discard(number)
            if _serial(asked[number], answer) == self._serial:
                del self._missing[number]
                self._since = self._since or time.monotonic()
        if asked.keys() & self._missing.keys():
            self._since, self._at_once = None, 1
            return False
        return True


def _serial(question: bytes, answer: bytes) -> int | None:
    """The serial of an SOA that was answered with authority, as the first record; None if none."""
    flags = int.from_bytes(answer[2:4])
    if not flags & dns.flags.AA or flags & 0xF:  # the lowest four bits are the reply's code
        return None
    if answer[_HEADER_BYTES : len(question)] != question[_HEADER_BYTES:]:
        raise ValueError(f"another question is answered: {answer!r}")
    at = len(question) + _TO_LENGTH
    end = at + 2 + int.from_bytes(answer[at : at + 2])
    return int.from_bytes(answer[end - _SERIAL_FROM_END : end - _SERIAL_FROM_END + 4])


def since(
    nameservers: Mapping[str, tuple[str, int]], asked: Sequence[bytes], serial: int, timeout: float
) -> dict[str, float]:
    """When each nameserver began to serve all zones with this serial (monotonic seconds).

    That is when the last answer with another serial, or none, was followed by the first with this
    one, on the way through all zones: late by no more than the wait between two questions, early by
    no more than the rest of that way took, some 30 microseconds a zone. One that does not within
    `timeout` seconds is absent. Each is asked by a thread of its own: none waits for another's way.
    """
    deadline = time.monotonic() + timeout
    over = threading.Event()

    def watch(where: tuple[str, int]) -> float | None:
        with closing(Served(*where, asked, serial)) as its:
            while its.since is None and time.monotonic() < deadline and not over.is_set():
                its.look()
                over.wait(_LOOK_SECONDS)
            return its.since

    with ThreadPoolExecutor(len(nameservers)) as pool:
        try:
            reached = list(pool.map(watch, nameservers.values()))
        finally:
            over.set()  # when we are interrupted, the threads are to end too
    return {name: at for name, at in zip(nameservers, reached, strict=True) if at is not None}
