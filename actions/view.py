"""Looks for what status says: files, the daemon's memory or, without it, witnesses and nameservers.

Owns the looking; it takes no lock and writes nothing, so it never waits for a run under way. Each
file is read for itself: one that is damaged hides no other.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import requests
from pydantic import ValidationError

from actions import notify, zone
from actions.accept import Standing, Watch
from actions.judge import Witnesses, judge
from actions.notify import Behind, Follower, Serves
from actions.outcome import Latest, ZoneOutcome
from actions.records import Records
from actions.state import Meant, Refused, State, StateError
from actions.status import (
    ByZone,
    Document,
    Files,
    Moment,
    Run,
    Trouble,
    document,
    on_one_line,
)
from actions.templates import Accepted, Templates
from actions.zone import Values
from exporter import soa
from exporter.config import Config

# A nameserver on the same continent answers well within this.
_ANSWER_SECONDS = 1.0

# It answers from memory, but for edited sources, which it checks: some zones take that long.
_DAEMON_SECONDS = 5.0

_T = TypeVar("_T")


def by_daemon(
    config: Config, watch: Watch, latest: Latest, followers: Sequence[Follower]
) -> Document:
    """How everything stands, by what the daemon remembers; before a run has ended, by files."""
    files = _files(config, watch)
    # What an earlier run was told says nothing of now.
    known = latest.outcome if not latest.error else None
    verified = known.zones if known else {}
    zones = verified if known else _published(config, files)
    every = config.alertmanager.poll if config.alertmanager else config.policy.every
    error = on_one_line(latest.error) if latest.error else None
    moment = Moment(
        at=datetime.now(UTC),
        daemon_missing=None,
        run=Run(ended=latest.ended, every=every, error=error),
        judgement=known.judgement if known else None,
        zones=zones,
        primary={name: _verified(its) for name, its in verified.items() if its.serial is not None},
        secondaries={follower.name: follower.seen() for follower in followers},
    )
    return document(config, files, moment)


def from_daemon(config: Config, token: str | None) -> Document | str:
    """Ask the daemon how everything stands, as the operator; why it gives no answer, if so."""
    url = f"http://{config.actions.listen}/status"
    silent = f"zonerw actions does not answer at {url}: "
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy for the web is none for the daemon
            answer = session.get(
                url,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=_DAEMON_SECONDS,
                allow_redirects=False,
            )
    except requests.Timeout:
        return f"{silent}no answer within {_DAEMON_SECONDS:g} s"
    except requests.RequestException:
        return f"{silent}connection failed"
    if answer.status_code != requests.codes.ok:
        return f"{silent}status {answer.status_code}"
    try:
        return Document.model_validate_json(answer.content)
    except ValidationError:
        return f"{silent}what answers there is something else"


def by_itself(config: Config, witnesses: Witnesses, daemon_missing: str) -> Document:
    """How everything stands, without the daemon: looks at servers and asks nameservers now.

    StateError where the state folder can't be read at all.
    """
    state = State(config.actions.state)
    state.readable()
    files = _files(config, Watch(config, state))
    now = datetime.now(UTC)
    serving, zones = _serving(config, files) or config.preferred, _published(config, files)
    primary, secondaries = _asked(config, {name: its.serial for name, its in zones.items()})
    moment = Moment(
        at=now,
        daemon_missing=daemon_missing,
        run=None,
        # What would be decided is not shown, so the pin is not needed here.
        judgement=judge(config, witnesses, serving, None, files.seen),
        zones=zones,
        primary=primary,
        secondaries=secondaries,
    )
    return document(config, files, moment)


def _files(config: Config, watch: Watch) -> Files:
    kept, troubles = State(config.actions.state), list[Trouble]()

    def read(what: Callable[[], _T]) -> _T | StateError:
        try:
            return what()
        except StateError as error:
            troubles.append(Trouble(file=str(error.path), why=on_one_line(error.reason)))
            return error

    meant, pin = read(kept.meant), read(lambda: kept.pin(datetime.now(UTC)))
    seen, history, accepted = read(kept.seen), read(kept.history), read(kept.accepted)
    read(kept.serials), read(kept.refused), read(kept.lifted)
    records = Records(config.actions.state)
    jobs = {name: read(partial(records.of, name)) for name in config.sync}
    sources: Mapping[str, Standing] = {}
    # Without these it can't be told which sources are new, and all would seem to be.
    if not isinstance(accepted, StateError):
        try:
            sources = watch.look()
        except StateError as error:
            troubles.append(Trouble(file=str(error.path), why=on_one_line(error.reason)))
        except OSError as error:
            why = f"can't be read: {error.strerror}"
            troubles.append(Trouble(file=str(config.zones.sources), why=why))
    return Files(
        meant=meant,
        pin=pin,
        seen={} if isinstance(seen, StateError) else seen,
        history=() if isinstance(history, StateError) else history,
        accepted=() if isinstance(accepted, StateError) else accepted.keys(),
        sources=sources,
        sync={n: None if isinstance(its, StateError) else its for n, its in jobs.items()},
        troubles=tuple(troubles),
    )


def _verified(outcome: ZoneOutcome) -> Serves | Behind:
    """How the primary stood with a zone at the end of a run."""
    if outcome.failed in ("reload", "verify") or outcome.serial is None:
        return Behind(None, outcome.reason)
    return Serves(outcome.serial)


def _serving(config: Config, files: Files) -> str | None:
    """Who is meant to serve, as far as that is known."""
    meant = files.meant.server if isinstance(files.meant, Meant) else None
    return meant if meant in config.servers else None


def _published(config: Config, files: Files) -> Mapping[str, ZoneOutcome]:
    """How each zone is published, and what the next run finds wrong with that."""
    kept, serving = State(config.actions.state), _serving(config, files)
    values = zone.values(config.servers, serving) if serving else None
    try:
        sources, refused = Templates(kept, config.servers).read(), kept.refused()
    except StateError:
        return {}  # the status says so of the file
    told = {name: ZoneOutcome(failed="render", reason=why) for name, why in sources.refused.items()}
    for name, source in sources.accepted.items():
        path = config.zones.published / name
        try:
            told[name] = _zone(path, source, values, refused.get(name))
        except StateError as error:  # a run has just taken over another one, or a person did
            told[name] = ZoneOutcome(reason=str(error))
    return told


def _zone(
    path: Path, source: Accepted, values: Values | None, refused: Refused | None
) -> ZoneOutcome:
    try:
        published = path.read_bytes()
    except FileNotFoundError:
        return ZoneOutcome(reason="is not published yet")
    except OSError as error:
        return ZoneOutcome(failed="render", reason=f"{path}: {error.strerror}")
    serial = zone.serial_of(path.name, published)
    if serial is None:
        return ZoneOutcome(reason=f"{path} holds no serial; the next run writes it anew")
    if refused and refused.serial == serial:
        return ZoneOutcome(serial, failed="verify", reason=refused.reason)
    if values and source.render(values, serial) != published:
        why = f"{path} is not what it is meant to be; the next run writes it anew"
        return ZoneOutcome(serial, reason=why)
    return ZoneOutcome(serial)


def _asked(
    config: Config, published: Mapping[str, int | None]
) -> tuple[ByZone, Mapping[str, ByZone]]:
    """Ask every nameserver: how the primary stands to the files, the secondaries to the primary."""
    wanted = {name: serial for name, serial in published.items() if serial is not None}
    answers = soa.ask_all(config.nameservers, list(wanted), {}, _ANSWER_SECONDS)
    at_primary = answers.pop(config.primary.name).serials
    primary: dict[str, Serves | Behind] = {}
    for name, serial in wanted.items():
        its = at_primary[name]
        if isinstance(its, soa.NoSerial):
            primary[name] = Behind(None, its.reason)
        elif its.serial == serial:
            primary[name] = Serves(serial)
        else:
            primary[name] = Behind(its.serial, f"serves {its.serial}, not {serial}")
    served = {name: its.serial for name, its in primary.items() if its.serial is not None}
    secondaries = {
        nameserver: {
            name: notify.standing(its, served.get(name, wanted[name]))
            for name, its in theirs.serials.items()
        }
        for nameserver, theirs in answers.items()
    }
    return primary, secondaries
