"""Accepting: a person's word that the sources, as they are now, are to be published.

Owns reading the owner's base files and every check that a source must pass, so that a switch has
nothing left to check. What passes is kept in the state; publishing it is converge's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actions import nameserver, zone
from actions.state import State
from exporter import zonefile
from exporter.config import Config


@dataclass(frozen=True)
class Verdict:
    """What became of one source, and why: a line for each fault, with file and line number."""

    kind: Literal["accepted", "refused", "vanished", "retired"]
    why: str = ""


@dataclass(frozen=True)
class Standing:
    """How a source stands to what was accepted of it, if anything was.

    `why`: whether a pending one was "edited" or is "new"; what is wrong with a broken one, a line
    for each fault.
    """

    state: Literal["accepted", "pending", "broken", "gone"]
    why: str = ""


def accept(config: Config, state: State, names: tuple[str, ...]) -> Mapping[str, Verdict]:
    """Accept the named zones' sources, or all there are.

    What was accepted before stays so where the new source is refused. So it does where the source
    has vanished, until a person names that zone, and others are there: a folder that is not mounted
    retires nothing.
    """
    folder = config.zones.sources
    try:
        found = zonefile.find(folder)
        nothing = None if found.paths else "no source that can be used is in it"
    except OSError as error:
        nothing = f"can't be read: {error.strerror}"
    if nothing:
        return dict.fromkeys(names or (str(folder),), Verdict("refused", f"{folder}: {nothing}"))
    read = {
        name: _read(config, name, found.paths[name])
        for name in names or found.paths
        if name in found.paths
    }
    state.accept({name: it for name, it in read.items() if isinstance(it, bytes)})
    verdicts = {
        name: it if isinstance(it, Verdict) else Verdict("accepted") for name, it in read.items()
    }
    refused = {
        file.removesuffix(zonefile.SUFFIX): Verdict("refused", f"{folder / file}: {why}")
        for file, why in found.refused.items()
    }
    accepted = state.accepted()
    for name in set(names or (*accepted, *refused)) - found.paths.keys():
        verdicts[name] = refused.get(name) or _missing(
            config, state, name, named=bool(names), known=name in accepted
        )
    return verdicts


def standings(config: Config, accepted: Mapping[str, bytes]) -> Mapping[str, Standing]:
    """How each source stands to what was accepted; changes nothing.

    OSError where the folder can't be read. What is as it was accepted is not checked again.
    """
    folder = config.zones.sources
    found = zonefile.find(folder)
    stand = {name: Standing("gone") for name in accepted.keys() - found.paths.keys()}
    for file, why in found.refused.items():
        stand[file.removesuffix(zonefile.SUFFIX)] = Standing("broken", f"{folder / file}: {why}")
    for name, path in found.paths.items():
        stand[name] = _standing(config, name, path, accepted.get(name))
    return dict(sorted(stand.items()))


def _standing(config: Config, name: str, path: Path, accepted: bytes | None) -> Standing:
    try:
        content = path.read_bytes()
    except OSError as error:
        return Standing("broken", _unreadable(path, error))
    if content == accepted:
        return Standing("accepted")
    if faults := _faults(config, name, path, content):
        return Standing("broken", faults)
    return Standing("pending", "new" if accepted is None else "edited")


def _read(config: Config, name: str, path: Path) -> bytes | Verdict:
    """Read a source and check it: its content, or why it is refused."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Verdict("refused", _unreadable(path, error))
    if faults := _faults(config, name, path, content):
        return Verdict("refused", faults)
    return content


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: can't be read: {error.strerror}"


def _faults(config: Config, name: str, path: Path, content: bytes) -> str | None:
    """What is wrong with a source, a line for each fault; None where nothing is."""
    try:
        source = zonefile.parse(name, content, config.servers)
        for rendering in zone.accept(source, config.servers).values():
            nameserver.check(config.primary, name, rendering)
    except zonefile.SourceRefused as refused:
        faults = (
            f"{path}:{fault}" if fault.line else f"{path}: {fault.text}" for fault in refused.faults
        )
        return "\n".join(faults)
    return None


def _missing(config: Config, state: State, name: str, *, named: bool, known: bool) -> Verdict:
    path = config.zones.sources / f"{name}{zonefile.SUFFIX}"
    if not known:
        return Verdict("refused", f"{path}: no such source")
    if not named:
        return Verdict(
            "vanished",
            f"{path} is gone; served on as it was accepted until --forced {name} retires it",
        )
    state.retire(name)
    return Verdict(
        "retired",
        f"{path} is gone: {config.zones.published / name} is not written any more;"
        " take the zone out of the name servers",
    )
