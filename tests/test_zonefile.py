"""Base files: which files are some, how one is cut into records, and what is refused."""

import os
from pathlib import Path

import dns.name
import pytest
from zones import HEAD, SERVERS

from exporter.zonefile import (
    Fault,
    Record,
    SourceRefused,
    find,
    following,
    lex,
    parse,
    pointer,
)


def records(text: str | bytes) -> list[Record]:
    content = text if isinstance(text, bytes) else text.encode()
    found, faults = lex("example.org", content)
    assert faults == []
    return found


def faults(text: str | bytes, *, head: str = HEAD) -> list[str]:
    content = head.encode() + (text if isinstance(text, bytes) else text.encode("latin-1"))
    with pytest.raises(SourceRefused) as refused:
        parse("example.org", content, SERVERS)
    return [str(fault) for fault in refused.value.faults]


# --- finding --------------------------------------------------------------------------------


def test_base_files_are_found_by_their_zone(tmp_path: Path) -> None:
    """A base file is a regular file, or a link to one, named ZONE.base."""
    names = ["example.org", "xn--bcher-kva.example", "0-31.2.0.192.in-addr.arpa", "_msdcs.example"]
    for name in names:
        (tmp_path / f"{name}.base").touch()
    (tmp_path / "example.net.base").symlink_to("example.org.base")
    found = find(tmp_path)
    assert found.paths == {n: tmp_path / f"{n}.base" for n in [*names, "example.net"]}
    assert found.refused == {}
    assert list(found.paths) == sorted(found.paths)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".example.org.base", "begins with a dot"),
        (".base", "not a zone's name"),
        ("Example.org.base", "not in lower case"),
        ("bücher.example.base", "not a zone's name"),
        ("example..org.base", "not a zone's name"),
        ("example.org..base", "not a zone's name"),
        ("-example.org.base", "not a zone's name"),
        (f"{'a' * 64}.example.base", "not a zone's name"),
        ("exa mple.org.base", "not a zone's name"),
        ("example.org\n.base", "not a zone's name"),
    ],
)
def test_a_name_that_is_no_zone_is_refused_with_the_reason(
    tmp_path: Path, name: str, reason: str
) -> None:
    """What ends in .base and is no zone's name in ASCII and lower case is not passed over."""
    (tmp_path / name).touch()
    found = find(tmp_path)
    assert found.paths == {}
    assert list(found.refused) == [name]
    assert found.refused[name].startswith(reason)


def test_only_regular_files_are_base_files(tmp_path: Path) -> None:
    """A folder, a pipe (reading it would never end) and a dangling link are refused."""
    (tmp_path / "folder.example.base").mkdir()
    os.mkfifo(tmp_path / "pipe.example.base")
    (tmp_path / "link.example.base").symlink_to("nowhere")
    (tmp_path / "loop.example.base").symlink_to("loop.example.base")
    found = find(tmp_path)
    assert found.paths == {}
    assert found.refused == dict.fromkeys(
        [f"{name}.example.base" for name in ("folder", "link", "loop", "pipe")],
        "not a regular file",
    )


def test_what_editors_leave_behind_is_not_ours(tmp_path: Path) -> None:
    """Backups, locks, swap files and other people's files are not even mentioned."""
    for name in ["example.org.base~", "#example.org.base#", ".example.org.base.swp", "README"]:
        (tmp_path / name).touch()
    (tmp_path / ".#example.org.base").symlink_to("alice@host.1234")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "example.org.base").touch()
    found = find(tmp_path)
    assert (found.paths, found.refused) == ({}, {})


def test_a_refused_name_can_be_printed(tmp_path: Path) -> None:
    """A file's name that is not UTF-8 is shown escaped, so that it can be logged."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.base")).touch()
    (name,) = find(tmp_path).refused
    assert name.encode() == rb"caf\udce9.base"


def test_a_folder_that_cannot_be_read_is_the_callers_to_report(tmp_path: Path) -> None:
    """A missing folder is not the same as one without base files."""
    with pytest.raises(FileNotFoundError):
        find(tmp_path / "missing")


# --- records --------------------------------------------------------------------------------


def test_records_have_their_owner_type_and_data() -> None:
    """Owners are absolute, by $ORIGIN and inheritance; TTL and class come in either order."""
    found = records(
        "$ORIGIN example.org.\n"
        "@ 60 IN A 192.0.2.1\n"
        "\tIN 1h30m AAAA 2001:db8::1 ; and a comment\n"
        "\n"
        "   ; nothing but a comment\n"
        "$origin sub\n"
        " MX 10 mail\n"
        "www.example.org. a 192.0.2.2\n"
        "www in\ttxt\tx\n"
    )
    assert [(r.line, str(r.owner), r.states_owner, r.ttl, r.type) for r in found] == [
        (2, "example.org.", True, b"60", "A"),
        (3, "example.org.", False, b"1h30m", "AAAA"),
        (7, "example.org.", False, None, "MX"),
        (8, "www.example.org.", True, None, "A"),
        (9, "www.sub.example.org.", True, None, "TXT"),
    ]
    assert [[t.text for t in r.rdata] for r in found] == [
        [b"192.0.2.1"],
        [b"2001:db8::1"],
        [b"10", b"mail"],
        [b"192.0.2.2"],
        [b"x"],
    ]


def test_a_first_record_without_an_owner_is_the_zones_own() -> None:
    """As dnspython and NSD read it: the origin is the first owner."""
    (record,) = records(" NS ns1\n")
    assert record.owner == dns.name.from_text("example.org")


def test_a_ttl_named_like_a_number_or_a_type_as_an_owner_is_an_owner() -> None:
    """What stands at the start of a line is the owner, whatever it looks like."""
    found = records("60 A 192.0.2.1\nin A 192.0.2.1\nmx 60 MX 0 mx\n")
    assert [str(r.owner) for r in found] == [
        "60.example.org.",
        "in.example.org.",
        "mx.example.org.",
    ]
    assert [r.type for r in found] == ["A", "A", "MX"]


def test_parentheses_quotes_and_escapes_hold_a_record_together() -> None:
    """Line ends within parentheses, and anything within quotes or after a backslash, are data."""
    content = (
        b'a TXT ( "x ; ) y" ; a comment with a ( and a "\r\n'
        b'  b\\;\\"c(d\\ e)\r\n'
        b"\r\n"
        b'  "say \\"hi\\" \\\\" )\r\n'
        b'b TXT "" ; no line\'s end follows'
    )
    first, second = records(content)
    assert [(t.line, t.text) for t in first.rdata] == [
        (1, b'"x ; ) y"'),
        (2, b'b\\;\\"c'),
        (2, b"d\\ e"),
        (4, b'"say \\"hi\\" \\\\"'),
    ]
    assert [content[t.start : t.end] for t in first.rdata] == [t.text for t in first.rdata]
    assert content[first.start : first.end].splitlines() == content.splitlines()[:4]
    assert (second.line, [t.text for t in second.rdata]) == (5, [b'""'])
    assert content[second.start : second.end].startswith(b"b TXT")


def test_a_record_inherits_its_ttl_only_without_a_default() -> None:
    """RFC 1035: the last TTL stated counts where none is, until a $TTL (RFC 2308) is in force."""
    found = records("a 60 A 192.0.2.1\nb A 192.0.2.1\n$TTL 1h\nc A 192.0.2.1\nd 5 A 192.0.2.1\n")
    assert [r.inherits_ttl for r in found] == [False, True, False, False]


def test_any_bytes_can_be_cut_into_records() -> None:
    """A published file that was damaged is still read as far as possible."""
    found, _ = lex("example.org", b'\x00\xff " \\\n$ORIGIN\n$TTL\n(\n) )\nwww..x A 1\n\\')
    assert "A" in [r.type for r in found]


# --- markers --------------------------------------------------------------------------------


def test_slots_say_what_belongs_there() -> None:
    """A slot knows its place, the family of the address and whose address it is."""
    content = HEAD.encode() + (
        b'a A @IP@\nb AAAA @IP@\nc AAAA @IP6:main@\nd TXT "@IP:backup@ @IP6@" 192.0.2.9 ; @IP@\n'
    )
    source = parse("example.org", content, SERVERS)
    assert [
        (r.type, content[s.start : s.end].decode(), s.marker, s.family, s.server)
        for r in source.records
        for s in r.slots
    ] == [
        ("SOA", "@serial number@", "@serial number@", None, None),
        ("A", "@IP@", "@IP@", 4, None),
        ("AAAA", "@IP@", "@IP@", 6, None),
        ("AAAA", "@IP6:main@", "@IP6:main@", 6, "main"),
        ("TXT", "@IP:backup@", "@IP:backup@", 4, "backup"),
        ("TXT", "@IP6@", "@IP6@", 6, None),
        ("TXT", "192.0.2.9", "@IP@", 4, None),
    ]


NO_MARKER = (
    "no marker; expected @serial number@, @IP@, @IP6@, @IP:NAME@ or @IP6:NAME@,"
    " NAME a server as the configuration spells it"
)


@pytest.mark.parametrize(
    ("text", "miss"),
    [
        ("www A @ip@", "@ip@"),
        ("www A @Ip@", "@Ip@"),
        ("www A @IP4@", "@IP4@"),
        ("www A @IPv4@", "@IPv4@"),
        ("www AAAA @IPV6@", "@IPV6@"),
        ("www A @IP:MAIN@", "@IP:MAIN@"),
        ("www A @ip:main@", "@ip:main@"),
        ("www A @IP:@", "@IP:@"),
        ('www TXT "ip4:@ip@ -all"', "@ip@"),
        ('www TXT "ip4:@IP: main@ -all"', "@IP: main@"),
        ('www TXT "ip4:@ IP @ -all"', "@ IP @"),
        ('www TXT "ip4:@IP -all"', "@IP"),
        ("www TXT ip4:@IP6", "@IP6"),
        ("www TXT @serial@", "@serial@"),
        ("www TXT @serialnumber@", "@serialnumber@"),
        ("www TXT @serial_number@", "@serial_number@"),
        ("www TXT @Serial Number@", "@Serial Number@"),
        ("www TXT @serial  number@", "@serial  number@"),
        ("www TXT @serial\tnumber@", "@serial\tnumber@"),
        ("@ip@ A 192.0.2.1", "@ip@"),
    ],
)
def test_a_near_miss_is_refused(text: str, miss: str) -> None:
    """What was surely meant as a marker never reaches a published zone as it stands."""
    assert f"5: {miss} is {NO_MARKER}" in faults(text)


@pytest.mark.parametrize(
    "text",
    [
        'www TXT "alice@ipsum.org"',
        'www TXT "alice@ip6.example, bob@ip.example"',
        'www TXT "IP@example.org" info@IP.example',
        'www TXT "alice@IP"',
        'www TXT "serial@number.example"',
        'www TXT "\\@ip@" \\@IP@',
        "www A 192.0.2.1 ; @ip@ @IP:mian@ @serial@",
        "; @IP4@",
    ],
)
def test_mail_addresses_escapes_and_comments_are_no_near_miss(text: str) -> None:
    """Ordinary text with an @ stays ordinary text."""
    source = parse("example.org", (HEAD + text).encode(), SERVERS)
    assert [s.marker for r in source.records for s in r.slots] == ["@serial number@"]


@pytest.mark.parametrize("text", ["www A @IP:mian@", "www A 192.0.2.1 ; @IP:mian@"])
def test_an_unknown_server_is_refused_with_those_there_are(text: str) -> None:
    """In a comment too, where the marker is spelt right and stands where one counts."""
    assert faults(text) == ["5: @IP:mian@ names no server; expected one of main, backup"]


@pytest.mark.parametrize("text", ["www AAAA @IP:backup@", 'www TXT "ip6:@IP6:backup@"'])
def test_a_named_server_must_have_an_address_of_the_family(text: str) -> None:
    """The record could never be rendered, whoever serves."""
    assert [f.split(": ", 2)[2] for f in faults(text)] == ["backup has no IPv6 address"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("www TXT @serial number@", "5: @serial number@ must be the entire serial field of the"),
        ("www TXT a b @serial number@", "5: @serial number@ must be the entire serial field of"),
        ("www A ; @serial number@", "5: @serial number@ must be the entire serial field of the"),
        ("www 60 ; @serial number@", "5: @serial number@ must be the entire serial field of the"),
        ("www A 192.0.2.1 @IP@", "5: @IP@ must be the entire data of the A record"),
        ("www A 1@IP@", "5: @IP@ must be the entire data of the A record"),
        ('www A "@IP@"', "5: @IP@ must be the entire data of the A record"),
        ('www A "192.0.2.1" ; @IP@', "5: @IP@ must be the entire data of the A record"),
        ("www A 192.0.2.999 ; @IP@", "5: @IP@ must be the entire data of the A record"),
        ("www A 2001:db8::1 ; @IP@", "5: @IP@ must be the entire data of the A record"),
        ("www AAAA 192.0.2.1 ; @IP@", "5: @IP@ must be the entire data of the AAAA record"),
        ("www A ( 192.0.2.1\n ) ; @IP@", "6: @IP@ must be the entire data of the A record"),
        ("www A @IP:main@ ; @IP@", "5: @IP@ must be the entire data of the A record"),
        ("www A @IP6@", "5: @IP6@ is an IPv6 address in an A record"),
        ("www A @IP6:main@", "5: @IP6:main@ is an IPv6 address in an A record"),
        ("www MX 10 @IP@", "5: @IP@ stands in a record of type MX; expected A, AAAA, TXT or SPF"),
        ("www SVCB 1 . ipv4hint=@IP@", "5: @IP@ stands in a record of type SVCB; expected A,"),
        ("@IP@ A 192.0.2.1", "5: @IP@ stands outside a record's data"),
        ("www @IP@", "5: @IP@ stands outside a record's data"),
        ("www ( ; @IP@\n A )", "5: @IP@ stands outside a record's data"),
        ("www ; @IP@", "5: @IP@ stands outside a record's data"),
        ("( ; @IP@\n)", "5: @IP@ stands outside a record's data"),
        ("$ORIGIN @IP@", "5: @IP@ stands in a directive: no record"),
        ("$GENERATE 1-9 h$ A @IP@", "5: @IP@ stands in a directive: no record"),
        ("$TTL @ip@", f"5: @ip@ stands in a directive: {NO_MARKER}"),
    ],
)
def test_a_marker_stands_only_where_its_value_belongs(text: str, fault: str) -> None:
    """The serial is the SOA's whole serial field, an address an A's or AAAA's data, or in text."""
    assert any(one.startswith(fault) for one in faults(text)), faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "@ SOA ns1 hostmaster 1 2h 10m 4w 60 ; @serial number@",  # the last one is the minimum
        "@ SOA ns1 hostmaster @serial number@0 2h 10m 4w 60",
        "@ SOA ns1 @serial number@ 1 2h 10m 4w 60",
        "@ SOA ns1 hostmaster ( 1 ; @serial number@\n@serial number@ 2h 10m 4w 60 )",
    ],
)
def test_the_serial_goes_into_the_serial_field_alone(text: str) -> None:
    """Another number of the SOA must not become the serial, nor a serial a part of one."""
    place = "@serial number@ must be the entire serial field of the SOA record"
    assert [fault.split(": ")[1] for fault in faults(text, head="")] == [place]


@pytest.mark.parametrize(
    "text",
    [
        'www TXT "v=spf1 ip4:192.0.2.1 -all" ; @IP@',
        'www TXT "v=spf1 ip4:@IP@ -all" ; @IP@',
        'www TXT "v=spf1 ip6:2001:db8::1 -all" ; @IP6@',
        "www TXT ip4:192.0.2.1 ; @IP@",
        "www TXT @IP:main@ ; @IP@",
    ],
)
def test_no_address_is_added_to_a_text_that_holds_one(text: str) -> None:
    """A comment's marker can't mean a part of a string, and a further string is not meant."""
    marker = text.rpartition(" ")[2]
    place = "would add a string to one that holds an address: put the marker where the address is"
    assert faults(text) == [f"5: {marker} {place}"]


# --- where a zone points --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "rtype"),
    [
        ("www A @IP@\nmail A @IP@\n", "www.example.org.", "A"),
        ("www A 192.0.2.1 ; @IP@\nmail A @IP@\n", "www.example.org.", "A"),
        ("$ORIGIN sub.example.org.\nwww 60 IN A @IP@\n", "www.sub.example.org.", "A"),
        ("www AAAA @IP@\nmail A @IP@\n", "mail.example.org.", "A"),
        ("www AAAA @IP@\nmail AAAA @IP6@\n", "www.example.org.", "AAAA"),
        ("main A @IP:main@\nmail A @IP@\n", "mail.example.org.", "A"),
        ('t TXT "ip4:@IP@"\nmail A @IP@\n', "mail.example.org.", "A"),
        ("plain A 192.0.2.1\n* A @IP@\n", "*.example.org.", "A"),
        ("main A @IP:main@\n", "example.org.", "A"),
        ('t TXT "ip4:@IP@"\n', "example.org.", "A"),
        ("", "example.org.", "A"),
    ],
    ids=[
        *("the first", "by its comment", "below another origin", "an A before any AAAA"),
        *("AAAA alone", "one server's is none", "a text is none", "a wildcard"),
        *("only one server's", "only a text", "no marker"),
    ],
)
def test_a_zone_points_where_its_first_marked_name_does(text: str, name: str, rtype: str) -> None:
    """The first whose address goes with the serving server; without any, the apex has to do."""
    source = parse("example.org", (HEAD + text).encode(), SERVERS)
    found = pointer(source)
    assert (found.name, found.type) == (name, rtype)
    follows = (name, rtype) != ("example.org.", "A")
    assert following(source) == (found if follows else None)


# --- form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("www A ( 192.0.2.1\n\n", "5: ( that is never closed"),
        ("www A 192.0.2.1 )\n", "5: ) without a ( before it"),
        ('www TXT "never ended\nx A 192.0.2.1', '5: a quoted string without its closing "'),
        ('www TXT "ended by no \\"', '5: a quoted string without its closing "'),
        ("bücher A 192.0.2.1", "5: byte 0xfc outside comments and quoted strings"),
        ("www TXT a\x00b", "5: byte 0x00 outside comments and quoted strings"),
        ("www A 192.0.2.1\rx A 192.0.2.2", "5: byte 0x0d outside comments and quoted strings"),
        ("\n$INCLUDE more", "6: $INCLUDE: what it brings in can't be watched; put it here"),
        ("$include more", "5: $INCLUDE: what it brings in can't be watched; put it here"),
        ("\n@ SOA a b 1 2 3 4 5", "6: another SOA record; the first is in line 2"),
        ("www..x A 192.0.2.1", "5: www..x: A DNS label is empty."),
        ("$ORIGIN x..y", "5: x..y: A DNS label is empty."),
    ],
)
def test_what_is_no_zone_file_is_refused_with_its_line(text: str, fault: str) -> None:
    """Faults that a parser might pass over, or report far away, are found by the lexer."""
    assert faults(text) == [fault]


def test_a_byte_order_mark_is_found() -> None:
    """An editor's invisible first bytes are named by their line."""
    assert "1: byte 0xef outside comments and quoted strings" in faults("", head="\ufeff" + HEAD)


def test_comments_and_strings_may_hold_any_character() -> None:
    """Latin-1 or UTF-8, tabs and stray carriage returns are the owner's affair there."""
    text = b'www TXT "caf\xe9 \xe2\x82\xac\t\x07" ; caf\xe9 \x00\r\xff\n'
    assert parse("example.org", HEAD.encode() + text, SERVERS).content.endswith(text)


def test_a_source_without_a_serial_marker_is_refused() -> None:
    """Secondaries would never learn of a switch."""
    head = "\n@ SOA ns1 hostmaster 2012080201 2h 10m 4w 60 ; serial: @serial number@\n"
    assert faults("", head=head) == ["2: no @serial number@ in the SOA record"]


@pytest.mark.parametrize("text", ["", "; nothing\n", "www A @IP@\n"])
def test_a_source_without_an_soa_is_refused(text: str) -> None:
    """An empty file, say one that an editor has just truncated, is no zone."""
    assert faults("", head=text) == ["1: no SOA record"]


def test_the_soa_must_be_the_zones_own() -> None:
    """A file under another zone's name is noticed."""
    head = HEAD.replace("@ SOA", "sub SOA")
    assert faults("", head=head) == [
        "2: the SOA record is that of sub.example.org., not of example.org."
    ]


def test_every_fault_is_reported_at_once_in_the_order_of_lines() -> None:
    """One edit is enough to mend a file."""
    found = faults("$INCLUDE x\nwww A @ip@\nb\xfc A @IP:mian@\n@ MX 10 @IP@\nx A ) @IP6@\ny A (\n")
    assert [fault.split(": ")[0] for fault in found] == ["5", "6", "7", "7", "8", "9", "9", "10"]


def test_an_unclosed_parenthesis_is_not_followed_by_false_alarms() -> None:
    """What it swallows is not judged as part of its record."""
    assert faults("www A ( 192.0.2.1\nx A @IP@\n") == ["5: ( that is never closed"]


def test_a_fault_reads_as_line_and_reason() -> None:
    """The text of a refusal is what a person is shown, a line a fault."""
    refused = SourceRefused((Fault(3, "no SOA record"), Fault(4, "x")))
    assert str(refused) == "3: no SOA record\n4: x"
