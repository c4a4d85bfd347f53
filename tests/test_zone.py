"""Rendering for a server, what is accepted, and what a published file says."""

import dataclasses
import os
import shutil
import subprocess
from datetime import date
from ipaddress import ip_address
from pathlib import Path

import dns.name
import pytest
from zones import HEAD, SERVERS

from actions.zone import (
    accept,
    points_to,
    render,
    serial_of,
    serials_left,
    template,
    values,
    with_serial,
)
from exporter import config
from exporter.config import Server
from exporter.zonefile import Pointer, Source, SourceRefused, find, parse

EXAMPLES = Path(__file__).parent.parent / "examples"


def source(text: str | bytes, *, head: str = HEAD) -> Source:
    content = head.encode() + (text if isinstance(text, bytes) else text.encode("latin-1"))
    return parse("example.org", content, SERVERS)


def rendered(text: str | bytes, serving: str) -> str:
    """What becomes of the text below the head."""
    content = render(source(text), SERVERS, serving, 1).decode("latin-1")
    return content.removeprefix(HEAD.replace("@serial number@", "1"))


def refusal(text: str, *, head: str = HEAD, servers: dict[str, Server] = SERVERS) -> list[str]:
    with pytest.raises(SourceRefused) as refused:
        accept(source(text, head=head), servers)
    return [str(fault) for fault in refused.value.faults]


# --- rendering ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("www IN A @IP@", "www IN A 198.51.100.7"),
        ("@\tA\t@IP@\t; @ stays", "@\tA\t198.51.100.7\t; @ stays"),
        ("ns2 A @IP:main@", "ns2 A 192.0.2.1"),
        ("ns2 AAAA @IP:main@", "ns2 AAAA 2001:db8::1"),
        ("ns2 AAAA @IP6:main@", "ns2 AAAA 2001:db8::1"),
        (
            '@ TXT "v=spf1 ip4:@IP@ ip4:@IP:main@ ip6:@IP6:main@ -all"',
            '@ TXT "v=spf1 ip4:198.51.100.7 ip4:192.0.2.1 ip6:2001:db8::1 -all"',
        ),
        ('@ SPF "ip4:@IP@" ip4:@IP@', '@ SPF "ip4:198.51.100.7" ip4:198.51.100.7'),
        ("www TXT ip=@IP@; @IP@, surely", "www TXT ip=198.51.100.7; @IP@, surely"),
        (r'www TXT "\@IP@ \\@IP@ \"@IP@"', r'www TXT "\@IP@ \\198.51.100.7 \"198.51.100.7"'),
    ],
)
def test_an_inline_marker_is_replaced_where_it_stands(text: str, expected: str) -> None:
    """Also within strings, several on a line, and next to a bare @ for the origin."""
    assert rendered(text, "backup") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("www A 192.0.2.9 ; @IP@", "www A 198.51.100.7 ; @IP@"),
        ("www A 192.0.2.9;@IP@", "www A 198.51.100.7;@IP@"),
        ("www A 192.0.2.9 ;\t@IP@ whoever serves", "www A 198.51.100.7 ;\t@IP@ whoever serves"),
        ("www A 192.0.2.9 ; @IP@\r\n", "www A 198.51.100.7 ; @IP@\r\n"),
        ("www AAAA ::1 ; @IP:main@", "www AAAA 2001:db8::1 ; @IP:main@"),
        ("www AAAA ::1 ; @IP6:main@", "www AAAA 2001:db8::1 ; @IP6:main@"),
        ("www A ( 192.0.2.9 ) ; @IP@", "www A ( 198.51.100.7 ) ; @IP@"),
        ("www A ( 192.0.2.9 ; @IP@\n)", "www A ( 198.51.100.7 ; @IP@\n)"),
        ("www ( A\n192.0.2.9 ; @IP@\n)", "www ( A\n198.51.100.7 ; @IP@\n)"),
        ('www TXT "192.0.2.9" ; @IP@', 'www TXT "198.51.100.7" ; @IP@'),
        ("www TXT 192.0.2.8 192.0.2.9 ; @IP@", "www TXT 192.0.2.8 198.51.100.7 ; @IP@"),
        ("www A @IP@ ; @IP@", "www A 198.51.100.7 ; @IP@"),
    ],
)
def test_a_comments_marker_replaces_the_value_before_it(text: str, expected: str) -> None:
    """The last token before the `;` on that line, parentheses aside, if it is such a value."""
    assert rendered(text, "backup") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("www IN A ; @IP@", "www IN A 198.51.100.7 ; @IP@"),
        ("www IN A\t; @IP@", "www IN A\t198.51.100.7 ; @IP@"),
        ("www IN A; @IP@", "www IN A 198.51.100.7 ; @IP@"),
        ("www A (; @IP@\n)", "www A (198.51.100.7 ; @IP@\n)"),
        ("www A (\n; @IP@\n)", "www A (\n198.51.100.7 ; @IP@\n)"),
        ("www A (\r\n\t; @IP@\r\n)", "www A (\r\n\t198.51.100.7 ; @IP@\r\n)"),
        ("www A (\n); @IP@", "www A (\n) 198.51.100.7 ; @IP@"),
        ("www A ( ) ; @IP@", "www A ( ) 198.51.100.7 ; @IP@"),
        ("www TXT ip4 ; @IP@", "www TXT ip4 198.51.100.7 ; @IP@"),
        ('www TXT "ip4"; @IP@', 'www TXT "ip4" 198.51.100.7 ; @IP@'),
        ("www TXT 1 ; @IP@", "www TXT 1 198.51.100.7 ; @IP@"),
    ],
)
def test_a_comments_marker_inserts_where_there_is_no_value(text: str, expected: str) -> None:
    """Right before the `;`, kept apart by blanks; on a line of its own within parentheses too."""
    assert rendered(text, "backup") == expected


@pytest.mark.parametrize(
    "text",
    [
        "www A 192.0.2.9 ; now @IP@",
        "www A 192.0.2.9 ;; @IP@",
        "www A 192.0.2.9 ; @IP@, at most times",
        "www A 192.0.2.9 ; @IP@@IP@",
        "www A 192.0.2.9 ; @IP@\rx",
        "www A 192.0.2.9 ; @serial number@@",
        "; @IP@",
        "  ; @IP@\nwww A 192.0.2.9",
        "www A 192.0.2.9\n; @IP@",
        "www A ( 192.0.2.9 )\n; @IP@",
        "$TTL 60 ; @serial number@",
        "",
    ],
)
def test_elsewhere_in_a_comment_a_marker_is_prose(text: str) -> None:
    """Further on in a comment, or on a line with no part of a record."""
    assert rendered(text, "backup") == text


@pytest.mark.parametrize(
    ("soa", "expected"),
    [
        ("ns1 h @serial number@ 2 3 4 5", "ns1 h 2025112200 2 3 4 5"),
        ("ns1 h ( @serial number@\n2 3 4 5 )", "ns1 h ( 2025112200\n2 3 4 5 )"),
        (
            "ns1 h ( 1 ; @serial number@\n2 3 4 5 )",
            "ns1 h ( 2025112200 ; @serial number@\n2 3 4 5 )",
        ),
        ("ns1 h ( ; @serial number@\n2 3 4 5 )", "ns1 h ( 2025112200 ; @serial number@\n2 3 4 5 )"),
        (
            "ns1 h (\n ; @serial number@\n2 3 4 5 )",
            "ns1 h (\n 2025112200 ; @serial number@\n2 3 4 5 )",
        ),
    ],
)
def test_the_serial_is_filled_in_likewise(soa: str, expected: str) -> None:
    """Inline and in a comment, with a number there already or not."""
    head = f"@ SOA {soa}\n"
    assert render(source("", head=head), SERVERS, "main", 2025112200) == (
        f"@ SOA {expected}\n".encode()
    )


def test_all_other_bytes_stay_as_they_are() -> None:
    """Comments, tabs, CRLF, Latin-1, control characters, a missing last line end."""
    text = (
        "; caf\xe9 @IP@ \x00\r.\r\n\t\r\n   \r\n"
        'www\tIN  A\t%s\t; \xe9t\xe9\r\nx TXT "\xe9;(\t" (a\r\n\r\n;)\r\n"b" )\n;'
    )
    assert rendered(text % "@IP@", "backup") == text % "198.51.100.7"


# --- records that are left out --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w A @IP@\nw AAAA @IP@", "w A 198.51.100.7\n;w AAAA @IP@"),
        ("w A @IP@\n  AAAA @IP@\n  MX 0 w", "w A 198.51.100.7\n;  AAAA @IP@\n  MX 0 w"),
        ("w A @IP@\nw AAAA @IP@\n  MX 0 w", "w A 198.51.100.7\n;w AAAA @IP@\n  MX 0 w"),
        (
            "w AAAA @IP@\n  AAAA ; @IP6@\nw A @IP@",
            ";w AAAA @IP@\n;  AAAA ; @IP6@\nw A 198.51.100.7",
        ),
        ("w A @IP@\nw AAAA ::1 ; @IP@\r\n", "w A 198.51.100.7\n;w AAAA ::1 ; @IP@\r\n"),
        (
            "w A @IP@\nw AAAA ( ; (\r\n\n  @IP@\r\n; x\n) ; y\nv A @IP@",
            "w A 198.51.100.7\n;w AAAA ( ; (\r\n;\n;  @IP@\r\n;; x\n;) ; y\nv A 198.51.100.7",
        ),
        ("w AAAA ::1\nw AAAA @IP@", "w AAAA ::1\n;w AAAA @IP@"),
        ('w A @IP@\nw TXT "@IP@ @IP6@"', 'w A 198.51.100.7\n;w TXT "@IP@ @IP6@"'),
        ("w 60 A @IP@\nw 60 AAAA @IP@\n  MX 0 w", "w 60 A 198.51.100.7\n;w 60 AAAA @IP@\n  MX 0 w"),
    ],
)
def test_a_record_for_a_family_the_server_lacks_is_commented_out(text: str, expected: str) -> None:
    """Each of its lines, as it stands in the source; its name keeps an address."""
    assert rendered(text, "backup") == expected
    assert ";w" not in rendered(text, "main")
    accept(source(text), SERVERS)


def no_address(line: int, family: int, serving: str) -> str:
    return (
        f"{line}: left out while {serving} serves, which has no IPv{family} address:"
        " then w.example.org. has no address at all"
    )


OWNER = "takes its owner from a record that is left out while backup serves: state the owner here"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "\nw AAAA @IP@",
            no_address(6, 6, "backup"),
        ),
        (
            'w TXT "@IP6@"\nx.w A @IP@',
            no_address(5, 6, "backup"),
        ),
        (
            "w A @IP@\nx AAAA @IP@\n; here\n  A @IP@",
            f"8: {OWNER}",
        ),
        (
            "w A @IP@\nw AAAA @IP@\nx AAAA @IP@\n  A @IP@\n",
            f"8: {OWNER}",
        ),
    ],
)
def test_a_record_that_others_need_is_not_left_out(text: str, fault: str) -> None:
    """Said when the source is accepted, not when the switch comes."""
    assert fault in refusal(text)


def test_a_records_ttl_never_depends_on_who_serves() -> None:
    """Without a $TTL the last one stated counts (RFC 1035), so it must not be left out."""
    head = HEAD.removeprefix("$TTL 300\n").replace(" SOA", " 300 SOA")
    text = "w 60 A @IP@\nw 20 AAAA @IP@\nv A 192.0.2.9\n"
    fault = "takes its TTL from a record that is left out while backup serves: state the TTL here"
    assert refusal(text, head=head)[0] == f"6: {fault}"
    accept(source(text.replace("v A", "v 60 A"), head=head), SERVERS)
    accept(source(text.replace("20 AAAA", "60 AAAA"), head=head), SERVERS)
    accept(source("$TTL 1h\n" + text, head=head), SERVERS)


# --- accepting ------------------------------------------------------------------------------


def test_accepting_gives_the_rendering_for_every_server() -> None:
    """With serial 1, for the name server's own checker."""
    one = source("www A @IP@\nwww AAAA @IP@\n")
    assert accept(one, SERVERS) == {name: render(one, SERVERS, name, 1) for name in SERVERS}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("\nwww A 192.0.2.999\n", 6, "Text input is malformed."),
        ("www A 192.0.2.1\nwww MX mail\nx A 192.0.2.1\n", 6, ""),
        ("www A (\n 192.0.2.1\n x )\nx A 192.0.2.1\n", 7, ""),
        ("www NOSUCH x", 5, "unknown rdatatype 'NOSUCH'"),
        ("www", 5, ""),
        ("www 60 IN\n", 5, ""),
        ("x CNAME y\nx A @IP@\ny A @IP@\n", 6, "rdataset type is not compatible with a CNAME"),
        ("$UNKNOWN x\n", 5, "zone file directive '$UNKNOWN' is not allowed"),
        ("$TTL soon\n", 5, ""),
        ("$TTL " + "9" * 5000 + "\n", 5, ""),
        ('www TXT "\\999"\n', 5, ""),
        ("www TXT a\\\n", 5, ""),
        ("www CH A 192.0.2.1\n", 5, "RR class is not zone's class"),
        (f'www TXT "{"x" * 246}@IP@"', 5, ""),  # 255 bytes with main's address, 258 with backup's
    ],
)
def test_what_does_not_parse_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    """For each server's rendering: a value can make the difference."""
    (fault,) = refusal(text)
    assert fault.startswith(f"{line}: {reason}")


@pytest.mark.parametrize("owner", ["example.com.", "www.example.net.", "xexample.org."])
def test_a_record_of_another_zone_is_refused(owner: str) -> None:
    """NSD's checker does that too; BIND and Knot would leave it out."""
    assert refusal(f"{owner} A 192.0.2.1\n") == [
        f"{HEAD.count(chr(10)) + 1}: {owner} is not in the zone example.org"
    ]


def test_a_zone_needs_an_ns_at_its_apex() -> None:
    """One of another name does not do."""
    assert refusal("", head=HEAD.replace("@ NS", "x NS")) == ["1: no NS record at example.org."]


def test_what_cannot_be_seen_in_the_bytes_is_found_by_parsing() -> None:
    """$GENERATE gives the next record an owner that the lexer does not know of."""
    text = "w A @IP@\n$GENERATE 1-2 h$ A 192.0.2.$\n  AAAA @IP@\n"
    assert refusal(text) == [
        "1: h2.example.org. AAAA has no marker, but differs between main and backup"
    ]


def test_only_what_is_known_to_be_marked_may_differ() -> None:
    """If the lexer took a record for another one, the parse of the renderings would show it."""
    one = source("w A @IP@\nv A 192.0.2.9\n")
    *others, w, v = one.records
    taken_for_v = dataclasses.replace(w, owner=v.owner)
    mistaken = dataclasses.replace(one, records=(*others, taken_for_v, v))
    with pytest.raises(SourceRefused, match=r"w\.example\.org\. A has no marker, but differs"):
        accept(mistaken, SERVERS)


def test_every_server_has_its_say() -> None:
    """A source that only one of several servers makes a bad one of is refused."""
    servers = {**SERVERS, "third": Server(addresses=("2001:db8::3",))}
    assert refusal("w A @IP@\n", servers=servers) == [no_address(5, 4, "third")]


def test_text_beyond_ascii_counts_in_bytes() -> None:
    """Latin-1 and UTF-8 strings may be as long as any other: 255 bytes."""
    accept(
        source(b'w TXT "' + b"\xe9" * 255 + b'" "\\\xe9' + "\u20ac".encode() * 84 + b'"'), SERVERS
    )
    assert len(refusal('w TXT "' + "\xe9" * 256 + '"')) == 1


def test_a_carriage_return_in_a_comment_hides_no_record() -> None:
    """NSD reads such a comment to the line's end, and so does the check."""
    accept(source("; x\rw A 192.0.2.999\n"), SERVERS)


# --- the examples ---------------------------------------------------------------------------


def checkzone(zone: str, content: bytes, folder: Path) -> str:
    """NSD's own word on a zone."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    command = shutil.which("nsd-checkzone", path=path)
    assert command
    (folder / zone).write_bytes(content)
    run = subprocess.run(
        [command, zone, folder / zone], capture_output=True, text=True, check=False, timeout=30
    )
    return run.stdout + run.stderr


@pytest.mark.parametrize("servers", ["of the example", "with IPv4 only"])
@pytest.mark.parametrize("zone", ["example.org", "example.net"])
def test_the_example_zones_are_accepted(zone: str, servers: str, tmp_path: Path) -> None:
    """For the example's servers, and for two that have only IPv4 addresses; by NSD too."""
    configured = config.read(EXAMPLES / "zonerw.toml").servers
    if servers == "with IPv4 only":
        configured = {
            "main": Server(addresses=("127.0.0.2",)),
            "backup": Server(addresses=("127.0.0.3",)),
        }
    found = find(EXAMPLES / "zones")
    assert found.refused == {}
    one = parse(zone, found.paths[zone].read_bytes(), configured)
    for name, content in accept(one, configured).items():
        assert checkzone(zone, content, tmp_path) == f"zone {zone} is ok\n"
        assert serial_of(zone, content) == 1
        assert points_to(one, content, configured) == name


def test_with_values_in_place_a_base_file_is_a_zone_by_itself(tmp_path: Path) -> None:
    """A name server takes example.net.base as it is; for main, only the serial would change."""
    content = (EXAMPLES / "zones" / "example.net.base").read_bytes()
    assert checkzone("example.net", content, tmp_path) == "zone example.net is ok\n"
    configured = config.read(EXAMPLES / "zonerw.toml").servers
    one = parse("example.net", content, configured)
    assert render(one, configured, "main", 2026010100) == content


def test_nsd_reads_a_rendering_of_every_layout(tmp_path: Path) -> None:
    """Inserted values, commented-out records and CRLF are to a real name server what they seem."""
    text = (
        b"w A (; @IP@\n )\nv A (\r\n) ; @IP@\r\nu A; @IP@\n\tAAAA ( ; @IP@\r\n ; (\r\n )\r\n"
        b'  TXT ( "caf\xe9 \\" ; )" ; @IP@\n"x" ) ; \xe9\r\n; @IP@'
    )
    for content in accept(source(text), SERVERS).values():
        assert checkzone("example.org", content, tmp_path) == "zone example.org is ok\n"


# --- published files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "serial"),
    [
        (b"@ SOA ns1 h 2012080201 2 3 4 5", 2012080201),
        (b"$ORIGIN org.\nexample 60 IN soa ns1 h (\n 7 ; serial\n 2 3 4 5 )\n", 7),
        (b"@ SOA ns1 h 4294967295 2 3 4 5\nwww A 1.2.3 ( \xff", 2**32 - 1),
        (b"@ SOA ns1 h 4294967296 2 3 4 5", None),
        (b"@ SOA ns1 h " + b"9" * 5000, None),
        (b"@ SOA ns1 h @serial number@ 2 3 4 5", None),
        (b"@ SOA ns1 h", None),
        (b"; @ SOA ns1 h 1 2 3 4 5", None),
        (b"", None),
    ],
)
def test_a_published_files_serial(content: bytes, serial: int | None) -> None:
    """Known even when the file is damaged elsewhere, since the next one must be higher."""
    assert serial_of("example.org", content) == serial


def test_a_rendering_points_to_its_server() -> None:
    """Whatever the serial; told apart even if only a text differs."""
    for text in ["w A @IP@\nw AAAA @IP@\n", 'w TXT "@IP@"\n', "w A @IP@\nw A @IP:main@\n"]:
        one = source(text)
        for name in SERVERS:
            published = render(one, SERVERS, name, 2012080201)
            assert points_to(one, published, SERVERS) == name


@pytest.mark.parametrize(
    ("published", "server"),
    [
        ("w A 192.0.2.1\nx A 192.0.2.1\nx AAAA 2001:db8::1", "main"),
        ("w 5 A 198.51.100.7\nx A 198.51.100.7\nnew TXT 192.0.2.1", "backup"),
        ("w A 198.51.100.7", "backup"),
        ("w A 192.0.2.1\nx A 198.51.100.7", None),
        ("w A 192.0.2.1\nw A 198.51.100.7", None),
        ("w A 203.0.113.1", None),
        ("other A 192.0.2.1", None),
        ("ns2 A 192.0.2.1", None),
        ("w A 192.0.2.1\nx A 192.0.2.999", None),
        ("", None),
    ],
)
def test_an_older_file_points_where_its_marked_names_do(published: str, server: str | None) -> None:
    """A file of the time before, or of an older source, is judged by the addresses in it."""
    one = source("w A @IP@\nx A @IP@\nx AAAA @IP@\nns2 A @IP:main@\nt TXT @IP@")
    content = HEAD.replace("@serial number@", "2012080201") + published
    assert points_to(one, content.encode(), SERVERS) == server


def test_a_zone_that_is_the_same_for_all_servers_points_to_none() -> None:
    """Where nothing is marked, nothing can be told."""
    one = source("w A 192.0.2.1\nw A 198.51.100.7\nns2 A @IP:main@\n")
    assert points_to(one, render(one, SERVERS, "main", 1), SERVERS) is None


def test_no_zone_at_all_points_to_none() -> None:
    """An empty or foreign file is no evidence."""
    assert points_to(source("w A @IP@\n"), b"", SERVERS) is None
    assert points_to(source("w A @IP@\n"), b"\xff(", SERVERS) is None


def test_names_are_compared_as_names() -> None:
    """Upper and lower case are the same to the DNS."""
    one = source("W.Example.ORG. A @IP@\n")
    assert one.records[-1].owner == dns.name.from_text("w.example.org")
    published = HEAD.replace("@serial number@", "7") + "w a 192.0.2.1\n"
    assert points_to(one, published.encode(), SERVERS) == "main"


# --- templates ------------------------------------------------------------------------------


def test_a_template_knows_where_its_pointer_leads() -> None:
    """All addresses of the first name that follows who serves; none where nobody does."""
    text = "ftp A @IP:main@\nwww A @IP@\nwww A 192.0.2.99\nwww AAAA @IP6@\nwww A @IP:main@\n"
    its = template(source(text), SERVERS)
    assert its.pointer == Pointer("www.example.org.", "A")
    by_server = {name: its.addresses(values(SERVERS, name)) for name in SERVERS}
    assert by_server == {
        "main": {ip_address("192.0.2.1"), ip_address("192.0.2.99")},
        "backup": {ip_address("198.51.100.7"), ip_address("192.0.2.1"), ip_address("192.0.2.99")},
    }
    assert template(source("ftp A @IP:main@\n"), SERVERS).pointer is None


def test_a_pointer_without_an_address_leads_nowhere() -> None:
    """The record is left out while a server without that family serves."""
    its = template(source("www AAAA @IP6@\nwww TXT x\n"), SERVERS)
    assert its.pointer == Pointer("www.example.org.", "AAAA")
    assert its.addresses(values(SERVERS, "main")) == {ip_address("2001:db8::1")}
    assert its.addresses(values(SERVERS, "backup")) == set()


def test_another_serial_in_a_published_file() -> None:
    """Every other byte stays; what has no serial gets none."""
    published = render(source("www A @IP@\n"), SERVERS, "main", 7)
    assert with_serial("example.org", published, 2026112200) == render(
        source("www A @IP@\n"), SERVERS, "main", 2026112200
    )
    assert with_serial("example.org", b"www A 192.0.2.1\n", 7) is None


@pytest.mark.parametrize(
    ("serial", "left"),
    [
        (2026112200, 99),
        (2026112298, 1),
        (2026112299, 0),
        (2026112301, 0),
        (2026112199, 100),
        (7, 100),
        (2026113299, 0),
        (2026113300, None),
        (4294967295, None),
    ],
)
def test_serials_left(serial: int, left: int | None) -> None:
    """Of 22 November's hundred; past them, tomorrow's are used. A mistyped date has no such."""
    assert serials_left(date(2026, 11, 22), serial) == left
