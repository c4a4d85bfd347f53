"""Durations as Prometheus and Alertmanager write them, for the tests of their configuration."""

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """How long a duration of one unit is."""
    match = re.fullmatch(r"(\d+)(ms|s|m|h)", duration)
    assert match, duration
    return int(match[1]) * _SECONDS[match[2]]


def without_durations(text: str) -> list[str]:
    """The lines that mean something (no comments, no blank ones), each duration blotted out."""
    lines = (line.rstrip() for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [re.sub(r"(?<=: )\d+(ms|s|m|h)$", "DURATION", line) for line in lines if line]
