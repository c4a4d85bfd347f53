"""Two hundred clients at once: all are answered, nothing moves, and the program is well afterwards.

The short form of `benchmarks/webhook.py`, which tells how many are answered, and how soon.
"""

from collections.abc import Iterator

import pytest
from observed import SOON, down_alerts, everywhere, moved, raised, serials, switches

from benchmarks import load
from demo.stack import Stack, http, wait_for

CLIENTS = 200
WARM_UP_SECONDS = 1.0
SECONDS = 3.0

# Of a few thousand posts: a leak of a body for each would be more.
GROWTH_BYTES = 4 * 2**20


@pytest.fixture
def stack() -> Iterator[Stack]:
    """The whole system, at peace: a post that says that main is down is alone in saying so."""
    with Stack() as stack:
        stack.settle()
        wait_for(lambda: not down_alerts(stack), SOON, "peace")
        everywhere(stack, stack.main)
        yield stack


def test_two_hundred_clients_are_answered_and_move_nothing(stack: Stack) -> None:
    """Repeats, forgeries, and what is no webhook at all; then main dies, and the zones move."""
    layout, actions = stack.layout, stack.parts["actions"]
    where = layout.backup, layout.ports.actions
    kinds = load.mixture(layout.webhook_token)
    before = serials(stack)
    pid = load.process_of(actions.argv)

    assert load.put(*where, kinds, CLIENTS, WARM_UP_SECONDS).wrong(kinds) == []
    warm = load.memory(pid)
    posted = load.put(*where, kinds, CLIENTS, SECONDS)

    assert posted.wrong(kinds) == []
    assert load.memory(pid) < warm + GROWTH_BYTES
    assert http("GET", layout.url("actions") + "/-/healthy").text == "healthy\n"
    assert switches(stack) == {}
    moved(stack, stack.main, before)

    stack.parts["web-main"].kill()
    moved(stack, stack.backup, raised(before, 1))
