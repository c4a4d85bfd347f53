"""The plan that Unison shows before it does anything: what it says, and what it would delete.

Text in, values out. Like `unison`, of the standard library alone.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

# So few are never too many, unless they are all: who has forty messages deletes three at a time.
_FEW = 5

_SHOWN = 500  # characters of a plan that is none

_ROW = re.compile(r"(?P<left>[ \w]{8}) (?P<way>---->|<----) (?P<right>[ \w]{8})   (?P<path>.*)  ")
_CONFLICTING = re.compile(r"[ \w]{8} <-\?-> ")
_ARROW = re.compile(r"-{4}>|<-{4}|<-\?->|<=\?=>|={4}>|<={4}")

Way = Literal["---->", "<----"]


@dataclass(frozen=True)
class Row:
    """A line of the plan: what happened to a path, and to which side that goes."""

    path: str
    way: Way
    deleted: bool
    new: bool


def parse(shown: str) -> tuple[Row, ...]:
    """Read the plan that Unison has shown, up to its question; ValueError for an unknown line.

    Conflicts are left out: nothing is done about them.
    """
    lines = shown.partition("\nProceed with")[0].split("\n")
    first = next((n for n, line in enumerate(lines) if _ARROW.search(line)), None)
    if first is None:
        raise ValueError(repr(shown[-_SHOWN:]))
    return tuple(row for line in lines[first:] if line for row in _row(line))


def _row(line: str) -> Iterator[Row]:
    if _CONFLICTING.match(line):
        return
    match = _ROW.fullmatch(line)
    if match is None:
        raise ValueError(repr(line))
    way: Way = "---->" if match["way"] == "---->" else "<----"
    change = match["left" if way == "---->" else "right"].strip()
    # "file" and "dir" without "new": a first run, when there is no archive.
    new = change in ("new file", "new dir", "file", "dir")
    yield Row(match["path"], way, change == "deleted", new)


@dataclass(frozen=True)
class Loss:
    """These rows delete so many messages, of so many; and whether that is all that a side has."""

    rows: frozenset[Row]
    gone: int  # from the local folder, so to be deleted over there
    going: int  # from the other one, so to be deleted here
    messages: int
    everything: bool

    @property
    def vanishing(self) -> int:
        """On either side."""
        return self.gone + self.going

    @classmethod
    def of(
        cls, plan: Iterable[Row], before: Mapping[str, int], known: Mapping[str, int] | None
    ) -> "Loss":
        """Count what a plan deletes, with the files below the local folder now and as last known.

        A message whose flags change is deleted by one name and new by another: it is none that
        vanishes.
        """
        plan = tuple(plan)
        alive = {(row.way, _message(row.path)) for row in plan if row.new}
        deleted = [row for row in plan if row.deleted]
        rows = frozenset(row for row in deleted if (row.way, _message(row.path)) not in alive)
        last = known or {}
        gone = sum(_below(row.path, last) for row in rows if row.way == "---->")
        going = sum(_below(row.path, before) for row in rows if row.way == "<----")
        renamed = sum(1 for row in deleted if row.way == "---->" and row not in rows)
        arrived = sum(_below(row.path, before) for row in plan if row.way == "---->" and row.new)
        both = sum(before.values()) + gone + renamed - arrived  # what both had after the last run
        everything = both > 1 and max(gone, going) >= both
        unknown = known is None and any(map(_may_be_a_folder, rows))
        return cls(rows, gone, going, both, everything or unknown)

    def told(self, local: str, remote: str) -> str:
        """What would be deleted where, and why."""
        ways = ((self.gone, remote, local), (self.going, local, remote))
        first, *second = [way for way in ways if way[0]] or ways[:1]
        said = f"{first[0]} of {self.messages} messages of {first[1]}, gone from {first[2]}"
        return " and ".join(
            [said, *(f"{n} of {here}, gone from {there}" for n, here, there in second)]
        )

    def allowed(self, share: float) -> int:
        """So many may vanish."""
        return 0 if self.everything else max(_FEW, int(share * self.messages))

    def is_too_much(self, share: float) -> bool:
        """Whether a person has to say that this is meant."""
        return self.vanishing > self.allowed(share)


def _may_be_a_folder(row: Row) -> bool:
    """Whether something was deleted here that may have held messages: nobody knows how many."""
    parent = row.path.rpartition("/")[0].rpartition("/")[2]
    return row.deleted and row.way == "---->" and parent not in ("cur", "new")


def _message(path: str) -> str:
    """What stays when a message is moved or flagged; of any other file, its path."""
    folder, _, name = path.rpartition("/")
    if folder.rpartition("/")[2] in ("cur", "new"):
        return name.partition(":2,")[0]
    return path


def _below(path: str, folders: Mapping[str, int]) -> int:
    """How many files a path stands for: those below, if it is a folder, else one."""
    if path not in folders:
        return 1
    return sum(
        number
        for folder, number in folders.items()
        if not path or folder == path or folder.startswith(f"{path}/")
    )
