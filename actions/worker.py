"""The one thread that converges: woken by webhooks and looks, by a person, and by its timer.

Owns that no two runs overlap, that wake-ups which find one waiting share it, and that what fails
is logged once for each new reason, not every few seconds. What a run does is converge's business.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby

from actions.converge import Word
from actions.metrics import Trigger
from actions.outcome import Outcome
from actions.state import StateError
from exporter.log import tell

log = logging.getLogger(__name__)

# A run that does not end within this is left to die with the program, after a look of 5 s at most:
# every step of it is finished by the next start.
_STOP_SECONDS = 2.0


@dataclass(frozen=True)
class _Request:
    trigger: Trigger
    word: Word | None = None
    outcome: Future[Outcome] = field(default_factory=Future)


class Worker:
    """Runs `converge` when asked to, and every `every` seconds without being asked."""

    def __init__(self, converge: Callable[[Trigger, Word | None], Outcome], every: float) -> None:
        self._converge = converge
        self._every = every
        self._asked: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._first = _Request("start")
        self._asked.put(self._first)
        self._lock = threading.Lock()
        self._wake_up: _Request | None = None  # asked for and not begun
        self._ending = False
        self._refused: Mapping[str, str] = {}  # by the last run
        self._failures = _Told("failed", "no longer failing", logging.ERROR)
        self._doubts = _Told("in doubt", "no longer in doubt", logging.WARNING)
        self._thread = threading.Thread(target=self._run, name="converge", daemon=True)

    def start(self) -> None:
        """Begin, with a first run."""
        self._thread.start()

    @property
    def has_run(self) -> bool:
        """Whether the first run has ended."""
        return self._first.outcome.done()

    def stop(self) -> None:
        """Begin no further run, and wait a little for the one under way."""
        self._ending = True
        self._asked.put(None)
        self._thread.join(_STOP_SECONDS)

    def wake(self, trigger: Trigger) -> Future[Outcome]:
        """Ask for a run since something happened; shares one that has not begun: it sees it all."""
        with self._lock:
            if self._wake_up is None:
                self._wake_up = _Request(trigger)
                self._ask(self._wake_up)
            return self._wake_up.outcome

    def request(self, word: Word | None) -> Future[Outcome]:
        """Ask for a run by a person's word."""
        return self._ask(_Request("request", word))

    def request_when(self, word: Callable[[], Word]) -> Future[Outcome]:
        """Ask for a run by a person's word that takes a while to make; no run waits for that."""
        outcome = Future[Outcome]()

        def make() -> None:
            try:
                self._ask(_Request("request", word(), outcome))
            except Exception as error:  # whatever it was: somebody waits for an answer
                log.exception("request failed")
                outcome.set_exception(error)

        threading.Thread(target=make, name="request", daemon=True).start()
        return outcome

    def _ask(self, request: _Request) -> Future[Outcome]:
        self._asked.put(request)
        return request.outcome

    def _run(self) -> None:
        while (request := self._next()) is not None:
            with self._lock:
                if request is self._wake_up:
                    self._wake_up = None
            try:
                outcome = self._converge(request.trigger, request.word)
            except StateError as error:
                # How it stands with the zones is not known now: what was told of them holds.
                self._failures.tell({**self._failures.reasons, "state": str(error)})
                request.outcome.set_exception(error)
            except Exception as error:  # whatever it was: the next run must still come
                log.exception("converge failed", extra={"trigger": request.trigger})
                request.outcome.set_exception(error)
            else:
                # What a person asked for, each time; what a first start comes to again, once.
                refused = {n: i.reason for n, i in outcome.zones.items() if i.failed == "accept"}
                if request.word is not None or refused != self._refused:
                    tell(log, "source refused", refused, _reasons(refused), level=logging.ERROR)
                self._refused = refused
                self._failures.tell(_failures(outcome))
                self._doubts.tell(outcome.judgement.doubts)
                request.outcome.set_result(outcome)

    def _next(self) -> _Request | None:
        try:
            request = self._asked.get(timeout=self._every)
        except queue.Empty:
            request = _Request("timer")
        return None if self._ending else request


class _Told:
    """Logs what is wrong once for each new reason, and once more when it is over."""

    def __init__(self, wrong: str, over: str, level: int) -> None:
        self.reasons: Mapping[str, str] = {}  # what -> the reason that was logged
        self._wrong = wrong
        self._over = over
        self._level = level

    def tell(self, reasons: Mapping[str, str]) -> None:
        new = [what for what, reason in reasons.items() if self.reasons.get(what) != reason]
        # Step by step: many that fail at one must not hide one that fails at another.
        for _, same in groupby(sorted(new), key=lambda what: what.split(" ")[0]):
            tell(log, self._wrong, list(same), _reasons(reasons), level=self._level, each="what")
        over = sorted(self.reasons.keys() - reasons.keys())
        tell(log, self._over, over, lambda _: {}, each="what")
        self.reasons = reasons


def _failures(outcome: Outcome) -> dict[str, str]:
    return {
        f"{its.failed} of {name}": its.reason
        for name, its in outcome.zones.items()
        if its.failed not in (None, "accept")
    }


def _reasons(reasons: Mapping[str, str]) -> Callable[[str], Mapping[str, str]]:
    return lambda what: {"reason": reasons[what]}
