"""What it is doing, and why, as one document; and what a run came to, in the same words.

Owns the names that other programs read. Reads nothing: what is there, and what is remembered, comes
from view; text makes it readable.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

from actions import state
from actions.accept import Standing
from actions.decide import Alert, Cause, Look, Verdict
from actions.judge import Judgement
from actions.metrics import Step
from actions.notify import Behind, Serves
from actions.outcome import Outcome, ZoneOutcome
from actions.records import SyncRecord
from actions.state import Meant, StateError
from exporter.config import Config, Job

_LAST_SWITCHES = 10

Time = Annotated[
    AwareDatetime, PlainSerializer(lambda time: time.isoformat(timespec="seconds"), str)
]
ByZone = Mapping[str, Serves | Behind]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Server(_Part):
    """What is known of a server; `doubt`: why that is no verdict though a witness has spoken."""

    verdict: Verdict
    alert: Alert
    look: Look
    seen_up: bool
    doubt: str | None


class Pin(_Part):
    """The operator's override."""

    server: str
    until: Time
    reason: str
    by: str


class UnknownPin(_Part):
    """Why it can't be told whether a server is pinned."""

    unknown: str


class Stands(_Part):
    """What a nameserver serves of a zone, and why that is not what it should be."""

    serial: int | None
    serves: bool
    reason: str


class Zone(_Part):
    """A zone as it is published, what is wrong with that, and how its source stands."""

    serial: int | None
    failed: Step | None
    reason: str
    source: Standing | None


class Switch(_Part):
    """Another server came to be served."""

    at: Time
    before: str | None = Field(alias="from")
    to: str
    cause: Cause | None
    why: str
    by: str


class Sync(_Part):
    """How a job stands that keeps the servers in step; `every` is in seconds.

    `outcome` is the last run's, None before the first has ended; `succeeded` is when one last did
    all it could. So many files were `skipped`, or `failed`; `paths` are some, with the reason.
    """

    every: float
    outcome: Literal["done", "refused", "failed"] | None
    reason: str
    ended: Time | None
    succeeded: Time | None
    seconds: float | None
    skipped: int
    failed: int
    paths: Mapping[str, str]
    too_many: int
    allowable: bool


class Trouble(_Part):
    """A file or folder that can't be used."""

    file: str
    why: str


class Run(_Part):
    """When the daemon's last run ended, and why it came to nothing, if so.

    The next one begins `every` seconds later, if nothing happens before.
    """

    ended: Time | None
    every: float
    error: str | None


class _Told(_Part):
    """What a run's answer and the status have in common; what is not known is None, or not there.

    Without `serving`, `why` says why that is not known.
    """

    serving: str | None
    since: Time | None
    why: str
    by: str
    pin: Pin | UnknownPin | None
    blind: str | None
    alone: bool | None
    missing: str | None
    servers: Mapping[str, Server]
    secondaries: Mapping[str, Mapping[str, Stands]]


class Answer(_Told):
    """What a run came to."""

    switched_from: str | None
    zones: Mapping[str, ZoneOutcome]


class Document(_Told):
    """How everything stands. `daemon_missing`: why the daemon did not say so itself."""

    at: Time
    daemon_missing: str | None
    run: Run | None
    handback: Literal["auto", "manual"]
    zones: Mapping[str, Zone]
    primary: Mapping[str, Mapping[str, Stands]]
    switches: tuple[Switch, ...]
    sync: Mapping[str, Sync]
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True)
class Files:
    """What the state folder and the sources say; an error stands for what can't be read.

    `troubles` are all such errors, also those of files that are not shown.
    """

    meant: Meant | StateError | None
    pin: state.Pin | StateError | None
    seen: Mapping[str, str]
    history: Sequence[Meant]
    accepted: Collection[str]
    sources: Mapping[str, Standing]
    sync: Mapping[str, SyncRecord | None]
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True)
class Moment:
    """What else is known at a time: remembered by the daemon, or seen without it."""

    at: datetime
    daemon_missing: str | None
    run: Run | None
    judgement: Judgement | None
    zones: Mapping[str, ZoneOutcome]
    primary: ByZone
    secondaries: Mapping[str, ByZone]


def answer(outcome: Outcome, secondaries: Mapping[str, ByZone]) -> Answer:
    """Put a run's outcome into words."""
    return Answer(
        **_meant(outcome.meant),
        **_judged(outcome.judgement),
        pin=_pin(outcome.pin),
        switched_from=outcome.switched_from,
        zones=dict(sorted(outcome.zones.items())),
        secondaries={name: _stand(zones, outcome.zones) for name, zones in secondaries.items()},
    )


def document(config: Config, files: Files, moment: Moment) -> Document:
    """Put together how everything stands."""
    names = {*files.accepted, *files.sources} or moment.zones
    return Document(
        at=moment.at,
        daemon_missing=moment.daemon_missing,
        run=moment.run,
        **_meant(files.meant),
        **_judged(moment.judgement),
        pin=_pin(files.pin),
        handback=config.policy.handback,
        zones={
            name: _zone(moment.zones.get(name, ZoneOutcome()), files.sources.get(name))
            for name in sorted(names)
        },
        primary={config.primary.name: _stand(moment.primary, moment.zones)},
        secondaries={n: _stand(zones, moment.zones) for n, zones in moment.secondaries.items()},
        switches=tuple(map(_switch, reversed(files.history[-_LAST_SWITCHES:]))),
        sync={name: _sync(job, files.sync.get(name)) for name, job in config.sync.items()},
        troubles=files.troubles,
    )


def _meant(meant: Meant | StateError | None) -> dict[str, Any]:
    if isinstance(meant, Meant):
        return {"serving": meant.server, "since": meant.since, "why": meant.why, "by": meant.by}
    why = "nothing is put down yet" if meant is None else on_one_line(str(meant))
    return {"serving": None, "since": None, "why": why, "by": ""}


def _judged(judgement: Judgement | None) -> dict[str, Any]:
    if judgement is None:
        return {"blind": None, "alone": None, "missing": None, "servers": {}}
    servers = {
        name: Server(
            verdict=its.verdict,
            alert=its.alert,
            look=its.look,
            seen_up=its.seen_up,
            doubt=its.doubt,
        )
        for name, its in judgement.testimonies.items()
    }
    return {
        "blind": judgement.blind,
        "alone": judgement.alone,
        "missing": judgement.missing,
        "servers": servers,
    }


def _sync(job: Job, record: SyncRecord | None) -> Sync:
    if record is None:
        return Sync(
            every=job.every,
            outcome=None,
            reason="",
            ended=None,
            succeeded=None,
            seconds=None,
            skipped=0,
            failed=0,
            paths={},
            too_many=0,
            allowable=False,
        )
    return Sync(
        every=job.every,
        outcome=record.outcome,
        reason=on_one_line(record.reason),
        ended=record.ended,
        succeeded=record.succeeded,
        seconds=record.seconds,
        skipped=record.skipped,
        failed=record.failed,
        paths=record.paths,
        too_many=record.too_many,
        allowable=record.allowable,
    )


def _pin(pin: state.Pin | StateError | None) -> Pin | UnknownPin | None:
    if isinstance(pin, StateError):
        return UnknownPin(unknown=on_one_line(str(pin)))
    return Pin(**dict(pin)) if pin else None


def _zone(outcome: ZoneOutcome, source: Standing | None) -> Zone:
    failed, reason = outcome.failed, outcome.reason
    if failed == "accept" or (failed is None and source and source.state == "gone"):
        failed, reason = None, ""  # it is the source that says so
    return Zone(serial=outcome.serial, failed=failed, reason=reason, source=source)


def _stand(zones: ByZone, published: Mapping[str, ZoneOutcome]) -> dict[str, Stands]:
    """How a nameserver stands; one that serves what the primary does may be behind the files."""

    def stands(name: str, its: Serves | Behind) -> Stands:
        serial = published[name].serial if name in published else None
        if isinstance(its, Behind):
            return Stands(serial=its.serial, serves=False, reason=its.reason)
        if serial not in (None, its.serial):
            why = f"serves {its.serial}, not {serial}"
            return Stands(serial=its.serial, serves=False, reason=why)
        return Stands(serial=its.serial, serves=True, reason="")

    return {name: stands(name, its) for name, its in sorted(zones.items())}


def _switch(switch: Meant) -> Switch:
    return Switch.model_validate(
        {
            "at": switch.since,
            "from": switch.before,
            "to": switch.server,
            "cause": switch.cause,
            "why": switch.why,
            "by": switch.by,
        }
    )


def on_one_line(reason: str) -> str:
    """A reason as it fits into a line; some have several."""
    return " ".join(reason.split())
