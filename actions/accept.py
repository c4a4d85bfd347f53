"""Accepting: a person's word that the sources, as they are now, are to be published.

Owns reading the owner's base files and every check that a source must pass, so that a switch has
nothing left to check. What passes is kept in the state; publishing it is converge's business.
"""

from collections.abc import Mapping
from pathlib import Path

from actions import nameserver, zone
from actions.state import State
from exporter import zonefile
from exporter.config import Config


def accept(config: Config, state: State, names: tuple[str, ...]) -> Mapping[str, str | None]:
    """Accept the named zones' sources, or all there are.

    Returns for each zone None, or why it is refused: a line for each fault, with file and line
    number. What was accepted before stays so where the new source is refused.
    """
    folder = config.zones.sources
    try:
        found = zonefile.find(folder)
    except OSError as error:
        reason = f"{folder}: can't be read: {error.strerror}"
        return dict.fromkeys(names or (str(folder),), reason)
    verdicts: dict[str, str | None] = {}
    passed: dict[str, bytes] = {}
    for name in names or tuple(found.paths):
        path = found.paths.get(name)
        if path is None:
            verdicts[name] = f"{folder / (name + zonefile.SUFFIX)}: no such source"
            continue
        try:
            passed[name] = _checked(config, name, path)
            verdicts[name] = None
        except zonefile.SourceRefused as refused:
            verdicts[name] = "\n".join(
                f"{path}:{fault}" if fault.line else f"{path}: {fault.text}"
                for fault in refused.faults
            )
        except OSError as error:
            verdicts[name] = f"{path}: can't be read: {error.strerror}"
    if not names:
        verdicts |= {file: f"{folder / file}: {why}" for file, why in found.refused.items()}
    state.accept(passed)
    return verdicts


def _checked(config: Config, name: str, path: Path) -> bytes:
    content = path.read_bytes()
    source = zonefile.parse(name, content, config.servers)
    for rendering in zone.accept(source, config.servers).values():
        nameserver.check(config.primary, name, rendering)
    return content
