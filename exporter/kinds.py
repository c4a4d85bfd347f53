"""The kinds of name server that the primary can be: what their own programs are told, and say.

The one place that knows them: `kind` in the configuration is a key of the table, the commands are
by default those of the entry. What is run, when, and what is believed of it is left to others.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind's two programs. The checker reads a zone from standard input.

    `complaint` finds, in a line that the checker says, the zone's line and what is wrong there.
    `noise` is what the programs say that tells the owner nothing, or is new each time, so that a
    lasting failure would look like a new one.
    """

    control: tuple[str, ...]
    reload: tuple[str, ...]  # further words for control: load every zone file that has changed
    checker: tuple[str, ...]
    check: tuple[str, ...]  # further words for the checker, before the zone's name and the file's
    complaint: re.Pattern[str]
    noise: re.Pattern[str]


_PLACED = re.compile(r".*?/dev/stdin:(\d+): (.+)")

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "nsd": Kind(
            control=("nsd-control",),
            reload=("reload",),
            checker=("nsd-checkzone",),
            check=(),
            complaint=_PLACED,
            # The time and the process stand before a line.
            noise=re.compile(r"(?m)^\[[^\]]*\] \S+\[\d+\]: |^zone \S+ file \S+ has \d+ errors$"),
        ),
        "bind": Kind(
            control=("rndc",),
            reload=("reload",),
            # As strict as named is with a primary's zones, and like named asking no resolver
            # whether names in other zones exist.
            checker=("named-checkzone", "-i", "local", "-k", "fail"),
            check=(),
            complaint=_PLACED,
            noise=re.compile(
                r"(?m)^zone \S+: loading from master file \S+ failed: .*$"
                r"|^zone \S+: not loaded due to errors\.$"
            ),
        ),
        "knot": Kind(
            control=("knotc",),
            reload=("zone-reload",),
            checker=("kzonecheck",),
            check=("-v", "-o"),  # without -v it says that something is wrong, and not what
            complaint=re.compile(r".*, file '/dev/stdin', line (\d+) \((.+)\)"),
            noise=re.compile(
                r"(?m)^Error summary:(?s:.*)"
                r"|^error: failed to run semantic checks .*$"
                r"|^error: .* failed to load zone, file '/dev/stdin', \d+ errors$"
            ),
        ),
    }
)
