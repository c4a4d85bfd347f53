"""NOTIFY (RFC 1996), and following each secondary until it serves what is wanted.

A `Follower` for each secondary, on a thread of its own, so that one that is unreachable delays no
other. NOTIFY is not reliable: what counts is the serial that the secondary answers with, and the
addresses it gives at that serial. What is wanted is converge's business.
"""

import base64
import binascii
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from operator import itemgetter
from pathlib import Path

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
from dns.serial import Serial as Rfc1982

from exporter import soa
from exporter.config import Address, Secondary, Tsig
from exporter.log import tell
from exporter.zonefile import Pointer

log = logging.getLogger(__name__)

# A secondary on the same continent answers well within this.
_ANSWER_SECONDS = 1.0
# Before a serial is chosen a switch waits: for what is near, not for what is dead.
_SERIALS_SECONDS = 0.3

# So long zones that were met with silence are put off for others: most come within it.
_PUT_OFF_SECONDS = 5.0

# After a NOTIFY the transfer takes some ten milliseconds on a fast line: ask often at first.
_ASK_FIRST_SECONDS = 0.02
_ASK_AT_MOST_SECONDS = 5.0
# What takes NOTIFYs and gives no SOA may be hidden for good, or too busy for a moment.
_ASK_UNSEEN_SECONDS = 1.0
# So many zones a second a small secondary takes in: where more lag, some have a place in its queue.
_LAGGING_A_SECOND = 200
# So many are asked for before it is known what became of any of them.
_AT_ONCE = 200
# A question costs processor time here and there: after those in vain, so many times theirs is left
# to the others.
_REST = 3

# NOTIFY again what lags, more and more seldom; a restarted secondary falls behind by itself, so
# that one that has everything is asked again every minute too.
_NOTIFY_FIRST_SECONDS = 0.5
_NOTIFY_AT_MOST_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 60.0
# Nothing tells whether one that takes NOTIFYs and gives no SOA has done what it was told.
_NOTIFY_UNSEEN_SECONDS = 3600.0

# Far longer than any transfer takes: what lags then won't be cured by one more NOTIFY.
_STUCK_SECONDS = 600.0


class KeyFileError(Exception):
    """A TSIG secret can't be read: which file, and what was expected."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a secondary should serve: the primary's SOA, and the addresses that the pointer has.

    Without a pointer the serial is all that counts.
    """

    soa: soa.Serial
    pointer: Pointer | None = None
    addresses: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class Serves:
    """The secondary serves what is wanted."""

    serial: int


@dataclass(frozen=True, slots=True)
class Behind:
    """The secondary does not serve what is wanted (yet): what it has, if it answers, and why.

    One that has a later serial is behind too: it will not take ours, and has other content.
    """

    serial: int | None
    reason: str
    coming: bool = False  # whether it is worth waiting for
    stays: bool = field(default=False, compare=False)  # it answers with what it should no more


@dataclass(frozen=True)
class Observer:
    """Who is told of notifies and of zones that arrived after one, by the nameserver's label."""

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


def message(zone: str, rdata: bytes, key: dns.tsig.Key | None) -> dns.message.Message:
    """Make a NOTIFY with the SOA in its answer section (RFC 1996, section 3.7), signed by `key`.

    `rdata` is the SOA's in wire form, no name in it compressed.
    """
    notify = dns.message.make_query(zone, dns.rdatatype.SOA)
    notify.set_opcode(dns.opcode.NOTIFY)
    notify.flags = (notify.flags | dns.flags.AA) & ~dns.flags.RD
    its = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.SOA, rdata, 0, len(rdata))
    notify.answer.append(dns.rrset.from_rdata(notify.question[0].name, 0, its))
    if key is not None:
        notify.use_tsig(key)
    return notify


class Follower:
    """Brings one secondary to what is wanted, and keeps it there."""

    def __init__(
        self, name: str, secondary: Secondary, key: dns.tsig.Key | None, observer: Observer
    ) -> None:
        self.name = name
        self._secondary = secondary
        self._key = key
        self._observer = observer
        self._news = threading.Condition()
        self._zones: dict[str, _Zone] = {}
        self._answered: dict[str, int | None] = {}  # its last serial; None: asked in vain
        self._fresh = False  # something is wanted that no round has taken up yet
        self._until = math.inf  # when zones are due that this round is not to hold up
        self._put_off: float | None = None  # since when silent zones are due, and others first
        self._stopping = False
        self._complaints: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"follow {name}", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def end(self) -> None:
        """Tell the thread to end; it waits for no answer then."""
        with self._news:
            self._stopping = True
            self._news.notify_all()

    def stop(self) -> None:
        """End the thread, and wait until it has ended."""
        self.end()
        self._thread.join()

    def want(self, wanted: Mapping[str, Wanted]) -> None:
        """Say what the primary serves now; what was wanted already changes nothing.

        What is new takes the place of what was wanted before, and is notified before anything is
        asked: no switch waits for zones that give no answer.
        """
        now = time.monotonic()
        with self._news:
            for zone, its in wanted.items():
                before = self._zones.get(zone)
                if before is None or before.wanted != its:
                    answered = self._answered.get(zone)
                    self._zones[zone] = _Zone(
                        its,
                        stands=Behind(answered, "not asked yet", coming=True),
                        known=before is not None or answered is not None,
                        since=now,
                        ask_at=-now,
                        quiet=before is not None and before.quiet,
                    )
                    self._fresh = True
            self._news.notify_all()

    def keep(self, zones: Collection[str]) -> None:
        """Follow these zones only: others have been retired."""
        with self._news:
            for zone in self._zones.keys() - zones:
                del self._zones[zone]
            for zone in self._answered.keys() - zones:
                del self._answered[zone]

    def seen(self) -> dict[str, Serves | Behind]:
        """Zone -> how it stood when last asked."""
        with self._news:
            return {zone: its.seen() for zone, its in self._zones.items()}

    def stuck(self) -> frozenset[str]:
        """Zones for which it answers, and has stayed behind for long: only a new serial helps."""
        now = time.monotonic()
        with self._news:
            return frozenset(
                zone
                for zone, its in self._zones.items()
                if its.stays_since is not None and now - its.stays_since >= _STUCK_SECONDS
            )

    def serials(self, zones: Collection[str]) -> dict[str, int]:
        """Zone -> the serial that the secondary answered with last; asks where nobody has yet.

        Once, and not for long: nobody waits for one that is unreachable, or slow.
        """
        with self._news:
            unknown = [zone for zone in zones if zone not in self._answered]
        if unknown:
            end = time.monotonic() + _SERIALS_SECONDS
            answers = soa.ask(
                self._secondary,
                unknown,
                _SERIALS_SECONDS,
                enough=lambda: time.monotonic() >= end,
                key=self._key,
            )
            with self._news:
                for zone, its in answers.items():
                    serial = its.serial if isinstance(its, soa.Serial) else None
                    self._answered.setdefault(zone, serial)  # what the thread heard is newer
        with self._news:
            return {z: n for z in zones if (n := self._answered.get(z)) is not None}

    def wait(self, until: float) -> dict[str, Serves | Behind]:
        """Wait until nothing is coming, or the monotonic time `until`; then how each zone stands.

        Nobody waits for a secondary that gives no answer, or does not know the zone.
        """
        with self._news:
            self._news.wait_for(lambda: not self._coming(), max(0.0, until - time.monotonic()))
            return self.seen()

    def _coming(self) -> bool:
        seen = (its.seen() for its in self._zones.values())
        return any(isinstance(its, Behind) and its.coming for its in seen)

    # The thread.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._follow()
            except Exception:  # whatever it was: this secondary must not be left alone for good
                log.exception("follower failed", extra={"nameserver": self.name})
                self._rest(_NOTIFY_FIRST_SECONDS)

    def _follow(self) -> None:
        while not self._stopping:
            due = self._take()
            self._notify({zone: its for zone, its in due.items() if its.reply is None})
            began = time.thread_time()
            asked = self._ask(due)
            used = time.thread_time() - began
            self._notify(asked)
            self._rest(self._plan(asked, used))

    def _is_called(self) -> bool:
        """Whether something newer, or the end, is to be seen to: before any answer."""
        return self._fresh or self._stopping

    def _is_enough(self) -> bool:
        """Whether what is still without an answer is left for another round."""
        return self._is_called() or time.monotonic() >= self._until

    def _take(self) -> "dict[str, _Zone]":
        """What to see to now, in order: every zone once a minute, those that lag far more often.

        Those that were met with silence the last time have what time the others leave: while it is
        waited out, nothing would be heard of these. Where they leave none, they wait for a while.
        """
        with self._news:
            self._fresh = False
            now = time.monotonic()
            next_other = min(
                (its.ask_at for its in self._zones.values() if not its.quiet), default=math.inf
            )
            is_due = any(its.quiet and its.ask_at <= now for its in self._zones.values())
            if not is_due or next_other > now + _ANSWER_SECONDS:
                self._put_off = None
            elif self._put_off is None:
                self._put_off = now
            overdue = self._put_off is not None and now >= self._put_off + _PUT_OFF_SECONDS
            quiet = overdue or next_other > now
            self._until = next_other if quiet and not overdue else math.inf
            if overdue:  # their round is whole: a NOTIFY has its time there too
                self._put_off = None
                for its in self._zones.values():
                    if its.quiet and its.reply is None:
                        its.notify_after = 0.0
            due = [
                (its.ask_at, zone)
                for zone, its in self._zones.items()
                if its.quiet == quiet and its.ask_at <= now
            ]
            due.sort(key=itemgetter(0))
            return {zone: self._zones[zone] for _, zone in due}

    def _ask(self, due: "Mapping[str, _Zone]") -> "Mapping[str, _Zone]":
        """Ask for the first of them; gives those of which is known now how they stand."""
        first = list(islice(due, _AT_ONCE))
        answers = soa.ask(
            self._secondary, first, _ANSWER_SECONDS, enough=self._is_enough, key=self._key
        )
        if self._is_enough():  # so that nobody knows what the others would have answered
            answers = {zone: its for zone, its in answers.items() if its != _NO_ANSWER}
        quiet = {zone for zone, its in answers.items() if its == _NO_ANSWER}
        if quiet and len(quiet) == len(answers):
            answers = dict.fromkeys(due, _NO_ANSWER)  # nor would it answer for those not asked
        stand = {zone: standing(its, due[zone].wanted.soa.serial) for zone, its in answers.items()}
        quiet |= self._look_where_they_point(due, stand)
        with self._news:
            for zone in stand.keys() & set(first) & self._zones.keys():
                its = self._zones[zone]
                # One that is behind is not asked for its address: a silence about that goes on.
                unheard = its.quiet and isinstance(stand[zone], Behind) and its.wanted.pointer
                its.quiet = zone in quiet or bool(unheard)
            self._heard(due, stand)
            self._news.notify_all()
        return {zone: due[zone] for zone in stand}

    def _look_where_they_point(
        self, due: "Mapping[str, _Zone]", stand: "dict[str, Serves | Behind]"
    ) -> set[str]:
        """Ask for the addresses of those that serve what is wanted, and have not been seen to.

        Gives those that were met with silence.
        """
        pointers = {
            zone: pointer
            for zone, stands in stand.items()
            if isinstance(stands, Serves)
            and not isinstance(due[zone].stands, Serves)
            and (pointer := due[zone].wanted.pointer) is not None
        }
        if not pointers:
            return set()
        found = soa.addresses(
            self._secondary, pointers, _ANSWER_SECONDS, enough=self._is_enough, key=self._key
        )
        silent = {zone for zone, its in found.items() if its == _NO_REPLY}
        if self._is_enough():  # so that nobody knows of these
            for zone in silent:
                del stand[zone]
            silent = set()
        for zone in pointers.keys() & stand.keys():
            stand[zone] = _pointing(due[zone].wanted, pointers[zone], found[zone])
        return silent

    def _heard(self, due: "Mapping[str, _Zone]", stand: Mapping[str, Serves | Behind]) -> None:
        now = time.monotonic()
        arrived = {}
        for zone, stands in stand.items():
            if zone not in self._zones:
                continue  # retired meanwhile
            if stands.serial is not None or zone not in self._answered:
                self._answered[zone] = stands.serial
            if (its := due[zone]) is not self._zones[zone]:
                continue  # something newer is wanted, and asked for in a moment
            if (seconds := its.hear(stands, now)) is not None:
                arrived[zone] = seconds
        # A refusal of which nothing is left is worth a line when it comes again.
        self._complaints &= {why for its in self._zones.values() if (why := _refusal(its.reply))}
        for seconds in arrived.values():
            self._observer.arrived(self.name, seconds)
        self._say_arrived(arrived)

    def _say_arrived(self, arrived: Mapping[str, float]) -> None:
        tell(
            log,
            "secondary serves",
            sorted(arrived, key=lambda zone: -arrived[zone]),  # the slowest is the example
            lambda zone: {"serial": self._answered[zone], "seconds": f"{arrived[zone]:.3f}"},
            nameserver=self.name,
        )

    def _notify(self, zones: "Mapping[str, _Zone]") -> None:
        """Notify those of them that are due for it."""
        with self._news:
            now, queue = time.monotonic(), self._queue()
            due = {zone: its for zone, its in zones.items() if its.is_to_be_notified(now, queue)}
        if not due:
            return
        # One try for each message: a signed one has to be fresh, so the next is a new one.
        replies = soa.exchange(
            self._secondary,
            [partial(message, zone, its.wanted.soa.rdata, self._key) for zone, its in due.items()],
            _ANSWER_SECONDS,
            enough=self._is_enough,
            tries=1,
        )
        took = dict(zip(due, replies, strict=False))  # what was not sent is still due
        on_their_way = set[str]()
        if self._is_enough():  # so that nobody knows of these
            on_their_way = {zone for zone, reply in took.items() if reply == _NO_REPLY}
            took = {zone: reply for zone, reply in took.items() if reply != _NO_REPLY}
        self._tell(took.values())
        if took and all(reply == _NO_REPLY for reply in took.values()):
            took = dict.fromkeys(due, _NO_REPLY)  # nor would it take the others
        with self._news:
            now = time.monotonic()
            for zone in on_their_way:
                due[zone].send(now)
            for zone, reply in took.items():
                due[zone].take(reply, now)
            self._news.notify_all()

    def _tell(self, replies: "Collection[_Reply]") -> None:
        """Count them; each reason for a refusal has a line, until it is over."""
        refusals = Counter(why for reply in replies if (why := _refusal(reply)))
        self._observer.notified(self.name, len(replies))
        self._observer.notify_failed(self.name, refusals.total())
        for why, number in refusals.items():
            if why not in self._complaints:
                told = {"nameserver": self.name, "zones": number, "reason": why}
                log.warning("notify failed", extra=told)
        self._complaints |= refusals.keys()

    def _plan(self, asked: "Mapping[str, _Zone]", used: float) -> float:
        """Seconds until the next round; puts down when those just asked are asked again.

        `used`: the processor seconds that it took to ask them.
        """
        with self._news:
            now, queue = time.monotonic(), self._queue()
            again = [
                its
                for its in asked.values()
                if its.ask_after > 0 and isinstance(its.stands, Behind)
            ]
            for its in asked.values():
                its.plan(now, queue)
            asked_next = (its.ask_at for its in self._zones.values())
            due_in = min(asked_next, default=now + _LOOK_AGAIN_SECONDS) - now
            return max(due_in, _REST * used * len(again) / max(1, len(asked)))

    def _queue(self) -> float:
        """Seconds in which a small secondary comes round to all that lag."""
        lagging = sum(isinstance(its.stands, Behind) for its in self._zones.values())
        return lagging / _LAGGING_A_SECOND

    def _rest(self, seconds: float) -> None:
        with self._news:
            self._news.wait_for(self._is_called, max(0.0, seconds))


def stop(followers: Collection[Follower]) -> None:
    """End them side by side: one that waits for an answer delays no other."""
    for follower in followers:
        follower.end()
    for follower in followers:
        follower.stop()


# --- what is known of one zone --------------------------------------------------------------

_NOT_LOADED = "SERVFAIL"  # what a secondary says of a new zone before its first transfer

_Reply = dns.rcode.Rcode | soa.NoReply
_NO_ANSWER, _NO_REPLY = soa.NoSerial("timeout"), soa.NoReply("timeout")


@dataclass(slots=True)
class _Zone:
    """One zone at one secondary. Times are monotonic; there are thousands of these."""

    wanted: Wanted
    stands: Serves | Behind
    known: bool  # whether it stands so, for all that is known: by an answer, or one of before
    since: float | None  # when it was wanted, until it is served
    ask_at: float  # at first, before all others, and the newest before the older
    quiet: bool  # whether it was met with silence when it was asked for last
    ask_after: float = 0.0  # the last wait between two questions; at first, none
    notified_at: float = 0.0
    notify_after: float = 0.0  # the wait until the next NOTIFY
    stays_since: float | None = None  # since when it answers, and does not take what is wanted
    unseen: bool = False  # whether it takes NOTIFYs, and gives no SOA even then
    reply: _Reply | None = None  # to the last NOTIFY since it was wanted, or served

    def seen(self) -> Serves | Behind:
        """How it stands, by all that the secondary said."""
        stands = self.stands
        if isinstance(stands, Serves):
            return stands
        if self.unseen:
            return Behind(None, f"took the NOTIFY, gives no SOA: {stands.reason}")
        if not self.lags():
            return stands
        if self.reply is None or self._lives():  # it is notified, or asked, in a moment
            return replace(stands, coming=True)
        trouble = _trouble(self.reply, stands.reason)
        return replace(stands, reason=f"{stands.reason}; {trouble}") if trouble else stands

    def lags(self) -> bool:
        """Whether a NOTIFY can help: it does not if the serial is the right one."""
        return (
            self.known
            and isinstance(self.stands, Behind)
            and self.stands.serial != self.wanted.soa.serial
        )

    def _lives(self) -> bool:
        """Whether it takes NOTIFYs, and has given no SOA."""
        return _is_gone(self.stands) and self.reply == dns.rcode.NOERROR

    def is_to_be_notified(self, now: float, queue: float) -> bool:
        """Whether it lags, and the last NOTIFY, if any, was long enough ago.

        `queue`: the seconds for which it may have its place in the secondary's queue.
        """
        wait = self.notify_after
        if self.unseen:
            wait = _NOTIFY_UNSEEN_SECONDS
        elif self.reply == dns.rcode.NOERROR:
            wait = max(wait, queue)
        return self.lags() and now >= self.notified_at + wait

    def hear(self, stands: Serves | Behind, now: float) -> float | None:
        """Take in what it answered.

        Gives the seconds since it was wanted, if it is served now, and a NOTIFY went before.
        """
        if isinstance(stands, Behind) and stands.serial == self.wanted.soa.serial:
            # A name server that loads a zone answers from the old one too, for a moment.
            stands = replace(stands, coming=self.stands.serial != stands.serial)
        if isinstance(stands, Serves) or (_is_gone(self.stands) and not _is_gone(stands)):
            self.ask_after = self.notify_after = 0.0
        if not (isinstance(stands, Behind) and stands.stays):
            self.stays_since = None
        elif self.stays_since is None:
            self.stays_since = now
        self.stands, self.known = stands, True
        self.unseen = self._lives()
        if isinstance(stands, Behind):
            return None
        since, reply = self.since, self.reply
        self.since = self.reply = None
        return None if since is None or reply is None else now - since

    def take(self, reply: _Reply, now: float) -> None:
        """Take in what it replied to a NOTIFY."""
        self.reply = reply
        self.send(now)

    def send(self, now: float) -> None:
        """Note that it was notified."""
        self.notified_at = now
        longer = max(_NOTIFY_FIRST_SECONDS, self.notify_after * 2)
        self.notify_after = min(longer, _NOTIFY_AT_MOST_SECONDS)

    def plan(self, now: float, queue: float) -> None:
        """Put down when to ask again; `queue` as above."""
        if isinstance(self.stands, Serves):
            self.ask_at = now + _LOOK_AGAIN_SECONDS
        else:
            first, most = _ASK_FIRST_SECONDS, max(_ASK_AT_MOST_SECONDS, queue)
            if self.unseen:
                first, most = _ASK_UNSEEN_SECONDS, _LOOK_AGAIN_SECONDS
            longer = max(first, self.ask_after * 1.5)
            self.ask_after = min(longer, most, _LOOK_AGAIN_SECONDS)
            self.ask_at = now + self.ask_after


def standing(answer: soa.Serial | soa.NoSerial, wanted: int) -> Serves | Behind:
    """How a secondary stands by its answer, as to the serial that it should have (RFC 1982)."""
    if isinstance(answer, soa.NoSerial):
        return Behind(None, answer.reason, coming=answer.reason == _NOT_LOADED)
    if answer.serial == wanted:
        return _serves(wanted)
    if Rfc1982(answer.serial) > Rfc1982(wanted):
        return Behind(answer.serial, "is ahead of the primary")
    return Behind(answer.serial, "serves an older serial", coming=True, stays=True)


def _pointing(
    wanted: Wanted, pointer: Pointer, found: frozenset[Address] | soa.NoReply
) -> Serves | Behind:
    """How it stands by its addresses, its serial being right."""
    serial = wanted.soa.serial
    if isinstance(found, soa.NoReply):
        why = f"gives no address of {pointer.name}: {found.reason}"
        return Behind(serial, why) if wanted.addresses else _serves(serial)
    if found == wanted.addresses:
        return _serves(serial)
    others = ", ".join(sorted(map(str, found)))
    return Behind(serial, f"serves other addresses at this serial: {others}", stays=True)


_serves = lru_cache(Serves)  # thousands of zones have the same few serials


def _is_gone(stands: Serves | Behind) -> bool:
    """Whether it is silent, or without the zone, and nothing will change that in a moment."""
    return isinstance(stands, Behind) and stands.serial is None and not stands.coming


def _trouble(reply: _Reply, heard: str) -> str | None:
    if isinstance(reply, soa.NoReply):
        return f"NOTIFY fails: {reply.reason}" if reply.reason != heard else None
    return f"refuses NOTIFY: {why}" if (why := _refusal(reply)) else None


def _refusal(reply: _Reply | None) -> str | None:
    if isinstance(reply, soa.NoReply):
        return reply.reason
    return None if reply in (None, dns.rcode.NOERROR) else dns.rcode.to_text(reply)
