"""All that is asked of one nameserver at a time: over UDP, on one socket, many questions at once.

Owns the pace, sending again, giving up, to which question a datagram may be the answer (by its id),
and TCP for answers that come truncated. Leaves to whoever asks what the questions are and what is
read of the answers. There is no task for a question: ten thousand of them are cheap.
"""

import asyncio
import contextlib
import math
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import dns.flags

from exporter.config import Nameserver
from exporter.reasons import network_reason

# A lost packet, or one that the nameserver's rate limit dropped, costs a resend, not the answer.
TRIES = 3
# The length of a message's header (RFC 1035, section 4.1.1): an answer has at least that.
HEADER = 12

# So many questions wait for their answers at once: two who ask fit into a small server's socket.
_IN_FLIGHT = 100
# When nothing has come for these seconds, the questions on their way hold up the others no more.
_SOON = 0.1
# So often it is looked whether it is enough, in seconds.
_LOOK_SECONDS = 0.05
# Who comes back so much later was held up: the machine was suspended, or its disk stalled.
_HELD_UP_SECONDS = 0.25
# Connections at once, for answers that came truncated (as from a nameserver's rate limit).
_CONNECTIONS = 10

_T = TypeVar("_T")


def never() -> bool:
    """Say that it is not enough before all is answered."""
    return False


# What an answer says, or why it says nothing; None if it is none to this question.
Read = Callable[[bytes], _T | str | None]
# A question in wire form, and what reads its answer.
Asked = tuple[bytes, Read[_T]]


@dataclass(slots=True)
class _Question(Generic[_T]):
    """A question, the place of its answer, and when it was sent last, how often."""

    place: int
    number: int  # its id
    wire: bytes
    read: Read[_T]
    sent: float = 0
    tries: int = 0


class Talk(Generic[_T]):
    """Ask one nameserver so many questions; each is made only when it is its turn.

    It is over when all is answered, soon after it is `enough`, or when nothing has come for
    `patience` seconds: so a dead nameserver costs the patience once, and a slow one is asked as
    fast as it answers. Of a silence as long as the patience, each third (with three `tries`) sends
    again what is unanswered.
    """

    def __init__(  # noqa: PLR0913
        self,
        nameserver: Nameserver,
        questions: Iterator[Asked[_T]],
        number: int,
        patience: float,
        *,
        enough: Callable[[], bool] = never,
        tries: int = TRIES,
    ) -> None:
        self._nameserver = nameserver
        self._fresh = (
            _Question(place, int.from_bytes(wire[:2]), wire, read)
            for place, (wire, read) in enumerate(questions)
        )
        self._answers: list[_T | str | None] = [None] * number
        self._left = number
        self._patience = patience
        self._enough = enough
        self._tries = tries
        self._open: dict[int, _Question[_T]] = {}  # without an answer yet, by id
        self._awaited: set[int] = set()  # the ids of those that hold up the others
        self._held: deque[_Question[_T]] = deque()  # not to be sent: one of their id is open
        self._again: deque[_Question[_T]] = deque()  # in the order sent; some are answered since
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._over_tcp: set[asyncio.Task[None]] = set()

    async def run(self) -> list[_T | str]:
        """Each question's answer, or why there is none, in the order of the questions."""
        reason = await self._until_over() if self._left else ""
        return [reason if answer is None else answer for answer in self._answers]

    async def _until_over(self) -> str:
        """Ask; the reason why what is not answered then never will be."""
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[str] = self._loop.create_future()
        self._heard = self._moved = self._ticked = self._loop.time()
        try:
            self._socket = _connected(self._nameserver)
        except OSError as error:
            return network_reason(error)
        with self._socket:
            self._loop.add_reader(self._socket, self._guard, self._receive)
            self._timer = self._loop.call_soon(self._guard, self._tick)
            try:
                return await self._over
            finally:
                self._timer.cancel()
                self._loop.remove_reader(self._socket)
                for task in self._over_tcp:
                    task.cancel()
                await asyncio.gather(*self._over_tcp, return_exceptions=True)

    # The event loop calls these.

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:  # a closed port, or no way there: that holds for every question
            self._end(network_reason(error))
        except Exception as error:  # noqa: BLE001  it is for whoever waits for the answers
            if not self._over.done():
                self._over.set_exception(error)

    def _receive(self) -> None:
        for _ in range(_IN_FLIGHT):  # then it is another nameserver's turn
            try:
                data = self._socket.recv(2**16)
            except BlockingIOError:
                break
            self._take(data)
        self._fill()

    def _tick(self) -> None:
        """Do what is due, and come back for what is due next."""
        now = self._loop.time()
        if now > self._ticked + _LOOK_SECONDS + _HELD_UP_SECONDS:
            self._pass_over(now)
        self._ticked = now
        if now >= self._heard + self._patience or self._enough():
            self._end("timeout")
            return
        if now >= self._moved + _SOON:
            self._moved = now
            self._awaited.clear()
        while (oldest := self._oldest()) and now >= self._late(oldest):
            self._send(self._again.popleft())
        self._fill()
        self._timer = self._loop.call_at(self._due(), self._guard, self._tick)

    def _pass_over(self, now: float) -> None:
        """Count no silence while we were held up: nobody could be heard then."""
        seconds = now - self._ticked - _LOOK_SECONDS
        self._heard = min(now, self._heard + seconds)
        self._moved = min(now, self._moved + seconds)

    def _due(self) -> float:
        # Whatever comes in until then puts this off: nothing is due earlier for it.
        oldest = self._oldest()
        return min(
            self._heard + self._patience,
            self._loop.time() + _LOOK_SECONDS,
            self._moved + _SOON if len(self._awaited) >= _IN_FLIGHT else math.inf,
            self._late(oldest) if oldest else math.inf,
        )

    def _oldest(self) -> _Question[_T] | None:
        """The question that is to be sent again first."""
        while self._again and self._open.get(self._again[0].number) is not self._again[0]:
            self._again.popleft()
        return self._again[0] if self._again else None

    def _late(self, asked: _Question[_T]) -> float:
        # Not while answers come: its own may be on its way behind them.
        return max(asked.sent, self._heard) + self._patience / self._tries

    # What goes out.

    def _fill(self) -> None:
        while len(self._awaited) < _IN_FLIGHT and (asked := self._next()):
            self._send(asked)

    def _next(self) -> _Question[_T] | None:
        for _ in range(len(self._held)):
            asked = self._held.popleft()
            if asked.number not in self._open:
                return asked
            self._held.append(asked)
        for asked in self._fresh:
            if asked.number not in self._open:
                return asked
            self._held.append(asked)
        return None

    def _send(self, asked: _Question[_T]) -> None:
        asked.sent = self._loop.time()
        asked.tries += 1
        self._open[asked.number] = asked
        self._awaited.add(asked.number)
        if asked.tries < self._tries:
            self._again.append(asked)
        with contextlib.suppress(BlockingIOError):  # our own buffer is full: as good as lost
            self._socket.send(asked.wire)

    # What comes in.

    def _take(self, data: bytes) -> None:
        asked = self._open.get(int.from_bytes(data[:2]))
        if asked is None or len(data) < HEADER:
            return
        if _is_truncated(data):
            task = self._loop.create_task(self._ask_over_tcp(asked))
            self._over_tcp.add(task)
            task.add_done_callback(self._over_tcp.discard)
        else:
            answer = asked.read(data)
            if answer is None:
                return
            self._settle(asked, answer)
        del self._open[asked.number]
        self._awaited.discard(asked.number)
        self._hear()

    async def _ask_over_tcp(self, asked: _Question[_T]) -> None:
        try:
            async with self._connections, asyncio.timeout(self._patience):
                data = await _tcp(self._nameserver, asked.wire)
        except TimeoutError:
            self._settle(asked, "timeout")
            return  # nothing was heard
        except asyncio.IncompleteReadError:
            answer: _T | str | None = "connection closed"
        except OSError as error:
            answer = network_reason(error)
        else:
            answer = asked.read(data) if len(data) >= HEADER else None
        self._settle(asked, "malformed" if answer is None else answer)
        self._hear()

    def _hear(self) -> None:
        self._heard = self._moved = self._loop.time()

    def _settle(self, asked: _Question[_T], answer: _T | str) -> None:
        self._answers[asked.place] = answer
        self._left -= 1
        if not self._left:
            self._end("")

    def _end(self, reason: str) -> None:
        if not self._over.done():
            self._over.set_result(reason)


def _connected(nameserver: Nameserver) -> socket.socket:
    """A socket to which nobody else's datagrams come."""
    (family, kind, _, _, place), *_ = socket.getaddrinfo(
        str(nameserver.address),
        nameserver.port,
        type=socket.SOCK_DGRAM,
        flags=socket.AI_NUMERICHOST,
    )
    connected = socket.socket(family, kind)
    try:
        connected.setblocking(False)
        connected.connect(place)
    except OSError:
        connected.close()
        raise
    return connected


async def _tcp(nameserver: Nameserver, wire: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(str(nameserver.address), nameserver.port)
    try:
        writer.write(len(wire).to_bytes(2) + wire)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    finally:
        writer.close()


_CUT_OFF = int(dns.flags.QR | dns.flags.TC)


def _is_truncated(data: bytes) -> bool:
    # Told from the flags alone: what was cut off need not parse.
    return int.from_bytes(data[2:4]) & _CUT_OFF == _CUT_OFF
