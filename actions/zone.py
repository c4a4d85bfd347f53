"""Zone text -> zone text: rendering for a server, what a rendering must hold, the next serial.

Owns how a source's slots are filled, when a record is left out, and which serial comes next.
Pure: no I/O, no clock. Reading base files is left to `exporter/zonefile.py`, the name server's
own checker to `actions/nameserver.py`.
"""

import datetime
import io
import ipaddress
import re
import struct
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast

import dns.exception
import dns.name
import dns.rdata
import dns.rdatatype
import dns.zone
from dns.serial import Serial

from exporter import zonefile
from exporter.config import Address, Server
from exporter.zonefile import (
    SERIAL_FIELD,
    Family,
    Fault,
    Pointer,
    Record,
    Slot,
    Source,
    SourceRefused,
    Token,
    lex,
)

_T = TypeVar("_T", bound=Hashable)

# --- rendering ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """What is filled in: the serial, or the address of this family of a server.

    `server` is None for the one that serves. Each is made once, for all zones.
    """

    family: Family | None  # None for the serial
    server: str | None


Values = Mapping[Hole, bytes | None]  # what each address is; None: there is none


@dataclass(frozen=True, slots=True)
class Gap:
    """A place in a template, and what comes there.

    What `hole` stands for (nothing, without one), between `before` and `after`; but `left_out`,
    where an address of those that its record `needs` is lacking.
    """

    hole: Hole | None
    before: bytes = b""
    after: bytes = b""
    needs: tuple[Hole, ...] = ()
    left_out: bytes = b""

    def filled(self, values: Values) -> bytes:
        """What comes there with these values, the serial's among them."""
        for hole in self.needs:
            if values[hole] is None:
                return self.left_out
        value = values[self.hole] if self.hole else b""
        return self.before + cast(bytes, value) + self.after  # what may be lacking is in `needs`


@dataclass(frozen=True, slots=True)
class Template:
    """Where a source's gaps are, and what comes there: quickly filled, and small.

    `gaps` are the same objects in all zones of one shape; `places` tells from where to where each
    takes the place of text, packed. `pointer` is the name that follows the server that serves, None
    where none does; `pointed` is what its addresses are made of.
    """

    gaps: tuple[Gap, ...]
    places: bytes
    pointer: Pointer | None
    pointed: tuple[bytes | Hole, ...]

    def render(self, content: bytes, values: Values, serial: int) -> bytes:
        """Fill the gaps of the source's content; every other byte is as it stands there."""
        there = {**values, _SERIAL: str(serial).encode()}
        pieces, done = list[bytes](), 0
        for gap, (start, end) in zip(self.gaps, _PLACE.iter_unpack(self.places), strict=True):
            pieces += content[done:start], gap.filled(there)
            done = end
        pieces.append(content[done:])
        return b"".join(pieces)

    def addresses(self, values: Values) -> frozenset[Address]:
        """The addresses that the pointer has in a rendering with these values."""
        found = [part if isinstance(part, bytes) else values[part] for part in self.pointed]
        return _addresses(tuple(text for text in found if text is not None))


_PLACE = struct.Struct("=II")  # no zone file is larger


def values(servers: Mapping[str, Server], serving: str) -> Values:
    """What the holes stand for while this server serves; the serial is told with each zone."""
    found = dict[Hole, bytes | None]()
    for name in (None, *servers):
        its = servers[name or serving]
        found[_hole(4, name)] = str(its.ipv4).encode() if its.ipv4 else None
        found[_hole(6, name)] = str(its.ipv6).encode() if its.ipv6 else None
    return found


def template(source: Source, servers: Mapping[str, Server]) -> Template:
    """Cut a source at its slots.

    A record with a marker for an address that a server lacks is left out while that one serves:
    each of its lines becomes a comment, as it stands in the source.
    """
    found = [gap for record in source.records for gap in _gaps(source.content, record, servers)]
    gaps = tuple(gap for _, _, gap in found)
    places = b"".join(_PLACE.pack(start, end) for start, end, _ in found)
    pointer, pointed = _pointed(source)
    return Template(_shared(gaps), places, pointer, _shared(pointed))


def render(source: Source, servers: Mapping[str, Server], serving: str, serial: int) -> bytes:
    """Fill the slots of a source for the server that serves."""
    return template(source, servers).render(source.content, values(servers, serving), serial)


def _hole(family: Family | None, server: str | None) -> Hole:
    return _HOLES.setdefault((family, server), Hole(family, server))  # whichever thread asks


_HOLES: dict[tuple[Family | None, str | None], Hole] = {}
_SERIAL = _hole(None, None)


def _gaps(
    content: bytes, record: Record, servers: Mapping[str, Server]
) -> list[tuple[int, int, Gap]]:
    """A record's gaps in their order, and from where to where each takes the place of text."""
    leavable = any(_lacking(slot, servers) for slot in record.slots)
    needs = (
        tuple(_hole(slot.family, slot.server) for slot in record.slots if slot.family)
        if leavable
        else ()
    )
    gaps = [(slot.start, slot.end, _gap(content, slot, needs)) for slot in record.slots]
    if not needs:
        return gaps
    newlines = re.finditer(rb"\n", content[record.start : record.end])
    lines = [record.start, *(record.start + newline.end() for newline in newlines)]
    comment = Gap(None, needs=needs, left_out=b";")
    return sorted([*((at, at, comment) for at in lines), *gaps], key=lambda gap: gap[0])


def _gap(content: bytes, slot: Slot, needs: tuple[Hole, ...]) -> Gap:
    """A slot's; an inserted value gets blanks around it."""
    inserted = slot.start == slot.end
    apart = inserted and content[slot.start - 1] not in b" \t\n("
    return Gap(
        _hole(slot.family, slot.server),
        before=b" " if apart else b"",
        after=b" " if inserted else b"",
        needs=needs,
        left_out=content[slot.start : slot.end] if needs else b"",
    )


def _shared(parts: _T) -> _T:
    """The ones that are equal: zones of one shape have the same."""
    return cast(_T, _SHARED.setdefault(parts, parts))


_SHARED: dict[Hashable, Hashable] = {}  # grows by what was never there before: a few bytes an edit


def _pointed(source: Source) -> tuple[Pointer | None, tuple[bytes | Hole, ...]]:
    pointer = zonefile.pointer(source)
    owner = dns.name.from_text(pointer.name)
    pointed = tuple(
        part
        for record in source.records
        if record.type == pointer.type and record.owner == owner
        for part in _parts(record)
    )
    follows = any(isinstance(part, Hole) and part.server is None for part in pointed)
    return (pointer, pointed) if follows else (None, ())


def _parts(record: Record) -> Iterator[bytes | Hole]:
    """What an address record's address is made of; nothing where it has none: that is refused."""
    if record.slots:
        yield _hole(record.slots[0].family, record.slots[0].server)
        return
    text = b" ".join(token.text for token in record.rdata).decode("latin-1")
    try:
        address = dns.rdata.from_text("IN", record.type, text)  # it may be escaped, or hexadecimal
    except (dns.exception.DNSException, ValueError):
        return
    yield address.to_text().encode()


@cache
def _addresses(texts: tuple[bytes, ...]) -> frozenset[Address]:
    return frozenset(ipaddress.ip_address(text.decode()) for text in texts)


def _lacking(slot: Slot, servers: Mapping[str, Server]) -> bool:
    """Whether there may be no address for a slot: some server has none of its family."""
    asked = servers if slot.server is None else (slot.server,)
    return any(_missing(slot, servers, serving) for serving in asked)


def _missing(slot: Slot, servers: Mapping[str, Server], serving: str) -> bool:
    """Whether there is no address for a slot while this server serves."""
    if slot.family is None:
        return False
    addresses = servers[slot.server or serving].addresses
    return not any(address.version == slot.family for address in addresses)


# --- accepting ------------------------------------------------------------------------------

# By owner and type: each record's TTL and data.
_ByType = dict[tuple[dns.name.Name, str], set[tuple[int, dns.rdata.Rdata]]]


def accept(source: Source, servers: Mapping[str, Server]) -> dict[str, bytes]:
    """Render for every server, with serial 1, and check each rendering.

    `SourceRefused` if one does not parse, has no NS at the apex, differs from another in a record
    without a marker, or leaves out a record that may not be left out; or where a record is not in
    the zone: BIND and Knot would leave it out without a word.
    """
    renderings = {name: render(source, servers, name, serial=1) for name in servers}
    origin = dns.name.from_text(source.zone)
    faults = [
        Fault(record.line, f"{record.owner} is not in the zone {source.zone}")
        for record in source.records
        if not record.owner.is_subdomain(origin)
    ]
    read: dict[str, _ByType] = {}
    for name, rendering in renderings.items():
        faults += _left_out_faults(source, servers, name)
        one = _read(source.zone, rendering)
        if isinstance(one, Fault):
            faults.append(one)
        else:
            read[name] = one
    first, *others = read or [""]
    for other in others:
        faults += _difference_faults(source, first, read[first], other, read[other])
    if faults:
        raise SourceRefused(tuple(sorted(set(faults))))
    return renderings


def check_left_out(source: Source, servers: Mapping[str, Server]) -> None:
    """See that what a server's rendering leaves out may be left out; else `SourceRefused`."""
    faults = {fault for name in servers for fault in _left_out_faults(source, servers, name)}
    if faults:
        raise SourceRefused(tuple(sorted(faults)))


def _left_out_faults(
    source: Source, servers: Mapping[str, Server], serving: str
) -> Iterator[Fault]:
    """Records that can't be left out: their name, or a record after them, needs them."""
    left_out = {
        record.start: slot
        for record in source.records
        for slot in record.slots
        if _missing(slot, servers, serving)
    }
    reachable = {
        record.owner
        for record in source.records
        if record.type in ("A", "AAAA") and record.start not in left_out
    }
    # What a record that states no owner, or no TTL, takes from those before it that are left.
    owner_left = dns.name.from_text(source.zone)
    ttl = ttl_left = None
    for record in source.records:
        ttl = record.ttl or ttl
        if slot := left_out.get(record.start):
            if record.owner not in reachable:
                yield Fault(
                    record.line,
                    f"left out while {serving} serves, which has no IPv{slot.family} address:"
                    f" then {record.owner} has no address at all",
                )
            continue
        owner_left = record.owner if record.states_owner else owner_left
        ttl_left = record.ttl or ttl_left
        lost = [
            *(["owner"] if owner_left != record.owner else []),
            *(["TTL"] if record.inherits_ttl and ttl_left != ttl else []),
        ]
        for what in lost:
            yield Fault(
                record.line,
                f"takes its {what} from a record that is left out while {serving} serves:"
                f" state the {what} here",
            )


def _difference_faults(
    source: Source, one: str, ones: _ByType, other: str, others: _ByType
) -> Iterator[Fault]:
    """What differs between two renderings, as read by dnspython, beyond the marked records."""
    marked = {(record.owner, record.type) for record in source.records if record.slots}
    for owner, rtype in (ones.keys() | others.keys()) - marked:
        if ones.get((owner, rtype)) != others.get((owner, rtype)):
            lines = [r.line for r in source.records if (r.owner, r.type) == (owner, rtype)]
            text = f"{owner} {rtype} has no marker, but differs between {one} and {other}"
            yield Fault(lines[0] if lines else 1, text)


def _read(zone: str, content: bytes) -> _ByType | Fault:
    """What dnspython reads in a zone file, or why it can't."""
    text = _text(content)
    file = io.StringIO(text)
    origin = dns.name.from_text(zone)
    try:
        zone_read = dns.zone.from_file(
            file, origin, relativize=False, allow_include=False, check_origin=False
        )
    except (dns.exception.DNSException, ValueError) as error:  # ValueError: a number too long
        # How far it has read is the one place that all of its errors leave behind.
        line = text.count("\n", 0, max(file.tell() - 1, 0)) + 1
        reason = re.sub(r"^<\w+>:\d+: ", "", str(error))
        return Fault(line, reason)
    by_type: _ByType = {}
    for name, ttl, rdata in zone_read.iterate_rdatas():
        by_type.setdefault((name, dns.rdatatype.to_text(rdata.rdtype)), set()).add((ttl, rdata))
    if (origin, "NS") not in by_type:
        return Fault(1, f"no NS record at {origin}")
    return by_type


def _text(content: bytes) -> str:
    r"""A zone file as dnspython is to see it.

    A byte beyond ASCII as `\DDD`, since as a character it would count as two; a carriage return
    as a blank, since in a comment it would end the line.
    """
    return re.sub(
        rb"\\?([\x80-\xff])|\\.",
        lambda match: b"\\%03d" % match[1][0] if match[1] else match[0],
        content.replace(b"\r", b" "),
    ).decode("ascii")


# --- published files ------------------------------------------------------------------------


def serial_of(zone: str, content: bytes) -> int | None:
    """The serial in a published file's SOA, even if it is damaged elsewhere; None if none."""
    field = _serial_field(zone, content)
    return int(field.text) if field else None


def with_serial(zone: str, content: bytes, serial: int) -> bytes | None:
    """A published file with another serial; None where it has none."""
    field = _serial_field(zone, content)
    if field is None:
        return None
    return content[: field.start] + str(serial).encode() + content[field.end :]


def _serial_field(zone: str, content: bytes) -> Token | None:
    for record in lex(zone, content)[0]:
        if record.type == "SOA" and len(record.rdata) > SERIAL_FIELD:
            field = record.rdata[SERIAL_FIELD]
            if re.fullmatch(rb"\d{1,10}", field.text) and int(field.text) <= _MAX_SERIAL:
                return field
    return None


def points_to(source: Source, published: bytes, servers: Mapping[str, Server]) -> str | None:
    """Which server a published file points at; None when it can't be told.

    The one whose rendering it is; else the only one whose addresses all marked names have in it.
    """
    serial = serial_of(source.zone, published)
    if serial is not None:
        same = [s for s in servers if render(source, servers, s, serial) == published]
        if len(same) == 1:
            return same[0]
    read = _read(source.zone, published)
    if isinstance(read, Fault):
        return None
    marked = {
        (record.owner, record.type)
        for record in source.records
        if record.type in ("A", "AAAA") and any(slot.server is None for slot in record.slots)
    }
    published_there = [{rdata.to_text() for _, rdata in read[key]} for key in marked & read.keys()]
    candidates = [
        name
        for name, server in servers.items()
        if all(there & set(map(str, server.addresses)) for there in published_there)
    ]
    return candidates[0] if len(candidates) == 1 else None


# --- serials --------------------------------------------------------------------------------

_MAX_SERIAL = 2**32 - 1
_A_DAY = 100  # serials: YYYYMMDDSS
_A_YEAR = 1_000_000
_FIRST_DATE = 1983_00_00_00  # no zone is older than the DNS


@dataclass(frozen=True)
class NextSerial:
    """The serial to use, and whatever was not believed on the way to it, in words."""

    serial: int
    doubts: tuple[str, ...]


def next_serial(
    today: datetime.date, ours: Iterable[int], nameservers: Mapping[str, int]
) -> NextSerial:
    """The larger (RFC 1982) of today's first serial and the highest one known + 1.

    `ours` are the serials published and recorded by us, `nameservers` those seen at each. After
    4294967295 comes 1: 0 is passed over, since programs use it for "no serial".
    """
    ours = list(ours)
    first_today = _first_of(today)
    theirs, doubts = _believed(first_today, ours, nameservers)
    believed = [*ours, *theirs.values()]
    last = _highest(believed)
    if _beyond_belief(first_today, last):
        doubts.append(
            f"the clock says {today.isoformat()}, the last serial is {last}: not believed"
        )
    elif all(Serial(first_today) > Serial(serial) for serial in believed):
        return NextSerial(first_today, tuple(doubts))
    following = Serial(last or 0) + 1
    return NextSerial(following.value or 1, tuple(doubts))


def ahead(
    today: datetime.date, current: int, ours: Iterable[int], nameservers: Mapping[str, int]
) -> bool:
    """Whether a nameserver, if it is believed, would never take `current` for news (RFC 1982)."""
    theirs, _ = _believed(_first_of(today), ours, nameservers)
    return any(Serial(serial) > Serial(current) for serial in theirs.values())


def serials_left(today: datetime.date, serial: int) -> int | None:
    """How many serials of today's are left above this one; then they carry into tomorrow's.

    None for one that is days ahead: it was not reached by using them up, and no day is left to it.
    """
    left = _first_of(today) + _A_DAY - 1 - serial
    return None if left < -_DAYS_AHEAD * _A_DAY else max(0, min(_A_DAY, left))


_DAYS_AHEAD = 10


def _first_of(today: datetime.date) -> int:
    return ((today.year * 100 + today.month) * 100 + today.day) * 100


def _believed(
    first_today: int, ours: Iterable[int], nameservers: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """The nameservers' serials that are near ours (or today's, with none), and the doubts."""
    highest = _highest(ours)
    reference = first_today if highest is None else highest
    believed, doubts = {}, []
    for label, serial in nameservers.items():
        if _A_YEAR < (serial - reference) % 2**32 <= 2**31:
            doubts.append(
                f"{label} has serial {serial}, more than {_A_YEAR} ahead of {reference}:"
                " not believed"
            )
        else:
            believed[label] = serial
    return believed, doubts


def _highest(serials: Iterable[int]) -> int | None:
    """The highest in RFC 1982 arithmetic; the earlier of two that it can't compare."""
    highest = None
    for serial in serials:
        if highest is None or Serial(serial) > Serial(highest):
            highest = serial
    return highest


def _beyond_belief(first_today: int, last: int | None) -> bool:
    """Whether the clock is more than ten years ahead of a last serial that reads as a date.

    As plain numbers, and whatever the month and the day: past 99 a serial carries into days and
    months that no calendar knows, and still reads as a date of its year. Nor is a clock believed
    whose year does not fit into a serial.
    """
    if first_today > _MAX_SERIAL:
        return True
    return last is not None and last >= _FIRST_DATE and first_today - last > 10 * _A_YEAR
