"""What keeping the servers in step came to, job by job: on disk, so that every process knows it.

    STATE/sync/NAME.json    the last run of a job, and its totals
    STATE/sync/NAME.lock    held while it runs

Whoever runs a job writes its record; the metrics and the status are read from it. A damaged one is
put aside, and the job begins a new one: it holds nothing that could not be lost.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime

from actions import state
from actions.state import Record, StateError

log = logging.getLogger(__name__)


class SyncRecord(Record):
    """How a job stands.

    `ended` is when its last run ended, `succeeded` the last that did all it could, `since` when the
    first one began. `seconds` are the last run's, and `end` the exit status of its program; None
    where that was ended, or never ran. So many files were `skipped`, or `failed`, by the last run
    that got through; `paths` are some of them, with the reason. `too_many` messages would have been
    deleted, and were not; `allowable`: a person may allow it. `files` is what is
    known of Unison's folders, pair by pair; one that is not there is not known.
    """

    version: int = state.VERSION
    since: AwareDatetime
    ended: AwareDatetime
    succeeded: AwareDatetime | None
    outcome: Literal["done", "refused", "failed"]
    reason: str
    seconds: float
    end: int | None
    skipped: int
    failed: int
    paths: Mapping[str, str]
    too_many: int
    allowable: bool
    runs_total: int
    failures_total: int
    transferred_total: int
    deleted_total: int
    files: Mapping[str, Mapping[str, int]]


class Records:
    """The records of all jobs. Writing one asks for its lock to be held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "sync"

    def prepare(self) -> None:
        """Make the folder ready; StateError says why it can't be used."""
        state.prepare(self._folder.parent)
        state.prepare(self._folder)

    @contextmanager
    def locked(self, job: str, waits: Callable[[], None]) -> Iterator[int]:
        """Hold the lock of a job, as an open file; `waits` is told that somebody else runs it."""
        with state.held(self._folder / f"{job}.lock", self.prepare, waits) as lock:
            yield lock

    def of(self, job: str) -> SyncRecord | None:
        """How a job stands; None before its first run has ended. StateError if that is damaged."""
        return state.read(self._folder / f"{job}.json", SyncRecord)

    def last(self, job: str) -> SyncRecord | None:
        """The same, for its next run, which begins anew where it is damaged."""
        try:
            return self.of(job)
        except StateError as error:
            aside = state.put_aside(error.path)
            log.warning("record put aside", extra={"reason": str(error), "as": aside})
            return None

    def put(self, job: str, record: SyncRecord) -> None:
        """Put down how a job stands."""
        state.write(self._folder / f"{job}.json", record)
