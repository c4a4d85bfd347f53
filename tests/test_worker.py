"""The one thread that converges."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from actions.converge import Forced, Word
from actions.decide import Decision
from actions.judge import Judgement
from actions.metrics import Trigger
from actions.outcome import Outcome, ZoneOutcome
from actions.state import Meant, StateError
from actions.worker import Worker

JUDGEMENT = Judgement({}, "main", None, None, looking=False, decision=Decision("main", None, ""))
OUTCOME = Outcome(
    Meant(server="main", since=datetime(2026, 11, 22, tzinfo=UTC), why="", by="start"),
    pin=None,
    judgement=JUDGEMENT,
    switched_from=None,
    zones={},
)


class Runs:
    """Records the runs, and lets each one through a gate."""

    def __init__(self) -> None:
        self.seen: list[tuple[Trigger, Word | None]] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, trigger: Trigger, word: Word | None) -> Outcome:
        """Run."""
        self.seen.append((trigger, word))
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
        assert worker.wake("webhook").result(5) is OUTCOME
        assert worker.has_run
    assert [trigger for trigger, _ in runs.seen] == ["start", "webhook"]


def test_wake_ups_that_find_one_waiting_share_it() -> None:
    """A hundred webhooks during a run make one more run, and all get its outcome."""
    runs = Runs()
    with running(Worker(runs, every=3600)) as worker:
        assert runs.entered.acquire(timeout=5)
        futures = [worker.wake("webhook") for _ in range(100)]
        runs.gate.set()
        assert {future.result(5) is OUTCOME for future in futures} == {True}
    assert [trigger for trigger, _ in runs.seen] == ["start", "webhook"]


def test_a_wake_up_during_a_run_gets_a_run_of_its_own() -> None:
    """What was learnt after a run began is not lost on it."""
    runs = Runs()
    with running(Worker(runs, every=3600)) as worker:
        assert runs.entered.acquire(timeout=5)
        first = worker.wake("webhook")
        runs.gate.set()
        first.result(5)
        worker.wake("webhook").result(5)
    assert [trigger for trigger, _ in runs.seen] == ["start", "webhook", "webhook"]


def test_a_look_and_a_webhook_share_a_wake_up() -> None:
    """Whoever it was that came first: the run sees it all."""
    runs = Runs()
    with running(Worker(runs, every=3600)) as worker:
        assert runs.entered.acquire(timeout=5)
        futures = [worker.wake("look"), worker.wake("webhook")]
        runs.gate.set()
        assert [future.result(5) for future in futures] == [OUTCOME, OUTCOME]
    assert [trigger for trigger, _ in runs.seen] == ["start", "look"]


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

    def converge(_: Trigger, word: Word | None) -> Outcome:
        if word and fail.pop():
            raise RuntimeError("broken")
        return OUTCOME

    with running(Worker(converge, every=3600)) as worker:
        with pytest.raises(RuntimeError, match="broken"):
            worker.request(Forced()).result(5)
        assert worker.wake("webhook").result(5) is OUTCOME
    assert "converge failed" in caplog.messages


def test_what_fails_is_logged_once_for_each_new_reason(caplog: pytest.LogCaptureFixture) -> None:
    """The timer comes every few seconds; the log says what changed."""
    caplog.set_level("INFO")
    failed = {"example.org": ZoneOutcome(failed="verify", reason="ns1 answers REFUSED")}
    refused = {"example.net": ZoneOutcome(failed="accept", reason="example.net.base:3: no")}
    damaged = StateError(Path("/s/meant.json"), "is damaged")
    ends: list[Outcome | StateError] = [
        OUTCOME,
        *[replace(OUTCOME, zones=failed)] * 3,
        replace(OUTCOME, zones=failed | refused),
        *[replace(OUTCOME, judgement=replace(JUDGEMENT, missing="nobody answers"))] * 3,
        *[damaged] * 3,
        OUTCOME,
    ]

    def converge(_: Trigger, _word: Word | None) -> Outcome:
        end = ends.pop(0)
        if isinstance(end, StateError):
            raise end
        return end

    requests = len(ends) - 1  # the first end is the start's
    with running(Worker(converge, every=3600)) as worker:
        for _ in range(requests):
            worker.request(None).exception(5)
    facts = [
        (record.message, vars(record).get("what"), vars(record).get("reason"))
        for record in caplog.records
    ]
    assert facts == [
        ("failed", "verify of example.org", "ns1 answers REFUSED"),
        ("source refused", None, "example.net.base:3: no"),
        ("no longer failing", "verify of example.org", None),
        ("in doubt", "alerts", "nobody answers"),
        ("failed", "state", "/s/meant.json: is damaged"),
        ("no longer failing", "state", None),
        ("no longer in doubt", "alerts", None),
    ]
    assert all(record.exc_info is None for record in caplog.records)


def test_a_run_that_came_to_nothing_heals_no_zone(caplog: pytest.LogCaptureFixture) -> None:
    """What failed before it is not said to be over, nor told again after it."""
    caplog.set_level("INFO")
    failed = {"example.org": ZoneOutcome(failed="verify", reason="ns1 answers REFUSED")}
    ends = [replace(OUTCOME, zones=failed), None, replace(OUTCOME, zones=failed)]

    def converge(_: Trigger, _word: Word | None) -> Outcome:
        if (end := ends.pop(0)) is None:
            raise StateError(Path("/s/meant.json"), "is damaged")
        return end

    with running(Worker(converge, every=3600)) as worker:
        for _ in range(2):
            worker.request(None).exception(5)
    assert [(its.message, vars(its)["what"]) for its in caplog.records] == [
        ("failed", "verify of example.org"),
        ("failed", "state"),
        ("no longer failing", "state"),
    ]


def test_what_a_first_start_refuses_is_logged_once_for_each_new_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is repeated until there is a source; a person who asks for it is told each time."""
    reasons = ["empty", "empty", "broken", "broken", "broken"]
    ends = [{"/z": ZoneOutcome(failed="accept", reason=reason)} for reason in reasons]
    words = [None, None, None, Forced()]
    with running(Worker(lambda *_: replace(OUTCOME, zones=ends.pop(0)), every=3600)) as worker:
        for word in words:
            worker.request(word).result(5)
    assert [vars(its)["reason"] for its in caplog.records] == ["empty", "broken", "broken"]


def test_many_that_fail_hide_no_other_failure(caplog: pytest.LogCaptureFixture) -> None:
    """One line for those of a step, and one for each other step's."""
    failed = {f"z{n}.example": ZoneOutcome(failed="verify", reason="refused") for n in range(21)}
    failed["full.example"] = ZoneOutcome(failed="write", reason="No space left on device")
    with running(Worker(lambda *_: replace(OUTCOME, zones=failed), every=3600)) as worker:
        worker.request(None).result(5)
    facts = [(vars(its).get("number"), vars(its)["reason"]) for its in caplog.records]
    assert facts == [(21, "refused"), (None, "No space left on device")]


def test_a_run_that_takes_long_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is finished by the next start, and nothing that waits is begun any more."""
    monkeypatch.setattr("actions.worker._STOP_SECONDS", 0.1)
    runs = Runs()
    worker = Worker(runs, every=3600)
    worker.start()
    assert runs.entered.acquire(timeout=5)
    worker.request(Forced())
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 5  # the gate stays closed for 10
    runs.gate.set()
    worker._thread.join(5)
    assert not worker._thread.is_alive()
    assert [trigger for trigger, _ in runs.seen] == ["start"]


def test_no_run_waits_for_a_word_that_takes_a_while() -> None:
    """Thousands of sources are being checked when main dies."""
    runs, checked = Runs(), threading.Event()
    runs.gate.set()

    def checking() -> Word:
        assert checked.wait(10)
        return Forced()

    with running(Worker(runs, every=3600)) as worker:
        forced = worker.request_when(checking)
        assert worker.wake("webhook").result(10) is OUTCOME
        assert not forced.done()
        checked.set()
        assert forced.result(10) is OUTCOME
    assert runs.seen == [("start", None), ("webhook", None), ("request", Forced())]


def test_a_word_that_cannot_be_made_is_said_to_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    """And the worker goes on."""
    runs = Runs()
    runs.gate.set()

    def failing() -> Word:
        raise ValueError("no way")

    with running(Worker(runs, every=3600)) as worker:
        with pytest.raises(ValueError, match="no way"):
            worker.request_when(failing).result(10)
        assert worker.request(None).result(10) is OUTCOME
    assert "request failed" in caplog.text
