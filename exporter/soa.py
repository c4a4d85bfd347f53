"""Questions to nameservers over UDP, many at once on one socket, matched by message id.

Owns asking for the SOAs of zones, and for the addresses beside them that tell where a zone points,
what counts as an answer, and the exchange of any message for its reply. Leaves to others whom to
ask for what, and what a serial or an address means.

Made for ten thousand zones: a question is bytes, there is no task for it, and of an answer no more
is read than is wanted. dnspython reads what isn't the usual answer, whatever is signed, and names.

Every function blocks until all is answered or given up, and runs an event loop of its own: call it
from any thread, but not from inside a running event loop.
"""

import asyncio
import contextlib
import functools
import ipaddress
import math
import secrets
import socket
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.wire
from dns.rdtypes.ANY.SOA import SOA

from exporter.config import Address, Nameserver
from exporter.probes import network_reason
from exporter.zonefile import Pointer

# A lost packet, or one that the nameserver's rate limit dropped, costs a resend, not the answer.
_TRIES = 3
# So many questions are on their way at once: few enough for a small server's socket, twice.
_IN_FLIGHT = 100
# When nothing has come for so many seconds, those on their way hold up the others no more.
_SOON = 0.1
# Connections at once, for answers that came truncated (as from a nameserver's rate limit).
_CONNECTIONS = 10


@dataclass(frozen=True, slots=True)
class Serial:
    """What a nameserver serves for a zone, with authority.

    `serial` is the zone's version. `refresh`: seconds after which a secondary asks by itself
    whether there is a newer one. `expire`: seconds after which a secondary that reaches no primary
    gives the zone up. `rdata`: the whole data of the SOA in wire form, its names not compressed.
    """

    serial: int
    refresh: int
    expire: int
    rdata: bytes


@dataclass(frozen=True, slots=True)
class NoSerial:
    """Why a nameserver gave no serial: "timeout", "REFUSED", "not authoritative" and so on."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoReply:
    """Why there is no reply to a message, or none to be believed: "timeout", "BADKEY" and so on."""

    reason: str


@dataclass(frozen=True)
class Answers:
    """What a nameserver serves for zones: each one's SOA, and the addresses of its pointer.

    Where no addresses came with authority, the zone is absent from `addresses`.
    """

    serials: Mapping[str, Serial | NoSerial]
    addresses: Mapping[str, frozenset[Address]]


def ask(
    nameserver: Nameserver,
    zones: Sequence[str],
    patience: float,
    *,
    key: dns.tsig.Key | None = None,
) -> Mapping[str, Serial | NoSerial]:
    """The SOA of each zone at one nameserver; signed by `key`, if any, and so are the answers.

    It takes as long as the answers take, and ends when nothing has come for `patience` seconds. A
    question that is lost is sent again in this time, twice.
    """
    return asyncio.run(_ask(nameserver, zones, {}, patience, key=key)).serials


def addresses(
    nameserver: Nameserver,
    pointers: Mapping[str, Pointer],
    patience: float,
    *,
    key: dns.tsig.Key | None = None,
) -> Mapping[str, frozenset[Address]]:
    """The addresses that each zone's pointer has at one nameserver; asked for as with `ask`.

    A zone is absent where none came with authority.
    """
    return asyncio.run(_ask(nameserver, [], pointers, patience, key=key)).addresses


def ask_all(
    nameservers: Mapping[str, Nameserver],
    zones: Sequence[str],
    pointers: Mapping[str, Pointer],
    timeout: float,
) -> dict[str, Answers]:
    """The SOA of each zone, and the addresses of each zone's pointer, at each nameserver.

    All of it side by side, within `timeout` seconds in all.
    """
    deadline = time.monotonic() + timeout

    async def all_of_them() -> list[Answers]:
        return await asyncio.gather(
            *(
                _ask(each, zones, pointers, timeout, deadline=deadline)
                for each in nameservers.values()
            )
        )

    return dict(zip(nameservers, asyncio.run(all_of_them()), strict=True))


def exchange(
    nameserver: Nameserver,
    messages: Sequence[dns.message.Message],
    patience: float,
    *,
    tries: int = _TRIES,
) -> list[dns.rcode.Rcode | NoReply]:
    """Send every message and give the reply's code to each, in order; `patience` as for `ask`.

    A reply to a signed message has to be signed likewise (RFC 8945). A message is signed once, when
    it is sent first: with more than one try it is the same bytes that are sent again.
    """
    talk = _Talk(nameserver, map(_message, messages), len(messages), patience, tries=tries)
    return asyncio.run(talk.run())


# --- questions, and what is read of their answers --------------------------------------------

_T = TypeVar("_T")

# What is taken from an answer: None if that is none to this question.
_Read = Callable[[bytes], _T | NoReply | None]
# A question as it is sent, and what reads its answer.
_Asked = tuple[bytes, _Read[_T]]
_Known = Serial | frozenset[Address]


async def _ask(  # noqa: PLR0913
    nameserver: Nameserver,
    zones: Sequence[str],
    pointers: Mapping[str, Pointer],
    patience: float,
    *,
    deadline: float = math.inf,
    key: dns.tsig.Key | None = None,
) -> Answers:
    # The SOAs stand first, and so are sent first: what else is asked doesn't make them wait.
    wanted = [
        *((zone, dns.rdatatype.SOA) for zone in zones),
        *((pointer.name, _TYPES[pointer.type]) for pointer in pointers.values()),
    ]
    questions = (
        _signed(name, rtype, key) if key else _question(name, rtype) for name, rtype in wanted
    )
    talk: _Talk[_Known] = _Talk(nameserver, questions, len(wanted), patience, deadline=deadline)
    known = await talk.run()
    return Answers(
        serials={
            zone: each if isinstance(each, Serial) else NoSerial(each.reason)
            for zone, each in zip(zones, known, strict=False)
            if not isinstance(each, frozenset)
        },
        addresses={
            zone: each
            for zone, each in zip(pointers, known[len(zones) :], strict=True)
            if isinstance(each, frozenset)
        },
    )


_TYPES = {"A": dns.rdatatype.A, "AAAA": dns.rdatatype.AAAA}


# What the flags (RFC 1035, section 4.1.1) say of a message's kind, and of its outcome.
_OPCODE = 0x7800
_KIND = dns.flags.QR | _OPCODE
_RCODE = 0x000F
_HEADER = 12
_TYPE_AND_CLASS = 4
# RD is cleared: what the nameserver serves itself is asked, not what it can find out.
_ONE_QUESTION = struct.pack("!HHHHH", 0, 1, 0, 0, 0)
# A record's owner, where that is the question's name (section 4.1.4).
_SAME_NAME = 0xC000 | _HEADER


def _question(name: str, rtype: dns.rdatatype.RdataType) -> _Asked[_Known]:
    wire = b"".join(
        (
            secrets.token_bytes(2),  # hard to guess, as an id has to be
            _ONE_QUESTION,
            cast(bytes, dns.name.from_text(name).to_wire()),
            struct.pack("!HH", rtype, dns.rdataclass.IN),
        )
    )
    return wire, functools.partial(_known, wire, rtype)


def _signed(name: str, rtype: dns.rdatatype.RdataType, key: dns.tsig.Key) -> _Asked[_Known]:
    message = dns.message.make_query(name, rtype, flags=0)
    message.use_tsig(key)
    return message.to_wire(), functools.partial(_known_of, message)


def _message(message: dns.message.Message) -> _Asked[dns.rcode.Rcode]:
    wire = message.to_wire()
    return wire, functools.partial(_code, message, wire)


def _code(
    message: dns.message.Message, wire: bytes, data: bytes
) -> dns.rcode.Rcode | NoReply | None:
    flags = int.from_bytes(data[2:4])
    end = _HEADER + len(cast(bytes, message.question[0].name.to_wire())) + _TYPE_AND_CLASS
    if wire[10:12] == bytes(2) and _echoes(wire[:end], data):  # neither signed nor extended
        return dns.rcode.from_flags(flags, 0)
    reply = _parse(message, data)
    return reply if reply is None or isinstance(reply, NoReply) else reply.rcode()


def _known(wire: bytes, rtype: dns.rdatatype.RdataType, data: bytes) -> _Known | NoReply | None:
    known = None
    if _echoes(wire, data):
        known = _negative(data, rtype) or _only_record(rtype, data, len(wire))
    return known or _known_of(dns.message.from_wire(wire), data)


def _echoes(question: bytes, data: bytes) -> bool:
    """Whether it is an answer, of the same opcode, that repeats this question and no other."""
    flags, number = struct.unpack_from("!HH", data, 2)
    return (
        flags & _KIND == dns.flags.QR | (question[2] << 8 & _OPCODE)
        and number == 1
        and data[_HEADER : len(question)].lower() == question[_HEADER:].lower()
    )


def _negative(data: bytes, rtype: dns.rdatatype.RdataType) -> NoReply | None:
    """Why the answer has nothing to say, told from its header alone."""
    flags, _, records = struct.unpack_from("!HHH", data, 2)
    if flags & _RCODE:
        return NoReply(dns.rcode.to_text(dns.rcode.from_flags(flags, 0)))
    if not flags & dns.flags.AA:
        return _NOT_AUTHORITATIVE
    return None if records else _none(rtype)


def _only_record(rtype: dns.rdatatype.RdataType, data: bytes, at: int) -> _Known | None:
    """What the answer holds, if that is one record, right there, and it is good."""
    (records,) = struct.unpack_from("!H", data, 6)
    parser = dns.wire.Parser(data, at)
    try:
        owner, its_type, its_class, _, size = parser.get_struct("!HHHIH")
        if (records, owner, its_type, its_class) != (1, _SAME_NAME, rtype, dns.rdataclass.IN):
            return None
        with parser.restrict_to(size):
            if rtype != dns.rdatatype.SOA:
                return frozenset([ipaddress.ip_address(parser.get_bytes(_SIZES[rtype]))])
            names = dns.name.from_wire_parser(parser), dns.name.from_wire_parser(parser)
            numbers = parser.get_bytes(20)
    except dns.exception.DNSException:
        return None
    serial, refresh, _, expire, _ = struct.unpack("!IIIII", numbers)
    wires = (cast(bytes, name.to_wire()) for name in names)
    return Serial(serial, refresh, expire, b"".join((*wires, numbers)))


_SIZES = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 16}
_NOT_AUTHORITATIVE = NoReply("not authoritative")


def _none(rtype: dns.rdatatype.RdataType) -> NoReply:
    return NoReply(f"no {dns.rdatatype.to_text(rtype)}")


def _known_of(question: dns.message.Message, data: bytes) -> _Known | NoReply | None:
    """What was asked for, with authority; or else why it isn't there."""
    reply = _parse(question, data)
    if reply is None or isinstance(reply, NoReply):
        return reply
    if reply.rcode() != dns.rcode.NOERROR:
        return NoReply(dns.rcode.to_text(reply.rcode()))
    if not reply.flags & dns.flags.AA:
        return _NOT_AUTHORITATIVE
    (asked,) = question.question
    found = reply.get_rrset(reply.answer, asked.name, dns.rdataclass.IN, asked.rdtype)
    if not found:
        return _none(asked.rdtype)
    if asked.rdtype != dns.rdatatype.SOA:
        return frozenset(ipaddress.ip_address(rdata.to_text()) for rdata in found)
    soa = cast(SOA, found[0])
    return Serial(soa.serial, soa.refresh, soa.expire, cast(bytes, soa.to_wire()))


def _parse(message: dns.message.Message, data: bytes) -> dns.message.Message | NoReply | None:
    """The reply, or why it isn't believed; None if it is no reply to this message."""
    try:
        reply = dns.message.from_wire(data, keyring=message.keyring, request_mac=message.mac or b"")
    except dns.exception.DNSException as error:
        return NoReply(_REFUSALS.get(type(error)) or _unsigned(message, data))
    return reply if message.is_response(reply) else None


# RFC 8945, section 5.3: the other side says what it found wrong with our signature.
_REFUSALS: dict[type[dns.exception.DNSException], str] = {
    dns.tsig.PeerBadKey: "BADKEY",
    dns.tsig.PeerBadSignature: "BADSIG",
    dns.tsig.PeerBadTime: "BADTIME",
    dns.tsig.PeerBadTruncation: "BADTRUNC",
    dns.tsig.BadSignature: "its signature is wrong",
    dns.tsig.BadKey: "signed with another key",
    dns.tsig.BadAlgorithm: "signed with another algorithm",
    dns.tsig.BadTime: "its clock is off",
}


def _unsigned(message: dns.message.Message, data: bytes) -> str:
    """NSD and Knot answer without a signature where they do not know the zone: say what."""
    try:
        reply = dns.message.from_wire(data, keyring=False)
    except dns.exception.DNSException:
        return "malformed"
    if message.mac and not reply.had_tsig:
        return f"{dns.rcode.to_text(reply.rcode())}, not signed"
    return "malformed"


# --- one nameserver, one socket -------------------------------------------------------------


@dataclass(slots=True)
class _Open(Generic[_T]):
    """A question, and the place of its answer; when it was sent last, and how often."""

    place: int
    wire: bytes
    read: _Read[_T]
    sent: float = 0
    tries: int = 0

    @property
    def number(self) -> int:
        return int.from_bytes(self.wire[:2])


class _Talk(Generic[_T]):
    """All that is asked of one nameserver, and answered, or given up for lack of answers.

    So a dead nameserver costs the patience once, whatever the number of questions, and a slow one
    is asked as fast as it answers.
    """

    def __init__(  # noqa: PLR0913
        self,
        nameserver: Nameserver,
        questions: Iterator[_Asked[_T]],
        number: int,
        patience: float,
        *,
        deadline: float = math.inf,
        tries: int = _TRIES,
    ) -> None:
        self._nameserver = nameserver
        self._fresh = (_Open(place, *asked) for place, asked in enumerate(questions))
        self._answers: list[_T | NoReply | None] = [None] * number
        self._left = number
        self._patience = patience
        self._deadline = deadline
        self._tries = tries
        self._open: OrderedDict[int, _Open[_T]] = OrderedDict()  # by id; the last sent is last
        self._awaited: set[int] = set()  # those of them that hold up the others
        self._held: deque[_Open[_T]] = deque()  # each has the id of an open one
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._over_tcp: set[asyncio.Task[None]] = set()

    async def run(self) -> list[_T | NoReply]:
        """Each question's answer, or why there is none, in the order of the questions."""
        if not self._left:
            return []
        try:
            reason = await self._until_over()
        except OSError as error:
            reason = NoReply(network_reason(error))
        return [reason if answer is None else answer for answer in self._answers]

    async def _until_over(self) -> NoReply:
        """Ask; then why there are no more answers."""
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[NoReply] = self._loop.create_future()
        self._heard = self._moved = self._loop.time()
        (family, kind, _, _, place), *_ = socket.getaddrinfo(
            str(self._nameserver.address),
            self._nameserver.port,
            type=socket.SOCK_DGRAM,
            flags=socket.AI_NUMERICHOST,
        )
        with socket.socket(family, kind) as self._socket:
            self._socket.setblocking(False)
            self._socket.connect(place)
            self._loop.add_reader(self._socket, self._guarded, self._receive)
            self._timer = self._loop.call_soon(self._guarded, self._tick)
            try:
                return await self._over
            finally:
                self._timer.cancel()
                self._loop.remove_reader(self._socket)
                for connection in self._over_tcp:
                    connection.cancel()
                await asyncio.gather(*self._over_tcp, return_exceptions=True)

    # The event loop calls these two.

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:  # a closed port, or no way there: that holds for every question
            self._end(NoReply(network_reason(error)))
        except Exception as error:  # whoever waits for the answers gets it  # noqa: BLE001
            if not self._over.done():
                self._over.set_exception(error)

    def _receive(self) -> None:
        for _ in range(_IN_FLIGHT):  # then it is another nameserver's turn
            try:
                data = self._socket.recv(2**16)
            except BlockingIOError:
                return
            self._take(data)
            self._fill()

    def _tick(self) -> None:
        """Do what is due, and come back when something is next."""
        now = self._loop.time()
        if now >= min(self._heard + self._patience, self._deadline):
            self._end(_TIMEOUT)
            return
        if now >= self._moved + _SOON:
            self._moved = now
            self._awaited.clear()
        while (oldest := self._oldest()) and now >= self._late(oldest):
            if oldest.tries < self._tries:
                self._send(oldest)
            else:
                self._close(oldest)
                self._settle(oldest, _TIMEOUT)
        self._fill()
        self._timer = self._loop.call_at(self._due(), self._guarded, self._tick)

    def _due(self) -> float:
        # What is received meanwhile puts it all off, never forward.
        oldest = self._oldest()
        return min(
            self._heard + self._patience,
            self._deadline,
            self._late(oldest) if oldest else math.inf,
            self._moved + _SOON if len(self._awaited) >= _IN_FLIGHT else math.inf,
        )

    def _oldest(self) -> _Open[_T] | None:
        return next(iter(self._open.values()), None)

    def _late(self, asked: _Open[_T]) -> float:
        return asked.sent + self._patience / self._tries

    # Sending.

    def _fill(self) -> None:
        while len(self._awaited) < _IN_FLIGHT and (asked := self._next()):
            self._send(asked)

    def _next(self) -> _Open[_T] | None:
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

    def _send(self, asked: _Open[_T]) -> None:
        asked.sent = self._loop.time()
        asked.tries += 1
        self._open[asked.number] = asked
        self._open.move_to_end(asked.number)
        self._awaited.add(asked.number)
        with contextlib.suppress(BlockingIOError):  # no room to send: as good as lost on the way
            self._socket.send(asked.wire)

    # What came.

    def _take(self, data: bytes) -> None:
        asked = self._open.get(int.from_bytes(data[:2]))
        if asked is None or len(data) < _HEADER:
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
        self._close(asked)
        self._hear()

    async def _ask_over_tcp(self, asked: _Open[_T]) -> None:
        try:
            async with self._connections, asyncio.timeout(self._patience):
                data = await _tcp(self._nameserver, asked.wire)
        except TimeoutError:
            self._settle(asked, _TIMEOUT)
            return
        except asyncio.IncompleteReadError:
            answer: _T | NoReply = NoReply("connection closed")
        except OSError as error:
            answer = NoReply(network_reason(error))
        else:
            read = asked.read(data)
            answer = NoReply("malformed") if read is None else read
        self._settle(asked, answer)
        self._hear()

    def _hear(self) -> None:
        self._heard = self._moved = self._loop.time()

    def _close(self, asked: _Open[_T]) -> None:
        del self._open[asked.number]
        self._awaited.discard(asked.number)

    def _settle(self, asked: _Open[_T], answer: _T | NoReply) -> None:
        self._answers[asked.place] = answer
        self._left -= 1
        if not self._left:
            self._end(_TIMEOUT)

    def _end(self, reason: NoReply) -> None:
        if not self._over.done():
            self._over.set_result(reason)


_TIMEOUT = NoReply("timeout")


async def _tcp(nameserver: Nameserver, wire: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(str(nameserver.address), nameserver.port)
    try:
        writer.write(len(wire).to_bytes(2) + wire)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    finally:
        writer.close()


def _is_truncated(data: bytes) -> bool:
    # Told from the flags alone: what was cut off need not parse.
    flags = int.from_bytes(data[2:4])
    return bool(flags & dns.flags.QR and flags & dns.flags.TC)
