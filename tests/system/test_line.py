"""Our own line is cut, on the whole stack: main is far away, and so is whom we ask about the line.

Beside the line everything is as in test_failover: what the zones point at is on loopback.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from netns import Far, far_away
from observed import (
    SOON,
    down_alerts,
    everywhere,
    holds,
    metrics,
    moved,
    raised,
    serials,
    switches,
)

from demo.parts import Part
from demo.stack import PARTS, Stack, wait_for


@dataclass(frozen=True)
class Line:
    """The line, main's web server beyond it, and the stack on this side."""

    far: Far
    web: Part
    stack: Stack


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """One stack for all tests here: starting it takes longer than most of them."""
    parts = [name for name in PARTS if name != "web-main"]
    with far_away() as far:
        folder = tmp_path_factory.mktemp("far")
        web = far.web("web", 80, folder)
        far.web("reference", 80, folder, at=far.other)
        with Stack(parts=parts, edit=lambda text: over_the_line(text, far)) as stack:
            stack.settle()
            yield Line(far, web, stack)


@pytest.fixture
def line(running: Line) -> Iterator[Line]:
    """The line whole, main up and serving everywhere, no alert; and so again afterwards."""
    yield running
    running.far.mend()
    running.web.start()
    everywhere(running.stack, running.stack.main)
    at_peace(running.stack)


def over_the_line(text: str, far: Far) -> str:
    """Look at main there, on the ordinary port, and ask one reference, beside it."""
    for old, new in (
        (r"(?m)^(?=\[servers\.main\.checks\.web\])", f'look_at = ["{far.address}"]\n'),
        (r":\d+/index\.html", "/index.html"),
        (r"(?m)^(\[references\]).*\n(?:\w.*\n)+", f'\\1\nfar = "tcp://{far.other}:80"\n'),
    ):
        text, changed = re.subn(old, new, text, count=1)
        assert changed, old
    return text


def blind(stack: Stack) -> bool:
    """Whether actions knows that the line is cut."""
    return metrics(stack)["zonerw_blind"] == 1


def at_peace(stack: Stack) -> None:
    """Wait until nobody is said to be down, and the line to be whole."""
    wait_for(lambda: not down_alerts(stack) and not blind(stack), SOON, "the alerts to end")


def test_a_cut_line_is_no_dead_main(line: Line) -> None:
    """The alert fires, our own looks fail: nothing changes, neither meanwhile nor afterwards."""
    stack = line.stack
    before, switched = serials(stack), switches(stack)
    line.far.cut()
    wait_for(lambda: "MainDown" in down_alerts(stack), SOON, "MainDown")
    wait_for(lambda: blind(stack), SOON, "actions to know that it is blind")
    holds(stack, stack.main, before)
    assert "MainDown" in down_alerts(stack)
    assert blind(stack)
    line.far.mend()
    at_peace(stack)
    holds(stack, stack.main, before)
    assert switches(stack) == switched


def test_main_dies_while_the_line_is_cut(line: Line) -> None:
    """Nothing changes while nobody can know; then the zones move, once."""
    stack = line.stack
    before = serials(stack)
    line.far.cut()
    wait_for(lambda: "MainDown" in down_alerts(stack), SOON, "MainDown")
    line.web.kill()
    wait_for(lambda: blind(stack), SOON, "actions to know that it is blind")
    holds(stack, stack.main, before)
    line.far.mend()
    moved(stack, stack.backup, raised(before, 1))


def test_main_comes_back_while_the_line_is_cut(line: Line) -> None:
    """The backup goes on serving until main is seen up again; then it is handed back, once."""
    stack = line.stack
    before = serials(stack)
    line.web.kill()
    moved(stack, stack.backup, raised(before, 1))
    line.far.cut()
    wait_for(lambda: blind(stack), SOON, "actions to know that it is blind")
    line.web.start()
    holds(stack, stack.backup, raised(before, 1))
    assert blind(stack)
    line.far.mend()
    moved(stack, stack.main, raised(before, 2))
