"""The primary: told to load what has been written, and asked until it serves it.

Owns how long that may take, and when a zone is given up for this time. No reload's exit status is
believed: what counts is the serial that it answers with. What is done about a zone that it refuses
is left to publish.
"""

import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice

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
# So many are asked for until the first of them is there.
_SOME = 20
# A zone that answers SERVFAIL after two reloads was loaded, and refused; after this time too if it
# answered so before they were asked for.
_REFUSED_SECONDS = 0.6
_SURELY_REFUSED_SECONDS = 2.5
_REFUSES = soa.NoSerial("SERVFAIL")

Answer = soa.Serial | soa.NoSerial


class Primary:
    """The primary in one run."""

    def __init__(self, primary: config.Primary, tally: Tally) -> None:
        self._primary = primary
        self._tally = tally

    def ask(self, zones: Collection[str]) -> Mapping[str, Answer]:
        """What it serves of each zone."""
        return soa.ask(self._primary, list(zones), _SILENCE_SECONDS)

    def see_served(  # noqa: PLR0913  what has to be known, each told once
        self,
        wanted: Mapping[str, int],
        answers: Mapping[str, Answer],
        hopeless: Collection[str],
        refusable: Collection[str],
        *,
        insist: bool,
        served: Callable[[Mapping[str, soa.Serial]], None],
        give_back: Callable[[Collection[str]], Mapping[str, int]],
    ) -> None:
        """See it serve these serials, asking for a reload as often as that takes.

        `answers` are what it serves now. Zones that were `hopeless` the last time get less time:
        one zone's trouble delays no other's switch; without `insist` they are only asked for.
        `served` is told of each zone as soon as it is; `give_back`, of `refusable` zones that it
        can't load, gives the serials to expect instead.
        """
        wanted, late = dict(wanted), self._late(wanted, answers, served)
        untried = set(refusable)
        if not late:
            return
        if insist or not late.keys() <= set(hopeless) - untried:
            late = self._load(wanted, late, hopeless, untried, served, give_back)
        for name, answer in late.items():
            self._tally.fail(name, "verify", f"{self._primary.name} {_why(answer, wanted[name])}")

    def _load(  # noqa: PLR0913, PLR0917  what has to be known, each told once
        self,
        wanted: dict[str, int],
        late: dict[str, Answer],
        hopeless: Collection[str],
        untried: set[str],
        served: Callable[[Mapping[str, soa.Serial]], None],
        give_back: Callable[[Collection[str]], Mapping[str, int]],
    ) -> dict[str, Answer]:
        """Reload until no zone is late; those that are at the end, with no failure told yet.

        Changes `wanted` where something is given back, and takes what was tried from `untried`.
        """
        began, reload_at = time.monotonic(), 0.0
        more = len(late) * _A_ZONES_SECONDS
        reload_after = _RELOAD_AGAIN_SECONDS + more
        given_up = set(hopeless)
        # What was refused before may be a file that is gone: that takes longer to be told.
        refused_before = {name for name, answer in late.items() if answer == _REFUSES}
        with self._tally.step("verify"):
            while late and time.monotonic() - began < _patience(late, given_up, untried) + more:
                if again := time.monotonic() >= reload_at:
                    if not self._reload(late):
                        return {}
                    again = reload_at > 0  # the first one has only begun
                    reload_at, reload_after = time.monotonic() + reload_after, reload_after * 2
                time.sleep(_ASK_EVERY_SECONDS)
                some = list(islice(late, _SOME))
                answers = self.ask(some)
                if len(some) < len(late):
                    # Some for all: zones come together, mostly, and there may be thousands.
                    still = self._late({name: wanted[name] for name in some}, answers, _nobody)
                    late |= still
                    if not again and len(still) == len(some):
                        continue
                    answers = self.ask(late)
                before = len(late)
                late = self._late({name: wanted[name] for name in late}, answers, served)
                if len(late) < before:
                    began = time.monotonic()  # as long as zones come, the others may come too
                waited = time.monotonic() - began
                if waited < _REFUSED_SECONDS + more:
                    continue
                refused = {name for name in untried & late.keys() if late[name] == _REFUSES}
                if waited < _SURELY_REFUSED_SECONDS + more:
                    refused -= refused_before
                if refused:
                    untried -= refused
                    serials = give_back(refused)
                    wanted |= serials
                    given_up = (given_up | refused) - serials.keys()
                    reload_at = 0.0
        return late

    def _reload(self, late: Collection[str]) -> bool:
        try:
            with self._tally.step("reload"):
                nameserver.reload(self._primary)
        except nameserver.ReloadError as error:
            for name in late:
                self._tally.fail(name, "reload", str(error))
            return False
        return True

    def _late(
        self,
        wanted: Mapping[str, int],
        answers: Mapping[str, Answer],
        served: Callable[[Mapping[str, soa.Serial]], None],
    ) -> dict[str, Answer]:
        """The zones that are not served as they should be, with what is answered instead."""
        late, there = dict[str, Answer](), dict[str, soa.Serial]()
        for name, serial in wanted.items():
            answer = answers[name]
            if isinstance(answer, soa.Serial) and answer.serial == serial:
                there[name] = answer
            else:
                late[name] = answer
        if there:
            served(there)
        return late


def _nobody(_: Mapping[str, soa.Serial]) -> None:
    pass


def _patience(
    late: Mapping[str, Answer], given_up: Collection[str], untried: Collection[str]
) -> float:
    """How long the late zones are waited for, seconds."""
    if not late.keys() <= set(given_up):
        return _VERIFY_SECONDS
    if any(late[name] == _REFUSES for name in late.keys() & set(untried)):
        return _VERIFY_SECONDS
    return _RELOAD_AGAIN_SECONDS


def _why(answer: Answer, serial: int) -> str:
    if isinstance(answer, soa.NoSerial):
        return f"answers {answer.reason}"
    return f"serves {answer.serial}, not {serial}"
