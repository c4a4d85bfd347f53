"""The accepted sources, ready to be filled in; each is parsed anew only when it has changed.

Owns what stays in memory of them, which is not their text: that is read when it is filled in. What
a source must hold to be accepted is left to `accept.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actions import zone
from actions.state import Mark, State, StateError
from actions.zone import Values
from exporter import zonefile
from exporter.config import Server

_ANEW = "zonerw rewrite --forced {} accepts it anew"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted source, and the template that its text was made, when its file had this mark.

    `text`: the hash of that text, for it is the only one that the template's places fit.
    """

    state: State
    name: str
    mark: Mark
    text: int
    template: zone.Template

    def content(self) -> bytes:
        """Its text; StateError if that can't be read, or is another one by now."""
        content = self.state.source(self.name)
        if hash(content) != self.text:
            path = Path(self.state.path_of(self.name))
            raise StateError(path, "was changed while it was used")
        return content

    def render(self, values: Values, serial: int) -> bytes:
        """Fill it in; StateError as with `content`."""
        return self.template.render(self.content(), values, serial)


@dataclass(frozen=True)
class Reading:
    """The accepted sources by zone, and why there is none for a zone."""

    accepted: Mapping[str, Accepted]
    refused: Mapping[str, str]


class Templates:
    """The accepted sources of one state folder, for these servers."""

    def __init__(self, state: State, servers: Mapping[str, Server]) -> None:
        self._state = state
        self._servers = servers
        self._known: Mapping[str, Accepted] = {}

    def read(self) -> Reading:
        """What is accepted now; StateError if that can't be read."""
        refused = {
            name: f"its accepted source is gone; {_ANEW.format(name)}"
            for name in self._state.lost()
        }
        sources = dict[str, Accepted]()
        for name, mark in self._state.accepted().items():
            its = self._known.get(name)
            try:
                if its is None or its.mark != mark:
                    its = self._read(name, mark)
                sources[its.name] = its  # that name is in memory already
            except zonefile.SourceRefused as error:
                # It was right when it was accepted: the configuration has changed since.
                path, faults = self._state.path_of(name), "; ".join(map(str, error.faults))
                refused[name] = f"{path}:{faults}; {_ANEW.format(name)}, once it is right"
            except StateError as error:
                refused[name] = str(error)
        self._known = sources
        return Reading(sources, refused)

    def _read(self, name: str, mark: Mark) -> Accepted:
        content = self._state.source(name)
        source = zonefile.parse(name, content, self._servers)
        zone.check_left_out(source, self._servers)
        template = zone.template(source, self._servers)
        return Accepted(self._state, name, mark, hash(content), template)
