"""The one thread that converges."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from actions.converge import Forced, Outcome
from actions.metrics import Trigger
from actions.state import Meant
from actions.worker import Worker

OUTCOME = Outcome(
    Meant(server="main", since=datetime(2026, 11, 22, tzinfo=UTC), why="", by="start"),
    switched_from=None,
    zones={},
    served={},
    missing=None,
)


class Runs:
    """Records the runs, and lets each one through a gate."""

    def __init__(self) -> None:
        self.seen: list[tuple[Trigger, Forced | None]] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, trigger: Trigger, forced: Forced | None) -> Outcome:
        """Run."""
        self.seen.append((trigger, forced))
        self.entered.release()
        assert self.gate.wait(10)
        return OUTCOME


@contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    """Run the worker for the length of a test."""
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def test_the_first_run_is_the_start() -> None:
    """The worker is ready when its first run has ended, not before."""
    runs = Runs()
    with running(Worker(runs, every=3600)) as worker:
        assert runs.entered.acquire(timeout=5)
        assert not worker.has_run
        runs.gate.set()
        assert worker.wake().result(5) is OUTCOME
        assert worker.has_run
    assert [trigger for trigger, _ in runs.seen] == ["start", "webhook"]


def test_wake_ups_that_find_one_waiting_share_it() -> None:
    """A hundred webhooks during a run make one more run, and all get its outcome."""
    runs = Runs()
    with running(Worker(runs, every=3600)) as worker:
        assert runs.entered.acquire(timeout=5)
        futures = [worker.wake() for _ in range(100)]
        runs.gate.set()
        assert {future.result(5) is OUTCOME for future in futures} == {True}
    assert [trigger for trigger, _ in runs.seen] == ["start", "webhook"]


def test_a_wake_up_during_a_run_gets_a_run_of_its_own() -> None:
    """What was learnt after a run began is not lost on it."""
    runs = Runs()
    with running(Worker(runs, every=3600)) as worker:
        assert runs.entered.acquire(timeout=5)
        first = worker.wake()
        runs.gate.set()
        first.result(5)
        worker.wake().result(5)
    assert [trigger for trigger, _ in runs.seen] == ["start", "webhook", "webhook"]


def test_requests_are_never_shared() -> None:
    """Two forced rewrites are two."""
    runs = Runs()
    runs.gate.set()
    with running(Worker(runs, every=3600)) as worker:
        futures = [worker.request(Forced(("example.org",))) for _ in range(2)]
        for future in futures:
            future.result(5)
    assert runs.seen[1:] == [("request", Forced(("example.org",)))] * 2


def test_the_timer_runs_it_without_being_asked() -> None:
    """A webhook that never comes costs at most one interval."""
    runs = Runs()
    runs.gate.set()
    with running(Worker(runs, every=0.01)):
        for _ in range(3):
            assert runs.entered.acquire(timeout=5)
    assert [trigger for trigger, _ in runs.seen[:3]] == ["start", "timer", "timer"]


def test_a_run_that_fails_is_told_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error reaches who asked, and the thread lives on."""
    fail = [True]

    def converge(_: Trigger, forced: Forced | None) -> Outcome:
        if forced and fail.pop():
            raise RuntimeError("broken")
        return OUTCOME

    with running(Worker(converge, every=3600)) as worker:
        with pytest.raises(RuntimeError, match="broken"):
            worker.request(Forced()).result(5)
        assert worker.wake().result(5) is OUTCOME
    assert "converge failed" in caplog.messages
