"""NOTIFY, and following a secondary; real name servers are followed in the system tests."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import pytest
from dns.rdtypes.ANY.SOA import SOA

from actions import notify
from actions.notify import Behind, Follower, KeyFileError, Observer, Serves, read_key
from demo.stack import wait_for
from exporter.config import Secondary, Tsig

ZONE, OTHER = "example.org", "example.net"
KEY = dns.tsig.Key("transfer", "c2VjcmV0IHNlY3JldCBzZWNyZXQ=", "hmac-sha256")


def soa(serial: int) -> SOA:
    """Make the SOA that the primary serves."""
    text = f"ns1.example.org. owner.example.org. {serial} 3600 600 86400 60"
    rrset = dns.rrset.from_text(f"{ZONE}.", 60, "IN", "SOA", text)
    made = rrset[0]
    assert isinstance(made, SOA)
    return made


class FakeSecondary:
    """Answers SOA and NOTIFY on UDP; what it does with a NOTIFY is the test's choice."""

    def __init__(self) -> None:
        self.serials = {ZONE: 1, OTHER: 1}
        self.notified: list[dns.message.Message] = []
        self.on_notify: Callable[[str, int], dns.rcode.Rcode | None] = self.transfer
        self.silent = False
        self.rcode = dns.rcode.NOERROR  # of what it says of a zone
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
            if reply is not None and not self.silent:
                self.socket.sendto(reply.to_wire(), peer)

    def _reply(self, question: dns.message.Message) -> dns.message.Message | None:
        zone = question.question[0].name.to_text(omit_final_dot=True)
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.AA
        if question.opcode() == dns.opcode.NOTIFY:
            self.notified.append(question)
            rdata = question.answer[0][0]
            assert isinstance(rdata, SOA)
            rcode = self.on_notify(zone, rdata.serial)
            if rcode is None:
                return None
            reply.set_rcode(rcode)
        elif self.rcode != dns.rcode.NOERROR:
            reply.set_rcode(self.rcode)
        else:
            name = question.question[0].name
            reply.answer.append(dns.rrset.from_rdata(name, 60, soa(self.serials[zone])))
        return reply


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
    place = Secondary.model_validate({"address": "127.0.0.1", "port": secondary.port})
    follower = Follower("ns2", place, KEY, told.observer())
    follower.start()
    yield follower
    follower.stop()


def within(seconds: float) -> float:
    """Make a deadline."""
    return time.monotonic() + seconds


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; 10 s are far more than any here needs."""
    wait_for(condition, 10, "the follower")


def test_rfc_1996_the_message() -> None:
    """Opcode NOTIFY, AA set, RD not, one question of type SOA, the SOA as a hint (section 3.7)."""
    made = dns.message.from_wire(
        notify.message(ZONE, soa(7), KEY).to_wire(), keyring={KEY.name: KEY}
    )
    assert made.opcode() == dns.opcode.NOTIFY
    assert made.flags & dns.flags.AA
    assert not made.flags & (dns.flags.RD | dns.flags.QR)
    assert [(q.name.to_text(), q.rdtype) for q in made.question] == [
        ("example.org.", dns.rdatatype.SOA)
    ]
    assert made.answer[0][0] == soa(7)
    assert made.had_tsig
    assert not dns.message.from_wire(notify.message(ZONE, soa(7), None).to_wire()).had_tsig


def test_a_secondary_that_takes_the_notify_is_done(
    secondary: FakeSecondary, follower: Follower, told: Told
) -> None:
    """One NOTIFY for each zone, and each is seen to be served."""
    follower.want({ZONE: soa(2), OTHER: soa(3)})
    assert follower.wait(within(5)) == {ZONE: Serves(2), OTHER: Serves(3)}
    assert follower.serials([ZONE, OTHER]) == {ZONE: 2, OTHER: 3}
    assert len(secondary.notified) == told.notified == len(told.arrived) == 2
    assert told.failed == 0
    assert all(message.had_tsig for message in secondary.notified)


def test_a_secondary_that_has_it_already_is_left_alone(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """Nothing is sent."""
    secondary.serials[ZONE] = 4
    follower.want({ZONE: soa(4)})
    assert follower.wait(within(5)) == {ZONE: Serves(4)}
    assert secondary.notified == []


def test_a_secondary_that_is_ahead_is_behind(secondary: FakeSecondary, follower: Follower) -> None:
    """It will never take ours, and what it serves is something else: nobody waits for that."""
    secondary.on_notify = lambda _zone, _serial: dns.rcode.NOERROR
    secondary.serials[ZONE] = 5
    follower.want({ZONE: soa(4)})
    assert follower.wait(within(60)) == {ZONE: Behind(5, "is ahead of the primary")}
    secondary.on_notify = secondary.transfer
    follower.want({ZONE: soa(6)})
    assert follower.wait(within(5)) == {ZONE: Serves(6)}


def test_a_secondary_is_asked_before_the_first_serial_is_chosen(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """After a lost disk, only the secondaries know; later, what was seen last will do."""
    secondary.serials[ZONE] = 41
    assert follower.serials([ZONE]) == {ZONE: 41}
    secondary.serials[ZONE] = 42
    follower.want({ZONE: soa(42)})
    assert follower.wait(within(5)) == {ZONE: Serves(42)}
    secondary.silent = True
    assert follower.serials([ZONE, "unknown.example"]) == {ZONE: 42}


def test_an_error_does_not_end_the_following(
    secondary: FakeSecondary,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Out of file descriptors for a moment: said, and tried again."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.01)
    ask, failures = notify.soa.ask, [OSError("too many open files")] * 3

    def breaks(*args: object) -> object:
        if failures:
            raise failures.pop()
        return ask(*args)

    monkeypatch.setattr(notify.soa, "ask", breaks)
    follower.want({ZONE: soa(2)})
    until(lambda: follower.seen() == {ZONE: Serves(2)})
    assert caplog.messages.count("follower failed") == 3
    assert secondary.serials[ZONE] == 2


def test_serials_are_compared_as_rfc_1982_says(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """4294967295 is older than 1."""
    secondary.serials[ZONE] = 2**32 - 1
    follower.want({ZONE: soa(1)})
    assert follower.wait(within(5)) == {ZONE: Serves(1)}
    assert len(secondary.notified) == 1


def test_a_lost_notify_is_sent_again(
    secondary: FakeSecondary, follower: Follower, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NOTIFY is not reliable: it goes out anew, freshly signed, until the serial is served."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.2)

    def third_time(zone: str, serial: int) -> dns.rcode.Rcode | None:
        return secondary.transfer(zone, serial) if len(secondary.notified) == 3 else None

    secondary.on_notify = third_time
    follower.want({ZONE: soa(2)})
    assert follower.wait(within(10)) == {ZONE: Serves(2)}
    assert len({message.id for message in secondary.notified}) == 3
    assert (told.notified, told.failed) == (3, 2)


def test_noerror_is_no_proof(secondary: FakeSecondary, follower: Follower) -> None:
    """A secondary that says yes and does not transfer is behind."""
    secondary.on_notify = lambda _zone, _serial: dns.rcode.NOERROR
    follower.want({ZONE: soa(2)})
    assert follower.wait(within(0.5)) == {ZONE: Behind(1, "serves an older serial", coming=True)}


def test_a_refusal_is_said_once_with_its_rcode(
    secondary: FakeSecondary,
    follower: Follower,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The owner reads which nameserver refuses and how, not a line for each try."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 0.02)
    secondary.on_notify = lambda _zone, _serial: dns.rcode.REFUSED
    follower.want({ZONE: soa(2)})
    until(lambda: told.failed >= 3)
    lines = [record for record in caplog.records if record.message == "notify failed"]
    assert [(vars(line)["nameserver"], vars(line)["reason"]) for line in lines] == [
        ("ns2", "REFUSED")
    ]


def test_one_that_comes_back_from_silence_is_notified_at_once(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the backoff has become: main's own name server returns with the old zones."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.1)
    secondary.silent = True
    secondary.on_notify = lambda _zone, _serial: None
    follower.want({ZONE: soa(2)})
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
    follower.want({ZONE: soa(2)})
    long = within(60)
    assert follower.wait(long) == {ZONE: Behind(None, "timeout")}
    assert long - time.monotonic() > 30


@pytest.mark.parametrize(
    ("rcode", "coming"), [(dns.rcode.SERVFAIL, True), (dns.rcode.REFUSED, False)]
)
def test_a_new_zone_is_waited_for_an_unknown_one_is_not(
    secondary: FakeSecondary, follower: Follower, rcode: dns.rcode.Rcode, coming: bool
) -> None:
    """SERVFAIL is what a secondary says before its first transfer, REFUSED where it has no such."""
    secondary.rcode = rcode
    secondary.on_notify = lambda _zone, _serial: dns.rcode.NOERROR
    follower.want({ZONE: soa(2)})
    expected = Behind(None, dns.rcode.to_text(rcode), coming=coming)
    until(lambda: follower.seen() == {ZONE: expected})
    long = within(0.3 if coming else 60)
    assert follower.wait(long) == {ZONE: expected}
    assert (long <= time.monotonic()) == coming


def test_a_retired_zone_is_followed_no_more(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither asked for nor notified."""
    monkeypatch.setattr(notify, "_NOTIFY_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(notify, "_NOTIFY_AT_MOST_SECONDS", 0.01)
    secondary.on_notify = lambda _zone, _serial: dns.rcode.REFUSED
    follower.want({ZONE: soa(2), OTHER: soa(2)})
    until(lambda: len(secondary.notified) > 2)
    follower.keep({OTHER})
    secondary.notified.clear()
    until(lambda: len(secondary.notified) > 5)
    names = [message.question[0].name.to_text() for message in secondary.notified]
    assert set(names[2:]) == {f"{OTHER}."}  # one more of the other may have been on its way
    assert follower.seen().keys() == {OTHER}


def test_a_newer_serial_takes_the_place_of_an_older_one(
    secondary: FakeSecondary, follower: Follower
) -> None:
    """In a burst of switches only the last one has to arrive."""
    for serial in range(2, 30):
        follower.want({ZONE: soa(serial)})
    assert follower.wait(within(10)) == {ZONE: Serves(29)}
    assert secondary.serials[ZONE] == 29


def test_one_that_falls_behind_by_itself_is_brought_back(
    secondary: FakeSecondary, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted secondary can serve an older zone: everyone is looked at again."""
    monkeypatch.setattr(notify, "_LOOK_AGAIN_SECONDS", 0.05)
    follower.want({ZONE: soa(2)})
    assert follower.wait(within(5)) == {ZONE: Serves(2)}
    secondary.serials[ZONE] = 1
    until(lambda: secondary.serials[ZONE] == 2)


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
