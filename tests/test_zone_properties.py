"""Whatever the zone file: only marked records differ, all else survives, rendering is idempotent.

The zone files are made up piece by piece, each piece knowing what becomes of it and each record
what a parser should read in it; nothing here asks the lexer what a marker is or where it stands.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.rdatatype
import dns.zone
from hypothesis import given, settings
from hypothesis import strategies as st

from actions.zone import accept, render, serial_of
from exporter.config import Server
from exporter.zonefile import lex, parse

SERVERS = {
    "main": Server(addresses=("192.0.2.1", "2001:db8::1")),
    "backup": Server(addresses=("198.51.100.7",)),
    "third": Server(addresses=("2001:db8::3", "203.0.113.3")),
}
ADDRESSES = {
    4: {"main": "192.0.2.1", "backup": "198.51.100.7", "third": "203.0.113.3"},
    6: {"main": "2001:db8::1", "third": "2001:db8::3"},
}

profile = settings(derandomize=True, deadline=None, max_examples=100)

Value = Callable[[str, int], str]  # by the server that serves, and the serial


# --- what a file is made of -----------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Bytes of the source, and the value that they become, if they are not to stay."""

    source: bytes
    value: Value | None = None


@dataclass(frozen=True)
class Word:
    """A field of a record; a comment that its line must end with."""

    pieces: list[Piece]
    comment: bytes | None = None

    @property
    def inserted(self) -> bool:
        """Whether there is nothing in the source."""
        return not any(piece.source for piece in self.pieces)


@dataclass(frozen=True)
class Entry:
    """A record, or a line that holds none."""

    pieces: list[Piece]
    owner: str = ""
    type: str = ""
    read: Value | None = None
    needs_ipv6: bool = False

    def left_out(self, serving: str) -> bool:
        """Whether this record has no address while that server serves."""
        return self.needs_ipv6 and serving not in ADDRESSES[6]

    def rendered(self, serving: str, serial: int) -> bytes:
        """What the record should become."""
        if self.left_out(serving):
            source = b"".join(piece.source for piece in self.pieces)
            return re.sub(rb"(?<=\n)(?!\Z)|\A", b";", source)
        content = b""
        for piece in self.pieces:
            if piece.value is None:
                content += piece.source
                continue
            value = piece.value(serving, serial).encode()
            if not piece.source:
                apart = content.endswith((b" ", b"\t", b"\n", b"("))
                value = (b"" if apart else b" ") + value + b" "
            content += value
        return content


@dataclass(frozen=True)
class File:
    """A zone file of which all is known that should come of it."""

    entries: list[Entry]

    @property
    def content(self) -> bytes:
        """The source."""
        return b"".join(piece.source for entry in self.entries for piece in entry.pieces)

    def rendered(self, serving: str, serial: int) -> bytes:
        """The zone that it should become."""
        return b"".join(entry.rendered(serving, serial) for entry in self.entries)

    def records(self, serving: str, serial: int) -> set[tuple[str, str, str]]:
        """The records that should be in that zone."""
        return {
            (entry.owner, entry.type, entry.read(serving, serial))
            for entry in self.entries
            if entry.read and not entry.left_out(serving)
        }

    @property
    def marked(self) -> set[tuple[str, str]]:
        """Owners and types of the records with a marker."""
        return {(e.owner, e.type) for e in self.entries if any(p.value for p in e.pieces)}


# --- making one up --------------------------------------------------------------------------

blank = st.sampled_from([b" ", b"\t", b" \t "])
blank_or_none = st.sampled_from([b" ", b"", b"\t"])
one_in_three = st.sampled_from([False, False, True])
# What may follow a `;`: anything that does not begin with a marker.
prose = st.sampled_from(
    [
        *[b"", b" caf\xe9", b" see @IP@", b"; @IP@", b" @IP@, in prose", b" @IP@@", b" (", b")"],
        *[
            b' "quote',
            b" of @IP:mian@",
            b"@ip@",
            b" @serial@",
            b" x\ry",
            b" \xe2\x82\xac\\",
            b"\t\x00",
        ],
    ]
)
# Between the quotes of a string: as written, and what it means.
strings = st.one_of(
    st.sampled_from(
        [
            *[
                (s, s)
                for s in (b"", b"v=spf1 mx -all", b"a;b (c) ;@IP", b"\xe2\x82\xac", b"caf\xe9\t")
            ],
            *[(b"alice@ipsum.org", b"alice@ipsum.org"), (rb"\@IP@ \"\\", rb'@IP@ "' + b"\\")],
        ]
    ).filter(lambda pair: not pair[0].endswith(b"@IP")),
    st.binary(max_size=8).map(lambda b: (b"".join(b"\\%03d" % byte for byte in b), b)),
)


def address(family: int, server: str | None) -> Value:
    return lambda serving, _: ADDRESSES[family][server or serving]


@dataclass
class Maker:
    """Draws a file, keeping what a reader of it keeps from line to line."""

    draw: st.DrawFn
    newline: bytes
    forms: list[str]  # of the markers
    origin: str = "example.org."
    owner: str = ""
    ttl_known: bool = False
    entries: list[Entry] = field(default_factory=list)

    def line(self, text: bytes) -> None:
        """A line that holds no record."""
        self.entries.append(Entry([Piece(text), self.line_end()]))

    def interlude(self) -> None:
        """Comments, empty lines, directives."""
        text = self.draw(
            st.sampled_from(
                [
                    *[b"", b" ", b"; @IP@", b"\t;@serial number@ caf\xe9", b"$TTL 1h30m"],
                    *[b"$ORIGIN sub", b"$ORIGIN\texample.org.", b"$origin x.example.org."],
                ]
            )
        )
        self.line(text)
        if text.startswith(b"$TTL"):
            self.ttl_known = True
        elif text.startswith(b"$"):
            name = text.split()[1].decode()
            self.origin = self.absolute(name)

    def record(
        self, name: str, rtype: str, words: list[Word], read: Value, *, needs_ipv6: bool = False
    ) -> None:
        """A record: owner and TTL stated or not, class or none, the data laid out somehow."""
        owner = self.absolute(name)
        head = [b"" if owner == self.owner and self.draw(st.booleans()) else name.encode()]
        extras = []
        if not self.ttl_known or self.draw(one_in_three):
            extras.append(b"300")
        if self.draw(st.booleans()):
            extras.insert(self.draw(st.integers(0, len(extras))), b"IN")
        head += [*extras, self.draw(st.sampled_from([rtype, rtype.lower()])).encode()]
        pieces = [Piece(self.draw(blank).join(head)), *self.laid_out(words)]
        self.entries.append(Entry(pieces, owner, rtype, read, needs_ipv6))
        self.owner, self.ttl_known = owner, True

    def laid_out(self, words: list[Word]) -> list[Piece]:
        """The data on one line where that can be, or on several within parentheses."""
        *before, last = words
        pieces: list[Piece] = []
        if (
            not any(word.comment for word in before)
            and not (before and last.inserted)
            and self.draw(st.booleans())
        ):
            for word in words:
                pieces += [
                    Piece(self.draw(blank_or_none if word.inserted else blank)),
                    *word.pieces,
                ]
            return [*pieces, self.line_end(last.comment, inserted=last.inserted)]
        pieces.append(Piece(self.draw(blank) + b"("))
        at_start = True  # nothing of this line's that an inserted value could be taken to replace
        for word in words:
            if (word.inserted and not at_start) or self.draw(one_in_three):
                pieces.append(self.line_end())
            touches = pieces[-1].source.endswith((b"(", b"\n"))
            pieces += [Piece(self.draw(blank_or_none if touches else blank)), *word.pieces]
            at_start = word.comment is not None
            if word.comment:
                pieces.append(self.line_end(word.comment, inserted=word.inserted))
        return [*pieces, Piece(self.draw(blank_or_none) + b")"), self.line_end()]

    def line_end(self, comment: bytes | None = None, *, inserted: bool = False) -> Piece:
        """With that comment, or any other one, or none."""
        text = self.draw(st.none() | prose)
        gap = b"" if inserted else self.draw(blank_or_none)  # inserted is right before the `;`
        if comment:
            after = b"" if text is None else b" " + text
            text = self.draw(blank_or_none) + comment + after
        elif text is None:
            return Piece(gap + self.newline)
        return Piece(gap + b";" + text + self.newline)

    def absolute(self, name: str) -> str:
        """The owner that is meant."""
        if name == "@":
            return self.origin
        return name if name.endswith(".") else f"{name}.{self.origin}"

    def marked(self, marker: str, value: Value, other: str) -> Word:
        """A word that is a marker in one of its forms."""
        form = self.draw(st.sampled_from(self.forms))
        if form == "inline":
            return Word([Piece(marker.encode(), value)])
        source = other.encode() if form == "replaced" else b""
        return Word([Piece(source, value)], marker.encode())

    def soa(self) -> None:
        """The first record."""
        serial = self.marked("@serial number@", lambda _, serial: str(serial), "2012080201")
        names = [b"ns1.example.org.", b"hostmaster.example.org."]
        words = [Word([Piece(text)]) for text in (*names, b"2h", b"10m", b"4w", b"60")]
        words.insert(2, serial)
        start = "ns1.example.org. hostmaster.example.org."
        self.record("@", "SOA", words, lambda _, serial: f"{start} {serial} 7200 600 2419200 60")

    def marked_address(self, name: str, family: int = 4) -> None:
        """An A or AAAA record with a marker."""
        server = self.draw(st.sampled_from([None, *ADDRESSES[family]]))
        kind = "IP" if family == 4 else self.draw(st.sampled_from(["IP", "IP6"]))
        marker = f"@{kind}:{server}@" if server else f"@{kind}@"
        value = address(family, server)
        word = self.marked(marker, value, "192.0.2.99" if family == 4 else "2001:db8::99")
        needs_ipv6 = family == 6 and server is None
        self.record(name, "A" if family == 4 else "AAAA", [word], value, needs_ipv6=needs_ipv6)

    def marked_address6(self, name: str) -> None:
        """An AAAA record with a marker."""
        self.marked_address(name, 6)

    def text(self, name: str) -> None:
        """A TXT record of several strings, with markers in some."""
        words, meant = [], []
        value = address(4, None)
        for written, meaning in self.draw(
            st.lists(strings | st.just((b"", None)), min_size=1, max_size=3)
        ):
            if meaning is not None:
                words.append(Word([Piece(b'"' + written + b'"')]))
                meant.append((meaning, False))
                continue
            word = self.marked("@IP@", value, "192.0.2.99")
            if not word.comment:
                word = Word([Piece(b'"ip4:'), *word.pieces, *word.pieces, Piece(b'"')])
            words.append(word)
            meant.append((b"" if word.comment else b"ip4:", True))

        def read(serving: str, serial: int) -> str:
            there = value(serving, serial).encode()
            texts = []
            for text, is_marked in meant:
                times = 0 if not is_marked else 2 if text else 1
                texts.append(quoted(text + there * times))
            return " ".join(texts)

        self.record(name, "TXT", words, read)

    def other(self, name: str) -> None:
        """A record without a marker."""
        rtype, words, read = self.draw(
            st.sampled_from(
                [
                    ("MX", [b"10", b"mail.example.org."], "10 mail.example.org."),
                    ("A", [b"192.0.2.77"], "192.0.2.77"),
                    ("AAAA", [b"2001:DB8:0::77"], "2001:db8::77"),
                    ("CAA", [b"0", b"issue", b'"ca.example;x=1"'], '0 issue "ca.example;x=1"'),
                ]
            )
        )
        self.record(name, rtype, [Word([Piece(word)]) for word in words], lambda *_: read)


def quoted(value: bytes) -> str:
    """A string as dnspython writes it."""
    escaped = (
        f"\\{chr(b)}" if b in b'"\\' else chr(b) if 32 <= b < 127 else f"\\{b:03d}" for b in value
    )
    return f'"{"".join(escaped)}"'


@st.composite
def files(draw: st.DrawFn, forms: tuple[str, ...] = ("inline", "replaced", "inserted")) -> File:
    """A zone file as people write them, and worse."""
    maker = Maker(draw, draw(st.sampled_from([b"\n", b"\r\n"])), list(forms))
    if draw(st.booleans()):
        maker.line(b"$TTL 1d")
        maker.ttl_known = True
    maker.soa()
    maker.record("@", "NS", [Word([Piece(b"ns1.example.org.")])], lambda *_: "ns1.example.org.")
    kinds = [maker.marked_address, maker.marked_address6, maker.text, maker.other]
    for name in draw(
        st.lists(
            st.sampled_from(["@", "www", "*.w", "a\\.b", "_x.y", "w.example.org."]), max_size=3
        )
    ):
        if draw(st.booleans()):
            maker.interlude()
        maker.marked_address(name)
        for make in draw(st.lists(st.sampled_from(kinds), max_size=3)):
            make(name)
    if draw(st.booleans()):  # no line's end at the end
        pieces = maker.entries[-1].pieces
        pieces[-1] = Piece(pieces[-1].source.removesuffix(maker.newline))
    return File(maker.entries)


# --- what holds -----------------------------------------------------------------------------


def read(content: bytes) -> set[tuple[str, str, str]]:
    """What dnspython reads: owner, type, data."""
    text = content.replace(b"\r\n", b"\n").replace(b"\r", b"?")
    text = re.sub(rb"[\x80-\xff]", lambda match: b"\\%03d" % match[0][0], text)
    zone = dns.zone.from_text(text.decode("ascii"), "example.org.", relativize=False)
    return {
        (str(name), dns.rdatatype.to_text(rdata.rdtype), rdata.to_text())
        for name, _, rdata in zone.iterate_rdatas()
    }


@profile
@given(file=files(), serving=st.sampled_from([*SERVERS]), serial=st.integers(1, 2**32 - 1))
def test_a_rendering_is_the_source_with_its_slots_filled(
    file: File, serving: str, serial: int
) -> None:
    """Every byte outside the slots survives, comments and layout; each slot gets its value."""
    source = parse("example.org", file.content, SERVERS)
    rendering = render(source, SERVERS, serving, serial)
    assert rendering == file.rendered(serving, serial)
    assert render(source, SERVERS, serving, serial) == rendering
    assert serial_of("example.org", rendering) == serial


@profile
@given(file=files())
def test_a_rendering_is_read_as_what_was_written(file: File) -> None:
    """For every server, dnspython reads the records that were made up, and no others."""
    renderings = accept(parse("example.org", file.content, SERVERS), SERVERS)
    for serving, rendering in renderings.items():
        assert read(rendering) == file.records(serving, 1)


@profile
@given(file=files())
def test_only_marked_records_differ(file: File) -> None:
    """Between the renderings for any two servers, with different serials."""
    source = parse("example.org", file.content, SERVERS)
    first, *others = [
        read(render(source, SERVERS, serving, serial)) for serial, serving in enumerate(SERVERS, 7)
    ]
    for other in others:
        assert {(owner, rtype) for owner, rtype, _ in first ^ other} <= file.marked


@profile
@given(file=files(("replaced", "inserted")), serving=st.sampled_from([*SERVERS]))
def test_rendering_is_idempotent(file: File, serving: str) -> None:
    """With markers in comments, a rendering is a base file again, and renders to itself."""
    once = render(parse("example.org", file.content, SERVERS), SERVERS, serving, 2025112200)
    assert render(parse("example.org", once, SERVERS), SERVERS, serving, 2025112200) == once


@profile
@given(
    content=st.binary(max_size=60) | st.text('$TL@IP"();\\ \n\r\tA1', max_size=40).map(str.encode)
)
def test_no_bytes_at_all_upset_the_lexer(content: bytes) -> None:
    """Half-saved or no zone file at all: it is read as far as it goes."""
    for record in lex("example.org", content)[0]:
        assert 0 <= record.start < record.end <= len(content)
        for token in record.rdata:
            assert content[token.start : token.end] == token.text
