"""NOTIFY, and following a secondary; real name servers are followed in the system tests."""

import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import pytest
from conftest import free_port
from dns.rdtypes.ANY.SOA import SOA

from actions import notify
from actions.notify import Behind, Follower, KeyFileError, Observer, Serves, Wanted, read_key
from demo.stack import wait_for
from exporter import soa as questions
from exporter import talk
from exporter.config import Secondary, Tsig
from exporter.soa import Serial
from exporter.zonefile import Pointer

ZONE, OTHER = "example.org", "example.net"
WWW = Pointer(f"www.{ZONE}.", "A")
MAIN, BACKUP = "192.0.2.1", "198.51.100.7"
KEY = dns.tsig.Key("transfer", "c2VjcmV0IHNlY3JldCBzZWNyZXQ=", "hmac-sha256")
OLDER = Behind(1, "serves an older serial", coming=True)
# Of what a NOTIFY is answered with.
Reply = Callable[[str, int], dns.rcode.Rcode | None]


def soa(serial: int) -> SOA:
    """Make the SOA that the primary serves."""
    text = f"ns1.example.org. owner.example.org. {serial} 3600 600 86400 60"
    rrset = dns.rrset.from_text(f"{ZONE}.", 60, "IN", "SOA", text)
    made = rrset[0]
    assert isinstance(made, SOA)
    return made


def wanted(serial: int, *addresses: str) -> Wanted:
    """Say what the secondary should serve: this serial, and www at these addresses, if any."""
    rdata = soa(serial).to_wire()
    assert rdata is not None
    pointer = WWW if addresses else None
    return Wanted(Serial(serial, rdata), pointer, frozenset(map(ip_address, addresses)))


class FakeSecondary:
    """Answers SOA, A and NOTIFY on UDP; what it does with a NOTIFY is the test's choice."""

    def __init__(self) -> None:
        self.serials: dict[str, int] = defaultdict(lambda: 1)
        self.addresses = [MAIN]
        self.on_address: Callable[[], list[str]] = lambda: self.addresses  # of any www
        self.asked: list[dns.message.Message] = []
        self.notified: list[dns.message.Message] = []
        self.on_notify: Reply = self.transfer
        self.silent = False
        self.hidden: set[str] = set()  # zones that it refuses to say anything of
        self.mute: set[str] = set()  # zones on which it gives no answer
        self.slow = 0.0  # seconds for each answer
        # Of what it says of a zone, and of addresses; None: nothing.
        self.rcode: dns.rcode.Rcode | None = dns.rcode.NOERROR
        self.address_rcode: dns.rcode.Rcode | None = dns.rcode.NOERROR
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.05)
        self.port: int = self.socket.getsockname()[1]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def transfer(self, zone: str, serial: int) -> dns.rcode.Rcode:
        """Do what a good secondary does."""
        self.serials[zone] = serial
        return dns.rcode.NOERROR

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join()
        self.socket.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                wire, peer = self.socket.recvfrom(4096)
            except TimeoutError:
                continue
            question = dns.message.from_wire(wire, keyring={KEY.name: KEY})
            reply = self._reply(question)
            if self.slow:
                self._ending.wait(self.slow)
            if reply is not None and not self.silent:
                self.socket.sendto(reply.to_wire(), peer)

    def _reply(self, question: dns.message.Message) -> dns.message.Message | None:
        name, rtype = question.question[0].name, question.question[0].rdtype
        zone = name.to_text(omit_final_dot=True)
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.AA
        if question.opcode() == dns.opcode.NOTIFY:
            self.notified.append(question)
            rdata = question.answer[0][0]
            assert isinstance(rdata, SOA)
            rcode = self.on_notify(zone, rdata.serial)
        else:
            self.asked.append(question)
            rcode = self.rcode if rtype == dns.rdatatype.SOA else self.address_rcode
            if zone in self.hidden:
                rcode = dns.rcode.REFUSED
            if zone in self.mute:
                return None
            if rcode != dns.rcode.NOERROR:
                pass
            elif rtype == dns.rdatatype.SOA:
                reply.answer.append(dns.rrset.from_rdata(name, 60, soa(self.serials[zone])))
            else:
                reply.answer.append(
                    dns.rrset.from_text_list(name, 60, "IN", rtype, self.on_address())
                )
        if rcode is None:
            return None
        reply.set_rcode(rcode)
        return reply

    def notified_zones(self) -> list[str]:
        """Of which zones it was notified, in order."""
        return [message.question[0].name.to_text(omit_final_dot=True) for message in self.notified]

    def names(self) -> list[str]:
        """What it was asked for, in order, and may forget."""
        asked, self.asked = self.asked, []
        return [message.question[0].name.to_text(omit_final_dot=True) for message in asked]


class Told:
    """What the observer was told."""

    def __init__(self) -> None:
        self.notified = self.failed = 0
        self.arrived: list[float] = []

    def observer(self) -> Observer:
        """Make the observer."""

        def notified(_: str, count: int) -> None:
            self.notified += count

        def failed(_: str, count: int) -> None:
            self.failed += count

        return Observer(notified, failed, lambda _, seconds: self.arrived.append(seconds))


def make_follower(secondary: FakeSecondary, told: Told) -> Follower:
    """Make a follower of that secondary, not running yet."""
    place = Secondary.model_validate({"address": "127.0.0.1", "port": secondary.port})
    return Follower("ns2", place, KEY, told.observer())


@pytest.fixture
def secondary() -> Iterator[FakeSecondary]:
    """A secondary that answers."""
    secondary = FakeSecondary()
    yield secondary
    secondary.stop()


@pytest.fixture
def told() -> Told:
    """What the follower tells."""
    return Told()


@pytest.fixture
def follower(secondary: FakeSecondary, told: Told) -> Iterator[Follower]:
    """A follower of that secondary, running."""
    follower = make_follower(secondary, told)
    follower.start()
    yield follower
    follower.stop()


def within(seconds: float) -> float:
    """Make a deadline."""
    return time.monotonic() + seconds


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; 10 s are far more than any here needs."""
    wait_for(condition, 10, "the follower")


def refuse(_zone: str, _serial: int) -> dns.rcode.Rcode:
    """Say no to a NOTIFY."""
    return dns.rcode.REFUSED


def ignore(_zone: str, _serial: int) -> dns.rcode.Rcode:
    """Say yes to a NOTIFY, and do nothing."""
    return dns.rcode.NOERROR


def test_rfc_1996_the_message() -> None:
    """Opcode NOTIFY, AA set, RD not, one question of type SOA, the SOA as a hint (section 3.7)."""
    rdata = wanted(7).soa.rdata
    made = dns.message.from_wire(
        notify.message(ZONE, rdata, KEY).to_wire(), keyring={KEY.name: KEY}
    )
    assert made.opcode() == dns.opcode.NOTIFY
    assert made.flags & dns.flags.AA
    assert not made.flags & (dns.flags.RD | dns.flags.QR)
    assert [(q.name.to_text(), q.rdtype) for q in made.question] == [
        ("example.org.", dns.rdatatype.SOA)
    ]
    assert made.answer[0][0] == soa(7)
    assert made.had_tsig
    assert not dns.message.from_wire(notify.message(ZONE, rdata, None).to_wire()).had_tsig


def test_a_secondary_that_takes_the_notify_is_done(
    secondary: FakeSecondary, follower: Follower, told: Told
) -> None:
    """One NOTIFY for each zone, and each is seen to be served; all of it is signed."""
    follower.want({ZONE: wanted(2, MAIN), OTHER: wanted(3)})
    assert follower.wait(within(5)) == {ZONE: Serves(2), OTHER: Serves(3)}
    assert follower.serials([ZONE, OTHER]) == {ZONE: 2, OTHER: 3}
    assert len(secondary.notified) == told.notified == len(told.arrived) == 2
    assert told.failed == 0
    assert all(message.had_tsig for message in [*secondary.asked, *secondary.notified])


def test_a_secondary_that_has_it_already_is_left_alone(
    secondary: FakeSecondary, follower: Follower, told: Told
) -> None:
    """Nothing is sent, and nothing has arrived: so it is at each start of the program."""
    secondary.serials[ZONE] = 4
    follower.want({ZONE: wanted(4, MAIN)})
    assert follower.wait(within(5)) == {ZONE: Serves(4)}
    assert secondary.notified == told.arrived == []


def test_what_is_wanted_already_changes_nothing(
    secondary: FakeSecondary, follower: Follower, told: Told
) -> None:
    """Converge says it again at every run: nobody is asked or notified for that."""
    follower.want({ZONE: wanted(2, MAIN)})
    assert follower.wait(within(5)) == {ZONE: Serves(2)}
    secondary.asked.clear()
    follower.want({ZONE: wanted(2, MAIN)})
    assert follower.seen() == {ZONE: Serves(2)}
    follower.want({OTHER: wanted(2)})
    assert follower.wait(within(5)) == {ZONE: Serves(2), OTHER: Serves(2)}
    assert set(secondary.names()) == {OTHER}
    assert len(told.arrived) == 2


def test_a_secondary_that_is_ahead_is_behind(secondary: FakeSecondary, follower: Follower) -> None:
    """It will never take ours, and what it serves is something else: nobody waits for that."""
    secondary.on_notify = ignore
    secondary.serials[ZONE] = 5
    follower.want({ZONE: wanted(4)})
    assert follower.wait(within(60)) == {ZONE: Behind(5, "is ahead of the primary")}
    assert follower.serials([ZONE]) == {ZONE: 5}
    secondary.on_notify = secondary.transfer
    follower.want({ZONE: wanted(6)})
    assert follower.wait(within(5)) == {ZONE: Serves(6)}


# --- serials --------------------------------------------------------------------------------


def test_a_secondary_is_asked_before_the_first_serial_is_chosen(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """After a lost disk, only the secondaries know; later, what was seen last will do."""
    secondary.serials[ZONE] = 41
    assert follower.serials([ZONE]) == {ZONE: 41}
    secondary.serials[ZONE] = 42
    follower.want({ZONE: wanted(42)})
    assert follower.wait(within(5)) == {ZONE: Serves(42)}
    secondary.silent = True
    assert follower.serials([ZONE, "unknown.example"]) == {ZONE: 42}


def test_what_it_answered_last_is_known_when_it_is_silent(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secondary that is ahead, and then unreachable, is still ahead."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    secondary.serials[ZONE] = 5
    follower.want({ZONE: wanted(4)})
    until(lambda: follower.serials([ZONE]) == {ZONE: 5})
    secondary.silent = True
    follower.want({ZONE: wanted(3)})
    until(lambda: follower.seen() == {ZONE: Behind(None, "timeout")})
    assert follower.serials([ZONE]) == {ZONE: 5}


def test_no_serial_is_waited_for_where_nobody_answers(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """A switch is not delayed by an unreachable secondary: it is asked once, not for long."""
    secondary.silent = True
    begun = time.monotonic()
    assert follower.serials([ZONE, OTHER]) == {}
    assert time.monotonic() - begun < notify._ANSWER_SECONDS
    assert set(secondary.names()) == {ZONE, OTHER}
    assert follower.serials([ZONE, OTHER]) == {}
    assert secondary.names() == []


def test_a_slow_secondary_does_not_hold_up_the_first_serials(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """A switch waits for it no longer than for a dead one; what came by then counts."""
    secondary.slow = 0.05
    begun = time.monotonic()
    assert 0 < len(follower.serials([f"{number}.example" for number in range(100)])) < 100
    assert time.monotonic() - begun < 2.5  # all of it would take 5 s


def test_serials_are_compared_as_rfc_1982_says(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """4294967295 is older than 1."""
    secondary.serials[ZONE] = 2**32 - 1
    follower.want({ZONE: wanted(1)})
    assert follower.wait(within(5)) == {ZONE: Serves(1)}
    assert len(secondary.notified) == 1


# --- addresses ------------------------------------------------------------------------------


def test_other_addresses_at_the_right_serial_are_behind(
    secondary: FakeSecondary, follower: Follower, told: Told
) -> None:
    """No transfer will come of it: nobody waits, no NOTIFY is sent; the next serial cures it."""
    secondary.serials[ZONE] = 2
    secondary.addresses = [BACKUP, MAIN]
    follower.want({ZONE: wanted(2, BACKUP)})
    said = f"serves other addresses at this serial: {MAIN}, {BACKUP}"
    assert follower.wait(within(60)) == {ZONE: Behind(2, said)}
    assert secondary.notified == []
    assert told.arrived == []
    secondary.addresses = [BACKUP]
    follower.want({ZONE: wanted(3, BACKUP)})
    assert follower.wait(within(5)) == {ZONE: Serves(3)}


def test_other_addresses_for_a_moment_are_waited_for(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """NSD answers from the old zone for some milliseconds after it began to serve the new one."""
    answers = iter([[MAIN], [BACKUP]])
    secondary.on_address = lambda: next(answers, [BACKUP])
    follower.want({ZONE: wanted(2, BACKUP)})
    assert follower.wait(within(5)) == {ZONE: Serves(2)}
    assert next(answers, None) is None


def test_addresses_are_asked_for_when_the_serial_is_right(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At arrival, until they are right; before, and ever after, the serial tells all."""
    monkeypatch.setattr(notify, "_LOOK_AGAIN_SECONDS", 0.05)
    secondary.on_notify = ignore
    follower.want({ZONE: wanted(2, MAIN)})
    until(lambda: len(secondary.asked) > 3)
    assert set(secondary.names()) == {ZONE}
    secondary.addresses, secondary.serials[ZONE] = [BACKUP], 2
    said = f"serves other addresses at this serial: {BACKUP}"
    until(lambda: follower.seen() == {ZONE: Behind(2, said)})
    secondary.addresses = [MAIN]
    until(lambda: follower.seen() == {ZONE: Serves(2)})
    secondary.names()
    until(lambda: len(secondary.asked) > 3)
    assert set(secondary.names()) == {ZONE}


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, None])
def test_one_that_gives_no_addresses_is_asked_again(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    rcode: dns.rcode.Rcode | None,
) -> None:
    """Not known to point there is behind, and said; that is no reason for another serial."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(notify, "_STUCK_SECONDS", 0.0)
    secondary.address_rcode = rcode
    why = "timeout" if rcode is None else dns.rcode.to_text(rcode)
    follower.want({ZONE: wanted(2, MAIN)})
    until(lambda: follower.seen() == {ZONE: Behind(2, f"gives no address of www.{ZONE}.: {why}")})
    assert not follower.stuck()
    assert follower._zones[ZONE].quiet == (rcode is None)  # an answer is no silence
    secondary.address_rcode = dns.rcode.NOERROR
    until(lambda: follower.seen() == {ZONE: Serves(2)})


def test_a_server_without_an_address_of_that_family_has_none(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """Its record is commented out while it serves: no address is what is wanted."""
    secondary.addresses = []
    follower.want({ZONE: Wanted(wanted(2).soa, WWW)})
    assert follower.wait(within(5)) == {ZONE: Serves(2)}


# --- NOTIFY, again --------------------------------------------------------------------------


def test_an_error_does_not_end_the_following(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Out of file descriptors for a moment: said, and tried again."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.01)
    ask, failures = questions.ask, [OSError("too many open files")] * 3

    def breaks(*args: Any, **more: Any) -> object:
        if failures:
            raise failures.pop()
        return ask(*args, **more)

    monkeypatch.setattr(questions, "ask", breaks)
    follower.want({ZONE: wanted(2)})
    until(lambda: follower.seen() == {ZONE: Serves(2)})
    assert caplog.messages.count("follower failed") == 3
    assert secondary.serials[ZONE] == 2


def test_a_lost_notify_is_sent_again(
    secondary: FakeSecondary, follower: Follower, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NOTIFY is not reliable: it goes out anew, freshly signed, until the serial is served."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.2)

    def third_time(zone: str, serial: int) -> dns.rcode.Rcode | None:
        return secondary.transfer(zone, serial) if len(secondary.notified) == 3 else None

    secondary.on_notify = third_time
    follower.want({ZONE: wanted(2)})
    assert follower.wait(within(10)) == {ZONE: Serves(2)}
    assert len({message.id for message in secondary.notified}) == 3
    assert (told.notified, told.failed) == (3, 2)


def test_noerror_is_no_proof(secondary: FakeSecondary, follower: Follower) -> None:
    """A secondary that says yes and does not transfer is behind."""
    secondary.on_notify = ignore
    follower.want({ZONE: wanted(2)})
    until(lambda: len(secondary.notified) > 1)
    assert follower.seen() == {ZONE: OLDER}


@pytest.mark.parametrize(
    ("reply", "logged", "said"),
    [
        (dns.rcode.NOTAUTH, "NOTAUTH", "refuses NOTIFY: NOTAUTH"),
        (None, "timeout", "NOTIFY fails: timeout"),
    ],
)
def test_a_refusal_is_said_once_with_its_reason(  # noqa: PLR0913
    *,
    secondary: FakeSecondary,
    follower: Follower,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reply: dns.rcode.Rcode | None,
    logged: str,
    said: str,
) -> None:
    """The owner reads which nameserver refuses and how, not a line for each try; status says it."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 0.02)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    good = secondary.on_notify
    secondary.on_notify = lambda _zone, _serial: reply
    follower.want({ZONE: wanted(2), OTHER: wanted(2)})
    until(lambda: told.failed >= 6)
    behind = Behind(1, f"serves an older serial; {said}", coming=True)
    assert follower.seen() == {ZONE: behind, OTHER: behind}
    follower.want({ZONE: wanted(3)})
    until(lambda: told.failed >= 9)
    lines = [vars(line) for line in caplog.records if line.message == "notify failed"]
    assert [(its["nameserver"], its["zones"], its["reason"]) for its in lines] == [
        ("ns2", 2, logged)
    ]
    secondary.on_notify = good
    until(lambda: follower.seen() == {ZONE: Serves(3), OTHER: Serves(2)})


def test_a_refusal_that_comes_again_is_said_again(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once all is served it is over; at the next switch it is news."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.2)

    def without_a_reply(zone: str, serial: int) -> None:
        secondary.transfer(zone, serial)

    secondary.on_notify = without_a_reply
    for serial in (2, 3):
        follower.want({ZONE: wanted(serial)})
        assert follower.wait(within(5)) == {ZONE: Serves(serial)}
    assert caplog.messages.count("notify failed") == 2


def test_waits_grow_longer() -> None:
    """What lags is asked for and notified often at first, and again once it is back."""
    its = lagging()
    notifies, questions, now = [], [], 1000.0
    for _ in range(16):
        assert its.is_to_be_notified(now, 0.0)
        its.take(dns.rcode.NOERROR, now)
        its.plan(now, 0.0)
        notifies.append(its.notify_after)
        questions.append(its.ask_at - now)
        assert not its.is_to_be_notified(now + its.notify_after - 0.1, 0.0)
        now += its.notify_after
    assert notifies == [0.5, 1, 2, 4, 8, 16, 32, *[60] * 9]
    assert questions == pytest.approx([*(0.02 * 1.5**n for n in range(14)), 5, 5])
    its.hear(Behind(None, "timeout"), now)
    its.hear(OLDER, now)
    its.plan(now, 0.0)
    assert its.is_to_be_notified(now, 0.0)
    assert its.ask_at - now == pytest.approx(0.02)


def test_one_in_the_queue_of_many_is_not_notified_again() -> None:
    """A secondary has taken the NOTIFY, and thousands more; one that was lost is sent again."""
    took, lost = lagging(), lagging()
    took.take(dns.rcode.NOERROR, 1000.0)
    lost.take(questions.NoReply("timeout"), 1000.0)
    assert [its.is_to_be_notified(1001.0, 15.0) for its in (took, lost)] == [False, True]
    assert took.is_to_be_notified(1015.0, 15.0)


def test_thousands_that_never_come_are_asked_for_ever_more_seldom() -> None:
    """Once a second for each 200 of them in the end: that is all that they cost."""
    its = lagging()
    for _ in range(30):
        its.plan(0.0, 20.0)
    assert its.ask_at == 20.0


def lagging() -> notify._Zone:
    """Make a zone that is behind."""
    return notify._Zone(wanted(2), OLDER, known=True, since=0.0, ask_at=0.0, quiet=False)


def test_one_that_comes_back_from_silence_is_notified_at_once(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the backoff has become: main's own name server returns with the old zones."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    secondary.silent = True
    secondary.on_notify = lambda _zone, _serial: None
    follower.want({ZONE: wanted(2)})
    assert follower.wait(within(5)) == {ZONE: Behind(None, "timeout")}
    secondary.on_notify = secondary.transfer
    secondary.silent = False
    until(lambda: follower.seen() == {ZONE: Serves(2)})


def test_nobody_waits_for_one_that_gives_no_answer(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is unreachable is known after one question; the rest of the time is not spent."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    secondary.silent = True
    follower.want({ZONE: wanted(2)})
    long = within(60)
    assert follower.wait(long) == {ZONE: Behind(None, "timeout")}
    assert long - time.monotonic() > 30


def test_a_new_zone_is_waited_for(secondary: FakeSecondary, follower: Follower) -> None:
    """SERVFAIL is what a secondary says before its first transfer, also after it took a NOTIFY."""
    secondary.rcode = dns.rcode.SERVFAIL
    secondary.on_notify = ignore
    follower.want({ZONE: wanted(2)})
    until(lambda: len(secondary.notified) > 1)
    assert follower.wait(within(0.3)) == {ZONE: Behind(None, "SERVFAIL", coming=True)}


def test_an_unknown_zone_is_not_waited_for(secondary: FakeSecondary, follower: Follower) -> None:
    """It is not configured there, or for somebody else: a word with the owner is needed."""
    secondary.rcode = dns.rcode.REFUSED
    secondary.on_notify = lambda _zone, _serial: dns.rcode.NOTAUTH
    follower.want({ZONE: wanted(2)})
    long = within(60)
    assert follower.wait(long) == {ZONE: Behind(None, "REFUSED; refuses NOTIFY: NOTAUTH")}
    assert long - time.monotonic() > 30


@pytest.mark.parametrize(("rcode", "why"), [(dns.rcode.REFUSED, "REFUSED"), (None, "timeout")])
def test_one_that_only_takes_notifies_is_notified_once(  # noqa: PLR0913
    *,
    secondary: FakeSecondary,
    follower: Follower,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    rcode: dns.rcode.Rcode | None,
    why: str,
) -> None:
    """A distributor hides behind others: once for each serial, and after a while again."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 0.01)
    monkeypatch.setattr(notify, "_ASK_UNSEEN_SECONDS", 0.01)
    monkeypatch.setattr(notify, "_ASK_AT_MOST_SECONDS", 0.01)
    secondary.rcode = rcode
    follower.want({ZONE: wanted(2)})
    expected = {ZONE: Behind(None, f"took the NOTIFY, gives no SOA: {why}")}
    assert follower.wait(within(60)) == expected
    secondary.asked.clear()
    until(lambda: len(secondary.asked) > 10)
    assert follower.seen() == expected
    assert told.notified == 1
    follower.want({ZONE: wanted(3)})
    until(lambda: told.notified == 2)
    assert follower.wait(within(60)) == expected
    monkeypatch.setattr(notify, "_NOTIFY_UNSEEN_SECONDS", 0.01)
    follower.want({ZONE: wanted(4)})
    until(lambda: told.notified > 4)


def test_one_that_is_back_for_the_notify_is_asked_at_once(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was silent when it was asked, a moment before: that says nothing any more."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.2)

    def back(zone: str, serial: int) -> dns.rcode.Rcode:
        secondary.rcode = dns.rcode.NOERROR
        return secondary.transfer(zone, serial)

    secondary.rcode, secondary.on_notify = None, back
    follower.want({ZONE: wanted(2)})
    assert follower.wait(within(10)) == {ZONE: Serves(2)}


@pytest.mark.parametrize("rcode", [dns.rcode.REFUSED, None])
def test_one_that_gives_an_soa_after_all_is_followed(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    rcode: dns.rcode.Rcode | None,
) -> None:
    """Busy with thousands of transfers, NSD takes NOTIFYs and is silent: no minute is waited."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.2)
    secondary.rcode, secondary.on_notify = rcode, ignore
    follower.want({ZONE: wanted(2)})
    until(lambda: "took the NOTIFY" in str(follower.seen()))
    secondary.rcode, secondary.on_notify = dns.rcode.NOERROR, secondary.transfer
    until(lambda: follower.seen() == {ZONE: Serves(2)})


def test_a_retired_zone_is_followed_no_more(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither asked for nor notified."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 0.01)
    secondary.on_notify = refuse
    follower.want({ZONE: wanted(2), OTHER: wanted(2)})
    until(lambda: len(secondary.notified) > 2)
    follower.keep({OTHER})
    secondary.notified.clear()
    until(lambda: len(secondary.notified) > 5)
    names = [message.question[0].name.to_text() for message in secondary.notified]
    assert set(names[2:]) == {f"{OTHER}."}  # one more of the other may have been on its way
    assert follower.seen().keys() == {OTHER}
    secondary.serials[ZONE] = 7
    assert follower.serials([ZONE]) == {ZONE: 7}  # asked anew


# --- many changes, many zones ---------------------------------------------------------------


def test_a_newer_serial_takes_the_place_of_an_older_one(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """In a burst of switches only the last one has to arrive."""
    for serial in range(2, 30):
        secondary.addresses = [BACKUP if serial % 2 else MAIN]
        follower.want({ZONE: wanted(serial, *secondary.addresses)})
    assert follower.wait(within(10)) == {ZONE: Serves(29)}
    assert secondary.serials[ZONE] == 29


def test_what_is_new_is_notified_at_once(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the backoff has become for what was wanted before."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 3600.0)
    secondary.on_notify = ignore
    follower.want({ZONE: wanted(2)})
    until(lambda: len(secondary.notified) == 1)
    secondary.on_notify = secondary.transfer
    follower.want({ZONE: wanted(3)})
    assert follower.wait(within(10)) == {ZONE: Serves(3)}
    assert len(secondary.notified) == 2


def test_an_answer_to_an_older_question_says_nothing_of_what_is_wanted_now(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer serial is wanted while the question is on its way: it gets its own NOTIFY."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 3600.0)

    def late(zone: str, serial: int) -> dns.rcode.Rcode:
        if serial == 2:  # no sooner than this one was on its way
            follower.want({ZONE: wanted(3, MAIN)})
        return secondary.transfer(zone, serial)

    secondary.on_notify = late
    follower.want({ZONE: wanted(2, MAIN)})
    until(lambda: follower.seen() == {ZONE: Serves(3)})
    assert len(secondary.notified) == 2


def test_an_answer_of_before_is_no_arrival_of_what_is_wanted_now(
    secondary: FakeSecondary, follower: Follower, told: Told
) -> None:
    """While the answers for one serial are on their way the next one is wanted."""

    def late() -> list[str]:
        if secondary.serials[ZONE] == 2:
            follower.want({ZONE: wanted(3, MAIN)})
        return [MAIN]

    secondary.on_address = late
    follower.want({ZONE: wanted(2, MAIN)})
    until(lambda: follower.seen() == {ZONE: Serves(3)})
    assert len(told.arrived) == 1


def test_one_that_gives_no_soa_is_asked_seldom(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will not answer in a moment either."""
    monkeypatch.setattr(notify, "_ASK_UNSEEN_SECONDS", 60.0)
    secondary.hidden, secondary.on_notify = {ZONE}, ignore
    follower.want({ZONE: wanted(2), OTHER: wanted(2)})
    until(lambda: "took the NOTIFY" in str(follower.seen()))
    secondary.names()
    until(lambda: len(secondary.asked) > 5)
    assert set(secondary.names()) == {OTHER}


def test_asking_in_vain_leaves_the_processor_to_others(
    secondary: FakeSecondary, told: Told
) -> None:
    """Of any number of zones. The first question of each is not in vain, nor is a good answer."""
    follower = make_follower(secondary, told)
    follower.want({ZONE: wanted(2), OTHER: wanted(2)})
    asked = follower._take()
    assert follower._plan(asked, 7.0) < 1
    assert follower._plan(asked, 7.0) == 21
    asked[ZONE].hear(Serves(2), time.monotonic())
    assert follower._plan(asked, 8.0) == 12


def test_what_is_new_is_seen_to_while_the_thread_rests(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rest delays a switch."""
    monkeypatch.setattr(notify, "_REST", 1e6)
    secondary.on_notify = ignore
    follower.want({ZONE: wanted(2)})
    until(lambda: len(secondary.asked) == 2)
    follower.want({OTHER: wanted(1)})
    until(lambda: follower.seen()[OTHER] == Serves(1))


def test_only_what_lags_is_asked_for_again(secondary: FakeSecondary, follower: Follower) -> None:
    """Of ten thousand zones one may lag; the others are looked at once a minute."""
    secondary.on_notify = lambda zone, serial: (
        ignore(zone, serial) if zone == OTHER else secondary.transfer(zone, serial)
    )
    follower.want({ZONE: wanted(2), OTHER: wanted(2)})
    until(lambda: follower.seen()[ZONE] == Serves(2))
    secondary.names()
    until(lambda: len(secondary.asked) > 5)
    assert set(secondary.names()) == {OTHER}


@pytest.mark.parametrize("count", [20, 21])
def test_many_zones_arrive_in_one_line(
    follower: Follower,
    told: Told,
    caplog: pytest.LogCaptureFixture,
    count: int,
) -> None:
    """Ten thousand lines would hide everything else."""
    caplog.set_level("INFO")
    zones = [f"{number}.example" for number in range(count)]
    follower.want({zone: wanted(2) for zone in zones})
    assert follower.wait(within(10)) == dict.fromkeys(zones, Serves(2))
    lines = [vars(line) for line in caplog.records if line.message == "secondary serves"]
    assert len(told.arrived) == count
    if count > 20:
        (line,) = lines
        assert (line["number"], line["seconds"]) == (count, f"{max(told.arrived):.3f}")
    else:
        assert sorted(line["zone"] for line in lines) == sorted(zones)
        assert {line["serial"] for line in lines} == {2}


def test_what_is_new_waits_for_few_others_only(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands may lag, or be looked at again: one portion of them goes before."""
    monkeypatch.setattr(notify, "_AT_ONCE", 5)
    monkeypatch.setattr(notify, "_ASK_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.0)
    zones = [f"{number}.example" for number in range(50)]
    secondary.on_notify = ignore
    follower.want({zone: wanted(2) for zone in zones})
    until(lambda: set(zones) <= set(secondary.notified_zones()))
    wants: list[tuple[int, int]] = []

    def then_comes_another(zone: str, serial: int) -> dns.rcode.Rcode:
        if not wants:
            wants.append((len(secondary.asked), len(secondary.notified)))
            follower.want({ZONE: wanted(2)})
        return ignore(zone, serial)

    secondary.on_notify = then_comes_another
    until(lambda: ZONE in secondary.notified_zones())
    ((asked, notified),) = wants
    assert secondary.notified_zones()[notified:].index(ZONE) <= 10
    assert secondary.names()[asked:].index(ZONE) <= 10
    secondary.on_notify = secondary.transfer
    follower.want({zone: wanted(3) for zone in zones})
    until(lambda: set(follower.seen().values()) == {Serves(2), Serves(3)})


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, None])
def test_no_zone_is_forgotten_among_many(
    secondary: FakeSecondary,
    follower: Follower,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    rcode: dns.rcode.Rcode | None,
) -> None:
    """Each portion is asked for and notified, also where no SOA is given."""
    monkeypatch.setattr(notify, "_AT_ONCE", 5)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.2)
    secondary.rcode = rcode
    zones = [f"{number}.example" for number in range(13)]
    follower.want({zone: wanted(2) for zone in zones})
    seen = follower.wait(within(10))
    took = Behind(None, "took the NOTIFY, gives no SOA: timeout")
    assert seen == dict.fromkeys(zones, took if rcode is None else Serves(2))
    assert sorted(secondary.notified_zones()) == sorted(zones)
    assert told.notified == 13


def test_one_that_is_dead_is_not_tried_with_each_of_many_zones(
    secondary: FakeSecondary, follower: Follower, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence is waited out once, be there ten thousand zones."""
    monkeypatch.setattr(notify, "_AT_ONCE", 2)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.5)
    secondary.silent = True
    zones = [f"{number}.example" for number in range(3000)]
    follower.want({zone: wanted(2) for zone in zones})
    begun = time.monotonic()
    assert follower.wait(within(60)) == dict.fromkeys(zones, Behind(None, "timeout"))
    assert time.monotonic() - begun < 15
    assert 0 < told.notified == told.failed < 2000


def test_told_to_end_it_does_not_go_through_thousands_first(
    secondary: FakeSecondary, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is to end has seconds."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.2)
    follower = make_follower(secondary, told)
    follower.start()

    def late(_zone: str, _serial: int) -> dns.rcode.Rcode:
        follower.end()
        return dns.rcode.NOERROR

    secondary.on_notify, secondary.rcode = late, None
    follower.want({f"{number}.example": wanted(2) for number in range(1000)})
    until(lambda: bool(secondary.notified))
    follower.stop()
    assert len(secondary.notified) < 500


@pytest.mark.parametrize("what", ["SOAs", "addresses", "NOTIFYs"])
def test_told_to_end_it_waits_for_no_slow_answers(
    secondary: FakeSecondary, told: Told, what: str
) -> None:
    """A program that is to end has seconds: all of these take 18."""

    def slowly() -> None:
        secondary.slow = 0.3

    def where() -> list[str]:
        slowly()
        return [MAIN]

    def take(zone: str, serial: int) -> dns.rcode.Rcode:
        slowly()
        return secondary.transfer(zone, serial)

    follower = make_follower(secondary, told)
    if what == "SOAs":
        slowly()
    elif what == "addresses":
        secondary.on_address = where
    else:
        secondary.on_notify = take
    follower.start()
    follower.want({f"{number}.example": wanted(2, MAIN) for number in range(60)})
    until(lambda: secondary.slow > 0 and len(secondary.asked) > 1)
    begun = time.monotonic()
    follower.stop()
    assert time.monotonic() - begun < 6
    assert told.failed == 0


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, None], ids=["follows", "gives no SOA"])
def test_a_switch_is_notified_before_anything_is_asked(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    rcode: dns.rcode.Rcode | None,
) -> None:
    """No silence is waited out first: one zone's would delay all others."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(notify, "_ASK_UNSEEN_SECONDS", 60.0)  # none is asked just before the switch
    secondary.rcode = rcode
    zones = [f"{number}.example" for number in range(20)]
    follower.want({zone: wanted(2) for zone in zones})
    follower.wait(within(10))
    before: list[int] = []

    def take(zone: str, serial: int) -> dns.rcode.Rcode:
        before.append(len(secondary.asked))
        return secondary.transfer(zone, serial)

    secondary.on_notify, secondary.mute = take, {zones[0]}
    secondary.names()
    follower.want({zone: wanted(3) for zone in zones})
    until(lambda: len(before) == len(zones))
    assert set(before) == {0}


def test_what_is_known_to_lag_is_notified_before_anything_is_asked(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """At a start: its serial was asked for when the new one was chosen."""
    assert follower.serials([ZONE]) == {ZONE: 1}
    secondary.names()
    before: list[int] = []

    def take(zone: str, serial: int) -> dns.rcode.Rcode:
        before.append(len(secondary.asked))
        return secondary.transfer(zone, serial)

    secondary.on_notify = take
    follower.want({ZONE: wanted(2)})
    assert follower.wait(within(5)) == {ZONE: Serves(2)}
    assert before == [0]


@pytest.mark.parametrize(
    ("mute", "stands"),
    [(ZONE, Behind(None, "not asked yet", coming=True)), (WWW.name.rstrip("."), OLDER)],
    ids=["SOA", "address"],
)
def test_a_switch_waits_for_no_answer_to_other_questions(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    mute: str,
    stands: Behind,
) -> None:
    """They are asked again after it; that one was cut short says nothing of the secondary."""
    follower.want({OTHER: wanted(2)})
    assert follower.wait(within(5)) == {OTHER: Serves(2)}
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 60.0)
    secondary.mute = {mute}
    follower.want({ZONE: wanted(2, MAIN)})
    until(lambda: mute in secondary.names())
    follower.want({OTHER: wanted(3)})
    until(lambda: secondary.serials[OTHER] == 3)
    until(lambda: mute in secondary.names())
    assert follower.seen()[ZONE] == stands
    secondary.mute = set()
    follower.want({OTHER: wanted(4)})
    until(lambda: follower.seen() == {ZONE: Serves(2), OTHER: Serves(4)})


def test_notifies_under_way_hold_back_no_newer_switch(
    secondary: FakeSecondary, follower: Follower, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were sent are answered one by one; then come the newer ones, then the others."""
    monkeypatch.setattr(talk, "_IN_FLIGHT", 10)
    zones = [f"{number}.example" for number in range(400)]
    follower.want({zone: wanted(1) for zone in zones})
    assert follower.wait(within(10)) == dict.fromkeys(zones, Serves(1))
    serials: list[int] = []

    def take(zone: str, serial: int) -> dns.rcode.Rcode:
        if not serials:
            follower.want({zone: wanted(3) for zone in zones[-100:]})
        serials.append(serial)
        if serial == 3:
            secondary.slow = 0.0
        return secondary.transfer(zone, serial)

    secondary.on_notify, secondary.slow = take, 0.02
    follower.want({zone: wanted(2) for zone in zones})
    until(lambda: 3 in serials)
    assert serials.index(3) < 200
    older, newer = zones[:-100], zones[-100:]
    served = dict.fromkeys(older, Serves(2)) | dict.fromkeys(newer, Serves(3))
    until(lambda: follower.seen() == served)
    assert told.failed == 0


@pytest.mark.parametrize(
    ("mute", "reply"),
    [
        (ZONE, dns.rcode.NOERROR),
        (ZONE, None),
        (WWW.name.rstrip("."), dns.rcode.NOERROR),
    ],
    ids=["SOA", "all", "address"],
)
def test_a_zone_that_is_never_answered_makes_no_other_late(  # noqa: PLR0913
    *,
    secondary: FakeSecondary,
    follower: Follower,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    mute: str,
    reply: dns.rcode.Rcode | None,
) -> None:
    """Its silence is waited out in the time that others leave: they arrive when they do."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 4.0)
    others = [f"{number}.example" for number in range(20)]
    transfers: list[threading.Timer] = []

    def soon(zone: str, serial: int) -> dns.rcode.Rcode | None:
        # It is there before them: they are waited for, and it is not.
        seconds = 0.1 if zone == ZONE else 0.4
        transfers.append(threading.Timer(seconds, secondary.transfer, (zone, serial)))
        transfers[-1].start()
        return reply if zone == ZONE else dns.rcode.NOERROR

    secondary.on_notify, secondary.mute = soon, {mute}

    def switch(serial: int) -> None:
        follower.want({ZONE: wanted(serial, MAIN), **{zone: wanted(serial) for zone in others}})
        until(lambda: all(follower.seen()[zone] == Serves(serial) for zone in others))

    switch(2)
    until(lambda: re.search("timeout|gives no address", str(follower.seen()[ZONE])) is not None)
    told.arrived.clear()
    switch(3)
    assert max(told.arrived) < 2
    secondary.mute, secondary.on_notify = set(), secondary.transfer
    switch(4)
    until(lambda: follower.seen()[ZONE] == Serves(4))
    for transfer in transfers:
        transfer.join()


def test_others_that_are_always_due_do_not_keep_a_silent_zone_waiting(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while its silence is waited out; it is not notified in every gap meanwhile."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(notify, "_PUT_OFF_SECONDS", 1.0)
    monkeypatch.setattr(notify, "_ASK_AT_MOST_SECONDS", 0.05)
    secondary.mute = {ZONE}
    secondary.on_notify = lambda zone, _: None if zone == ZONE else dns.rcode.NOERROR
    follower.want({ZONE: wanted(2), "other.example": wanted(2)})
    until(lambda: follower.seen()[ZONE] == Behind(None, "timeout"))
    secondary.notified.clear()
    follower.want({ZONE: wanted(3)})
    assert follower.seen()[ZONE].coming
    until(lambda: follower.seen()[ZONE] == Behind(None, "timeout"))
    assert secondary.notified_zones().count(ZONE) <= 5
    secondary.mute = set()
    secondary.serials[ZONE] = 3
    until(lambda: follower.seen()[ZONE] == Serves(3))


@pytest.mark.parametrize("address", ["127.0.0.1", "255.255.255.255"])
def test_nobody_waits_for_many_zones_at_one_that_cant_be_reached(told: Told, address: str) -> None:
    """A closed port, or no way there, is told after a question or two: it holds for all."""
    where = Secondary.model_validate({"address": address, "port": free_port("127.0.0.1")})
    follower = Follower("ns2", where, None, told.observer())
    follower.want({f"{number}.example": wanted(2) for number in range(300)})
    follower.start()
    began = time.monotonic()
    seen = follower.wait(within(30))
    assert time.monotonic() - began < 10
    assert not any(its.coming for its in seen.values() if isinstance(its, Behind))
    until(lambda: told.notified >= 300)
    assert told.failed == told.notified
    follower.stop()


def test_zones_without_an_answer_are_not_taken_for_all_for_ever(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are asked at once: the next time others are the first."""
    monkeypatch.setattr(notify, "_AT_ONCE", 5)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(notify, "_LOOK_AGAIN_SECONDS", 0.3)
    secondary.mute = {f"{number}.example" for number in range(5)}
    follower.want({f"{number}.example": wanted(2) for number in range(15)})
    until(lambda: list(follower.seen().values()).count(Serves(2)) == 10)


# --- later ----------------------------------------------------------------------------------


def test_one_that_falls_behind_by_itself_is_brought_back(
    secondary: FakeSecondary, follower: Follower, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted secondary can serve an older zone: everyone is looked at again.

    Nothing was published, so that nothing has arrived.
    """
    monkeypatch.setattr(notify, "_LOOK_AGAIN_SECONDS", 0.05)
    follower.want({ZONE: wanted(2)})
    assert follower.wait(within(5)) == {ZONE: Serves(2)}
    secondary.serials[ZONE] = 1
    until(lambda: secondary.serials[ZONE] == 2)
    until(lambda: follower.seen() == {ZONE: Serves(2)})
    assert len(told.arrived) == 1


def test_one_that_returns_from_an_outage_has_nothing_new(
    secondary: FakeSecondary, follower: Follower, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it serves had arrived before: how long it was away is no measure of publishing."""
    monkeypatch.setattr(notify, "_LOOK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    follower.want({ZONE: wanted(2)})
    until(lambda: follower.seen() == {ZONE: Serves(2)})
    secondary.silent = True
    until(lambda: follower.seen() == {ZONE: Behind(None, "timeout")})
    assert told.notified > 1
    secondary.silent = False
    until(lambda: follower.seen() == {ZONE: Serves(2)})
    assert len(told.arrived) == 1


@pytest.mark.parametrize(
    ("serial", "addresses"), [(1, [BACKUP]), (2, [MAIN])], ids=["older serial", "other addresses"]
)
def test_one_that_answers_and_stays_behind_is_stuck(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    serial: int,
    addresses: list[str],
) -> None:
    """For ten minutes, and until it takes what is wanted; what is new gets its own ten."""
    secondary.on_notify = ignore
    secondary.serials[ZONE], secondary.addresses = serial, addresses
    follower.want({ZONE: wanted(2, BACKUP), OTHER: wanted(1)})
    until(lambda: follower.seen()[OTHER] == Serves(1))
    until(lambda: len(secondary.asked) > 6)
    assert not follower.stuck()
    monkeypatch.setattr(notify, "_ASK_AT_MOST_SECONDS", 0.02)
    monkeypatch.setattr(notify, "_STUCK_SECONDS", 0.5)
    until(lambda: follower.stuck() == {ZONE})
    monkeypatch.setattr(notify, "_STUCK_SECONDS", 10.0)
    follower.want({ZONE: wanted(3, BACKUP)})
    monkeypatch.setattr(notify, "_STUCK_SECONDS", 0.0)
    until(lambda: follower.stuck() == {ZONE})
    secondary.serials[ZONE], secondary.addresses = 3, [BACKUP]
    until(lambda: not follower.stuck())
    assert follower.seen()[ZONE] == Serves(3)


@pytest.mark.parametrize("state", ["ahead", "unknown", "silent", "silent later"])
def test_a_new_serial_is_no_cure_for_one_that_is_ahead_or_silent(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """The one is overtaken, the other doesn't hear of it: neither is stuck."""
    monkeypatch.setattr(notify, "_STUCK_SECONDS", 0.0)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(notify, "_LOOK_AGAIN_SECONDS", 0.1)
    secondary.on_notify = ignore
    secondary.serials[ZONE] = 5 if state == "ahead" else 1
    secondary.silent = state == "silent"
    secondary.rcode = dns.rcode.REFUSED if state == "unknown" else dns.rcode.NOERROR
    follower.want({ZONE: wanted(2)})
    if state == "silent later":
        until(lambda: follower.stuck() == {ZONE})
        secondary.silent = True
        until(lambda: not follower.stuck())
    until(lambda: len(secondary.asked) > 3)
    assert not follower.stuck()
    assert isinstance(follower.seen()[ZONE], Behind)


def test_a_key_is_read_from_its_file(tmp_path: Path) -> None:
    """The file holds the secret in base64, as every name server wants it."""
    path = tmp_path / "transfer.key"
    path.write_text("c2VjcmV0IHNlY3JldCBzZWNyZXQ=\n")
    key = read_key(Tsig.model_validate({"name": "transfer", "secret_file": str(path)}))
    assert (key.name, key.secret, key.algorithm) == (KEY.name, KEY.secret, KEY.algorithm)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not base64!", "expected the secret in base64"),
        (b"\xff", "expected the secret in base64"),
        (b"", "is empty; expected the secret in base64"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_key_file_that_holds_no_secret_is_named(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    """The error names the file and what was expected in it."""
    path = tmp_path / "transfer.key"
    if content is not None:
        path.write_bytes(content)
    tsig = Tsig.model_validate({"name": "transfer", "secret_file": str(path)})
    with pytest.raises(KeyFileError, match=rf"transfer\.key: {said}"):
        read_key(tsig)
