"""Questions to nameservers: a real NSD, and one of our own for what no good nameserver does."""

import contextlib
import select
import socket
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Any, Literal

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
import dns.tsig
import pytest
from conftest import StartNsd
from listening import serving
from responder import Responder

from exporter import soa
from exporter.config import Nameserver
from exporter.soa import NoReply, NoSerial, Serial, ask, ask_all, exchange
from exporter.zonefile import Pointer

ZONE = "example.org"
SLACK = 1.0
SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQ="  # noqa: S105
KEY = dns.tsig.Key("transfer", SECRET, "hmac-sha256")

# Two zones that NSD is a secondary of; nobody is where it would transfer them from.
SECONDARY = f"""\
key:
  name: transfer
  algorithm: hmac-sha256
  secret: "{SECRET}"
zone:
  name: late.example
  request-xfr: 127.0.0.1@1 NOKEY
zone:
  name: notified.example
  request-xfr: 127.0.0.1@1 transfer
  allow-notify: 127.0.0.1 transfer
"""


def reply_to(question: dns.message.Message, serial: int = 7) -> dns.message.Message:
    """The answer of a nameserver that serves the zone."""
    reply = dns.message.make_response(question)
    reply.flags |= dns.flags.AA
    zone = question.question[0].name
    text = f"ns1.{ZONE}. owner.{ZONE}. {serial} 3600 600 864000 60"
    reply.answer.append(dns.rrset.from_text(zone, 60, "IN", "SOA", text))
    return reply


def changed(
    *, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, without: int = 0
) -> Callable[[Responder, dns.message.Message], list[bytes]]:
    """Answer with the SOA, but with this code, or without this flag."""

    def answer(_: Responder, question: dns.message.Message) -> list[bytes]:
        reply = reply_to(question)
        reply.set_rcode(rcode)
        reply.flags &= ~without
        return [reply.to_wire()]

    return answer


def pointer(name: str, rtype: Literal["A", "AAAA"] = "A") -> Pointer:
    return Pointer(name, rtype)


def from_wire(rdata: bytes) -> dns.rdata.Rdata:
    """The SOA of its data, where no name is compressed."""
    return dns.rdata.from_wire("IN", "SOA", rdata, 0, len(rdata))


def silent(_: Responder, __: dns.message.Message) -> list[bytes]:
    return []


# --- a real nameserver ----------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_many_zones_are_asked_at_once(start_nsd: StartNsd, address: str) -> None:
    """Each zone's own serial comes back, with what a secondary does about it."""
    serials = {f"zone{n}.example": 2026010100 + n for n in range(300)}
    nsd = start_nsd(serials, address=address)
    answers = ask(nsd, list(serials), 5)
    assert {
        zone: answer.serial for zone, answer in answers.items() if isinstance(answer, Serial)
    } == serials
    one = answers["zone1.example"]
    assert isinstance(one, Serial)
    assert (one.refresh, one.expire) == (3600, 864000)
    expected = "ns1.zone1.example. owner.zone1.example. 2026010101 3600 600 864000 60"
    assert from_wire(one.rdata).to_text() == expected


def test_a_question_costs_little(start_nsd: StartNsd) -> None:
    """For ten thousand zones: less, all in all, than one answer read whole by dnspython."""
    zones = [f"zone{n}.example" for n in range(2000)]
    nsd = start_nsd(dict.fromkeys(zones, 5))
    one = reply_to(dns.message.make_query(ZONE, "SOA")).to_wire()

    def ask_all_of_them() -> None:
        answers = ask(nsd, zones, 5)
        assert all(isinstance(answer, Serial) for answer in answers.values())

    def read_as_many() -> None:
        for _ in zones:
            dns.message.from_wire(one)

    def seconds(do: Callable[[], None]) -> float:
        began = time.thread_time()
        do()
        return time.thread_time() - began

    assert min(seconds(ask_all_of_them) for _ in range(3)) < min(
        seconds(read_as_many) for _ in range(3)
    )


def test_what_nsd_does_not_serve_has_no_serial(start_nsd: StartNsd) -> None:
    """A zone not configured, one not transferred yet, and a name inside a zone."""
    nsd = start_nsd({ZONE: 1}, SECONDARY)
    answers = ask(nsd, ["example.net", "late.example", f"ns1.{ZONE}", f"no.{ZONE}", ZONE], 5)
    assert isinstance(answers.pop(ZONE), Serial)
    assert answers == {
        "example.net": NoSerial("REFUSED"),
        "late.example": NoSerial("SERVFAIL"),
        f"ns1.{ZONE}": NoSerial("no SOA"),
        f"no.{ZONE}": NoSerial("NXDOMAIN"),
    }


def test_a_dead_nameserver_keeps_no_other_from_answering(start_nsd: StartNsd) -> None:
    """All are asked side by side: the silent one costs the timeout, once for all its zones."""
    zones = [f"zone{n}.example" for n in range(100)]
    nsd = start_nsd(dict.fromkeys(zones, 5))
    with Responder(silent) as dead:
        started = time.monotonic()
        pointers = {zone: pointer(f"ns1.{zone}.") for zone in zones}
        answers = ask_all({"ns1": nsd, "ns2": dead.nameserver}, zones, pointers, 2.0)
        seconds = time.monotonic() - started
    assert list(answers) == ["ns1", "ns2"]
    assert {type(answer) for answer in answers["ns1"].serials.values()} == {Serial}
    assert answers["ns1"].addresses == {zone: {ip_address("192.0.2.1")} for zone in zones}
    assert answers["ns2"].serials == dict.fromkeys(zones, NoSerial("timeout"))
    assert answers["ns2"].addresses == {}
    assert 2.0 <= seconds < 2.0 + SLACK


def test_an_address_that_nsd_does_not_serve_is_absent(start_nsd: StartNsd) -> None:
    """The SOA is known all the same: of a name without such an address, and of no name at all."""
    nsd = start_nsd({ZONE: 3})
    for missing in (pointer(f"ns1.{ZONE}.", "AAAA"), pointer(f"{ZONE}."), pointer(f"no.{ZONE}.")):
        answers = ask_all({"ns1": nsd}, [ZONE], {ZONE: missing}, 5)["ns1"]
        assert isinstance(answers.serials[ZONE], Serial)
        assert answers.addresses == {}


def test_any_thread_may_ask(start_nsd: StartNsd) -> None:
    """Scrapes and followers overlap, each with a loop of its own."""
    nsd = start_nsd({ZONE: 3})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(nsd, [ZONE], 5)[ZONE], range(32)))
    assert [answer.serial for answer in answers if isinstance(answer, Serial)] == [3] * 32


def test_a_signed_question_has_a_signed_answer(start_nsd: StartNsd) -> None:
    """NSD signs with the key that it knows, and says what is wrong with another one."""
    nsd = start_nsd({ZONE: 3}, SECONDARY)
    pointers = {ZONE: pointer(f"ns1.{ZONE}.")}
    answer = ask(nsd, [ZONE], 5, key=KEY)[ZONE]
    assert isinstance(answer, Serial)
    assert answer == ask(nsd, [ZONE], 5)[ZONE]
    assert soa.addresses(nsd, pointers, 5, key=KEY) == {ZONE: {ip_address("192.0.2.1")}}
    other = dns.tsig.Key("transfer", "b3RoZXIgc2VjcmV0IG90aGVyIQ==", KEY.algorithm)
    assert ask(nsd, [ZONE], 5, key=other) == {ZONE: NoSerial("BADSIG")}
    assert soa.addresses(nsd, pointers, 5, key=other) == {ZONE: NoReply("BADSIG")}


def notify(zone: str, key: dns.tsig.Key | None) -> dns.message.Message:
    message = dns.message.make_query(zone, "SOA")
    message.set_opcode(dns.opcode.NOTIFY)
    message.flags = (message.flags | dns.flags.AA) & ~dns.flags.RD
    if key:
        message.use_tsig(key)
    return message


def test_signatures_are_verified_both_ways(start_nsd: StartNsd) -> None:
    """NSD takes a NOTIFY that is signed right; every other outcome has its own words."""
    nsd = start_nsd({}, SECONDARY)
    known = "notified.example"
    replies = exchange(
        nsd,
        [
            partial(notify, zone, key)
            for zone, key in (
                (known, KEY),
                (known, None),
                (known, dns.tsig.Key("transfer", "b3RoZXIgc2VjcmV0IG90aGVyIQ==", KEY.algorithm)),
                (known, dns.tsig.Key("unknown", SECRET, KEY.algorithm)),
                ("unknown.example", KEY),
            )
        ],
        5,
        tries=1,
    )
    assert replies == [
        dns.rcode.NOERROR,
        dns.rcode.REFUSED,
        NoReply("BADSIG"),
        NoReply("BADKEY"),
        NoReply("NXDOMAIN, not signed"),
    ]


# --- what the network does ------------------------------------------------------------------


def test_a_lost_packet_costs_a_resend() -> None:
    """The first is lost, the second answered: well before the timeout."""

    def second_time(responder: Responder, question: dns.message.Message) -> list[bytes]:
        return [reply_to(question).to_wire()] if len(responder.asked) > 1 else []

    with Responder(second_time) as responder:
        started = time.monotonic()
        answer = ask(responder.nameserver, [ZONE], 1.5)[ZONE]
        seconds = time.monotonic() - started
    assert isinstance(answer, Serial)
    assert 0.5 <= seconds < 0.5 + SLACK
    assert [question.id for question in responder.asked] == [responder.asked[0].id] * 2


def test_silence_is_a_timeout_after_several_tries() -> None:
    """It is asked three times, and the timeout is over once."""
    with Responder(silent) as responder:
        started = time.monotonic()
        assert ask(responder.nameserver, [ZONE], 0.6) == {ZONE: NoSerial("timeout")}
        assert 0.6 <= time.monotonic() - started < 0.6 + SLACK
    assert len(responder.asked) == 3


def test_a_slow_nameserver_may_take_longer_than_its_patience() -> None:
    """It lives as long as something comes: until then nothing that it was asked is given up."""

    def slowly(_: Responder, question: dns.message.Message) -> list[bytes]:
        threading.Event().wait(0.01)
        return [reply_to(question).to_wire()]

    zones = [f"zone{n}.example" for n in range(100)]
    with Responder(slowly) as responder:
        started = time.monotonic()
        answers = ask(responder.nameserver, zones, 0.6)
        seconds = time.monotonic() - started
    assert {type(answer) for answer in answers.values()} == {Serial}
    assert seconds > 0.9


def test_a_pause_of_our_own_is_no_silence() -> None:
    """A machine was suspended, or its disk stalled: whoever answers soon after it has answered."""
    over = threading.Event()

    def afterwards(_: Responder, question: dns.message.Message) -> list[bytes]:
        over.wait()
        threading.Event().wait(0.1)
        return [reply_to(question).to_wire()]

    def pause() -> bool:
        if not over.is_set():
            threading.Event().wait(0.9)
            over.set()
        return False

    with Responder(afterwards) as responder:
        answer = ask(responder.nameserver, [ZONE], 0.6, enough=pause)[ZONE]
    assert isinstance(answer, Serial)


def test_nothing_is_sent_again_while_answers_come() -> None:
    """A slow nameserver would answer the same questions over and over, and no others."""

    def slowly(_: Responder, question: dns.message.Message) -> list[bytes]:
        threading.Event().wait(0.005)
        return [reply_to(question).to_wire()]

    zones = [f"zone{n}.example" for n in range(1000)]
    with Responder(slowly) as responder:
        answers = ask(responder.nameserver, zones, 1)  # all 100 on their way take half of that
    assert {type(answer) for answer in answers.values()} == {Serial}
    assert len(responder.asked) < 1500


@pytest.mark.parametrize(
    "answered",
    [
        lambda where, zones, enough: sum(
            isinstance(its, Serial) for its in ask(where, zones, 1, enough=enough).values()
        ),
        lambda where, zones, enough: sum(
            isinstance(its, frozenset)
            for its in soa.addresses(
                where, {z: pointer(f"www.{z}.") for z in zones}, 1, enough=enough
            ).values()
        ),
        lambda where, zones, enough: sum(
            isinstance(its, dns.rcode.Rcode)
            for its in exchange(where, [partial(notify, z, None) for z in zones], 1, enough=enough)
        ),
    ],
    ids=["ask", "addresses", "exchange"],
)
def test_whatever_is_asked_can_have_an_end(
    answered: Callable[[Nameserver, list[str], Callable[[], bool]], int],
) -> None:
    """However long all the answers take; those that came by then count."""

    def slowly(_: Responder, question: dns.message.Message) -> list[bytes]:
        threading.Event().wait(0.02)
        return [answer_to(question, "192.0.2.1").to_wire()]

    zones = [f"zone{n}.example" for n in range(200)]
    with Responder(slowly) as responder:
        end = time.monotonic() + 0.6
        number = answered(responder.nameserver, zones, lambda: time.monotonic() >= end)
        assert 0 < number < len(zones)
        assert 0 <= time.monotonic() - end < SLACK


def test_a_scrape_ends_in_time_whatever_comes() -> None:
    """A slow nameserver is cut off at the timeout; what it has answered by then counts."""

    def slowly(responder: Responder, question: dns.message.Message) -> list[bytes]:
        if len(responder.asked) <= len(zones):
            threading.Event().wait(0.02)
        return [reply_to(question).to_wire()]

    zones = [f"zone{n}.example" for n in range(90)]
    with Responder(slowly) as responder:
        started = time.monotonic()
        answers = ask_all({"ns1": responder.nameserver}, zones, {}, 0.6)["ns1"]
        seconds = time.monotonic() - started
    assert {type(answer) for answer in answers.serials.values()} == {Serial, NoSerial}
    assert 0.6 <= seconds < 0.6 + SLACK  # all of it would take 1.8 s


def test_no_burst_is_too_much_for_a_socket() -> None:
    """One that is busy for a moment loses nothing: else it would be asked again, after 10 s."""

    def busy_at_first(responder: Responder, question: dns.message.Message) -> list[bytes]:
        if len(responder.asked) == 1:
            threading.Event().wait(0.05)
        return [reply_to(question).to_wire()]

    zones = [f"zone{n}.example" for n in range(2000)]
    with Responder(busy_at_first) as responder:
        started = time.monotonic()
        answers = ask(responder.nameserver, zones, 30)
        assert time.monotonic() - started < 10
    assert {type(answer) for answer in answers.values()} == {Serial}
    assert len(responder.asked) == len(zones)


def test_what_is_no_name_is_an_error() -> None:
    """Whoever asks for it hears of it, and does not wait for ever."""
    with Responder(silent) as responder, pytest.raises(dns.exception.DNSException):
        ask(responder.nameserver, [ZONE, "a..b"], 5)


def test_one_try_never_resends() -> None:
    """A signed NOTIFY is fresh each time, so whoever sends it does the repeating."""
    with Responder(silent) as responder:
        question = partial(notify, ZONE, None)
        assert exchange(responder.nameserver, [question], 0.4, tries=1) == [NoReply("timeout")]
    assert len(responder.asked) == 1


def test_a_message_is_made_when_it_is_its_turn() -> None:
    """Ten thousand of them, signed, would be 70 MB."""
    made: list[str] = []
    ahead: list[int] = []

    def make(zone: str) -> dns.message.Message:
        made.append(zone)
        return notify(zone, None)

    def answer(responder: Responder, question: dns.message.Message) -> list[bytes]:
        ahead.append(len(made) - len(responder.asked))
        return [reply_to(question).to_wire()]

    zones = [f"zone{n}.example" for n in range(1000)]
    with Responder(answer) as responder:
        replies = exchange(responder.nameserver, [partial(make, zone) for zone in zones], 5)
    assert replies == [dns.rcode.NOERROR] * len(zones)
    assert made == zones
    assert max(ahead) < 200


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "signed"])
def test_of_what_waits_for_its_answer_little_is_kept(
    monkeypatch: pytest.MonkeyPatch, key: dns.tsig.Key | None
) -> None:
    """A nameserver that is silent for a second would cost 5 MB: its bytes are enough."""
    made: list[weakref.ref[dns.message.Message]] = []
    alive: list[int] = []

    def make(*its: Any, **more: Any) -> dns.message.Message:
        message = make_query(*its, **more)
        made.append(weakref.ref(message))
        return message

    def enough() -> bool:
        alive.append(sum(message() is not None for message in made))
        return False

    make_query = dns.message.make_query
    monkeypatch.setattr(dns.message, "make_query", make)
    zones = [f"zone{n}.example" for n in range(100)]
    with Responder(silent, KEY) as responder:
        messages = [partial(notify, zone, key) for zone in zones]
        exchange(responder.nameserver, messages, 0.3, enough=enough, tries=1)
        ask(responder.nameserver, zones, 0.3, enough=enough, key=KEY)
    assert len(made) == 2 * len(zones)
    assert max(alive) < 10


def test_what_was_never_sent_has_no_reply() -> None:
    """Silence, or a newer word, comes first: whoever asked knows which messages are still due."""
    made: list[str] = []

    def make(zone: str) -> dns.message.Message:
        made.append(zone)
        return notify(zone, None)

    with Responder(silent) as responder:
        messages = [partial(make, f"zone{n}.example") for n in range(1000)]
        replies = exchange(responder.nameserver, messages, 0.2, tries=1)
    assert replies == [NoReply("timeout")] * len(made)
    assert 0 < len(made) < 1000


def test_zones_that_are_never_answered_hold_up_no_other() -> None:
    """The answers of all others come, though the first 200 are met with silence."""
    ignored = [f"no{n}.example" for n in range(200)]
    served = [f"zone{n}.example" for n in range(50)]

    def only_served(_: Responder, question: dns.message.Message) -> list[bytes]:
        name = question.question[0].name.to_text()
        return [] if name.startswith("no") else [reply_to(question).to_wire()]

    with Responder(only_served) as responder:
        answers = ask(responder.nameserver, ignored + served, 2)
    assert {zone for zone, answer in answers.items() if isinstance(answer, Serial)} == set(served)
    times = Counter(asked.question[0].name for asked in responder.asked)
    assert max(times.values()) == 3


def test_a_closed_port_is_told_at_once_for_all_zones() -> None:
    """The kernel says so with ICMP: nobody waits."""
    with Responder(silent) as gone:
        pass
    zones = [f"zone{n}.example" for n in range(100)]
    started = time.monotonic()
    answers = ask(gone.nameserver, zones, 5)
    assert answers == dict.fromkeys(zones, NoSerial("connection refused"))
    assert time.monotonic() - started < 3


# --- what counts as an answer ---------------------------------------------------------------


def test_recursion_is_not_asked_for() -> None:
    """What the nameserver itself serves is wanted, not what it can find out."""
    with Responder(changed()) as responder:
        assert isinstance(ask(responder.nameserver, [ZONE], 2)[ZONE], Serial)
    assert not responder.asked[0].flags & dns.flags.RD


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (changed(without=dns.flags.AA), "not authoritative"),
        (changed(rcode=dns.rcode.SERVFAIL), "SERVFAIL"),
        (changed(rcode=dns.rcode.REFUSED), "REFUSED"),
        (lambda _, question: [question.to_wire()[:2] + b"\x84\x00 nonsense"], "malformed"),
    ],
    ids=["not AA", "SERVFAIL with an SOA", "REFUSED with an SOA", "nonsense"],
)
def test_an_answer_without_authority_has_no_serial(
    answer: Callable[[Responder, dns.message.Message], list[bytes]], reason: str
) -> None:
    """A SOA counts only in an answer without error and with authority."""
    with Responder(answer) as responder:
        assert ask(responder.nameserver, [ZONE], 2) == {ZONE: NoSerial(reason)}


def test_a_soa_of_another_zone_does_not_count() -> None:
    """Nor does one of a zone above."""

    def above(_: Responder, question: dns.message.Message) -> list[bytes]:
        reply = reply_to(question)
        reply.answer[0].name = dns.name.from_text("org")
        return [reply.to_wire()]

    with Responder(above) as responder:
        assert ask(responder.nameserver, [ZONE], 2) == {ZONE: NoSerial("no SOA")}


def test_what_was_not_asked_is_no_answer() -> None:
    """Another id, another question, the question itself, a scrap: ignored, the answer is next."""

    def crowd(_: Responder, question: dns.message.Message) -> list[bytes]:
        right = reply_to(question, serial=7).to_wire()
        other_id = ((question.id + 1) % 2**16).to_bytes(2) + right[2:]
        other = dns.message.make_query("example.net", "SOA", id=question.id)
        wrong = reply_to(other, serial=8).to_wire()
        return [other_id, wrong, question.to_wire(), right[:1], right]

    with Responder(crowd) as responder:
        answer = ask(responder.nameserver, [ZONE], 2)[ZONE]
    assert isinstance(answer, Serial)
    assert answer.serial == 7
    assert len(responder.asked) == 1


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_a_reply_is_of_the_same_kind(key: dns.tsig.Key | None) -> None:
    """An answer to an ordinary question is none to a NOTIFY."""

    def crowd(_: Responder, question: dns.message.Message) -> list[bytes]:
        right, wrong = (dns.message.make_response(question) for _ in range(2))
        wrong.set_opcode(dns.opcode.QUERY)
        wrong.set_rcode(dns.rcode.NOTIMP)
        return [wrong.to_wire(), right.to_wire()]

    with Responder(crowd, KEY) as responder:
        replies = exchange(responder.nameserver, [partial(notify, ZONE, key)], 2)
    assert replies == [dns.rcode.NOERROR]


def unsigned(reply: dns.message.Message) -> bytes:
    reply.tsig = None
    return reply.to_wire()


def by_another(name: str) -> Callable[[dns.message.Message], bytes]:
    def signed(reply: dns.message.Message) -> bytes:
        reply.use_tsig(dns.tsig.Key(name, "b3RoZXIgc2VjcmV0IG90aGVyIQ==", KEY.algorithm))
        return reply.to_wire()

    return signed


def changed_on_the_way(reply: dns.message.Message) -> bytes:
    return reply.to_wire().replace(b"\x04\x03\x02\x01", b"\x04\x03\x02\x02")


@pytest.mark.parametrize(
    ("sign", "reason"),
    [
        (unsigned, "NOERROR, not signed"),
        (by_another("transfer"), "its signature is wrong"),
        (by_another("other"), "signed with another key"),
        (changed_on_the_way, "its signature is wrong"),
    ],
    ids=["not at all", "another secret", "another key", "and not changed"],
)
def test_an_answer_is_signed_as_its_question_was(
    sign: Callable[[dns.message.Message], bytes], reason: str
) -> None:
    """Where it isn't, nothing that it says is believed."""

    def answer(_: Responder, question: dns.message.Message) -> list[bytes]:
        return [sign(reply_to(question, serial=0x04030201))]

    with Responder(answer, KEY) as responder:
        assert ask(responder.nameserver, [ZONE], 2, key=KEY) == {ZONE: NoSerial(reason)}
        assert exchange(responder.nameserver, [partial(notify, ZONE, KEY)], 2) == [NoReply(reason)]


def in_capitals(_: dns.message.Message, reply: dns.message.Message) -> bytes:
    """As from one that keeps no case, and has a SOA of its own spelling."""
    wire = reply.to_wire()
    return wire[:12] + wire[12:].replace(b"example", b"EXAMPLE")


def uncompressed(question: dns.message.Message, reply: dns.message.Message) -> bytes:
    """Every name is spelt out."""
    (rrset,) = reply.answer
    rdata = rrset[0].to_wire()
    head = rrset.name.to_wire() + struct.pack("!HHIH", rrset.rdtype, 1, 60, len(rdata))
    return reply.to_wire()[: len(question.to_wire())] + head + rdata


def after_another_record(_: dns.message.Message, reply: dns.message.Message) -> bytes:
    (soa,) = reply.answer
    reply.answer = [dns.rrset.from_text(soa.name, 60, "IN", "TXT", "first"), soa]
    return reply.to_wire()


def with_more_sections(_: dns.message.Message, reply: dns.message.Message) -> bytes:
    name = reply.question[0].name
    reply.authority = [dns.rrset.from_text(name, 60, "IN", "NS", "ns1.")]
    reply.additional = [dns.rrset.from_text("ns1.", 60, "IN", "A", "192.0.2.1")]
    return reply.to_wire()


def with_the_question_twice(question: dns.message.Message, reply: dns.message.Message) -> bytes:
    wire, end = reply.to_wire(), len(question.to_wire())
    return wire[:4] + b"\x00\x02" + wire[6:end] + wire[12:end] + wire[end:]


@pytest.mark.parametrize(
    "spell",
    [
        in_capitals,
        uncompressed,
        after_another_record,
        with_more_sections,
        with_the_question_twice,
    ],
)
def test_the_same_may_be_said_otherwise(
    spell: Callable[[dns.message.Message, dns.message.Message], bytes],
) -> None:
    """All that DNS allows reads the same, though only the usual is read by ourselves."""
    with Responder(lambda _, q: [spell(q, reply_to(q, 7))]) as responder:
        answer = ask(responder.nameserver, [ZONE], 2)[ZONE]
    assert isinstance(answer, Serial)
    assert (answer.serial, answer.refresh, answer.expire) == (7, 3600, 864000)
    text = f"ns1.{ZONE}. owner.{ZONE}. 7 3600 600 864000 60"
    assert from_wire(answer.rdata) == dns.rdata.from_text("IN", "SOA", text)


def cut(wire: bytes, by: int) -> bytes:
    """The only record's data is so many bytes shorter, and that is what its length says."""
    at = wire.rindex(b"\x00\x06\x00\x01") + 8
    size = int.from_bytes(wire[at : at + 2])
    return wire[:at] + (size - by).to_bytes(2) + wire[at + 2 : len(wire) - by]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wire: wire[:-4],
        lambda wire: cut(wire, 4),
        lambda wire: cut(wire + bytes(4), -4),
        lambda wire: wire.replace(b"\x03ns1\xc0\x0c", b"\x03ns1\xc0\xff"),
        lambda wire: wire[:6] + b"\x00\x02" + wire[8:],
    ],
    ids=["cut off", "data too short", "data too long", "a name from nowhere", "a record missing"],
)
def test_half_an_answer_is_none(spoil: Callable[[bytes], bytes]) -> None:
    """What can't be read says nothing, not even the half that can."""
    with Responder(lambda _, q: [spoil(reply_to(q).to_wire())]) as responder:
        assert ask(responder.nameserver, [ZONE], 2) == {ZONE: NoSerial("malformed")}


def test_an_error_may_come_without_the_question() -> None:
    """Some nameservers refuse so."""

    def refuse(_: Responder, question: dns.message.Message) -> list[bytes]:
        flags = dns.flags.QR | question.flags | dns.rcode.REFUSED  # the flags hold the opcode
        return [struct.pack("!HHHHHH", question.id, flags, 0, 0, 0, 0)]

    with Responder(refuse) as responder:
        assert ask(responder.nameserver, [ZONE], 2) == {ZONE: NoSerial("REFUSED")}
        assert exchange(responder.nameserver, [partial(notify, ZONE, None)], 2) == [
            dns.rcode.REFUSED
        ]


def test_ids_are_hard_to_guess() -> None:
    """Who can't see a question can't answer it: no two ids are the same, nor do they go up."""
    with Responder(changed()) as responder:
        ask(responder.nameserver, [f"zone{n}.example" for n in range(300)], 5)
    ids = [question.id for question in responder.asked]
    assert len(set(ids)) == len(ids) == 300
    assert max(ids) - min(ids) > 2**15
    assert ids != sorted(ids)


def test_messages_with_the_same_id_are_not_mixed_up() -> None:
    """With many questions chance gives two the same id; each has its own answer."""

    def by_name(_: Responder, question: dns.message.Message) -> list[bytes]:
        reply = reply_to(question)
        reply.set_rcode(dns.rcode.Rcode(int(question.question[0].name.labels[0])))
        return [reply.to_wire()]

    questions = [partial(dns.message.make_query, f"{n}.example", "SOA", id=99) for n in range(10)]
    with Responder(by_name) as responder:
        assert exchange(responder.nameserver, questions, 2) == list(range(10))
    assert len(responder.asked) == 10


# --- addresses ------------------------------------------------------------------------------


def answer_to(question: dns.message.Message, *addresses: str) -> dns.message.Message:
    """The answer of a nameserver that serves the zone: its SOA, or these addresses of the name."""
    asked = question.question[0]
    if asked.rdtype == dns.rdatatype.SOA:
        return reply_to(question)
    reply = dns.message.make_response(question)
    reply.flags |= dns.flags.AA
    reply.answer.append(dns.rrset.from_text(asked.name, 60, "IN", asked.rdtype, *addresses))
    return reply


@pytest.mark.parametrize(
    ("rtype", "addresses"),
    [("A", ["192.0.2.1"]), ("A", ["192.0.2.1", "198.51.100.7"]), ("AAAA", ["2001:db8::1"])],
)
def test_every_address_of_the_pointer_is_told(
    rtype: Literal["A", "AAAA"], addresses: list[str]
) -> None:
    """As addresses, whatever their spelling, for the zone whose pointer it is."""
    with Responder(lambda _, question: [answer_to(question, *addresses).to_wire()]) as responder:
        pointers = {ZONE: pointer("www.example.net.", rtype)}
        answers = ask_all({"ns1": responder.nameserver}, [ZONE, "example.com"], pointers, 2)["ns1"]
        alone = soa.addresses(responder.nameserver, pointers, 2)
    assert answers.addresses == alone == {ZONE: set(map(ip_address, addresses))}
    assert answers.serials.keys() == {ZONE, "example.com"}


def text(name: dns.name.Name) -> dns.rrset.RRset:
    """A record whose data is as long as an address."""
    return dns.rrset.from_text(name, 60, "IN", "TXT", "abc")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reply: setattr(reply, "flags", reply.flags & ~dns.flags.AA),
        lambda reply: reply.set_rcode(dns.rcode.SERVFAIL),
        lambda reply: setattr(reply.answer[0], "name", dns.name.from_text("other.example.org")),
        lambda reply: setattr(reply, "answer", [text(reply.question[0].name)]),
    ],
    ids=["not AA", "SERVFAIL", "another name's", "another type's"],
)
def test_an_address_without_authority_is_absent(
    spoil: Callable[[dns.message.Message], None],
) -> None:
    """A cache's answer, for example, says nothing about what the zone holds now."""

    def spoilt(_: Responder, question: dns.message.Message) -> list[bytes]:
        reply = answer_to(question, "192.0.2.1")
        if question.question[0].rdtype == dns.rdatatype.A:
            spoil(reply)
        return [reply.to_wire()]

    with Responder(spoilt) as responder:
        pointers = {ZONE: pointer("www.example.org.")}
        answers = ask_all({"ns1": responder.nameserver}, [ZONE], pointers, 2)["ns1"]
    assert isinstance(answers.serials[ZONE], Serial)
    assert answers.addresses == {}


def test_soas_and_addresses_are_asked_side_by_side() -> None:
    """Neither waits for the other: here the nameserver answers nothing until it has both."""

    def both(responder: Responder, _: dns.message.Message) -> list[bytes]:
        if len(responder.asked) < 2:
            return []
        return [answer_to(question, "192.0.2.1").to_wire() for question in responder.asked]

    with Responder(both) as responder:
        pointers = {ZONE: pointer("www.example.org.")}
        answers = ask_all({"ns1": responder.nameserver}, [ZONE], pointers, 9)["ns1"]
    assert answers.addresses.keys() == answers.serials.keys() == {ZONE}
    assert len(responder.asked) == 2  # asked again after three seconds, if it had been in vain


def test_soas_do_not_wait_for_addresses() -> None:
    """Of more questions than are on their way at once the SOAs are first."""
    zones = [f"zone{n}.example" for n in range(200)]

    def only_soas(_: Responder, question: dns.message.Message) -> list[bytes]:
        is_soa = question.question[0].rdtype == dns.rdatatype.SOA
        return [reply_to(question).to_wire()] if is_soa else []

    with Responder(only_soas) as responder:
        pointers = {zone: pointer(f"www.{zone}.") for zone in zones}
        answers = ask_all({"ns1": responder.nameserver}, zones, pointers, 2)["ns1"]
    assert {type(answer) for answer in answers.serials.values()} == {Serial}
    assert answers.addresses == {}
    first = [asked.question[0].rdtype for asked in responder.asked[: len(zones)]]
    assert first == [dns.rdatatype.SOA] * len(zones)


# --- truncated ------------------------------------------------------------------------------


def answer_over(connection: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    with connection:
        size = int.from_bytes(connection.recv(2))
        connection.sendall(answer(connection.recv(size)))


def over_tcp(
    port: int, answer: Callable[[bytes], bytes]
) -> contextlib.AbstractContextManager[None]:
    """Answer each question that comes over TCP on the port."""

    def serve(listening: socket.socket) -> None:
        while True:
            answer_over(listening.accept()[0], answer)

    return serving("127.0.0.1", port, serve)


def whole(wire: bytes) -> bytes:
    """The answer, which no length and no rate limits over TCP."""
    return reply_to(dns.message.from_wire(wire), 2026010155).to_wire(prepend_length=True)


def truncated(_: Responder, question: dns.message.Message) -> list[bytes]:
    """As a nameserver answers whose rate limit is reached: with nothing, ask over TCP."""
    reply = dns.message.make_response(question)
    reply.flags |= dns.flags.TC
    return [reply.to_wire()]


def test_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    """There it has no limit, and rate limits do not apply."""
    with Responder(truncated) as responder, over_tcp(responder.nameserver.port, whole):
        answers = ask(responder.nameserver, [f"zone{n}.example" for n in range(20)], 3)
    serials = [answer.serial for answer in answers.values() if isinstance(answer, Serial)]
    assert serials == [2026010155] * 20


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: b"", "connection closed"),
        (lambda _: b"\x00\x40half", "connection closed"),
        (lambda wire: len(wire).to_bytes(2) + wire, "malformed"),
        (lambda _: bytes(2), "malformed"),
        (lambda wire: b"\x00\x08" + wire[:8], "malformed"),
    ],
    ids=["nothing", "half of it", "the question", "of no length", "half a header"],
)
def test_no_answer_over_tcp_either(answer: Callable[[bytes], bytes], reason: str) -> None:
    """It ends there, with its reason."""
    with Responder(truncated) as responder, over_tcp(responder.nameserver.port, answer):
        assert ask(responder.nameserver, [ZONE], 3) == {ZONE: NoSerial(reason)}


def test_few_connections_are_open_at_once() -> None:
    """A nameserver that bids us to go slow gets no burst of connections instead."""
    at_once = []

    def serve(listening: socket.socket) -> None:
        while True:
            waiting = [listening.accept()[0]]
            while select.select([listening], [], [], 0.1)[0]:
                waiting.append(listening.accept()[0])
            at_once.append(len(waiting))
            for connection in waiting:
                answer_over(connection, whole)

    zones = [f"zone{n}.example" for n in range(50)]
    with Responder(truncated) as responder, serving("127.0.0.1", responder.nameserver.port, serve):
        answers = ask(responder.nameserver, zones, 5)
    assert {type(answer) for answer in answers.values()} == {Serial}
    assert max(at_once) == 10


def test_connections_that_hang_hold_up_the_others_for_a_while() -> None:
    """The first ten get no answer, are given up, and all others get theirs.

    That the nameserver lives is told by a zone that it answers at the third try, over UDP.
    """

    def serve(listening: socket.socket) -> None:
        with contextlib.ExitStack() as hanging:
            for _ in range(10):
                hanging.enter_context(listening.accept()[0])
            while True:
                answer_over(listening.accept()[0], whole)

    def answer(responder: Responder, question: dns.message.Message) -> list[bytes]:
        if question.question[0].name.to_text() != f"{ZONE}.":
            return truncated(responder, question)
        times = sum(asked.question == question.question for asked in responder.asked)
        return [reply_to(question).to_wire()] if times == 3 else []

    zones = [f"zone{n}.example" for n in range(20)]
    with Responder(answer) as responder, serving("127.0.0.1", responder.nameserver.port, serve):
        answers = ask(responder.nameserver, [*zones, ZONE], 1.2)
    assert isinstance(answers[ZONE], Serial)
    assert Counter(map(type, answers.values())) == {Serial: 11, NoSerial: 10}
    assert NoSerial("timeout") in answers.values()


def test_a_nameserver_that_is_silent_over_tcp_costs_its_patience_once() -> None:
    """Whatever the number of questions that wait for it."""
    zones = [f"zone{n}.example" for n in range(50)]
    with (
        Responder(truncated) as responder,
        socket.create_server(("127.0.0.1", responder.nameserver.port)),
    ):
        started = time.monotonic()
        assert ask(responder.nameserver, zones, 0.6) == dict.fromkeys(zones, NoSerial("timeout"))
        assert 0.6 <= time.monotonic() - started < 0.6 + SLACK


def test_tcp_is_closed_where_udp_is_open() -> None:
    """A firewall that forgot about TCP: refused, not the whole timeout."""
    with Responder(truncated) as responder:
        assert ask(responder.nameserver, [ZONE], 3) == {ZONE: NoSerial("connection refused")}
