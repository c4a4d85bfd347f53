"""Which server to serve: two charts above pure functions.

Two witnesses speak of each server: the alert, and our own look.

    alert    | look    | verdict
    ---------+---------+-------------------------------------------------------------
    firing   | down    | down; unsure while it was never seen up: then its check is wrong
    quiet    | up      | up
    unknown  | down    | down; likewise
    unknown  | up      | up
    firing   | up      | unsure: they disagree
    quiet    | down    | unsure: they disagree
    any      | unclear | unsure

    pinned | blind | serving           | then serve
    -------+-------+-------------------+---------------------------------------------
    yes    | any   | any               | the pinned one
    no     | yes   | any               | no change
    no     | no    | verdict down      | the first in order with verdict up; else the first
           |       |                   | whose look is up; else no change
    no     | no    | not the preferred | the first before it with verdict up, if handed back
           |       |                   | automatically; else no change
    no     | no    | otherwise         | no change

Owns the rules. What the witnesses say, and since when, is the business of witness and looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AlertState = Literal["firing", "quiet", "unknown"]
LookState = Literal["down", "up", "unclear"]
Verdict = Literal["down", "up", "unsure"]
Cause = Literal["pin", "down", "handback"]


@dataclass(frozen=True)
class Alert:
    """What the alerts say of a server, and by what that is known."""

    state: AlertState
    why: str


@dataclass(frozen=True)
class Look:
    """What our own looks at a server come to, and why."""

    state: LookState
    why: str


@dataclass(frozen=True)
class Testimony:
    """What is known of one server; `seen_up`: whether its checks were ever met."""

    alert: Alert
    look: Look
    seen_up: bool

    @property
    def verdict(self) -> Verdict:
        """The first chart."""
        match self.alert.state, self.look.state:
            case ("firing" | "unknown", "down") if self.seen_up:
                return "down"
            case ("quiet" | "unknown", "up"):
                return "up"
        return "unsure"

    @property
    def doubt(self) -> str | None:
        """Why the verdict is unsure though both have spoken, or one alone; None where it is not."""
        match self.alert.state, self.look.state:
            case ("firing" | "unknown", "down") if not self.seen_up:
                return (
                    f"{self}, but never seen up since its checks were configured: are they right?"
                )
            case ("firing", "up") | ("quiet", "down"):
                return f"alert and look disagree: {self}"
        return None

    def __str__(self) -> str:
        return f"{self.alert.why}, {self.look.why}"


@dataclass(frozen=True)
class Decision:
    """The server to serve, what made it another one (None: no change), and the reason in words."""

    server: str
    cause: Cause | None
    why: str


def decide(
    serving: str,
    testimonies: Mapping[str, Testimony],
    *,
    pinned: str | None,
    blind: bool,
    handback: Literal["auto", "manual"],
) -> Decision:
    """The second chart; `testimonies`: one for each server, in order of preference."""
    verdicts = {server: its.verdict for server, its in testimonies.items()}
    why = "; ".join(f"{server}: {its}" for server, its in testimonies.items())
    if pinned is not None:
        if pinned not in testimonies:
            return Decision(serving, None, f"{pinned} is pinned, but is no server any more")
        return Decision(pinned, "pin" if pinned != serving else None, f"{pinned} was pinned")
    if blind:
        return Decision(serving, None, f"our own line is down, or just was; {why}")
    if verdicts[serving] == "down":
        up = [server for server, verdict in verdicts.items() if verdict == "up"]
        up += [s for s, its in testimonies.items() if its.look.state == "up"]
        return Decision(up[0], "down", why) if up else Decision(serving, None, why)
    for server, verdict in verdicts.items():
        if server == serving:
            break
        if verdict == "up" and handback == "auto":
            return Decision(server, "handback", why)
    return Decision(serving, None, why)
