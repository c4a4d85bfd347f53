"""The plan that Unison shows before it does anything: what it says, and what it would delete.

Text in, values out. Like `unison`, of the standard library alone. A path is its bytes, each a
character, so that whatever is in a name is told from every other.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

# So few are never too many, unless they are all: who has forty messages deletes three at a time.
_FEW = 5

_SHOWN = 500  # characters of a plan that is none

_HEADER = re.compile(r"\S.*  ")  # the names of the two sides
_ROW = re.compile(
    r"(?P<left>[ \w]{8}) (?P<way>---->|--\?->|<----|<-\?--) (?P<right>[ \w]{8})   (?P<path>.*)  "
)
_CONFLICT = re.compile(r"[ \w]{8} <-\?-> ")
_ERROR = re.compile(r" {9}error {12}")  # what it can't read; the next lines say why
_ANY_ROW = re.compile(r"[ \w]{8} (?:[-<>?=M]{5}|error) ")

_CREATED = ("new file", "new dir", "file", "dir")  # without "new": a first run
_CHANGES = (*_CREATED, "deleted", "changed", "chgd dir", "props")

Way = Literal["---->", "<----"]

# What is below a folder: "NAME/" is a folder, with the number of messages in it; any other file has
# its own name, and is one.
Files = Mapping[str, int]


@dataclass(frozen=True)
class Row:
    """A line of the plan: what happened to a path, and to which side that goes."""

    path: str
    way: Way
    change: str

    @property
    def deleted(self) -> bool:
        """Whether it is gone."""
        return self.change == "deleted"

    @property
    def new(self) -> bool:
        """Whether it was not there before."""
        return self.change in _CREATED


def parse(shown: str) -> tuple[Row, ...]:
    """Read the plan that Unison has shown, up to its question; ValueError for an unknown line.

    Conflicts are left out, and what it can't read: nothing is done about them.
    """
    header, *lines = shown.partition("\nProceed with")[0].strip("\n").split("\n")
    if not _HEADER.fullmatch(header) or _ANY_ROW.match(header) or not lines:
        raise ValueError(repr(shown[-_SHOWN:]))
    return tuple(_rows(lines))


def _rows(lines: Iterable[str]) -> Iterator[Row]:
    explains = False  # why the line above is an error
    for line in lines:
        explains = (explains and not _ANY_ROW.match(line)) or bool(_ERROR.match(line))
        if explains or _CONFLICT.match(line):
            continue
        match = _ROW.fullmatch(line)
        way: Way = "---->" if match and match["way"].endswith(">") else "<----"
        change = match["left" if way == "---->" else "right"].strip() if match else ""
        if match is None or change not in _CHANGES:
            raise ValueError(repr(line))
        yield Row(match["path"], way, change)


@dataclass(frozen=True)
class Loss:
    """These rows take so many messages away, of so many; or all, or nobody knows how many."""

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
        cls,
        plan: Iterable[Row],
        before: Files,
        known: Files | None,
        here: Mapping[str, int] | None = None,
    ) -> "Loss":
        """Count what a plan takes away, by what is below the local folder now, and was when known.

        A message whose flags change is deleted by one name and new by another: it is none that
        vanishes, nor is one that is there by another name already (so many are `here`, by their
        names before the flags). A message does not change: another content takes it away. So does
        a file in place of a folder, with all that is in that.
        """
        plan = tuple(plan)
        last = known or {}
        there = {row: last if row.way == "---->" else before for row in plan}
        taken = [row for row in plan if row.deleted or _takes_away(row, there[row])]
        living = Counter(here or {})
        living.subtract(_message(row.path) for row in taken if row.deleted and row.way == "<----")
        alive = {(row.way, _message(row.path)) for row in plan if row.new}

        def lives_on(row: Row) -> bool:
            name = _message(row.path)
            return row.deleted and ((row.way, name) in alive or living[name] > 0)

        rows = frozenset(row for row in taken if not lives_on(row))
        everything = any(row.deleted and _is_unknown(row, known) for row in rows)
        gone = going = both = 0
        # Also where all mail vanishes, and another file is left.
        for count in (_mail_below, _below):
            gone = sum(count(row.path, last) for row in rows if row.way == "---->")
            going = sum(count(row.path, before) for row in rows if row.way == "<----")
            missing = [row for row in taken if row.way == "---->" and not _over(row)]
            arrived = [row for row in plan if row.way == "---->" and row.new]
            both = count("", before)  # what both sides had after the last run
            both += sum(count(row.path, last) for row in missing)
            both -= sum(count(row.path, before) for row in arrived)
            everything |= both > 1 and max(gone, going) >= both
        return cls(rows, gone, going, both, everything)

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


def _takes_away(row: Row, there: Files) -> bool:
    """Whether a file comes over what it takes away: a folder, or a message."""
    return row.change in ("new file", "file", "changed") and (f"{row.path}/" in there or _over(row))


def _over(row: Row) -> bool:
    """Whether a message gets another content."""
    return row.change == "changed" and _is_message(row.path)


def _is_unknown(row: Row, known: Files | None) -> bool:
    """Whether it may have been a folder, of which nobody knows how many messages were in it."""
    if row.way == "<----" or _is_message(row.path):
        return False
    return known is None or (row.path not in known and f"{row.path}/" not in known)


def _is_message(path: str) -> bool:
    return path.rpartition("/")[0].rpartition("/")[2] in ("cur", "new")


def _message(path: str) -> str:
    """What stays when a message is moved or flagged; of any other file, its path."""
    return path.rpartition("/")[2].partition(":2,")[0] if _is_message(path) else path


def _below(path: str, files: Files) -> int:
    """How many files a path stands for: those below, if it is a folder, else one."""
    folder = f"{path}/" if path else ""
    if path and folder not in files:
        return 1
    return sum(number for name, number in files.items() if name.startswith(folder))


def _mail_below(path: str, files: Files) -> int:
    """How many of these are messages."""
    folder = f"{path}/" if path else ""
    if path and folder not in files:
        return int(_is_message(path))
    return sum(
        number for name, number in files.items() if name.startswith(folder) and _is_message(name)
    )
