"""Keeps the servers in step: mail, sites, whatever [sync.NAME] names.

Owns when a job runs, that it never runs twice at once, and what is said of it. A switch wakes the
jobs, and waits for none. How two folders are kept in step is `unison`'s, how a program is run and
ended `errand`'s, what is remembered `records`'.
"""

import json
import logging
import os
import pwd
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from actions import errand
from actions.errand import Stop
from actions.plan import Files
from actions.records import Records, SyncRecord
from actions.state import StateError
from actions.unison import Pair, Result
from exporter.config import CommandJob, Config, Job, UnisonJob

log = logging.getLogger(__name__)

# After a failure it is tried again sooner than it is due: main's sshd may be up a moment later.
_AGAIN_SECONDS = 10.0

# The end of the daemon waits so long for those of its runs; they are seen to by themselves.
_END_SECONDS = 5.0

# So much later than a pair's own time is up, who keeps it in step has to have ended.
_LATE_SECONDS = 20.0

# So many paths are remembered of those that were skipped, or failed.
_PATHS = 20


@dataclass(frozen=True)
class Run:
    """A run that has ended: what it came to, in so many seconds; a command counts nothing."""

    result: Result
    seconds: float
    counts: bool


class Jobs:
    """Runs the jobs that are configured; one at a time of each, between processes too."""

    def __init__(self, config: Config) -> None:
        self._jobs = config.sync
        self._records = Records(config.actions.state)

    def prepare(self) -> None:
        """Make the state folder ready; StateError says why it can't be used."""
        self._records.prepare()

    def run(
        self, name: str, stop: Stop, *, allow: bool = False, waits: Callable[[], None] | None = None
    ) -> Run:
        """Run a job, and put down what it came to; StateError where that can't be done.

        `allow`: it may delete as many messages as it will. `waits` is told that somebody else runs
        it at the moment.
        """
        with self._records.locked(name, waits or (lambda: _tell_waiting(name))) as lock:
            last = self._records.last(name)
            began, clock = datetime.now(UTC), time.monotonic()
            job = self._jobs[name]
            if isinstance(job, UnisonJob):
                come_to = _Sum()
                if last:  # what is known is unknown should this run not come to its end
                    self._records.put(name, last.model_copy(update={"files": {}}))
                for pair in _pairs(name, job, last, clock + job.timeout, allow=allow):
                    come_to = come_to.and_of(pair, _keep_in_step(pair, lock, stop))
            else:
                result = _command(job, stop)
                come_to = _Sum(result, result.outcome == "done")
            self._records.put(name, _record(come_to, last, began))
        seconds = round(time.monotonic() - clock, 3)
        run = Run(come_to.result, seconds, counts=isinstance(job, UnisonJob))
        _tell(name, run)
        return run


class Schedule:
    """Runs every job when it is due, each in a thread of its own."""

    def __init__(self, config: Config) -> None:
        self._jobs = Jobs(config)
        self._config = config.sync
        self._stop = Stop()
        self._ending = False
        self._awake = {name: threading.Event() for name in config.sync}
        self._threads = [
            threading.Thread(target=self._go_on, args=(name,), name=f"sync {name}", daemon=True)
            for name in config.sync
        ]

    def start(self) -> None:
        """Begin, with a run of each."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Run them all at once: there was a switch."""
        for awake in self._awake.values():
            awake.set()

    def stop(self) -> None:
        """End the runs under way, and wait for that a little; the next start goes on."""
        self._ending = True
        self._stop.tell()
        self.wake()
        until = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _go_on(self, name: str) -> None:
        failures = 0
        while not self._ending:
            failures = 0 if self._succeeds(name) else failures + 1
            if self._awake[name].wait(pause(self._config[name].every, failures)):
                self._awake[name].clear()
                failures = 0

    def _succeeds(self, name: str) -> bool:
        """Run a job; whether the next run can wait until it is due."""
        try:
            return self._jobs.run(name, self._stop).result.outcome != "failed"
        except StateError as error:
            log.error("sync failed", extra={"job": name, "reason": str(error)})  # noqa: TRY400
        except Exception:  # whatever it was: the next run must still come
            log.exception("sync failed", extra={"job": name})
        return False


def pause(every: float, failures: int) -> float:
    """Seconds from the end of a run to the next, after so many failures in a row."""
    if not failures:
        return every
    return min(every, _AGAIN_SECONDS * 2.0 ** min(failures - 1, 30))  # more would be no number


def show(config: Config) -> Mapping[str, tuple[Job, SyncRecord | None]]:
    """Each job, and how it stands; None where no run has ended, or that can't be read."""
    records = Records(config.actions.state)

    def of(name: str) -> SyncRecord | None:
        try:
            return records.of(name)
        except StateError:
            return None

    return {name: (job, of(name)) for name, job in config.sync.items()}


# What is known of Unison's folders, by the pair's roots.
_Files = Mapping[str, Files]


# --- what it comes to -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Sum:
    """What a job comes to, pair after pair; whether each got through, but for refused deletions."""

    result: Result = field(default_factory=lambda: Result("done", end=0))
    through: bool = True
    files: _Files = field(default_factory=dict)

    def and_of(self, pair: Pair, its: Result) -> "_Sum":
        """Add what became of one more pair."""
        so_far = self.result
        worst = max(so_far, its, key=lambda one: ("done", "failed", "refused").index(one.outcome))
        return _Sum(
            Result(
                worst.outcome,
                "; ".join(filter(None, (so_far.reason, its.reason))),
                None if None in (so_far.end, its.end) else max(so_far.end or 0, its.end or 0),
                so_far.transferred + its.transferred,
                so_far.deleted + its.deleted,
                so_far.too_many + its.too_many,
                so_far.allowable or its.allowable,
                {**so_far.skipped, **_below(pair.local, its.skipped)},
                {**so_far.failed, **_below(pair.local, its.failed)},
            ),
            self.through and (its.outcome == "done" or (its.allowable and not its.failed)),
            {**self.files, **({_key(pair): its.files} if its.files is not None else {})},
        )


def _below(root: str, paths: Mapping[str, str]) -> dict[str, str]:
    shown = {f"{root}/{path}": why for path, why in paths.items()}
    return {path.encode(errors="replace").decode(): why for path, why in shown.items()}


def _record(come_to: _Sum, last: SyncRecord | None, began: datetime) -> SyncRecord:
    result, now = come_to.result, datetime.now(UTC)
    done = result.outcome == "done"
    paths = {**result.failed, **result.skipped}
    record = SyncRecord(
        since=last.since if last else began,
        ended=now,
        succeeded=now if come_to.through else last.succeeded if last else None,
        outcome=result.outcome,
        reason=result.reason,
        seconds=round((now - began).total_seconds(), 3),
        end=result.end,
        skipped=len(result.skipped),
        failed=len(result.failed),
        paths=dict(list(paths.items())[:_PATHS]),
        too_many=result.too_many,
        allowable=result.allowable,
        runs_total=1 + (last.runs_total if last else 0),
        failures_total=(not done) + (last.failures_total if last else 0),
        transferred_total=result.transferred + (last.transferred_total if last else 0),
        deleted_total=result.deleted + (last.deleted_total if last else 0),
        files=come_to.files,
    )
    if last and result.outcome == "failed" and not result.failed:
        # It did not come so far as to see: what was left, or refused, still is.
        kept = ("skipped", "failed", "paths", "too_many", "allowable")
        record = record.model_copy(update={key: getattr(last, key) for key in kept})
    return record


def _tell(name: str, run: Run) -> None:
    """One line for each run."""
    result, fields = run.result, dict[str, object](job=name)
    if run.counts:
        fields |= {
            "transferred": result.transferred,
            "skipped": len(result.skipped),
            "failed": len(result.failed),
            "deleted": result.deleted,
        }
    fields["seconds"] = run.seconds
    if result.reason:
        fields["reason"] = result.reason
    levels = {"done": logging.INFO, "refused": logging.ERROR, "failed": logging.WARNING}
    log.log(levels[result.outcome], "sync %s", result.outcome, extra=fields)


def _tell_waiting(name: str) -> None:
    log.info("sync waits: another process runs this job", extra={"job": name})


# --- one run --------------------------------------------------------------------------------


def _pairs(
    name: str, job: UnisonJob, last: SyncRecord | None, until: float, *, allow: bool
) -> Iterator[Pair]:
    """The job's pairs, each with its part of the time that those before it have left."""
    for number, roots in enumerate(job.pairs):
        pair = Pair(
            local=roots.local,
            remote=roots.remote,
            name=f"zonerw-{name}",
            timeout=max(0.0, until - time.monotonic()) / (len(job.pairs) - number),
            share=job.max_deletions,
            allow=allow,
        )
        yield replace(pair, files=last.files.get(_key(pair)) if last else None)


def _key(pair: Pair) -> str:
    return f"{pair.local} {pair.remote}"


def _keep_in_step(pair: Pair, lock: int, stop: Stop) -> Result:
    """Have `zonerw-unison` keep a pair in step, as the user to whom the local folder belongs."""
    program = str(Path(sysconfig.get_path("scripts")) / "zonerw-unison")
    owner = _owner(pair.local)
    if owner == 0 != os.geteuid():
        return Result("failed", f"{pair.local} belongs to root: give it to the owner of the mail")
    as_owner = () if owner in (None, os.geteuid()) else ("sudo", "-n", "-u", _name(owner), "--")
    command = (*as_owner, program)
    given = f"{json.dumps(asdict(pair))}\n".encode()
    ended = errand.run(command, given, pair.timeout + _LATE_SECONDS, lock, stop)
    if ended.cut_off:
        return Result("failed", ended.cut_off)
    try:
        return Result(**json.loads(ended.out))
    except (ValueError, TypeError):  # sudo's words, or a traceback
        return Result("failed", f"{' '.join(command)}: {ended.words}")


def _command(job: CommandJob, stop: Stop) -> Result:
    """Run a job's command; its exit status says what it came to, its last words why."""
    ended = errand.run(job.command, None, job.timeout, None, stop)
    if ended.cut_off:
        return Result("failed", ended.cut_off)
    if ended.status != 0:
        return Result("failed", f"{job.command[0]}: {ended.words}", ended.status)
    return Result("done", end=0)


def _owner(path: str) -> int | None:
    """Whose a folder is, or the first above it that may be looked at; None where it is missing."""
    for folder in (Path(path), *Path(path).parents):
        try:
            return folder.stat().st_uid
        except PermissionError:
            continue
        except OSError:
            return None
    return None


def _name(user: int | None) -> str:
    try:
        return pwd.getpwuid(user or 0).pw_name
    except KeyError:
        return f"#{user}"
