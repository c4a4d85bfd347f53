"""NOTIFY (RFC 1996), and following each secondary until it serves the new serial.

A `Follower` for each secondary, on a thread of its own, so that one that is unreachable delays no
other. NOTIFY is not reliable: what counts is the serial that the secondary answers with. Which
serial is wanted is converge's business.
"""

import base64
import binascii
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
from dns.rdtypes.ANY.SOA import SOA
from dns.serial import Serial as Rfc1982

from exporter import soa
from exporter.config import Secondary, Tsig

log = logging.getLogger(__name__)

# A secondary on the same continent answers well within this.
_ANSWER_SECONDS = 1.0

# After a NOTIFY the transfer takes some ten milliseconds on a fast line: ask often at first.
# NSD answers no more than 200 questions a second.
_ASK_FIRST_SECONDS = 0.02
_ASK_AT_MOST_SECONDS = 5.0

# NOTIFY again what lags, more and more seldom; a restarted secondary falls behind by itself, so
# that one that has everything is asked again every minute too.
_NOTIFY_FIRST_SECONDS = 0.5
_NOTIFY_AT_MOST_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 60.0


class KeyFileError(Exception):
    """A TSIG secret can't be read: which file, and what was expected."""


@dataclass(frozen=True)
class Serves:
    """The secondary serves the wanted serial."""

    serial: int


@dataclass(frozen=True)
class Behind:
    """The secondary does not serve the wanted serial (yet): what it has, if it answers, and why.

    One that has a later serial is behind too: it will not take ours, and has other content.
    """

    serial: int | None
    reason: str
    coming: bool = False  # whether it is worth waiting for


@dataclass(frozen=True)
class Observer:
    """Who is told of notifies and of zones that arrived, by the nameserver's label."""

    notified: Callable[[str, int], None]
    notify_failed: Callable[[str, int], None]
    arrived: Callable[[str, float], None]


def read_key(tsig: Tsig) -> dns.tsig.Key:
    """Read the key that signs messages; its file holds the secret in base64."""
    path = Path(tsig.secret_file)
    try:
        secret = path.read_text(encoding="ascii").strip()
        base64.b64decode(secret, validate=True)
    except OSError as error:
        raise KeyFileError(f"{path}: can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, binascii.Error) as error:
        raise KeyFileError(f"{path}: expected the secret in base64, and nothing else") from error
    if not secret:
        raise KeyFileError(f"{path}: is empty; expected the secret in base64")
    return dns.tsig.Key(tsig.name, secret, tsig.algorithm)


def message(zone: str, wanted: SOA, key: dns.tsig.Key | None) -> dns.message.Message:
    """Make a NOTIFY with the SOA in its answer section (RFC 1996, section 3.7), signed by `key`."""
    notify = dns.message.make_query(zone, dns.rdatatype.SOA)
    notify.set_opcode(dns.opcode.NOTIFY)
    notify.flags = (notify.flags | dns.flags.AA) & ~dns.flags.RD
    notify.answer.append(dns.rrset.from_rdata(notify.question[0].name, 0, wanted))
    if key is not None:
        notify.use_tsig(key)
    return notify


class Follower:
    """Brings one secondary to the wanted serials and keeps it there."""

    def __init__(
        self, name: str, secondary: Secondary, key: dns.tsig.Key | None, observer: Observer
    ) -> None:
        self.name = name
        self._secondary = secondary
        self._key = key
        self._observer = observer
        self._news = threading.Condition()
        self._wanted: dict[str, SOA] = {}
        self._since: dict[str, float] = {}  # zone -> when it was found to lag, monotonic
        self._seen: dict[str, Serves | Behind] = {}
        self._asked = False
        self._fresh = False
        self._stopping = False
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name=f"follow {name}", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def end(self) -> None:
        """Tell the thread to end; takes it as long as an unanswered question and NOTIFY at most."""
        with self._news:
            self._stopping = True
            self._news.notify_all()

    def stop(self) -> None:
        """End the thread, and wait until it has ended."""
        self.end()
        self._thread.join()

    def want(self, wanted: Mapping[str, SOA]) -> None:
        """Say what the primary serves now; what was wanted already changes nothing."""
        now = time.monotonic()
        with self._news:
            for zone, rdata in wanted.items():
                before = self._wanted.get(zone)
                if before is not None and before.serial == rdata.serial:
                    continue
                self._wanted[zone] = rdata
                self._since[zone] = now
                self._seen[zone] = Behind(self._serial(zone), "not asked yet", coming=True)
                self._fresh = True
            self._news.notify_all()

    def keep(self, zones: Collection[str]) -> None:
        """Follow these zones only: others have been retired."""
        with self._news:
            for zone in self._wanted.keys() - zones:
                for known in (self._wanted, self._since, self._seen):
                    known.pop(zone, None)

    def seen(self) -> dict[str, Serves | Behind]:
        """Zone -> how it stood when last asked."""
        with self._news:
            return dict(self._seen)

    def serials(self, zones: Collection[str]) -> dict[str, int]:
        """Zone -> the serial that the secondary answered with last; asks where nobody has yet."""
        with self._news:
            if self._asked:
                return {zone: n for zone in zones if (n := self._serial(zone)) is not None}
        answers = soa.ask(self._secondary, list(zones), _ANSWER_SECONDS)
        return {z: its.serial for z, its in answers.items() if isinstance(its, soa.Serial)}

    def wait(self, until: float) -> dict[str, Serves | Behind]:
        """Wait until nothing is coming, or the monotonic time `until`; then how each zone stands.

        Nobody waits for a secondary that gives no answer, or does not know the zone.
        """
        with self._news:
            self._news.wait_for(lambda: not self._coming(), max(0.0, until - time.monotonic()))
            return dict(self._seen)

    # The thread.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._follow()
            except Exception:  # whatever it was: this secondary must not be left alone for good
                log.exception("follower failed", extra={"nameserver": self.name})
                self._rest(_NOTIFY_FIRST_SECONDS)

    def _follow(self) -> None:
        pace = _Pace()
        while not self._stopping:
            wanted, fresh = self._take()
            if fresh:
                pace = _Pace()
            lagging = self._ask(wanted)
            if not lagging:
                pace = _Pace()
                self._rest(_LOOK_AGAIN_SECONDS)
                continue
            if pace.notify_now(answers=any(self._serial(zone) is not None for zone in lagging)):
                self._notify(lagging)
            self._rest(pace.until_next_ask())

    def _take(self) -> tuple[dict[str, SOA], bool]:
        with self._news:
            fresh, self._fresh = self._fresh, False
            return dict(self._wanted), fresh

    def _ask(self, wanted: Mapping[str, SOA]) -> dict[str, SOA]:
        """Ask the secondary for every wanted zone; returns those that lag."""
        answers = soa.ask(self._secondary, list(wanted), _ANSWER_SECONDS) if wanted else {}
        lagging = {}
        with self._news:
            for zone, answer in answers.items():
                newest = self._wanted.get(zone)  # it may have moved meanwhile
                if newest is None:
                    continue  # retired meanwhile
                stands = standing(answer, newest.serial)
                if isinstance(stands, Serves):
                    self._arrived(zone, stands.serial)
                    continue
                lagging[zone] = newest
                self._since.setdefault(zone, time.monotonic())
                self._seen[zone] = stands
            self._asked = self._asked or bool(answers)
            self._news.notify_all()
        return lagging

    def _arrived(self, zone: str, serial: int) -> None:
        self._seen[zone] = Serves(serial)
        since = self._since.pop(zone, None)
        if since is None:
            return
        seconds = time.monotonic() - since
        self._observer.arrived(self.name, seconds)
        log.info(
            "secondary serves",
            extra={
                "nameserver": self.name,
                "zone": zone,
                "serial": serial,
                "seconds": f"{seconds:.3f}",
            },
        )

    def _notify(self, lagging: Mapping[str, SOA]) -> None:
        messages = [message(zone, rdata, self._key) for zone, rdata in lagging.items()]
        # One try for each message: a signed one has to be fresh, so the next is a new one.
        replies = soa.exchange(self._secondary, messages, _ANSWER_SECONDS, tries=1)
        refusals = {
            zone: why
            for zone, reply in zip(lagging, replies, strict=True)
            if (why := _refusal(reply)) is not None
        }
        self._observer.notified(self.name, len(messages))
        self._observer.notify_failed(self.name, len(refusals))
        complaint = next(iter(refusals.values()), "")
        if complaint and complaint != self._complaint:
            log.warning(
                "notify failed",
                extra={"nameserver": self.name, "zones": len(refusals), "reason": complaint},
            )
        self._complaint = complaint

    def _rest(self, seconds: float) -> None:
        with self._news:
            self._news.wait_for(lambda: self._fresh or self._stopping, seconds)

    def _coming(self) -> bool:
        return any(isinstance(seen, Behind) and seen.coming for seen in self._seen.values())

    def _serial(self, zone: str) -> int | None:
        seen = self._seen.get(zone)
        return seen.serial if seen else None


def stop(followers: Collection[Follower]) -> None:
    """End them side by side: one that waits for an answer delays no other."""
    for follower in followers:
        follower.end()
    for follower in followers:
        follower.stop()


class _Pace:
    """When to ask a secondary that lags, and when to notify it, ever more seldom."""

    def __init__(self) -> None:
        self._ask_after = _ASK_FIRST_SECONDS
        self._notify_after = _NOTIFY_FIRST_SECONDS
        self._notify_at = 0.0
        self._answered = True

    def notify_now(self, *, answers: bool) -> bool:
        """Whether a NOTIFY is due: at first, after the backoff, when it is back from silence."""
        due = time.monotonic() >= self._notify_at or (answers and not self._answered)
        self._answered = answers
        if due:
            self._notify_at = time.monotonic() + self._notify_after
            self._notify_after = min(self._notify_after * 2, _NOTIFY_AT_MOST_SECONDS)
        return due

    def until_next_ask(self) -> float:
        """Seconds until it should be asked again."""
        seconds = self._ask_after
        self._ask_after = min(self._ask_after * 1.5, _ASK_AT_MOST_SECONDS)
        return seconds


_NOT_LOADED = "SERVFAIL"  # what a secondary says of a new zone before its first transfer


def standing(answer: soa.Serial | soa.NoSerial, wanted: int) -> Serves | Behind:
    """How a secondary stands by its answer, as to the serial that it should have (RFC 1982)."""
    if isinstance(answer, soa.NoSerial):
        return Behind(None, answer.reason, coming=answer.reason == _NOT_LOADED)
    if answer.serial == wanted:
        return Serves(wanted)
    if Rfc1982(answer.serial) > Rfc1982(wanted):
        return Behind(answer.serial, "is ahead of the primary")
    return Behind(answer.serial, "serves an older serial", coming=True)


def _refusal(reply: dns.message.Message | soa.NoReply) -> str | None:
    if isinstance(reply, soa.NoReply):
        return reply.reason
    rcode = reply.rcode()
    return None if rcode == dns.rcode.NOERROR else str(dns.rcode.to_text(rcode))
