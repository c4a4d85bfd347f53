"""The accepted sources, ready to be filled in; each is read anew only when it has changed.

Owns what stays in memory of them: little more than their text. What a source must hold to be
accepted is left to `accept.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from actions import zone
from actions.state import Mark, State, StateError
from actions.zone import Template
from exporter import zonefile
from exporter.config import Server


@dataclass(frozen=True)
class Reading:
    """What there is of the accepted sources: templates, and why there is none for a zone."""

    templates: Mapping[str, Template]
    refused: Mapping[str, str]


class Templates:
    """The accepted sources of one state folder, for these servers."""

    def __init__(self, state: State, servers: Mapping[str, Server]) -> None:
        self._state = state
        self._servers = servers
        self._known: dict[str, tuple[Mark, Template]] = {}

    def read(self) -> Reading:
        """What is accepted now; StateError if that can't be read."""
        lost, accepted = self._state.lost(), self._state.accepted()
        refused = {
            name: f"its accepted source is gone; zonerw rewrite --forced {name} accepts it anew"
            for name in lost
        }
        known, self._known = self._known, {}
        for name, mark in accepted.items():
            its = known.get(name)
            if its is not None and its[0] == mark:
                self._known[name] = its
                continue
            try:
                self._known[name] = mark, self._template(name)
            except zonefile.SourceRefused as error:
                # It was right when it was accepted: the configuration has changed since.
                refused[name] = "; ".join(map(str, error.faults))
            except StateError as error:
                refused[name] = str(error)
        return Reading({name: template for name, (_, template) in self._known.items()}, refused)

    def _template(self, name: str) -> Template:
        source = zonefile.parse(name, self._state.source(name), self._servers)
        zone.check_left_out(source, self._servers)
        return zone.template(source, self._servers)
