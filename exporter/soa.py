"""Questions to nameservers, and what counts as an answer.

Owns asking for the SOAs of zones, and for the addresses beside them that tell where a zone points,
what is read of an answer, and the exchange of any message for its reply's code. Leaves to `talk`
how questions get there and answers back, and to others whom to ask for what, and what a serial or
an address means.

Made for ten thousand zones: a question is bytes, and of the usual answer no more is read than is
wanted. dnspython reads names, whatever is signed, and any answer that is not the usual one.

Every function blocks until all is answered or given up, and runs an event loop of its own: call it
from any thread, but not from inside a running event loop.
"""

import asyncio
import functools
import ipaddress
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.wire
from dns.rdtypes.ANY.SOA import SOA

from exporter.config import Address, Nameserver
from exporter.talk import HEADER, TRIES, Asked, Talk, never
from exporter.zonefile import Pointer


@dataclass(frozen=True, slots=True)
class Serial:
    """What a nameserver serves for a zone, with authority.

    `serial` is the zone's version. `rdata`: the whole data of the SOA in wire form, its names not
    compressed.
    """

    serial: int
    rdata: bytes

    @property
    def refresh(self) -> int:
        """Seconds after which a secondary asks by itself whether there is a newer one."""
        return int.from_bytes(self.rdata[-16:-12])

    @property
    def expire(self) -> int:
        """Seconds after which a secondary that reaches no primary gives the zone up."""
        return int.from_bytes(self.rdata[-8:-4])


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
    enough: Callable[[], bool] = never,
    key: dns.tsig.Key | None = None,
) -> Mapping[str, Serial | NoSerial]:
    """The SOA of each zone at one nameserver; signed by `key`, if any, and so are the answers.

    It takes as long as the answers take, and ends when nothing has come for `patience` seconds, or
    soon after it is `enough`. A question that is lost is sent again in such a silence, twice.
    """
    found, _ = asyncio.run(_ask(nameserver, zones, {}, patience, enough=enough, key=key))
    return found


def addresses(
    nameserver: Nameserver,
    pointers: Mapping[str, Pointer],
    patience: float,
    *,
    enough: Callable[[], bool] = never,
    key: dns.tsig.Key | None = None,
) -> Mapping[str, frozenset[Address] | NoReply]:
    """The addresses that each zone's pointer has at one nameserver; asked for as with `ask`.

    Or why none came with authority.
    """
    _, found = asyncio.run(_ask(nameserver, [], pointers, patience, enough=enough, key=key))
    return found


def ask_all(
    nameservers: Mapping[str, Nameserver],
    zones: Sequence[str],
    pointers: Mapping[str, Pointer],
    timeout: float,
) -> dict[str, Answers]:
    """The SOA of each zone, and the addresses of each zone's pointer, at each nameserver.

    All of it side by side, within `timeout` seconds in all.
    """
    end = time.monotonic() + timeout

    async def all_of_them() -> list[_Answered]:
        return await asyncio.gather(
            *(
                _ask(each, zones, pointers, timeout, enough=lambda: time.monotonic() >= end)
                for each in nameservers.values()
            )
        )

    answered = zip(nameservers, asyncio.run(all_of_them()), strict=True)
    return {
        name: Answers(serials, {z: its for z, its in found.items() if isinstance(its, frozenset)})
        for name, (serials, found) in answered
    }


def exchange(
    nameserver: Nameserver,
    messages: Sequence[Callable[[], dns.message.Message]],
    patience: float,
    *,
    enough: Callable[[], bool] = never,
    tries: int = TRIES,
) -> list[dns.rcode.Rcode | NoReply]:
    """Send every message and give the reply's code to each, in order; it ends as `ask` does.

    The replies are fewer if time was up before it was the turn of all. Each message is made, and
    signed, when it is its turn: few are in memory at once. With more than one try it is the same
    bytes that are sent again. A reply to a signed message has to be signed likewise (RFC 8945).
    """
    made = 0

    def questions() -> Iterator[Asked[dns.rcode.Rcode]]:
        nonlocal made
        for make in messages:
            made += 1
            yield _message(make())

    talk = Talk(nameserver, questions(), len(messages), patience, enough=enough, tries=tries)
    codes = asyncio.run(talk.run())
    # A closed port, or no way there, holds for those too that were not made any more.
    known = (code for place, code in enumerate(codes) if place < made or code != "timeout")
    return [NoReply(code) if isinstance(code, str) else code for code in known]


# --- questions, and what is read of their answers --------------------------------------------

# What an answer says; where it says nothing, a text tells why.
_Known = Serial | frozenset[Address]
_Answered = tuple[dict[str, Serial | NoSerial], dict[str, frozenset[Address] | NoReply]]


async def _ask(  # noqa: PLR0913
    nameserver: Nameserver,
    zones: Sequence[str],
    pointers: Mapping[str, Pointer],
    patience: float,
    *,
    enough: Callable[[], bool] = never,
    key: dns.tsig.Key | None = None,
) -> _Answered:
    # The SOAs stand first, and so are sent first: what else is asked doesn't make them wait.
    wanted = [
        *((zone, dns.rdatatype.SOA) for zone in zones),
        *((pointer.name, _TYPES[pointer.type]) for pointer in pointers.values()),
    ]
    questions = (
        _signed(name, rtype, number, key) if key else _question(name, rtype, number)
        for (name, rtype), number in zip(wanted, _ids(len(wanted)), strict=False)
    )
    talk: Talk[_Known] = Talk(nameserver, questions, len(wanted), patience, enough=enough)
    known = await talk.run()
    serials = {
        zone: NoSerial(each) if isinstance(each, str) else each
        for zone, each in zip(zones, known, strict=False)
        if not isinstance(each, frozenset)
    }
    addresses = {
        zone: NoReply(each) if isinstance(each, str) else each
        for zone, each in zip(pointers, known[len(zones) :], strict=True)
        if not isinstance(each, Serial)
    }
    return serials, addresses


_TYPES = {"A": dns.rdatatype.A, "AAAA": dns.rdatatype.AAAA}


def _ids(number: int) -> Iterator[int]:
    """Hard to guess, as ids have to be, and few the same at a time: such wait for each other."""
    while True:
        yield from secrets.SystemRandom().sample(range(2**16), max(1, min(number, _IDS)))


# So many at a time are no two the same: to draw more, all that there are would be put in a list.
_IDS = 4096


# The flags (RFC 1035, section 4.1.1), as mere numbers: ten times as fast.
_QR, _AA = int(dns.flags.QR), int(dns.flags.AA)
_OPCODE, _RCODE = 0x7800, 0x000F
_TYPE_AND_CLASS = 4
_IN = int(dns.rdataclass.IN)
# RD is cleared: what the nameserver serves itself is asked, not what it can find out.
_ONE_QUESTION = struct.pack("!HHHHH", 0, 1, 0, 0, 0)
# A record's owner, where that is the question's name (section 4.1.4).
_SAME_NAME = 0xC000 | HEADER


def _question(name: str, rtype: dns.rdatatype.RdataType, number: int) -> Asked[_Known]:
    wire = b"".join(
        (
            number.to_bytes(2),
            _ONE_QUESTION,
            cast(bytes, dns.name.from_text(name).to_wire()),
            struct.pack("!HH", rtype, _IN),
        )
    )
    return wire, functools.partial(_read, _Sent(wire), rtype)


def _signed(
    name: str, rtype: dns.rdatatype.RdataType, number: int, key: dns.tsig.Key
) -> Asked[_Known]:
    message = dns.message.make_query(name, rtype, id=number, flags=0)
    message.use_tsig(key)
    sent = _sent(message)
    return sent.wire, functools.partial(_read_whole, sent)


def _message(message: dns.message.Message) -> Asked[dns.rcode.Rcode]:
    sent = _sent(message)
    return sent.wire, functools.partial(_read_code, sent)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is kept of a message until its reply: while a nameserver is silent, there are many."""

    wire: bytes
    key: dns.tsig.Key | None = None
    mac: bytes = b""


def _sent(message: dns.message.Message) -> _Sent:
    return _Sent(message.to_wire(), message.keyring, message.mac or b"")


def _read_code(sent: _Sent, data: bytes) -> dns.rcode.Rcode | str | None:
    _, length = dns.name.from_wire(sent.wire, HEADER)
    question = sent.wire[: HEADER + length + _TYPE_AND_CLASS]
    if sent.wire[10:12] == bytes(2) and _echoes(question, data):  # neither signed nor extended
        return dns.rcode.from_flags(int.from_bytes(data[2:4]), 0)
    reply = _parse(sent, data)
    return reply if reply is None or isinstance(reply, str) else reply.rcode()


def _read(sent: _Sent, rtype: dns.rdatatype.RdataType, data: bytes) -> _Known | str | None:
    """What was asked for, with authority; or else why it isn't there."""
    known = None
    if _echoes(sent.wire, data):
        known = _negative(data, rtype) or _only_record(data, len(sent.wire), rtype)
    return known or _read_whole(sent, data)


def _echoes(question: bytes, data: bytes) -> bool:
    """Whether it is an answer, of the same opcode, that repeats this question and no other."""
    flags, number = struct.unpack_from("!HH", data, 2)
    return (
        flags & (_QR | _OPCODE) == _QR | (question[2] << 8 & _OPCODE)
        and number == 1
        and data[HEADER : len(question)].lower() == question[HEADER:].lower()
    )


def _negative(data: bytes, rtype: dns.rdatatype.RdataType) -> str | None:
    """Why the answer has nothing to say, told from its header alone."""
    flags, _, records = struct.unpack_from("!HHH", data, 2)
    if flags & _RCODE:
        return str(dns.rcode.to_text(dns.rcode.from_flags(flags, 0)))
    if not flags & _AA:
        return _NOT_AUTHORITATIVE
    return None if records else _none(rtype)


def _only_record(data: bytes, at: int, rtype: dns.rdatatype.RdataType) -> _Known | None:
    """What the answer holds, if that is one record, right there, and it is good."""
    (records,) = struct.unpack_from("!H", data, 6)
    parser = dns.wire.Parser(data, at)
    try:
        owner, its_type, its_class, _, size = parser.get_struct("!HHHIH")
        if (records, owner, its_type, its_class) != (1, _SAME_NAME, rtype, _IN):
            return None
        with parser.restrict_to(size):
            if rtype != dns.rdatatype.SOA:
                return frozenset([ipaddress.ip_address(parser.get_bytes(_SIZES[rtype]))])
            names = dns.name.from_wire_parser(parser), dns.name.from_wire_parser(parser)
            numbers = parser.get_bytes(20)
    except dns.exception.DNSException:
        return None
    wires = (cast(bytes, name.to_wire()) for name in names)
    return Serial(int.from_bytes(numbers[:4]), b"".join((*wires, numbers)))


_SIZES = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 16}
_NOT_AUTHORITATIVE = "not authoritative"


def _none(rtype: dns.rdatatype.RdataType) -> str:
    return f"no {dns.rdatatype.to_text(rtype)}"


def _read_whole(sent: _Sent, data: bytes) -> _Known | str | None:
    """The same of any answer, signed or not, as dnspython has it."""
    reply = _parse(sent, data)
    if reply is None or isinstance(reply, str):
        return reply
    if reply.rcode() != dns.rcode.NOERROR:
        return str(dns.rcode.to_text(reply.rcode()))
    if not reply.flags & dns.flags.AA:
        return _NOT_AUTHORITATIVE
    asked = reply.question[0]
    found = reply.get_rrset(reply.answer, asked.name, dns.rdataclass.IN, asked.rdtype)
    if not found:
        return _none(asked.rdtype)
    if asked.rdtype != dns.rdatatype.SOA:
        return frozenset(ipaddress.ip_address(rdata.to_text()) for rdata in found)
    soa = cast(SOA, found[0])
    return Serial(soa.serial, cast(bytes, soa.to_wire()))


def _parse(sent: _Sent, data: bytes) -> dns.message.Message | str | None:
    """The reply, or why it isn't believed; None if it is no reply to this message."""
    try:
        reply = dns.message.from_wire(data, keyring=sent.key, request_mac=sent.mac)
    except dns.exception.DNSException as error:
        return _REFUSALS.get(type(error)) or _unsigned(sent, data)
    message = dns.message.from_wire(sent.wire, question_only=True)
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


def _unsigned(sent: _Sent, data: bytes) -> str:
    """NSD and Knot answer without a signature where they do not know the zone: say what."""
    try:
        reply = dns.message.from_wire(data, keyring=False)
    except dns.exception.DNSException:
        return "malformed"
    if sent.mac and not reply.had_tsig:
        return f"{dns.rcode.to_text(reply.rcode())}, not signed"
    return "malformed"
