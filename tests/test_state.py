"""What outlives a crash."""

import multiprocessing
import os
import threading
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from actions.state import Meant, State, StateError

MEANT = Meant(server="backup", since=datetime(2026, 11, 22, tzinfo=UTC), why="w", by="webhook")


@pytest.fixture
def state(tmp_path: Path) -> State:
    """An empty state folder, ready."""
    state = State(tmp_path / "state")
    state.prepare()
    return state


def test_a_new_folder_knows_nothing(state: State) -> None:
    """Before the first run nothing is meant, accepted or recorded."""
    assert state.meant() is None
    assert state.serials() == {}
    assert state.accepted() == {}


def test_everything_is_found_again(state: State) -> None:
    """Another program, or the same after a restart, reads what was written."""
    state.put_down(MEANT)
    state.record({"example.org": 1, "example.net": 2})
    state.record({"example.org": 3})
    state.accept({"example.org": b"\xe9 as it is\r\n"})
    again = State(state.folder)
    assert again.meant() == MEANT
    assert again.serials() == {"example.org": 3, "example.net": 2}
    assert again.accepted() == {"example.org": b"\xe9 as it is\r\n"}


@pytest.mark.parametrize("name", ["meant.json", "serials.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is not of version 1"),
        ('{"version": 2}', "is not of version 1"),
        ('{"version": 1, "x": 1}', "is damaged"),
        ("", "is damaged"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(
    state: State, name: str, content: str, said: str
) -> None:
    """A damaged file is never taken for an empty one."""
    (state.folder / name).write_text(content)
    read = {"meant.json": state.meant, "serials.json": state.serials}[name]
    with pytest.raises(StateError, match=rf"{name}: {said}"):
        read()


def test_somebody_elses_folder_is_refused(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two owners in one folder would lock one of them out."""
    monkeypatch.setattr(os, "geteuid", lambda: state.folder.stat().st_uid + 4321)
    with pytest.raises(StateError, match="belongs to user"):
        state.prepare()


def test_the_lock_is_held_between_threads(state: State) -> None:
    """A second thread waits until the first one is done."""
    order = []

    def second() -> None:
        with state.locked():
            order.append("second")

    with state.locked():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def _hold(folder: Path, held: Event, release: Event) -> None:
    with State(folder).locked():
        held.set()
        release.wait(10)


def test_the_lock_is_held_between_processes_and_dies_with_them(state: State) -> None:
    """A killed process leaves no lock behind."""
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(state.folder, held, release))
    process.start()
    assert held.wait(20)
    free = threading.Event()

    def take() -> None:
        with state.locked():
            free.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not free.wait(0.2)
    process.kill()
    assert free.wait(10)
    thread.join()
    process.join()
