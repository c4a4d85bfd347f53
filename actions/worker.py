"""The one thread that converges: woken by webhooks, by a person's request, and by its timer.

Owns that no two runs overlap and that wake-ups which find one waiting share it. What a run does is
converge's business.
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from actions.converge import Forced, Outcome
from actions.metrics import Trigger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    trigger: Trigger
    forced: Forced | None = None
    outcome: Future[Outcome] = field(default_factory=Future)


class Worker:
    """Runs `converge` when asked to, and every `every` seconds without being asked."""

    def __init__(self, converge: Callable[[Trigger, Forced | None], Outcome], every: float) -> None:
        self._converge = converge
        self._every = every
        self._asked: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._first = _Request("start")
        self._asked.put(self._first)
        self._lock = threading.Lock()
        self._wake_up: _Request | None = None  # asked for and not begun
        self._thread = threading.Thread(target=self._run, name="converge", daemon=True)

    def start(self) -> None:
        """Begin, with a first run."""
        self._thread.start()

    @property
    def has_run(self) -> bool:
        """Whether the first run has ended."""
        return self._first.outcome.done()

    def stop(self) -> None:
        """End after the run under way."""
        self._asked.put(None)
        self._thread.join()

    def wake(self) -> Future[Outcome]:
        """Ask for a run because of a webhook; shares one that has not begun: it will see it all."""
        with self._lock:
            if self._wake_up is None:
                self._wake_up = _Request("webhook")
                self._ask(self._wake_up)
            return self._wake_up.outcome

    def request(self, forced: Forced | None) -> Future[Outcome]:
        """Ask for a run by a person's word."""
        return self._ask(_Request("request", forced))

    def _ask(self, request: _Request) -> Future[Outcome]:
        self._asked.put(request)
        return request.outcome

    def _run(self) -> None:
        while (request := self._next()) is not None:
            with self._lock:
                if request is self._wake_up:
                    self._wake_up = None
            try:
                request.outcome.set_result(self._converge(request.trigger, request.forced))
            except Exception as error:  # whatever it was: the next run must still come
                log.exception("converge failed", extra={"trigger": request.trigger})
                request.outcome.set_exception(error)

    def _next(self) -> _Request | None:
        try:
            return self._asked.get(timeout=self._every)
        except queue.Empty:
            return _Request("timer")
