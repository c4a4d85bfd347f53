"""ARCHITECTURE.md's promises name the tests that hold them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_is_named_is_there() -> None:
    """A promise whose test was renamed or removed is none."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "ARCHITECTURE.md").read_text()))
    tests = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert named <= {name for text in tests for name in re.findall(r"(?m)^def (test_\w+)\(", text)}
