"""The decision's two charts, row by row."""

import pytest
from witnesses import of, says

from actions.decide import Decision, decide

DOWN = "firing down"
DOWN_BY_LOOK_ALONE = "unknown down"
UP = "quiet up"
UP_BY_LOOK_ALONE = "unknown up"
UNSURE = "quiet unclear"
LOOKS_UP = "firing up"  # they disagree

NEVER_UP = "but never seen up since its checks were configured: are they right?"


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        pytest.param("firing down", "down", id="firing and down: down"),
        pytest.param("quiet up", "up", id="quiet and up: up"),
        pytest.param("unknown down", "down", id="nobody watches, and our look says down: down"),
        pytest.param("unknown up", "up", id="nobody watches, and our look says up: up"),
        pytest.param("firing up", "unsure", id="firing but up: they disagree"),
        pytest.param("quiet down", "unsure", id="quiet but down: they disagree"),
        pytest.param("firing unclear", "unsure", id="firing, our look unclear: an alert alone"),
        pytest.param("quiet unclear", "unsure", id="quiet, our look unclear"),
        pytest.param("unknown unclear", "unsure", id="nobody knows anything"),
    ],
)
def test_verdict(words: str, verdict: str) -> None:
    """The first chart."""
    assert says(words).verdict == verdict


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        pytest.param("firing down", "unsure", id="firing and down: its check is wrong"),
        pytest.param("unknown down", "unsure", id="down by our look: its check is wrong"),
        pytest.param("unknown up", "up", id="up: it is seen up now"),
        pytest.param("quiet up", "up", id="quiet and up"),
        pytest.param("quiet down", "unsure", id="they disagree"),
    ],
)
def test_verdict_of_a_server_that_was_never_seen_up(words: str, verdict: str) -> None:
    """It can't be voted down."""
    assert says(words, seen_up=False).verdict == verdict


@pytest.mark.parametrize(
    ("words", "seen_up", "doubt"),
    [
        ("firing up", True, "alert and look disagree: alert firing, look up"),
        ("quiet down", True, "alert and look disagree: alert quiet, look down"),
        ("firing down", False, f"alert firing, look down, {NEVER_UP}"),
        ("unknown down", False, f"alert unknown, look down, {NEVER_UP}"),
        ("firing down", True, None),
        ("quiet unclear", False, None),
        ("unknown up", True, None),
    ],
)  # fmt: skip
def test_a_doubt_says_who_says_what(words: str, seen_up: bool, doubt: str | None) -> None:
    """Both have spoken, and nothing follows: the owner is told why. Not before they have."""
    assert says(words, seen_up=seen_up).doubt == doubt


NO_CHANGE = "no change"


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("main", [UP, DOWN, UNSURE, LOOKS_UP])
@pytest.mark.parametrize("serving", ["main", "backup"])
@pytest.mark.parametrize("pinned", ["main", "backup"])
def test_pinned_whoever_serves_whatever_they_say(
    pinned: str, serving: str, main: str, *, blind: bool
) -> None:
    """The pinned one, be it down."""
    said = of(main=main, backup=DOWN)
    decision = decide(serving, said, pinned=pinned, blind=blind, handback="auto")
    assert decision.server == pinned
    assert decision.cause == ("pin" if pinned != serving else None)


def test_a_pinned_server_that_is_gone_from_the_configuration_changes_nothing() -> None:
    """It is said; nothing is decided against a person's word."""
    decision = decide("backup", of(main=UP, backup=UP), pinned="old", blind=False, handback="auto")
    assert decision == Decision("backup", None, "old is pinned, but is no server any more")


@pytest.mark.parametrize("main", [UP, DOWN, DOWN_BY_LOOK_ALONE, UNSURE])
@pytest.mark.parametrize("serving", ["main", "backup"])
def test_blind_nothing_changes(serving: str, main: str) -> None:
    """Whatever they say."""
    said = of(main=main, backup=UP)
    decision = decide(serving, said, pinned=None, blind=True, handback="auto")
    assert (decision.server, decision.cause) == (serving, None)


@pytest.mark.parametrize(
    ("serving", "said", "serve", "cause"),
    [
        # The one that serves is down.
        ("main", of(main=DOWN, backup=UP), "backup", "down"),
        ("main", of(main=DOWN_BY_LOOK_ALONE, backup=UP_BY_LOOK_ALONE), "backup", "down"),
        ("main", of(main=DOWN, backup=LOOKS_UP), "backup", "down"),
        ("main", of(main=DOWN, backup=LOOKS_UP, third=UP), "third", "down"),
        ("main", of(main=DOWN, backup=DOWN, third=UP), "third", "down"),
        ("main", of(main=DOWN, backup=UP, third=UP), "backup", "down"),
        ("main", of(main=DOWN, backup=DOWN), NO_CHANGE, None),
        ("main", of(main=DOWN, backup=UNSURE), NO_CHANGE, None),
        ("backup", of(main=UP, backup=DOWN), "main", "down"),
        ("backup", of(main=DOWN, backup=DOWN, third=UP), "third", "down"),
        ("backup", of(main=LOOKS_UP, backup=DOWN), "main", "down"),
        ("backup", of(main=DOWN, backup=DOWN), NO_CHANGE, None),
        # Another than the preferred one serves.
        ("backup", of(main=UP, backup=UP), "main", "handback"),
        ("backup", of(main=UP_BY_LOOK_ALONE, backup=UP), "main", "handback"),
        ("backup", of(main=UP, backup=UNSURE), "main", "handback"),
        ("backup", of(main=UNSURE, backup=UP), NO_CHANGE, None),
        ("backup", of(main=LOOKS_UP, backup=UP), NO_CHANGE, None),
        ("backup", of(main=DOWN, backup=UP), NO_CHANGE, None),
        ("third", of(main=DOWN, backup=UP, third=UP), "backup", "handback"),
        ("third", of(main=UP, backup=UP, third=UP), "main", "handback"),
        ("backup", of(main=DOWN, backup=UP, third=UP), NO_CHANGE, None),
        # Otherwise.
        ("main", of(main=UP, backup=UP), NO_CHANGE, None),
        ("main", of(main=UP, backup=DOWN), NO_CHANGE, None),
        ("main", of(main=UNSURE, backup=UP), NO_CHANGE, None),
        ("main", of(main=LOOKS_UP, backup=UP), NO_CHANGE, None),
        ("main", of(main="quiet down", backup=UP), NO_CHANGE, None),
        ("main", of(main="firing unclear", backup=UP), NO_CHANGE, None),
    ],
)  # fmt: skip
def test_neither_pinned_nor_blind(
    serving: str, said: dict[str, object], serve: str, cause: str | None
) -> None:
    """The second chart's other rows."""
    decision = decide(serving, said, pinned=None, blind=False, handback="auto")  # type: ignore[arg-type]
    expected = serving if serve == NO_CHANGE else serve
    assert (decision.server, decision.cause) == (expected, cause)


def test_handed_back_by_hand_only() -> None:
    """With handback = "manual" the stand-in keeps the zones as long as it is not down."""
    both_up = of(main=UP, backup=UP)
    manual = decide("backup", both_up, pinned=None, blind=False, handback="manual")
    assert (manual.server, manual.cause) == ("backup", None)
    backup_down = of(main=UP, backup=DOWN)
    manual = decide("backup", backup_down, pinned=None, blind=False, handback="manual")
    assert (manual.server, manual.cause) == ("main", "down")


def test_the_reason_names_every_word() -> None:
    """Who said what of whom."""
    decision = decide("main", of(main=DOWN, backup=UP), pinned=None, blind=False, handback="auto")
    assert decision.why == "main: alert firing, look down; backup: alert quiet, look up"
