"""Questions to nameservers over UDP, many at once on one socket, matched by message id.

Owns asking for the SOAs of zones, and for the addresses beside them that tell where a zone points,
what counts as an answer, and the exchange of any message for its reply. Leaves to others whom to
ask for what, and what a serial or an address means.

Every function blocks until all is answered or the timeout is over, and runs an event loop of its
own: call it from any thread, but not from inside a running event loop.
"""

import asyncio
import ipaddress
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
from dns.rdtypes.ANY.SOA import SOA

from exporter.config import Address, Nameserver
from exporter.probes import network_reason
from exporter.zonefile import Pointer

# A lost packet, or one that the nameserver's rate limit dropped, costs a resend, not the answer.
_TRIES = 3
# So many questions wait for their first moments at once: few enough for a small server's socket.
_IN_FLIGHT = 50
# An answer that takes longer than these seconds is waited for, but holds up the others no more.
_SOON = 0.1
# Connections at once, for answers that came truncated (as from a nameserver's rate limit).
_CONNECTIONS = 10


@dataclass(frozen=True)
class Serial:
    """What a nameserver serves for a zone, with authority."""

    soa: SOA

    @property
    def serial(self) -> int:
        """The zone's version."""
        return self.soa.serial

    @property
    def refresh(self) -> int:
        """Seconds after which a secondary asks by itself whether there is a newer version."""
        return self.soa.refresh

    @property
    def expire(self) -> int:
        """Seconds after which a secondary that reaches no primary gives the zone up."""
        return self.soa.expire


@dataclass(frozen=True)
class NoSerial:
    """Why a nameserver gave no serial: "timeout", "REFUSED", "not authoritative" and so on."""

    reason: str


@dataclass(frozen=True)
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
    nameserver: Nameserver, zones: Sequence[str], timeout: float
) -> Mapping[str, Serial | NoSerial]:
    """The SOA of each zone at one nameserver, all of them within `timeout` seconds."""
    return asyncio.run(_ask(nameserver, zones, {}, time.monotonic() + timeout)).serials


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
            *(_ask(each, zones, pointers, deadline) for each in nameservers.values())
        )

    return dict(zip(nameservers, asyncio.run(all_of_them()), strict=True))


def exchange(
    nameserver: Nameserver,
    messages: Sequence[dns.message.Message],
    timeout: float,
    *,
    tries: int = _TRIES,
) -> list[dns.message.Message | NoReply]:
    """Send every message and give the reply to each, in order, within `timeout` seconds.

    A reply to a signed message has to be signed likewise (RFC 8945). A message is signed once: with
    more than one try it is the same bytes that are sent again.
    """
    return asyncio.run(_exchange(nameserver, messages, time.monotonic() + timeout, tries))


async def _ask(
    nameserver: Nameserver,
    zones: Sequence[str],
    pointers: Mapping[str, Pointer],
    deadline: float,
) -> Answers:
    # The SOAs stand first, and so are sent first: what else is asked doesn't make them wait.
    asked = [
        *((dns.name.from_text(zone), "SOA") for zone in zones),
        *((pointer.name, pointer.type) for pointer in pointers.values()),
    ]
    # Hard to guess, as ids have to be, and no two the same: such would wait for each other.
    ids = secrets.SystemRandom().sample(range(2**16), len(asked))
    questions = [_question(*each, number) for each, number in zip(asked, ids, strict=True)]
    replies = await _exchange(nameserver, questions, deadline, _TRIES)
    found = list(map(_found, questions, replies))
    serials = map(_serial, found[: len(zones)])
    addresses = map(_addresses, found[len(zones) :])
    return Answers(
        serials=dict(zip(zones, serials, strict=True)),
        addresses={zone: some for zone, some in zip(pointers, addresses, strict=True) if some},
    )


def _question(name: dns.name.Name, rtype: str, number: int) -> dns.message.Message:
    question = dns.message.make_query(name, rtype, id=number)
    question.flags &= ~dns.flags.RD  # what it serves itself is asked, not what it can find out
    return question


def _found(
    question: dns.message.Message, reply: dns.message.Message | NoReply
) -> dns.rrset.RRset | str:
    """What was asked for, with authority; or else why it isn't there."""
    if isinstance(reply, NoReply):
        return reply.reason
    if reply.rcode() != dns.rcode.NOERROR:
        return dns.rcode.to_text(reply.rcode())
    if not reply.flags & dns.flags.AA:
        return "not authoritative"
    (asked,) = question.question
    found = reply.get_rrset(reply.answer, asked.name, dns.rdataclass.IN, asked.rdtype)
    return found or f"no {dns.rdatatype.to_text(asked.rdtype)}"


def _serial(found: dns.rrset.RRset | str) -> Serial | NoSerial:
    return NoSerial(found) if isinstance(found, str) else Serial(cast(SOA, found[0]))


def _addresses(found: dns.rrset.RRset | str) -> frozenset[Address]:
    if isinstance(found, str):
        return frozenset()
    return frozenset(ipaddress.ip_address(rdata.to_text()) for rdata in found)


# --- one nameserver, one socket -------------------------------------------------------------


async def _exchange(
    nameserver: Nameserver,
    messages: Sequence[dns.message.Message],
    deadline: float,
    tries: int,
) -> list[dns.message.Message | NoReply]:
    talk = _Talk(nameserver, deadline, tries)
    place = str(nameserver.address), nameserver.port
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: talk, remote_addr=place
        )
    except OSError as error:
        return [NoReply(network_reason(error))] * len(messages)
    try:
        return await asyncio.gather(*map(talk.reply_to, messages))
    finally:
        transport.close()


# None says: it came truncated, ask again over TCP.
_Reply = asyncio.Future[dns.message.Message | NoReply | None]


@dataclass(frozen=True)
class _Open:
    """A message on its way, and where its reply will be put."""

    message: dns.message.Message
    reply: _Reply


class _Talk(asyncio.DatagramProtocol):
    """All that is asked of one nameserver, and answered, before one deadline.

    So a dead nameserver costs the timeout once, whatever the number of questions.
    """

    def __init__(self, nameserver: Nameserver, deadline: float, tries: int) -> None:
        self._nameserver = nameserver
        self._tries = tries
        self._deadline = deadline
        self._patience = self._left() / tries
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._open: dict[int, _Open] = {}
        self._broken: NoReply | None = None

    async def reply_to(self, message: dns.message.Message) -> dns.message.Message | NoReply:
        wire = message.to_wire()
        reply = await self._over_udp(message, wire)
        return await self._over_tcp(message, wire) if reply is None else reply

    async def _over_udp(
        self, message: dns.message.Message, wire: bytes
    ) -> dns.message.Message | NoReply | None:
        while message.id in self._open:  # chance gave two the same: one after the other
            await asyncio.wait([self._open[message.id].reply])
        reply: _Reply = asyncio.get_running_loop().create_future()
        self._open[message.id] = _Open(message, reply)
        for _ in range(self._tries):
            async with self._slots:
                if self._broken or self._left() <= 0:
                    break
                self._transport.sendto(wire)
                until = min(time.monotonic() + self._patience, self._deadline)
                await asyncio.wait([reply], timeout=min(_SOON, until - time.monotonic()))
            await asyncio.wait([reply], timeout=until - time.monotonic())
            if reply.done():
                break
        if not reply.done():
            reply.set_result(self._broken or NoReply("timeout"))
        del self._open[message.id]
        return await reply

    async def _over_tcp(
        self, message: dns.message.Message, wire: bytes
    ) -> dns.message.Message | NoReply:
        try:
            async with self._connections, asyncio.timeout(self._left()):
                answer = await _tcp(self._nameserver, wire)
        except asyncio.IncompleteReadError:
            return NoReply("connection closed")
        except OSError as error:  # the timeout is one of them
            return NoReply(network_reason(error))
        reply = _parse(message, answer)
        return NoReply("malformed") if reply is None else reply

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, _addr: object) -> None:
        asked = self._open.get(int.from_bytes(data[:2]))
        if asked is None or asked.reply.done():
            return
        if _is_truncated(data):
            asked.reply.set_result(None)
            return
        reply = _parse(asked.message, data)
        if reply is not None:
            asked.reply.set_result(reply)

    def error_received(self, exc: Exception) -> None:
        """A closed port, or no way there (ICMP): that holds for every question."""
        self._broken = NoReply(network_reason(exc) if isinstance(exc, OSError) else str(exc))
        for asked in self._open.values():
            if not asked.reply.done():
                asked.reply.set_result(self._broken)


async def _tcp(nameserver: Nameserver, wire: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(str(nameserver.address), nameserver.port)
    try:
        writer.write(len(wire).to_bytes(2) + wire)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    finally:
        writer.close()


def _is_truncated(wire: bytes) -> bool:
    # Told from the flags alone: what was cut off need not parse.
    flags = int.from_bytes(wire[2:4])
    return bool(flags & dns.flags.QR and flags & dns.flags.TC)


def _parse(message: dns.message.Message, wire: bytes) -> dns.message.Message | NoReply | None:
    """The reply, or why it isn't believed; None if it is no reply to this message."""
    try:
        reply = dns.message.from_wire(wire, keyring=message.keyring, request_mac=message.mac or b"")
    except dns.exception.DNSException as error:
        return NoReply(_REFUSALS.get(type(error)) or _unsigned(message, wire))
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


def _unsigned(message: dns.message.Message, wire: bytes) -> str:
    """NSD and Knot answer without a signature where they do not know the zone: say what."""
    try:
        reply = dns.message.from_wire(wire, keyring=False)
    except dns.exception.DNSException:
        return "malformed"
    if message.mac and not reply.had_tsig:
        return f"{dns.rcode.to_text(reply.rcode())}, not signed"
    return "malformed"
