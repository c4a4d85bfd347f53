"""Base files: finding them, and the one lexer that knows where markers stand.

Owns the name `ZONE.base`, the spelling of the markers and where each of them may stand. What a
marker's place is filled with, and whether the result is a good zone, is left to `actions/zone.py`.

A marker counts in two forms. *Inline* it stands for the value itself, within a quoted string too.
*As the first thing in a comment*, on a line that holds part of a record, it names the last token
before the `;` on that line (parentheses aside). That token is replaced if it is a value of the
marker's kind; inside its quotes, if it has any. Otherwise the value is inserted right before the
`;`, with a blank after it, and one before it unless a blank, a line's start or a `(` is there
already; but not after a text that holds an address, say `"ip4:192.0.2.1"`, which is refused.
NAME must be a server in both forms. An escaped `@` begins no marker.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import dns.exception
import dns.name
import dns.rdatatype

from exporter.config import Server

SUFFIX = ".base"

SERIAL_FIELD = 2  # of an SOA's data, counted from 0

Family = Literal[4, 6]


@dataclass(frozen=True, order=True)
class Fault:
    """What is wrong with a source, and in which of its lines."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.line}: {self.text}"


class SourceRefused(Exception):  # noqa: N818 - what became of it, in the project's words
    """A source can't be used: every fault found in it, in the order of its lines."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


# --- finding --------------------------------------------------------------------------------

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_LONGEST = 240
_ZONE = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)


@dataclass(frozen=True)
class Found:
    """The base files of a folder by zone, and which files are none, with the reason."""

    paths: Mapping[str, Path]
    refused: Mapping[str, str]


def find(folder: Path) -> Found:
    """Look for `ZONE.base` directly in the folder; OSError if it can't be read.

    What does not end in `.base`, and an editor's lock file, is not ours and is not mentioned.
    """
    paths, refused = {}, {}
    with os.scandir(folder) as entries:  # there may be thousands
        files = sorted((entry.name, _is_file(entry)) for entry in entries)
    for name, is_file in files:
        zone = name.removesuffix(SUFFIX)
        if zone == name or zone.startswith(".#"):
            continue
        if reason := _not_a_zone(zone) if is_file else "not a regular file":
            # A name that is not UTF-8 could not be printed as it is.
            refused[name.encode("utf-8", "backslashreplace").decode()] = reason
        else:
            paths[zone] = folder / name
    return Found(paths, refused)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself, say
        return False


def _not_a_zone(name: str) -> str | None:
    if name.startswith("."):
        return "begins with a dot"
    if name != name.lower():
        return "not in lower case"
    if len(name) > _LONGEST:
        return f"longer than {_LONGEST} characters, which leaves no room for files beside it"
    if not _ZONE.fullmatch(name):
        return "not a zone's name in ASCII, such as example.org or xn--bcher-kva.example"
    return None


# --- what a file holds ----------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A place for a value: the bytes from `start` to `end`; none, where it is inserted."""

    start: int
    end: int
    marker: str
    family: Family | None  # of the address; None for the serial
    server: str | None  # whose address; None for the one that serves


@dataclass(frozen=True)
class Token:
    """A word, or a string in its quotes, as written; empty where a value is inserted."""

    start: int
    end: int
    line: int
    text: bytes


@dataclass(frozen=True)
class Record:
    """A resource record, from the start of its first line to the end of its last one."""

    start: int
    end: int
    line: int
    owner: dns.name.Name
    states_owner: bool
    ttl: bytes | None  # as stated
    inherits_ttl: bool  # none stated, and no $TTL in force: the last one stated (RFC 1035)
    type: str
    rdata: tuple[Token, ...]
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Source:
    """A base file whose markers all stand where they may."""

    zone: str
    content: bytes
    records: tuple[Record, ...]


def parse(zone: str, content: bytes, servers: Mapping[str, Server]) -> Source:
    """Read a base file; `SourceRefused` carries every fault of its markers and its form."""
    records, faults = lex(zone, content)
    faults += _soa_faults(zone, records)
    for record in records:
        faults += [
            Fault(content.count(b"\n", 0, slot.start) + 1, text)
            for slot in record.slots
            if slot.server is not None and (text := _server_fault(slot, slot.server, servers))
        ]
    if faults:
        raise SourceRefused(tuple(sorted(set(faults))))
    return Source(zone, content, tuple(records))


def _soa_faults(zone: str, records: list[Record]) -> Iterator[Fault]:
    soas = [record for record in records if record.type == "SOA"]
    if not soas:
        yield Fault(1, "no SOA record")
        return
    first, *others = soas
    if first.owner != dns.name.from_text(zone):
        yield Fault(first.line, f"the SOA record is that of {first.owner}, not of {zone}.")
    for soa in others:
        yield Fault(soa.line, f"another SOA record; the first is in line {first.line}")
    if not any(slot.family is None for record in records for slot in record.slots):
        yield Fault(first.line, "no @serial number@ in the SOA record")


def _server_fault(slot: Slot, name: str, servers: Mapping[str, Server]) -> str | None:
    if name not in servers:
        return f"{slot.marker} names no server; expected one of {', '.join(servers)}"
    if not any(address.version == slot.family for address in servers[name].addresses):
        return f"{slot.marker}: {name} has no IPv{slot.family} address"
    return None


# --- where a zone points --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pointer:
    """The name, absolute, whose addresses of this type tell which server a zone points at."""

    name: str
    type: Literal["A", "AAAA"]


def pointer(source: Source) -> Pointer:
    """The first name that follows the serving server; where none does, the apex."""
    return following(source) or Pointer(f"{source.zone}.", "A")


def following(source: Source) -> Pointer | None:
    """The first name that follows the serving server, with an A record if any has.

    What names one server, as `@IP:main@`, follows nobody.
    """
    for rtype in _ADDRESS_TYPES:
        for record in source.records:
            if record.type == rtype and any(slot.server is None for slot in record.slots):
                return Pointer(record.owner.to_text(), rtype)
    return None


_ADDRESS_TYPES: tuple[Literal["A", "AAAA"], ...] = ("A", "AAAA")


# --- records --------------------------------------------------------------------------------

_TTL = re.compile(rb"\d+|(?:\d+[wdhms])+", re.IGNORECASE)
_GENERIC_TYPE, _MAX_TYPE = re.compile(r"TYPE([0-9]+)"), 65535
_CLASS = re.compile(rb"IN|CH|HS|CLASS\d+", re.IGNORECASE)


def lex(zone: str, content: bytes) -> tuple[list[Record], list[Fault]]:
    """Read any zone file, markers or none, as far as it can be read."""
    faults: list[Fault] = []
    records = []
    owner = origin = dns.name.from_text(zone)
    default_ttl = False
    for entry in _entries(content, faults):
        states_owner = content[entry.start] not in b" \t"
        tokens = entry.tokens
        if states_owner and tokens and tokens[0].text.startswith(b"$"):
            directive = tokens[0].text.upper()
            faults += _directive_faults(directive, tokens)
            default_ttl |= directive == b"$TTL"
            if directive == b"$ORIGIN" and len(tokens) > 1:
                origin = _name(tokens[1], origin, faults) or origin
            continue
        if states_owner and tokens:
            owner = _name(tokens[0], origin, faults) or owner
        ttl, at = _ttl_and_type(tokens, 1 if states_owner else 0)
        rtype = _type(tokens[at]) if at < len(tokens) else ""
        rdata, slots = _rdata(entry, at, rtype, faults)
        records.append(
            Record(
                start=entry.start,
                end=entry.end,
                line=entry.line,
                owner=owner,
                states_owner=states_owner,
                ttl=ttl,
                inherits_ttl=ttl is None and not default_ttl,
                type=rtype,
                rdata=rdata,
                slots=slots,
            )
        )
    return records, faults


def _directive_faults(directive: bytes, tokens: list[Token]) -> Iterator[Fault]:
    if directive == b"$INCLUDE":
        yield Fault(tokens[0].line, "$INCLUDE: what it brings in can't be watched; put it here")
    for token in tokens:
        for match in _marks(token):
            text = "no record" if match["marker"] else _SPELLING
            yield Fault(token.line, f"{match[0].decode()} stands in a directive: {text}")


def _name(token: Token, origin: dns.name.Name, faults: list[Fault]) -> dns.name.Name | None:
    try:
        return dns.name.from_text(token.text.decode("ascii"), origin)
    except UnicodeDecodeError:
        return None  # reported as a foreign byte
    except dns.exception.DNSException as error:
        faults.append(Fault(token.line, f"{token.text.decode('ascii')}: {error}"))
        return None


def _type(token: Token) -> str:
    """A type's name; RFC 3597's spelling of a known one is that one."""
    name = token.text.upper().decode("latin-1")
    if (generic := _GENERIC_TYPE.fullmatch(name)) and int(generic[1]) <= _MAX_TYPE:
        return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(int(generic[1])))
    return name


def _ttl_and_type(tokens: list[Token], at: int) -> tuple[bytes | None, int]:
    """The stated TTL, and where the type stands: after TTL and class, in either order."""
    ttl = None
    while at < len(tokens):
        text = tokens[at].text
        if ttl is None and _TTL.fullmatch(text):
            ttl = text
        elif not _CLASS.fullmatch(text):
            break
        at += 1
    return ttl, at


# --- markers --------------------------------------------------------------------------------

_SPELLING = (
    "no marker; expected @serial number@, @IP@, @IP6@, @IP:NAME@ or @IP6:NAME@,"
    " NAME a server as the configuration spells it"
)
_MARKER = rb"(?P<marker>@(?:serial number|IP(?P<six>6)?(?::(?P<server>[a-z0-9-]+))?)@)"
# What was surely meant to be one. The last line: left open, and not within a mail address.
_NEAR_MISS = (
    rb"@[ \t]?(?i:ip[ \t]?:?[ \t]?[a-z0-9:_-]*|serial[ \t]*[a-z0-9_-]*)[ \t]?@"
    rb"|(?<![A-Za-z0-9._%+-])@IP6?(?::[a-z0-9-]*)?(?![A-Za-z0-9._:@-])"
)
_IN_TOKEN = re.compile(rb"\\.|" + _MARKER + rb"|(?P<near>" + _NEAR_MISS + rb")", re.DOTALL)
_IN_COMMENT = re.compile(rb";[ \t]*" + _MARKER + rb"(?=[ \t]|\r?\Z)")
_INLINE = "put the marker where the address is"
_TEXT = ("TXT", "SPF")
# Text after which a further string with an address can't be what the owner meant.
_ADDRESS_WITHIN = re.compile(rb"@IP|\d+(?:\.\d+){3}|:[0-9A-Fa-f]*:")


def _marks(token: Token) -> Iterator[re.Match[bytes]]:
    """The markers and near misses in a token."""
    if b"@" in token.text:
        for match in _IN_TOKEN.finditer(token.text):
            if match.lastgroup:
                yield match


def _rdata(
    entry: "_Entry", at: int, rtype: str, faults: list[Fault]
) -> tuple[tuple[Token, ...], tuple[Slot, ...]]:
    """The record's data, inserted values among them, and the slots of the whole record."""
    placed = [*_inline(entry.tokens, rtype, faults), *_by_comments(entry.comments, rtype, faults)]
    placed.sort(key=lambda place: place[1].start)
    begin = entry.tokens[at].end if at < len(entry.tokens) else entry.end
    inserted = [token for token, _ in placed if not token.text and token.start >= begin]
    rdata = sorted([*entry.tokens[at + 1 :], *inserted], key=lambda token: token.start)
    if not entry.opened:  # else it is not known what belongs to the record
        faults += [
            Fault(token.line, f"{slot.marker} {wrong}")
            for token, slot in placed
            if (wrong := _misplaced(slot, token, rtype, rdata))
        ]
    return tuple(rdata), tuple(slot for _, slot in placed)


def _inline(tokens: list[Token], rtype: str, faults: list[Fault]) -> Iterator[tuple[Token, Slot]]:
    for token in tokens:
        for match in _marks(token):
            if match["near"]:
                faults.append(Fault(token.line, f"{match[0].decode()} is {_SPELLING}"))
            else:
                start = token.start + match.start()
                yield token, _slot(match, start, token.start + match.end(), rtype)


def _by_comments(
    comments: list[tuple[Token, Token | None]], rtype: str, faults: list[Fault]
) -> Iterator[tuple[Token, Slot]]:
    for comment, last in comments:
        match = _IN_COMMENT.match(comment.text)
        if not match or (last and last.text == match["marker"]):
            continue
        token, slot = _named_by_comment(match, comment, last, rtype)
        if last and token is not last and rtype in _TEXT and _ADDRESS_WITHIN.search(last.text):
            text = f"{slot.marker} would add a string to one that holds an address: {_INLINE}"
            faults.append(Fault(comment.line, text))
        yield token, slot


def _named_by_comment(
    match: re.Match[bytes], comment: Token, last: Token | None, rtype: str
) -> tuple[Token, Slot]:
    """The token and the place that a comment's marker stands for (see the module's docstring)."""
    if last:
        quote = 1 if last.text[:1] == b'"' else 0
        slot = _slot(match, last.start + quote, last.end - quote, rtype)
        if _is_value(last.text[quote : len(last.text) - quote], slot.family):
            return last, slot
    inserted = Token(comment.start, comment.start, comment.line, b"")
    return inserted, _slot(match, comment.start, comment.start, rtype)


def _slot(match: re.Match[bytes], start: int, end: int, rtype: str) -> Slot:
    family: Family | None = 6 if match["six"] or rtype == "AAAA" else 4
    if match["marker"] == b"@serial number@":
        family = None
    server = match["server"].decode() if match["server"] else None
    return Slot(start, end, match["marker"].decode(), family, server)


def _is_value(text: bytes, family: Family | None) -> bool:
    if family is None:
        return text.isdigit()
    try:
        return ipaddress.ip_address(text.decode("ascii")).version == family
    except ValueError:
        return False


def _misplaced(slot: Slot, token: Token, rtype: str, rdata: list[Token]) -> str | None:
    entire = (slot.start, slot.end) == (token.start, token.end)
    if slot.family is None:
        if rtype != "SOA" or rdata[SERIAL_FIELD : SERIAL_FIELD + 1] != [token] or not entire:
            return "must be the entire serial field of the SOA record"
    elif token not in rdata:
        return "stands outside a record's data"
    elif rtype in ("A", "AAAA"):
        if not entire or len(rdata) != 1:
            return f"must be the entire data of the {rtype} record"
        if rtype == "A" and slot.family == 6:  # noqa: PLR2004
            return "is an IPv6 address in an A record"
    elif rtype not in _TEXT:
        return f"stands in a record of type {rtype}; expected A, AAAA, TXT or SPF"
    return None


# --- bytes ----------------------------------------------------------------------------------

# Blanks match nothing here and are passed over. `@serial number@` is one word in spite of its
# blank, in any case of letters and with any blanks, so that a near miss is seen as such. The groups
# are atomic and not quantified possessively, which Python 3.11.2 gets wrong.
_LEXEMES = re.compile(
    rb"""
      (?P<newline> \r?\n )
    | (?P<comment> ;[^\n]* )
    | (?P<open>    \( )
    | (?P<close>   \) )
    | (?P<string>  "(?> (?: [^"\\\r\n]+ | \\[^\r\n] )* )" )
    | (?P<unended> "(?> (?: [^"\\\r\n]+ | \\[^\r\n] )* ) )
    | (?P<word>    (?> (?: [^ \t\r\n;()"\\@]+ | (?i:@serial[ \t]+number@) | @ | \\[^\n]?
                         | \r(?!\n) )+ ) )
    """,
    re.VERBOSE,
)
_FOREIGN = re.compile(rb"[^\t\x20-\x7e]")


@dataclass
class _Entry:
    """A record or a directive: all that stands up to a line's end outside parentheses."""

    start: int
    line: int
    end: int = 0
    tokens: list[Token] = field(default_factory=list)
    # each with the last token before it on its line
    comments: list[tuple[Token, Token | None]] = field(default_factory=list)
    # the lines of the parentheses that are open
    opened: list[int] = field(default_factory=list)

    def add(self, match: re.Match[bytes], line: int) -> str | None:
        """Take in the next lexeme; what is wrong with it, if anything."""
        kind = match.lastgroup
        if kind == "open":
            self.opened.append(line)
            return None
        if kind == "close":
            return None if self.opened and self.opened.pop() else ") without a ( before it"
        token = Token(match.start(), match.end(), line, match[0])
        if kind == "comment":
            last = self.tokens[-1] if self.tokens and self.tokens[-1].line == line else None
            self.comments.append((token, last))
            return None
        self.tokens.append(token)
        if kind == "unended":
            return 'a quoted string without its closing "'
        if kind == "word" and (foreign := _FOREIGN.search(token.text)):
            return f"byte 0x{foreign[0].hex()} outside comments and quoted strings"
        return None


def _entries(content: bytes, faults: list[Fault]) -> Iterator[_Entry]:
    """Cut a zone file into entries (RFC 1035, section 5.1)."""
    entry: _Entry | None = None
    line, line_start = 1, 0
    for match in _LEXEMES.finditer(content):
        if match.lastgroup == "newline":
            if entry and not entry.opened:
                entry.end = match.start()
                yield entry
                entry = None
            line, line_start = line + 1, match.end()
        elif entry or match.lastgroup != "comment":
            entry = entry or _Entry(line_start, line)
            if wrong := entry.add(match, line):
                faults.append(Fault(line, wrong))
    if entry:
        entry.end = len(content)
        faults += [Fault(opened, "( that is never closed") for opened in entry.opened]
        yield entry
