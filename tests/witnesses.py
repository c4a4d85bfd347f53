"""What witnesses may say, for tests that choose it."""

from collections.abc import Mapping

from actions.decide import Alert, Look, Testimony

ALERTS = {state: Alert(state, f"alert {state}") for state in ("firing", "quiet", "unknown")}
LOOKS = {state: Look(state, f"look {state}") for state in ("down", "up", "unclear")}


def says(words: str, *, seen_up: bool = True) -> Testimony:
    """What "firing down" or "quiet unclear" stands for: the alert, and the look."""
    alert, look = words.split()
    return Testimony(ALERTS[alert], LOOKS[look], seen_up)


def of(**words: str) -> Mapping[str, Testimony]:
    """The same of each server, in order of preference."""
    return {server: says(its) for server, its in words.items()}
