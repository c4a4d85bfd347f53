"""The decision's chart, row by row."""

import pytest

from actions.decide import Word, decide

DOWN, UP, UNKNOWN = True, False, None


@pytest.mark.parametrize("serving", ["main", "backup"])
@pytest.mark.parametrize(
    ("main", "backup", "serve"),
    [
        pytest.param(UP, UP, "main", id="all well: the preferred server"),
        pytest.param(UP, DOWN, "main", id="a dead backup changes nothing"),
        pytest.param(UP, UNKNOWN, "main", id="main is up, whatever the backup"),
        pytest.param(DOWN, UP, "backup", id="main is down: the backup"),
        pytest.param(DOWN, DOWN, "no change", id="both down: no change"),
        pytest.param(DOWN, UNKNOWN, "no change", id="nobody knows of the backup: no change"),
        pytest.param(UNKNOWN, UP, "no change", id="nobody knows of main: no change"),
        pytest.param(UNKNOWN, DOWN, "no change", id="nobody knows of main, no backup: no change"),
        pytest.param(UNKNOWN, UNKNOWN, "no change", id="nobody knows anything: no change"),
    ],
)
def test_chart(serving: str, main: bool | None, backup: bool | None, serve: str) -> None:
    """Each row of the chart gives the server it names, whoever serves now."""
    words = {"main": Word(main, "m"), "backup": Word(backup, "b")}
    assert decide(serving, words).server == (serving if serve == "no change" else serve)


def test_several_stand_ins_are_taken_in_their_order() -> None:
    """With main and the first stand-in down, the second one serves."""
    words = {"main": Word(DOWN, ""), "backup": Word(DOWN, ""), "third": Word(UP, "")}
    assert decide("main", words).server == "third"


def test_the_reason_names_every_word_that_counted() -> None:
    """The reason says who said what, as far as the chart was read."""
    words = {"main": Word(DOWN, "MainDown is firing"), "backup": Word(UP, "no alert")}
    assert decide("main", words).why == "main: MainDown is firing; backup: no alert"
