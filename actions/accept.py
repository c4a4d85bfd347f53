"""Accepting: a person's word that the sources, as they are now, are to be published.

Owns reading the owner's base files and every check that a source must pass, so that a switch has
nothing left to check. Checking may take minutes where there are thousands, so it needs no lock, and
no switch waits for it; what passed is taken over under the lock. Publishing it is converge's
business.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

from actions import files, nameserver, zone
from actions.state import Mark, State, StateError, mark
from exporter import zonefile
from exporter.config import Config
from exporter.zonefile import SUFFIX

log = logging.getLogger(__name__)

# Who waits longer wants to know how far it is.
_TELL_EVERY_SECONDS = 5.0

# A scrape waits, or a person does: what is not checked by then is left to the next look.
_CHECK_SECONDS = 2.0
# What is broken may be so for a cause elsewhere, as a checker that is not there.
_CHECK_AGAIN_SECONDS = 60.0
# What takes longer than a look is left to a person's word, mostly: others have to be checked too.
_CHECK_SLOW_AGAIN_SECONDS = 3600.0
_KEPT_SECONDS = {
    "accepted": math.inf,
    "pending": math.inf,
    "unchecked": 0.0,
    "broken": _CHECK_AGAIN_SECONDS,
}


@dataclass(frozen=True)
class Verdict:
    """What became of one source, and why: a line for each fault, with file and line number."""

    kind: Literal["accepted", "refused", "vanished", "retired"]
    why: str = ""


@dataclass(frozen=True)
class Checked:
    """What the checks came to: what passed, as its hash, and why others are refused, by zone.

    `zones`: those that were named; none, where all were meant. `found`: those that have a file.
    """

    zones: tuple[str, ...]
    passed: Mapping[str, int]
    refused: Mapping[str, str]
    found: frozenset[str]
    nothing: str | None = None  # why nothing at all was found


@dataclass(frozen=True)
class Standing:
    """How a source stands to what was accepted of it, if anything was.

    `why`: whether a pending one was "edited" or is "new"; what is wrong with a broken one, a line
    for each fault. An unchecked one is pending too: there was no time yet to see if it is good, or
    there will not be.
    """

    state: Literal["accepted", "pending", "unchecked", "broken", "gone"]
    why: str = ""


SLOW = Standing("unchecked", "its check takes long")


def check(config: Config, zones: tuple[str, ...]) -> Checked:
    """Check the named zones' sources, or all there are; tells the log how far it is."""
    folder = config.zones.sources
    try:
        found = zonefile.find(folder)
        nothing = None if found.paths else "no source that can be used is in it"
    except OSError as error:
        nothing = f"can't be read: {error.strerror}"
    if nothing:
        return Checked(zones, {}, {}, frozenset(), nothing)
    paths = {name: found.paths[name] for name in zones or found.paths if name in found.paths}
    passed, refused = dict[str, int](), dict[str, str]()
    # Most of it is the name server's own checker, a program: one for each processor. Whoever ends
    # the program waits for none of them, while an executor's threads first do all that was asked.
    with ThreadPool() as pool:
        read = pool.imap(lambda item: _read(config, *item), paths.items())
        for name, its in zip(paths, _told(read, len(paths)), strict=True):
            if isinstance(its, Verdict):
                refused[name] = its.why
            else:
                passed[name] = its
    for file, why in found.refused.items():
        name = file.removesuffix(SUFFIX)
        if not zones or name in zones:
            refused[name] = f"{folder / file}: {why}"
    return Checked(zones, passed, refused, frozenset(found.paths))


def accept(config: Config, state: State, checked: Checked) -> Mapping[str, Verdict]:
    """Take over what has passed, under the lock; what becomes of each zone.

    What was accepted before stays so where the new source is refused. So it does where the source
    has vanished, until a person names that zone, and others are there: a folder that is not mounted
    retires nothing.
    """
    if checked.nothing:
        folder = str(config.zones.sources)
        if not checked.zones:
            return {folder: Verdict("refused", checked.nothing)}
        return dict.fromkeys(checked.zones, Verdict("refused", f"{folder}: {checked.nothing}"))
    changed = set[str]()
    state.accept(_as_checked(config, checked.passed, changed))
    passed = checked.passed.keys() - changed
    accepted = state.accepted().keys() | state.lost()
    missing = set(checked.zones or accepted) - checked.found - checked.refused.keys()
    return {
        **dict.fromkeys(passed, Verdict("accepted")),
        **{name: _changed(_path(config, name)) for name in changed},
        **{name: Verdict("refused", why) for name, why in checked.refused.items()},
        **{
            name: _missing(config, state, name, named=bool(checked.zones), known=name in accepted)
            for name in missing
        },
    }


def _path(config: Config, name: str) -> Path:
    return config.zones.sources / f"{name}{SUFFIX}"


def _changed(path: Path) -> Verdict:
    return Verdict("refused", f"{path}: changed while it was checked")


def _as_checked(
    config: Config, hashes: Mapping[str, int], changed: set[str]
) -> Iterator[tuple[str, bytes]]:
    """The sources that have these hashes, as each is its turn; adds those that have not."""
    for name, known in hashes.items():
        content = None
        with suppress(OSError):
            content = _path(config, name).read_bytes()
        if content is None or hash(content) != known:
            changed.add(name)
        else:
            yield name, content


class Watch:
    """How the sources stand to what was accepted; looking changes nothing.

    What has not changed since the last look is not read again, and a look takes a few seconds at
    most: checks that are left then are for the next one. Any thread may look.
    """

    def __init__(self, config: Config, state: State) -> None:
        self._config = config
        self._state = state
        self._known: dict[str, _Looked] = {}
        self._looking = threading.Lock()

    def look(self) -> Mapping[str, Standing]:
        """How each source stands; OSError or StateError where a folder can't be read."""
        with self._looking:
            return self._look()

    def _look(self) -> Mapping[str, Standing]:
        folder = self._config.zones.sources
        accepted, found = self._state.accepted(), zonefile.find(folder)
        stand = {name: Standing("gone") for name in accepted.keys() - found.paths.keys()}
        for file, why in found.refused.items():
            name = file.removesuffix(SUFFIX)
            stand[name] = Standing("broken", f"{folder / file}: {why}")
        known, self._known = self._known, {}
        until = time.monotonic() + _CHECK_SECONDS
        slow = {name for name, its in known.items() if its.standing == SLOW}
        for name, path in sorted(found.paths.items(), key=lambda item: item[0] in slow):
            marks = _mark_of(path), accepted.get(name)
            its, now = known.get(name), time.monotonic()
            if its is None or its.marks != marks or now >= its.until:
                accepted_there = marks[1] is not None
                stands = self._standing(name, path, until, known=accepted_there)
                kept = _CHECK_SLOW_AGAIN_SECONDS if stands == SLOW else _KEPT_SECONDS[stands.state]
                its = _Looked(marks, stands, now + kept)
            stand[name] = its.standing
            if marks[0] is not None:
                self._known[name] = its
        return dict(sorted(stand.items()))

    def _standing(self, name: str, path: Path, until: float, *, known: bool) -> Standing:
        try:
            content = path.read_bytes()
            accepted = self._state.source(name) if known else None
        except OSError as error:
            return Standing("broken", _unreadable(path, error))
        except StateError as error:
            return Standing("broken", str(error))
        if content == accepted:
            return Standing("accepted")
        if time.monotonic() >= until:
            return Standing("unchecked")
        return self._checked(name, path, content, until) or Standing(
            "pending", "edited" if known else "new"
        )

    def _checked(self, name: str, path: Path, content: bytes, until: float) -> Standing | None:
        """How an edited source stands by its check; None where it is good."""
        left = until - time.monotonic()
        try:
            faults = _faults(self._config, name, path, content, until)
        except TimeoutError:  # it may have begun late: then it is for the next look
            return SLOW if left > _CHECK_SECONDS / 2 else Standing("unchecked")
        return Standing("broken", faults) if faults else None


@dataclass(frozen=True, slots=True)
class _Looked:
    """How a source stood when it and what is accepted had these marks; that holds `until` then."""

    marks: tuple[Mark | None, Mark | None]
    standing: Standing
    until: float


def _mark_of(path: Path) -> Mark | None:
    try:
        return mark(path.stat())
    except OSError:
        return None


def _told(read: Iterable[int | Verdict], count: int) -> Iterable[int | Verdict]:
    """The same, with a word to the log now and then."""
    told = time.monotonic()
    for done, its in enumerate(read):
        if time.monotonic() - told >= _TELL_EVERY_SECONDS:
            told = time.monotonic()
            log.info("checking sources", extra={"done": done, "of": count})
        yield its


def _read(config: Config, name: str, path: Path) -> int | Verdict:
    """Read a source and check it: its hash, or why it is refused."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Verdict("refused", _unreadable(path, error))
    if faults := _faults(config, name, path, content):
        return Verdict("refused", faults)
    return hash(content)


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: can't be read: {error.strerror}"


def _faults(
    config: Config, name: str, path: Path, content: bytes, until: float = math.inf
) -> str | None:
    """What is wrong with a source, a line for each fault; None where nothing is.

    TimeoutError where the checker would take longer than `until` then.
    """
    try:
        source = zonefile.parse(name, content, config.servers)
        for rendering in zone.accept(source, config.servers).values():
            if (within := until - time.monotonic()) <= 0:
                raise TimeoutError
            nameserver.check(config.primary, name, rendering, within=within)
    except zonefile.SourceRefused as refused:
        faults = (
            f"{path}:{fault}" if fault.line else f"{path}: {fault.text}" for fault in refused.faults
        )
        return "\n".join(faults)
    return None


def _missing(config: Config, state: State, name: str, *, named: bool, known: bool) -> Verdict:
    path = _path(config, name)
    if not known:
        return Verdict("refused", f"{path}: no such source")
    if os.path.lexists(path):  # a newer word may have accepted it meanwhile
        return _changed(path)
    if not named:
        return Verdict(
            "vanished",
            f"{path} is gone; served on as it was accepted until --forced {name} retires it",
        )
    published = config.zones.published / name
    with suppress(OSError):  # what a killed run may have left: nobody looks after it once retired
        files.clear(published)
    state.retire(name)
    return Verdict(
        "retired",
        f"{path} is gone: {published} is not written any more;"
        " take the zone out of the name servers",
    )
