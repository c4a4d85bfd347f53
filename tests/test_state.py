"""What outlives a crash."""

import multiprocessing
import os
import shutil
import stat
import threading
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from actions.state import Meant, Pin, State, StateError
from demo.stack import wait_for

MEANT = Meant(server="backup", since=datetime(2026, 11, 22, tzinfo=UTC), why="w", by="webhook")
PIN = Pin(server="main", until=datetime(2026, 11, 23, tzinfo=UTC), reason="disks", by="alice")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SWITCH = MEANT.model_copy(update={"before": "main", "cause": "down"})


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
    assert state.pin(NOW) is None
    assert state.seen() == {}
    assert state.history() == []


def test_everything_is_found_again(state: State) -> None:
    """Another program, or the same after a restart, reads what was written."""
    state.put_down(MEANT)
    state.record({"example.org": 1, "example.net": 2})
    state.record({"example.org": 3})
    state.accept({"example.org": b"\xe9 as it is\r\n"}.items())
    state.put_pin(PIN)
    state.put_seen({"main": "x", "backup": "y"})
    state.put_seen({"main": "z"})
    again = State(state.folder)
    assert again.pin(NOW) == PIN
    assert again.seen() == {"main": "z"}
    assert again.meant() == MEANT
    assert again.serials() == {"example.org": 3, "example.net": 2}
    assert set(again.accepted()) == {"example.org"}
    assert again.source("example.org") == b"\xe9 as it is\r\n"


def test_sources_are_synced_side_by_side(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has thousands to sync, one after the other, would keep a switch waiting."""
    both, fsync = threading.Barrier(2), os.fsync

    def met(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            both.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", met)
    state.accept({"example.net": b"net", "example.org": b"org"}.items())
    before = state.accepted()
    state.accept({"example.net": b"net", "example.org": b"org"}.items())
    assert state.accepted() == before  # the same is not written again


def test_a_source_that_cannot_be_kept_is_an_error(state: State) -> None:
    """Each is as it was or as it is to be; the next word puts all right."""
    state.accept({"example.net": b"net", "example.org": b"org"}.items())
    state.retire("example.net")
    in_the_way = state.folder / "accepted" / ".example.org.base.tmp"
    in_the_way.mkdir()
    newer = {"example.net": b"net 2", "example.org": b"org 2"}
    with pytest.raises(StateError, match="accepted: can't be written: Is a directory"):
        state.accept(newer.items())
    assert state.source("example.org") == b"org"
    in_the_way.rmdir()
    state.accept(newer.items())
    assert {zone: state.source(zone) for zone in state.accepted()} == newer


@pytest.mark.parametrize("name", ["meant.json", "serials.json", "pin.json", "seen.json"])
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
    read = {
        "meant.json": state.meant,
        "serials.json": state.serials,
        "pin.json": lambda: state.pin(NOW),
        "seen.json": state.seen,
    }[name]
    with pytest.raises(StateError, match=rf"{name}: {said}"):
        read()


def test_a_pin_is_taken_away_or_replaced_be_it_damaged(state: State) -> None:
    """A person's word overcomes it; there need not be one."""
    state.unpin()
    for overcome in (state.unpin, lambda: state.put_pin(PIN)):
        (state.folder / "pin.json").write_text("{")
        overcome()
    assert state.pin(NOW) == PIN
    state.unpin()
    assert state.pin(NOW) is None


def test_a_pin_without_a_time_zone_is_damaged(state: State) -> None:
    """Nobody knows when it ends."""
    state.put_pin(PIN)
    path = state.folder / "pin.json"
    path.write_text(path.read_text().replace("2026-11-23T00:00:00Z", "2026-11-23T00:00:00"))
    with pytest.raises(StateError, match=r"pin\.json: is damaged"):
        state.pin(NOW)


def test_a_pin_ends_and_holds_again_should_the_clock_have_been_wrong(state: State) -> None:
    """It is a person's to take away."""
    state.put_pin(PIN)
    assert state.pin(PIN.until) is None
    assert state.pin(PIN.until - timedelta(seconds=1)) == PIN


def test_a_pin_that_ended_a_day_ago_is_removed(state: State) -> None:
    """A machine that boots with its clock in the past must not go by it again."""
    state.put_pin(PIN)
    assert state.pin_or_drop(NOW) == PIN
    assert state.pin_or_drop(PIN.until + timedelta(hours=23)) is None
    assert state.pin(NOW) == PIN
    assert state.pin_or_drop(PIN.until + timedelta(hours=25)) is None
    assert state.pin(NOW) is None
    assert state.pin_or_drop(PIN.until + timedelta(hours=25)) is None


def switches(count: int) -> list[Meant]:
    """To and fro."""
    days = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number) for number in range(count))
    return [SWITCH.model_copy(update={"since": day}) for day in days]


def test_the_history_holds_each_switch_once(state: State) -> None:
    """A run that was killed between meant and history adds it the next time, no other one does."""
    for switch in switches(3):
        state.remember(switch)
        state.remember(switch)
    assert state.history() == switches(3)
    assert (state.folder / "history.jsonl").read_text().count("\n") == 3


def test_the_history_is_bounded(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest switches go."""
    monkeypatch.setattr("actions.state._HISTORY_LINES", 5)
    for switch in switches(12):
        state.remember(switch)
    assert state.history() == switches(12)[-5:]


@pytest.mark.parametrize("content", ["{", '{"version": 2}', "\n"])
def test_a_damaged_history_is_put_aside(state: State, content: str) -> None:
    """It is shown, and no switch waits for it."""
    path = state.folder / "history.jsonl"
    path.write_text(content)
    with pytest.raises(StateError, match=r"history\.jsonl: is "):
        state.history()
    state.remember(SWITCH)
    assert state.history() == [SWITCH]
    assert (state.folder / "history.damaged").read_text() == content


def test_a_history_that_cannot_be_written_is_lost(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and no switch waits for it."""
    (state.folder / "history.jsonl").mkdir()
    (state.folder / "history.damaged").write_text("")
    state.remember(SWITCH)
    assert caplog.messages == ["history put aside", "history can't be written"]


def test_somebody_elses_folder_is_refused(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two owners in one folder would lock one of them out."""
    owner = state.folder.stat().st_uid
    (state.folder / "accepted").rmdir()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 4321)
    remedy = f", or, .* sudo chown -R {owner + 4321} {state.folder}" if owner == 0 else ""
    with pytest.raises(StateError, match=f"{state.folder}: belongs to .*; run as .*{remedy}"):
        state.prepare()
    assert list(state.folder.iterdir()) == []


def test_a_folder_within_that_is_somebody_elses_is_named(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by root, as by an older version that was run once by mistake."""
    owner = state.folder.stat().st_uid
    os.chown(state.folder, owner + 4321, -1)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 4321)
    with pytest.raises(StateError, match=f"{state.folder}/accepted: belongs to user "):
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


def test_the_lock_is_held_also_by_one_who_waited_for_a_removed_one(state: State) -> None:
    """Who comes meanwhile makes the folder anew, and a new lock with it."""
    lock = state.folder / "lock"
    order = []

    def waiting() -> None:
        with state.locked():
            order.append("who waited")

    thread = threading.Thread(target=waiting)
    with ExitStack() as newer:
        with state.locked():
            thread.start()
            wait_for(lambda: opened(lock) == 2, 10, "the other to wait")
            shutil.rmtree(state.folder)
            newer.enter_context(State(state.folder).locked())
        wait_for(lambda: opened(lock) == 2, 10, "the other to wait for the new one")
        order.append("who came meanwhile")
    thread.join(10)
    assert order == ["who came meanwhile", "who waited"]


def opened(path: Path) -> int:
    """How many descriptors of ours are open to what is there now."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile, as that of the folder is
            links.append(descriptor.readlink())
    return links.count(path)
