"""Which server to serve: a chart above a pure function.

    first server | next server | ... | then serve
    -------------+-------------+-----+---------------------------------------------
    not down     | any         |     | the first
    down         | not down    |     | the next
    down         | down        | ... | the first one not down; no change where all are
    unknown      | any         |     | no change
    down         | unknown     |     | no change

Owns the rule. Who says that a server is down is the witness's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """What is known of one server: down, not down, or None (nobody can say); and who says so."""

    down: bool | None
    why: str


@dataclass(frozen=True)
class Decision:
    """The server to serve, and the reason in words."""

    server: str
    why: str


def decide(serving: str, words: Mapping[str, Word]) -> Decision:
    """Choose by `words`, one for each server in order of preference; `serving` serves now."""
    said: list[str] = []
    for server, word in words.items():
        said.append(f"{server}: {word.why}")
        if word.down is None:
            return Decision(serving, "; ".join(said))
        if not word.down:
            return Decision(server, "; ".join(said))
    return Decision(serving, "; ".join(said))
