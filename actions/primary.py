"""The primary: told to load what has been written, and asked until it serves it.

Owns how long that may take, and when a zone is given up for this time. No reload's exit status is
believed: what counts is the serial that it answers with. What is done about a zone that it refuses
is left to publish.
"""

import random
import time
from collections.abc import Collection, Mapping
from typing import Protocol

from actions import nameserver
from actions.outcome import Tally
from exporter import config, soa

# The primary is on this machine: it answers at once, or not at all.
_SILENCE_SECONDS = 0.5

# NSD loads a zone in some ten milliseconds; a webhook has to be answered within 7 s.
_VERIFY_SECONDS = 4.0
# No faster: NSD answers no more than 200 questions a second.
_ASK_EVERY_SECONDS = 0.01
# Name servers lose reloads: ask for it again when the serial does not come.
_RELOAD_AGAIN_SECONDS = 0.25
# What a zone adds to either, where there are thousands.
_A_ZONES_SECONDS = 0.0002
# Longer is for the next run: a newer decision may be waiting.
_AT_MOST_SECONDS = 60.0
# So many, any of them, are asked for until the first of those is there.
_SOME = 20
# A zone that answers SERVFAIL after two reloads was loaded, and refused; after this time too if it
# answered so before they were asked for.
_REFUSED_SECONDS = 0.6
_SURELY_REFUSED_SECONDS = 2.5
_REFUSES = soa.NoSerial("SERVFAIL")
# What name servers answer that do not know a zone.
_UNKNOWN = ("REFUSED", "NOTAUTH", "not authoritative")

Answer = soa.Serial | soa.NoSerial


class Publishing(Protocol):
    """Whose files they are that the primary loads."""

    @property
    def refusable(self) -> Collection[str]:
        """Zones that can be given back, should the primary refuse them."""

    def served(self, zones: Mapping[str, soa.Serial]) -> None:
        """Take note that it serves these; each is told of once, as soon as it does."""

    def give_back(self, zones: Collection[str]) -> Mapping[str, int]:
        """Put the last contents of refused zones back; the serials to expect of them."""


class Primary:
    """The primary in one run."""

    def __init__(self, primary: config.Primary, tally: Tally) -> None:
        self._primary = primary
        self._tally = tally

    def ask(self, zones: Collection[str]) -> Mapping[str, Answer]:
        """What it serves of each zone."""
        return soa.ask(self._primary, list(zones), _SILENCE_SECONDS)

    def see_served(
        self,
        wanted: Mapping[str, int],
        answers: Mapping[str, Answer],
        hopeless: Collection[str],
        publishing: Publishing,
        *,
        insist: bool,
    ) -> None:
        """See it serve these serials, asking for a reload as often as that takes.

        `answers` are what it serves now. Zones that were `hopeless` the last time get less time:
        one zone's trouble delays no other's switch; without `insist` they are only asked for.
        """
        loading = _Loading(wanted, answers, hopeless, publishing)
        if loading.late and (insist or loading.is_hopeful):
            with self._tally.step("verify"):
                self._load(loading)
        for name, answer in loading.late.items():
            self._tally.fail(name, "verify", self._why(answer, loading.wanted[name]))

    def _load(self, loading: "_Loading") -> None:
        """Reload until no zone is late, or there is no hope left for this time."""
        reload_at, reload_after = 0.0, _RELOAD_AGAIN_SECONDS + loading.more
        while loading.late and loading.is_in_time:
            if again := time.monotonic() >= reload_at:
                if not self._reload(loading.late):
                    return
                again = reload_at > 0  # the first one has only begun
                reload_at, reload_after = time.monotonic() + reload_after, reload_after * 2
            time.sleep(_ASK_EVERY_SECONDS)
            some = random.sample(list(loading.late), min(_SOME, len(loading.late)))
            answers = self.ask(some)
            if len(some) < len(loading.late):
                # Some for all: zones come together, mostly, and there may be thousands.
                if not again and not any(loading.is_right(*its) for its in answers.items()):
                    loading.late |= answers
                    continue
                answers = self.ask(loading.late)
            loading.hear(answers)
            if loading.give_back():
                reload_at = 0.0

    def _reload(self, late: Collection[str]) -> bool:
        try:
            with self._tally.step("reload"):
                nameserver.reload(self._primary)
        except nameserver.ReloadError as error:
            for name in late:
                self._tally.fail(name, "reload", str(error))
            return False
        return True

    def _why(self, answer: Answer, serial: int) -> str:
        its = self._primary
        if isinstance(answer, soa.Serial):
            return f"{its.name} serves {answer.serial}, not {serial}"
        if answer.reason in _UNKNOWN:
            return f"{its.name} answers {answer.reason}: is the zone in its configuration?"
        if answer.reason.isupper():  # an rcode
            return f"{its.name} answers {answer.reason}"
        return f"{its.name}, at {its.address} port {its.port}: {answer.reason}"


class _Loading:
    """Which zones are late, with what is answered instead; and which there is hope for."""

    def __init__(
        self,
        wanted: Mapping[str, int],
        answers: Mapping[str, Answer],
        hopeless: Collection[str],
        publishing: Publishing,
    ) -> None:
        self.wanted = dict(wanted)
        self.late: dict[str, Answer] = {}
        self._publishing = publishing
        self._untried = set(publishing.refusable)
        self._given_up = set(hopeless)
        self._since = time.monotonic()  # when a zone came last
        self._end = self._since + _AT_MOST_SECONDS
        self.hear(answers)
        self.more = len(self.late) * _A_ZONES_SECONDS
        # What was refused before may be a file that is gone: that takes longer to be told.
        self._refused_before = {name for name, its in self.late.items() if its == _REFUSES}

    @property
    def is_hopeful(self) -> bool:
        """Whether there are others than those that were hopeless before."""
        return not self.late.keys() <= self._given_up - self._untried

    @property
    def is_in_time(self) -> bool:
        """Whether it is worth waiting on: as long as zones come, the others may come too."""
        now = time.monotonic()
        patience = _VERIFY_SECONDS
        if self.late.keys() <= self._given_up and not self._refused():
            patience = _RELOAD_AGAIN_SECONDS
        return now < self._end and now - self._since < patience + self.more

    def is_right(self, name: str, answer: Answer) -> bool:
        """Whether this is what is wanted of a zone."""
        return isinstance(answer, soa.Serial) and answer.serial == self.wanted[name]

    def hear(self, answers: Mapping[str, Answer]) -> None:
        """Take in what is answered now of all that are late, or wanted at first."""
        there = dict[str, soa.Serial]()
        self.late = {}
        for name, answer in answers.items():
            if isinstance(answer, soa.Serial) and self.is_right(name, answer):
                there[name] = answer
            else:
                self.late[name] = answer
        if there:
            self._since = time.monotonic()
            self._publishing.served(there)

    def give_back(self) -> bool:
        """Have what was surely refused given back, once; whether there was anything."""
        waited = time.monotonic() - self._since
        if waited < _REFUSED_SECONDS + self.more:
            return False
        refused = self._refused()
        if waited < _SURELY_REFUSED_SECONDS + self.more:
            refused -= self._refused_before
        if not refused:
            return False
        self._untried -= refused
        serials = self._publishing.give_back(refused)
        self.wanted |= serials
        self._given_up = (self._given_up | refused) - serials.keys()
        return True

    def _refused(self) -> set[str]:
        return {name for name in self._untried & self.late.keys() if self.late[name] == _REFUSES}
