"""Zone text -> zone text: rendering for a server, what a rendering must hold, the next serial.

Owns how a source's slots are filled, when a record is left out, and which serial comes next.
Pure: no I/O, no clock. Reading base files is left to `exporter/zonefile.py`, the name server's
own checker to `actions/nameserver.py`.
"""

import datetime
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import dns.exception
import dns.name
import dns.rdata
import dns.rdatatype
import dns.zone
from dns.serial import Serial

from exporter.config import Address, Server
from exporter.zonefile import SERIAL_FIELD, Fault, Record, Slot, Source, SourceRefused, lex

# --- rendering ------------------------------------------------------------------------------


def render(source: Source, servers: Mapping[str, Server], serving: str, serial: int) -> bytes:
    """Fill the slots for the server that serves; every other byte stays as it is.

    A record with a marker for an address that the server lacks is left out: each of its lines
    becomes a comment, as it stands in the source.
    """
    content, done = source.content, 0
    pieces = []
    for record in source.records:
        if _missing(record, servers, serving):
            lines = content[record.start : record.end].replace(b"\n", b"\n;")
            pieces += [content[done : record.start], b";", lines]
            done = record.end
            continue
        for slot in record.slots:
            address = _address(slot, servers, serving)
            value = str(serial if slot.family is None else address).encode()
            pieces += [content[done : slot.start], _apart(content, slot, value)]
            done = slot.end
    return b"".join([*pieces, content[done:]])


def _missing(record: Record, servers: Mapping[str, Server], serving: str) -> Slot | None:
    """The slot for which there is no address while this server serves."""
    return next(
        (
            slot
            for slot in record.slots
            if slot.family is not None and _address(slot, servers, serving) is None
        ),
        None,
    )


def _address(slot: Slot, servers: Mapping[str, Server], serving: str) -> Address | None:
    addresses = servers[slot.server or serving].addresses
    return next((address for address in addresses if address.version == slot.family), None)


def _apart(content: bytes, slot: Slot, value: bytes) -> bytes:
    """An inserted value with the blanks that keep it apart from what is around it."""
    if slot.start < slot.end:
        return value
    blank = b"" if content[slot.start - 1] in b" \t\n(" else b" "
    return blank + value + b" "


# --- accepting ------------------------------------------------------------------------------

# By owner and type: each record's TTL and data.
_ByType = dict[tuple[dns.name.Name, str], set[tuple[int, dns.rdata.Rdata]]]


def accept(source: Source, servers: Mapping[str, Server]) -> dict[str, bytes]:
    """Render for every server, with serial 1, and check each rendering.

    `SourceRefused` if one does not parse, has no NS at the apex, differs from another in a record
    without a marker, or leaves out a record that may not be left out.
    """
    renderings = {name: render(source, servers, name, serial=1) for name in servers}
    faults: list[Fault] = []
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
        if (slot := _missing(record, servers, serving))
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
    for record in lex(zone, content)[0]:
        if record.type == "SOA" and len(record.rdata) > SERIAL_FIELD:
            text = record.rdata[SERIAL_FIELD].text
            if re.fullmatch(rb"\d{1,10}", text) and int(text) <= _MAX_SERIAL:
                return int(text)
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
_A_YEAR = 1_000_000  # between two serials YYYYMMDDSS
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
