"""Two hundred clients at once: all are answered, nothing moves, and the program is well afterwards.

The short form of `benchmarks/webhook.py`, which tells how many are answered, and how soon.
"""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from observed import SOON, down_alerts, everywhere, moved, raised, serials, switches

from benchmarks import load
from demo.stack import Stack, http, wait_for

CLIENTS = 200
FILES = 256  # systemd gives a program 1024 at first
WARM_UP_SECONDS = 2.0
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


@contextmanager
def files_at_first(number: int) -> Iterator[None]:
    """What is started may have so many files open, until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_that_say_nothing_keep_no_run_from_its_files(stack: Stack) -> None:
    """Whoever opens them needs no token."""
    with files_at_first(FILES):
        stack.parts["actions"].restart()
    before = serials(stack)
    where = stack.layout.backup, stack.layout.ports.actions
    with ExitStack() as opened:
        for _ in range(2 * FILES):
            opened.enter_context(socket.create_connection(where))
        stack.parts["web-main"].kill()
        moved(stack, stack.backup, raised(before, 1))
