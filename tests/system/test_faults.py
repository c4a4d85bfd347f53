"""Faults on the way of a switch: full disks, lost rights, a real NSD that fails.

Each is told with step, zone and reason, uses up no serials while it lasts, leaves what is served
as it is, holds up no other zone, and heals by itself once it is gone.

Mounting small disks takes root; the daemon itself runs without root's power over others' files.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from observed import SOON, at_serials, log, metrics, moved, places, raised, serials
from test_converge import NOW, TODAY, ZONES, Program

from actions import files, publish, zone
from actions.converge import Forced
from actions.nameserver import find
from actions.publish import Publisher
from actions.state import State, StateError
from actions.templates import Accepted
from demo.stack import Stack, http, wait_for

NOBODY = 65534  # whose files a program without root's powers can't use

# As far as files go, an ordinary user: one that can use Python wherever it is installed.
ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all")

# What the checker lets pass here and NSD refuses.
REFUSED = "$GENERATE 1-3 host$ A 192.0.2.$\n"

Fault = Callable[[Stack], AbstractContextManager[object]]


# --- disks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A small disk of a test's own, mounted at a folder."""

    folder: Path

    @contextmanager
    def full(self, *, but: int = 0) -> Iterator[None]:
        """Leave room for so many pages, of 4 KiB or so, and no more."""
        its = os.statvfs(self.folder)
        pages = its.f_blocks - its.f_bfree + but
        with self._remounted(f"size={pages * its.f_frsize}", "size=1m"):
            yield

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """As a disk becomes whose file system has found an error."""
        with self._remounted("ro", "rw"):
            yield

    @contextmanager
    def _remounted(self, how: str, before: str) -> Iterator[None]:
        run("mount", "-o", f"remount,{how}", str(self.folder))
        try:
            yield
        finally:
            run("mount", "-o", f"remount,{before}", str(self.folder))


@contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    """Mount an empty disk there; what stood there is back at the end."""
    run("mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "zonerw", str(folder))
    try:
        yield Disk(folder)
    finally:
        # Also while a name server still stands in it.
        run("umount", "--lazy", str(folder))


def run(*words: str) -> None:
    """Run a command that works; mounting takes root."""
    program = find(words[0])
    assert program, f"{words[0]} is not installed"
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(words)}: {done.stderr or done.stdout}", pytrace=False)


# --- the daemon -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """One daemon for most tests: with disks of its own, and no power over others' files."""
    with (
        Stack(parts=["ns1", "actions"], poll="100ms", edit=by_itself) as stack,
        ExitStack() as mine,
    ):
        stack.parts["actions"].stop()
        mine.enter_context(mounted(stack.layout.published))
        mine.enter_context(mounted(state(stack)))
        stack.parts["ns1"].restart()
        actions = stack.parts["actions"]
        actions.argv = (*ORDINARY, *actions.argv)
        actions.start()
        yield stack


@pytest.fixture
def daemon(running: Stack) -> Iterator[Stack]:
    """The daemon at peace: main serves, nothing fails; and so again afterwards."""
    at_peace(running)
    yield running
    sources = running.layout.folder / "sources as they were"
    if sources.exists():
        shutil.rmtree(running.layout.sources)
        sources.rename(running.layout.sources)
        assert rewrite(running).status_code == 200


def at_peace(stack: Stack) -> None:
    """See all run, and main serve."""
    for part in stack.parts.values():
        part.resume()
        part.start()
    assert pin(stack, "main").status_code == 200
    known = recorded(stack)
    at_serials(stack, {zone: {known[zone]} for zone in stack.zones})
    assert places(stack) == {stack.main}


def by_itself(text: str) -> str:
    """Configure the daemon without anybody to ask or to tell, and nsd-control by way of a script.

    The name server's checker lets everything pass.
    """
    text, sections = re.subn(
        r"(?m)^\[(?:alertmanager|references|secondaries\.\w+)\].*\n(?:[^\[\n].*\n|\n)*", "", text
    )
    assert sections == 4
    control = re.search(r'control = \["nsd-control", "-c", "(.+)"\]', text)
    assert control
    script = Path(control[1]).with_name("control")
    write_script(script, f'exec {find("nsd-control")} -c {control[1]} "$@"')
    return text.replace(control[0], f'control = ["{script}"]\nchecker = ["true"]')


def write_script(path: Path, line: str) -> None:
    """Put a shell script in place."""
    new = path.with_suffix(".new")
    new.write_text(f"#!/bin/sh\n{line}\n")
    new.chmod(0o755)
    new.replace(path)


def ask(stack: Stack, method: str, path: str, body: object = None) -> requests.Response:
    """Ask the daemon as the operator."""
    headers = {"Authorization": f"Bearer {stack.layout.operator_token}"}
    return http(method, stack.layout.url("actions") + path, headers=headers, json=body)


def pin(stack: Stack, server: str) -> requests.Response:
    """Have the daemon switch to this server."""
    return ask(stack, "PUT", "/pin", {"server": server})


def rewrite(stack: Stack, *zones: str) -> requests.Response:
    """Have the daemon accept these sources; all, if none is named."""
    body = {"mode": "forced"} | ({"zones": zones} if zones else {})
    return ask(stack, "POST", "/rewrite", body)


def state(stack: Stack) -> Path:
    """The state folder."""
    return stack.layout.folder / "state"


def recorded(stack: Stack) -> dict[str, int]:
    """Zone -> the highest serial ever handed out."""
    return State(state(stack)).serials()


def recorded_between_runs(stack: Stack) -> dict[str, int]:
    """The same, when no run is in the middle of using one and taking it back."""
    with State(state(stack)).locked():
        return recorded(stack)


def ticks(stack: Stack, times: int = 3) -> None:
    """Wait until the daemon has run so many times by itself."""
    timer = 'zonerw_converges_total{trigger="timer"}'
    begun = metrics(stack)[timer]
    wait_for(lambda: metrics(stack)[timer] >= begun + times, SOON, f"{times} ticks")


def failures(stack: Stack, step: str) -> float:
    """How many runs failed in this step."""
    return metrics(stack)[f'zonerw_converge_failures_total{{step="{step}"}}']


def left_over(stack: Stack) -> list[Path]:
    """What a run should have taken away at its end."""
    hidden = (p for folder in (state(stack), stack.layout.published) for p in folder.rglob(".*"))
    return [path for path in hidden if path.suffix != ".retired"]


# --- whatever the fault: told, harmless while it lasts, over when it is over ------------------


def disk_full(stack: Stack) -> AbstractContextManager[object]:
    """Not a byte goes into the published folder any more."""
    return Disk(stack.layout.published).full()


def disk_read_only(stack: Stack) -> AbstractContextManager[object]:
    """The published folder's disk can only be read."""
    return Disk(stack.layout.published).read_only()


@contextmanager
def owned_by_another(path: Path, mode: int) -> Iterator[None]:
    """Somebody has given the file or folder to another user, with this mode."""
    before = path.stat()
    os.chown(path, NOBODY, NOBODY)
    path.chmod(mode)
    try:
        yield
    finally:
        os.chown(path, before.st_uid, before.st_gid)
        path.chmod(before.st_mode & 0o7777)


def folder_of_another(stack: Stack) -> AbstractContextManager[object]:
    """The published folder belongs to another user."""
    return owned_by_another(stack.layout.published, 0o755)


@contextmanager
def folder_away(stack: Stack) -> Iterator[None]:
    """The disk is not mounted where it should be: the folder there can't be written."""
    away = stack.layout.folder / "elsewhere"
    away.mkdir()
    run("mount", "--bind", str(away), str(stack.layout.published))
    run("mount", "-o", "remount,bind,ro", str(stack.layout.published))
    try:
        yield
    finally:
        run("umount", str(stack.layout.published))
        away.rmdir()


@contextmanager
def control_is(stack: Stack, line: str | None) -> Iterator[None]:
    """The program that asks for the reload does this instead; None: there is none."""
    script = stack.layout.folder / "ns1" / "control"
    kept = script.with_name("kept")
    script.rename(kept)
    if line is not None:
        write_script(script, line)
    try:
        yield
    finally:
        kept.replace(script)


def control_fails(stack: Stack) -> AbstractContextManager[object]:
    """The reload is refused, with words."""
    return control_is(stack, "echo 'error: SSL handshake failed' >&2; exit 1")


def control_hangs(stack: Stack) -> AbstractContextManager[object]:
    """The reload never ends."""
    return control_is(stack, "exec sleep 600")


def control_absent(stack: Stack) -> AbstractContextManager[object]:
    """The package was removed."""
    return control_is(stack, None)


@contextmanager
def primary_down(stack: Stack) -> Iterator[None]:
    """NSD has died."""
    stack.parts["ns1"].kill()
    try:
        yield
    finally:
        stack.parts["ns1"].start()


@contextmanager
def primary_silent(stack: Stack) -> Iterator[None]:
    """NSD hangs: its sockets are there, and nothing comes from them."""
    stack.parts["ns1"].silence()
    try:
        yield
    finally:
        stack.parts["ns1"].resume()


# What breaks; the step that it fails in; the words that an owner looks for; whether NSD answers.
FAULTS: Mapping[str, tuple[Fault, str, str, bool]] = {
    "disk full": (disk_full, "write", r"published/example\.org.*: No space left on device", True),
    "disk read-only": (
        disk_read_only, "write", r"published/example\.org.*: Read-only file system", True,
    ),
    "folder of another user": (
        folder_of_another, "write", r"published/example\.org.*: Permission denied", True,
    ),
    "folder not mounted": (
        folder_away, "write", r"published/example\.org.*: Read-only file system", True,
    ),
    "control fails": (
        control_fails, "reload", r"/control reload: error: SSL handshake failed$", True,
    ),
    "control hangs": (control_hangs, "reload", r"/control: no end within \d+ s$", True),
    "control absent": (control_absent, "reload", r"no such program: .*/control$", True),
    "NSD down": (primary_down, "reload", r"/control reload: .*nsd\.ctl", False),
    "NSD silent": (primary_silent, "reload", r"/control: no end within \d+ s$", False),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_switch_that_meets_a_fault(daemon: Stack, fault: str) -> None:
    """503 with step, zone and reason; logged once; no serial used up; healed by the next tick."""
    breaks, step, words, answers = FAULTS[fault]
    before, counted, logged = serials(daemon), failures(daemon, step), len(log(daemon))
    with breaks(daemon):
        answer = pin(daemon, "backup")
        assert answer.status_code == 503
        its = answer.json()["zones"]["example.org"]
        assert its["failed"] == step
        assert re.search(words, its["reason"]), its["reason"]
        used = recorded_between_runs(daemon)
        ticks(daemon, 2)
        assert failures(daemon, step) >= counted + 2
        assert recorded_between_runs(daemon) == used
        if answers:
            at_serials(daemon, before)
            assert places(daemon) == {daemon.main}
        told = about(daemon, logged, f"{step} of example.org")
        assert len(told) == 1
        assert re.search(words.removesuffix("$"), told[0])
    moved(daemon, daemon.backup, raised(before, 1))
    wait_for(
        lambda: any(
            'msg="no longer failing"' in line
            for line in about(daemon, logged, f"{step} of example.org")
        ),
        SOON,
        "the end of it to be logged",
    )
    assert recorded(daemon) == {
        zone: max(n for n in its if n) for zone, its in serials(daemon).items()
    }
    wait_for(lambda: not left_over(daemon), SOON, "nothing to be left over")


def about(stack: Stack, since: int, what: str) -> list[str]:
    """What was logged of it since that line."""
    said = re.compile(rf'what=("?){re.escape(what)}\1( |$)')
    return [line for line in log(stack)[since:] if said.search(line)]


# --- the state folder -----------------------------------------------------------------------


def state_full(stack: Stack) -> AbstractContextManager[object]:
    """Nothing can be put down any more."""
    return Disk(state(stack)).full()


def state_read_only(stack: Stack) -> AbstractContextManager[object]:
    """The state's disk can only be read."""
    return Disk(state(stack)).read_only()


def state_of_another(stack: Stack) -> AbstractContextManager[object]:
    """The state folder was given to another user."""
    return owned_by_another(state(stack), 0o700)


def state_file_of_another(stack: Stack) -> AbstractContextManager[object]:
    """One of its files was."""
    return owned_by_another(state(stack) / "meant.json", 0o600)


# What breaks; the words that an owner looks for; whether the runs in between fail too.
STATE_FAULTS: Mapping[str, tuple[Fault, str, bool]] = {
    "full": (state_full, r"state/\w+\.json: can't be written: No space left on device", False),
    "read-only": (state_read_only, r"state/lock: can't be opened: Read-only file system", True),
    "of another user": (
        state_of_another, r"state/meant\.json: can't be read: Permission denied", True,
    ),
    "file of another user": (
        state_file_of_another, r"state/meant\.json: can't be read: Permission denied", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", STATE_FAULTS)
def test_a_state_folder_that_cant_be_used(daemon: Stack, fault: str) -> None:
    """503 with the file and the reason; nothing moves; then a person's word is heard again."""
    breaks, words, at_every_tick = STATE_FAULTS[fault]
    before, counted, logged = serials(daemon), failures(daemon, "state"), len(log(daemon))
    with breaks(daemon):
        answer = pin(daemon, "backup")
        assert answer.status_code == 503
        assert re.search(rf"^step state: .*/{words}$", answer.json()["error"])
        ticks(daemon)
        assert (failures(daemon, "state") >= counted + 3) == at_every_tick
        assert len([line for line in about(daemon, logged, "state") if re.search(words, line)]) == 1
        at_serials(daemon, before)
        assert places(daemon) == {daemon.main}
    wait_for(
        lambda: any("no longer failing" in line for line in about(daemon, logged, "state")),
        SOON,
        "the end of it to be logged",
    )
    assert pin(daemon, "backup").status_code == 200
    moved(daemon, daemon.backup, raised(before, 1))
    assert not left_over(daemon)


# What stands in the file; the words that an owner looks for.
DAMAGES: Mapping[str, tuple[str | None, str]] = {
    "empty": ("", "is damaged: "),
    "half": ('{\n "version": 1,\n "', "is damaged: "),
    "of another version": ('{"version": 99}', "is not of version 1, "),
    "a folder": (None, "can't be read: Is a directory"),
}
STATE_FILES = ("meant", "pin", "seen", "serials")
# They only hold something back for a while.
THROTTLES = ("refused", "lifted")


@contextmanager
def in_its_place(path: Path, content: str | None) -> Iterator[None]:
    """Something else stands where a file was, or should be: this text, or a folder."""
    kept = path.with_name(f"kept {path.name}")
    if path.exists():
        path.rename(kept)
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    try:
        yield
    finally:
        if content is None:
            path.rmdir()
        else:
            path.unlink()
        if kept.exists():
            kept.rename(path)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STATE_FILES)
def test_a_damaged_file_of_the_state(daemon: Stack, name: str, damage: str) -> None:
    """It is named, in the answer, the log and the status; nothing moves until it is mended."""
    content, words = DAMAGES[damage]
    path = state(daemon) / f"{name}.json"
    before, used, logged = serials(daemon), recorded(daemon), len(log(daemon))
    with in_its_place(path, content):
        answer = rewrite(daemon)
        assert answer.status_code == 503
        assert answer.json()["error"].startswith(f"step state: {path}: {words}")
        ticks(daemon)
        error = ask(daemon, "GET", "/status").json()["run"]["error"]
        assert error.startswith(f"{path}: {words}")
        (told,) = about(daemon, logged, "state")
        assert f"{path}: {words}" in told
        at_serials(daemon, before)
    wait_for(lambda: failing(daemon) == set(), SOON, "nothing to fail")
    assert recorded(daemon) == used
    at_serials(daemon, before)
    assert pin(daemon, "backup").status_code == 200
    moved(daemon, daemon.backup, raised(before, 1))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", THROTTLES)
def test_a_damaged_file_that_holds_back_holds_up_no_switch(
    program: Program, name: str, damage: str
) -> None:
    """It is put aside, and told; what was held back is tried once more."""
    content, _ = DAMAGES[damage]
    path = state(program.stack) / f"{name}.json"
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    program.down["main"] = True
    assert not program.run("timer").failed
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
    assert not path.exists()
    assert path.with_suffix(".damaged").exists()


def failing(stack: Stack) -> set[str]:
    """What the daemon says that fails: zones, or the run."""
    its = ask(stack, "GET", "/status").json()
    zones = {name for name, zone in its["zones"].items() if zone["failed"]}
    return zones | ({its["run"]["error"]} if its["run"]["error"] else set())


@pytest.mark.parametrize("damage", ["", '{"version": 99}\n', "half a li"])
def test_no_switch_waits_for_a_damaged_history(program: Program, damage: str) -> None:
    """It is put aside, and another one begun."""
    path = state(program.stack) / "history.jsonl"
    path.write_text(damage)
    program.down["main"] = True
    assert not program.run().failed
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
    (switch,) = State(path.parent).history()
    assert (switch.before, switch.server) == ("main", "backup")
    aside = path.with_suffix(".damaged")
    assert (aside.read_text() if aside.exists() else "") == damage


# What is left of the source; the words that an owner looks for.
SOURCE_DAMAGES: Mapping[str, tuple[Callable[[str], str | None], str]] = {
    "empty": (lambda _: "", "no SOA record"),
    "half": (lambda text: text[: text.index("@serial number@")], "no @serial number@"),
    "another file": (lambda _: "; nothing but a comment\n", "no SOA record"),
    "gone": (lambda _: None, "its accepted source is gone; zonerw rewrite --forced example.org"),
}


@pytest.mark.parametrize("damage", SOURCE_DAMAGES)
def test_an_accepted_source_that_is_damaged_holds_up_no_other(
    program: Program, damage: str
) -> None:
    """The others are switched; it stays as it is published, and said, until a person's word."""
    path = state(program.stack) / "accepted" / "example.org.base"
    changed, words = SOURCE_DAMAGES[damage]
    text = changed(path.read_text())
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    program.down["main"] = True
    for trigger in ("webhook", "timer", "start"):
        its = program.run(trigger).zones["example.org"]
        assert its.failed == "render"
        assert words in its.reason
    assert recorded(program.stack)["example.org"] == TODAY
    program.serves(
        {
            "example.net": (TODAY + 1, program.stack.backup),
            "example.org": (TODAY, program.stack.main),
        }
    )
    assert not program.run("request", Forced(("example.org",))).failed
    program.serves_org((TODAY + 1, program.stack.backup))


@pytest.mark.parametrize("read", ["to compare", "to write"])
def test_an_accepted_source_that_is_edited_in_the_middle_of_a_run(
    program: Program, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """The others are switched, no serial is used up; the next run goes by what it is then."""
    path = state(program.stack) / "accepted" / "example.org.base"
    source, left = State.source, {"to compare": 0, "to write": 1}[read]

    def edited(its: State, zone: str) -> bytes:
        nonlocal left
        if zone == "example.org":
            if left == 0:
                path.write_text(f"; edited\n{path.read_text()}")
            left -= 1
        return source(its, zone)

    monkeypatch.setattr(State, "source", edited)
    program.down["main"] = True
    zones = program.run("webhook").zones
    assert {name: its.failed for name, its in zones.items()} == {ZONES[0]: None, ZONES[1]: "render"}
    assert zones["example.org"].reason == f"{path}: was changed while it was used"
    assert recorded(program.stack) == {ZONES[0]: TODAY + 1, ZONES[1]: TODAY}
    program.serves(
        {
            "example.net": (TODAY + 1, program.stack.backup),
            "example.org": (TODAY, program.stack.main),
        }
    )
    zones = program.run("timer").zones
    assert {name: (its.written, its.failed) for name, its in zones.items()} == {
        "example.net": (False, None),
        "example.org": (True, None),
    }
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
    assert not left_over(program.stack)


def switched_without_record(program: Program) -> None:
    """Have main down, the backup served, and nothing but the zones say so."""
    program.down["main"] = True
    program.run("webhook")
    (state(program.stack) / "meant.json").unlink()


def test_an_accepted_source_that_vanishes_while_it_is_seen_where_the_zones_point(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others tell, where nothing is put down; that one is said, and stays as it is."""
    switched_without_record(program)
    path = state(program.stack) / "accepted" / "example.org.base"
    points_to = zone.points_to

    def vanishing(*its: Any) -> str | None:
        path.unlink(missing_ok=True)
        return points_to(*its)

    monkeypatch.setattr(zone, "points_to", vanishing)
    outcome = program.run("timer")
    assert outcome.meant.server == "backup"
    assert {n: its.failed for n, its in outcome.zones.items()} == {
        "example.net": None,
        "example.org": "render",
    }
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))


def test_sources_that_cannot_be_read_give_nobody_the_zones(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is put down, nobody knows who serves then: it is no reason to hand back."""
    switched_without_record(program)
    program.down["main"] = False

    def unreadable(its: Accepted) -> bytes:
        raise StateError(Path(its.name), "can't be read: Too many open files")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Accepted, "content", unreadable)
        with pytest.raises(StateError, match="Too many open files"):
            program.run("timer")
    assert State(program.config.actions.state).meant() is None
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))


def test_a_zone_that_is_lost_after_the_state_was_lost_is_said(program: Program) -> None:
    """What is found published is on record as what was written is."""
    shutil.rmtree(state(program.stack))
    assert not Program(program.stack).run("start").failed
    assert recorded(program.stack) == dict.fromkeys(ZONES, TODAY)
    (state(program.stack) / "accepted" / "example.org.base").unlink()
    assert program.run("start").zones["example.org"].failed == "render"


def test_no_serial_goes_down_after_the_state_was_lost(program: Program) -> None:
    """Though the file is gone, and nobody can be asked."""
    program.down["main"] = True
    program.run("webhook")
    shutil.rmtree(state(program.stack))
    program.run("start")
    program.stack.parts["ns1"].kill()
    (program.stack.layout.published / "example.org").unlink()
    assert program.run("start").zones["example.org"].serial == TODAY + 2


def test_what_a_killed_command_leaves_in_the_state_goes_with_a_run(program: Program) -> None:
    """The daemon's too, which was there before."""
    left = [state(program.stack) / ".pin.json.tmp"]
    left.append(state(program.stack) / "accepted" / ".example.org.base.tmp")
    for path in left:
        path.write_text("half")
    program.run("request")
    assert not [path for path in left if path.exists()]


def test_accepted_sources_that_are_all_lost(program: Program) -> None:
    """Nothing is served wrongly for it, each zone is said; a person's word accepts them anew."""
    shutil.rmtree(state(program.stack) / "accepted")
    program.down["main"] = True
    outcome = program.run("webhook")
    assert {name: its.failed for name, its in outcome.zones.items()} == dict.fromkeys(
        ZONES, "render"
    )
    program.serves(dict.fromkeys(ZONES, (TODAY, program.stack.main)))
    assert not program.run("request", Forced()).failed
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))


def test_what_stands_in_the_way_of_a_temporary_file_in_the_state_folder(program: Program) -> None:
    """A folder stands in the way: it is said, and healed when it is away."""
    in_the_way = state(program.stack) / ".meant.json.tmp"
    in_the_way.mkdir()
    again = unchecked(program.stack)
    again.down["main"] = True
    for trigger in ("start", "timer"):
        with pytest.raises(
            StateError, match=r"state/meant\.json: can't be written: Is a directory"
        ):
            again.run(trigger)
    assert again.metric("converge_failures_total", step="state") == 2
    in_the_way.rmdir()
    assert not again.run("timer").failed
    again.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))


def test_a_decision_whose_serials_cant_be_recorded(program: Program) -> None:
    """Nothing is written without; what was put down is done as soon as there is room."""
    state_ = State(state(program.stack))
    lines = {f"zone{number}.example": TODAY for number in range(180)}
    with ExitStack() as mine:
        kept = state_.folder.rename(program.stack.layout.folder / "kept")
        state_.folder.mkdir()
        disk = mine.enter_context(mounted(state_.folder))
        shutil.copytree(kept, state_.folder, dirs_exist_ok=True)
        state_.record(lines)
        program.down["main"] = True
        with disk.full(but=1):  # enough for all but the serials
            for _ in range(3):
                zones = program.run("timer").zones
                reason = f"{state_.folder}/serials.json: can't be written: {no_space()}"
                assert {zones[name].failed for name in ZONES} == {"state"}
                assert {zones[name].reason for name in ZONES} == {reason}
                # What is on the disk still points at main: nobody is to look for another address.
                assert program.told == dict.fromkeys(ZONES, TODAY)
                assert program.addresses == dict.fromkeys(ZONES, frozenset())
            assert program.metric("converge_failures_total", step="state") == 3
            meant = state_.meant()
            assert meant
            assert meant.server == "backup"
            program.serves(dict.fromkeys(ZONES, (TODAY, program.stack.main)))
        zones = program.run("timer").zones
        assert {zones[name].failed for name in ZONES} == {None}
        program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
        assert not left_over(program.stack)


def test_a_state_folder_that_is_removed_while_running() -> None:
    """It is made anew by the next run: who serves is read from the zones, and no serial sinks."""
    with Stack(parts=["ns1", "actions"], poll="100ms", edit=by_itself) as stack:
        assert pin(stack, "backup").status_code == 200
        moved(stack, stack.backup, serials(stack))
        before = serials(stack)
        state(stack).rename(stack.layout.folder / "lost")
        assert pin(stack, "backup").status_code == 200
        at_serials(stack, before)
        state(stack).rename(stack.layout.folder / "lost too")
        # The daemon notices by itself too, once its minute of trust is over.
        assert rewrite(stack).status_code == 200
        moved(stack, stack.backup, raised(before, 1))
        assert recorded(stack) == {
            zone: n for zone, (n,) in ((z, tuple(i)) for z, i in serials(stack).items())
        }
        assert ask(stack, "GET", "/status").json()["troubles"] == []


# --- one zone's trouble -----------------------------------------------------------------------


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A primary with two zones that nobody has published yet."""
    with Stack(parts=["ns1"]) as stack:
        yield stack


@pytest.fixture
def program(stack: Stack) -> Program:
    """The program, after its first run: main serves. The checker lets everything pass."""
    program = unchecked(stack)
    program.run("start")
    return program


def unchecked(stack: Stack) -> Program:
    """The program as a fresh process, with a checker that lets everything pass."""
    primary = Program(stack).config.primary
    return Program(stack, primary=primary.model_copy(update={"checker": ("true",)}))


def test_a_zone_that_is_too_large_for_what_is_left_of_a_disk(stack: Stack) -> None:
    """The other one is switched; this one is, as soon as there is room."""
    path = stack.layout.sources / "example.org.base"
    path.write_text(path.read_text() + "".join(f"host{n} A 192.0.2.9\n" for n in range(1500)))
    with mounted(stack.layout.published) as disk:
        stack.parts["ns1"].restart()
        program = Program(stack)
        program.run("start")
        program.down["main"] = True
        with disk.full(but=2):
            for trigger in ("webhook", "timer", "timer"):
                its = program.run(trigger).zones["example.org"]
                assert its.failed == "write"
                assert its.reason == f"{stack.layout.published}/example.org: {no_space()}"
            program.serves(
                {
                    "example.net": (TODAY + 1, stack.backup),
                    "example.org": (TODAY, stack.main),
                }
            )
        program.run("timer")
        program.serves(dict.fromkeys(ZONES, (TODAY + 1, stack.backup)))
        assert not left_over(stack)


@pytest.mark.parametrize("many", [publish.MANY, 1])
def test_a_disk_for_state_and_zones_that_is_full_after_the_first_zone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """What is there is loaded; what that sets free is enough for the other one."""
    monkeypatch.setattr(publish, "MANY", many)
    folders = (state(stack), stack.layout.published)
    (stack.layout.folder / "disk").mkdir()
    with mounted(stack.layout.folder / "disk") as disk:
        for folder in folders:
            folder.mkdir(exist_ok=True)
            (disk.folder / folder.name).mkdir()
            run("mount", "--bind", str(disk.folder / folder.name), str(folder))
        try:
            stack.parts["ns1"].restart()
            program = unchecked(stack)
            program.run("start")
            program.down["main"] = True
            with disk.full(but=2):
                its = program.run("timer").zones
                assert [its[name].failed for name in ZONES] == [None, "write"]
                assert stack.address_of("ns1", ZONES[0]) == stack.backup
                wait_for(lambda: not program.run("timer").failed, SOON, "room for the other one")
            assert {address for _, address in program.served().values()} == {stack.backup}
            assert [path.suffix for path in left_over(stack)] == [".spare"] * (many == 1)
        finally:
            for folder in folders:
                run("umount", "--lazy", str(folder))


def no_space() -> str:
    """What the system says of a full disk."""
    return "No space left on device"


def test_a_zone_whose_file_nobody_may_read(daemon: Stack) -> None:
    """It was published by another user, under a strict umask: the other one is switched."""
    path = daemon.layout.published / "example.org"
    before = serials(daemon)
    with owned_by_another(path, 0o600):
        answer = pin(daemon, "backup")
        assert answer.status_code == 503
        its = answer.json()["zones"]
        assert its["example.org"]["failed"] == "render"
        assert its["example.org"]["reason"] == f"{path}: Permission denied"
        assert its["example.net"]["failed"] is None
        ticks(daemon)
        wait_for(lambda: at(daemon, "example.net") == daemon.backup, SOON, "example.net's switch")
        assert at(daemon, "example.org") == daemon.main
        assert recorded(daemon)["example.org"] in before["example.org"]
    moved(daemon, daemon.backup, raised(before, 1))


def test_a_zone_whose_file_belongs_to_another_user(daemon: Stack) -> None:
    """It can be read, and the folder is ours: that is enough to replace it."""
    path = daemon.layout.published / "example.org"
    before = serials(daemon)
    os.chown(path, NOBODY, NOBODY)
    assert pin(daemon, "backup").status_code == 200
    moved(daemon, daemon.backup, raised(before, 1))
    assert path.stat().st_uid == os.geteuid()
    assert not left_over(daemon)


@pytest.mark.parametrize("name", [".example.org.tmp", ".example.org.last"])
def test_what_another_users_crash_has_left_behind_is_in_nobodys_way(
    daemon: Stack, name: str
) -> None:
    """It is taken away: the folder is ours."""
    path = daemon.layout.published / name
    path.write_text("half a zo")
    path.chmod(0o600)
    os.chown(path, NOBODY, NOBODY)
    before = serials(daemon)
    assert pin(daemon, "backup").status_code == 200
    moved(daemon, daemon.backup, raised(before, 1))
    assert not left_over(daemon)


def at(stack: Stack, zone: str) -> str | None:
    """Where the primary says that the zone's web server is."""
    return stack.address_of("ns1", zone)


def test_a_published_file_that_is_a_folder_now(program: Program) -> None:
    """Said; it heals when the folder is away. Till then NSD loads nothing at all, no other zone."""
    path = program.stack.layout.published / "example.org"
    kept = path.rename(path.with_name("kept"))
    path.mkdir()
    program.down["main"] = True
    for trigger in ("webhook", "timer", "timer"):
        its = program.run(trigger).zones["example.org"]
        assert (its.failed, its.reason) == ("render", f"{path}: Is a directory")
    assert recorded(program.stack)["example.org"] == TODAY
    assert recorded(program.stack)["example.net"] == TODAY + 1
    path.rmdir()
    kept.unlink()
    assert not program.run("timer").failed
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))


@pytest.mark.parametrize(
    ("serial", "then"),
    [(TODAY + 50, TODAY + 51), (TODAY - 50, TODAY + 1), (TODAY, TODAY + 1)],
    ids=["higher", "lower", "the same"],
)
def test_a_published_file_that_a_person_edited_and_had_loaded(
    program: Program, serial: int, then: int
) -> None:
    """Its content comes back, with a serial above all that anybody has seen of it."""
    path = program.stack.layout.published / "example.org"
    ours, theirs = program.stack.main, program.stack.layout.third
    text = path.read_text().replace(ours, theirs).replace(str(TODAY), str(serial))
    path.write_text(text)
    control = program.config.primary.control
    run(*control, "reload")
    program.serves_org((serial, theirs))
    program.run("request")
    program.serves_org((then, ours))
    assert recorded(program.stack)["example.org"] == then


def test_a_published_file_from_the_future(program: Program) -> None:
    """The clock was years ahead when it was written: the next one is later still, and loaded."""
    path = program.stack.layout.published / "example.org"
    future = path.stat().st_mtime + timedelta(days=3650).total_seconds()
    os.utime(path, (future, future))
    program.stack.parts["ns1"].restart()
    program.down["main"] = True
    assert not program.run().failed
    program.serves_org((TODAY + 1, program.stack.backup))
    assert path.stat().st_mtime > future


def test_a_zone_that_the_name_server_does_not_know_yet(daemon: Stack) -> None:
    """503 says so; the other one is done; it is served as soon as the name server is told of it."""
    keep_sources(daemon)
    source = (daemon.layout.sources / "example.org.base").read_text()
    (daemon.layout.sources / "new.example.base").write_text(source)
    control = ("nsd-control", "-c", str(daemon.layout.folder / "ns1" / "nsd.conf"))
    before = serials(daemon)
    answer = rewrite(daemon)
    try:
        assert answer.status_code == 503
        its = answer.json()["zones"]
        assert (its["new.example"]["failed"], its["example.org"]["failed"]) == ("verify", None)
        assert (
            its["new.example"]["reason"] == "ns1 answers REFUSED: is the zone in its configuration?"
        )
        at_serials(daemon, raised(before, 1))
        used = recorded(daemon)
        ticks(daemon)
        assert recorded(daemon) == used
        run(*control, "addzone", "new.example", "zonerw")
        wait_for(lambda: failing(daemon) == set(), SOON, "the new zone to be served")
        assert daemon.serial_of("ns1", "new.example") == used["new.example"]
    finally:
        (daemon.layout.sources / "new.example.base").unlink()
        assert rewrite(daemon, "new.example").status_code == 200


def keep_sources(stack: Stack) -> None:
    """Have the sources as they are now back at the end of the test."""
    shutil.copytree(stack.layout.sources, stack.layout.folder / "sources as they were")


# --- a zone that NSD refuses, though its checker let it pass ------------------------------------


def refuse(program: Program, zone: str = "example.org") -> str:
    """Make of a source what NSD does not load; the source as it was."""
    path = program.stack.layout.sources / f"{zone}.base"
    good = path.read_text()
    path.write_text(good + REFUSED)
    return good


def tried(program: Program) -> int:
    """How often NSD has found example.org broken."""
    log = program.stack.layout.folder / "ns1.log"
    return log.read_text().count("zone example.org file example.org read with ")


def test_a_refused_zone_gets_its_last_good_content_back(program: Program) -> None:
    """With a higher serial, which the followers are told of; the other zone is done."""
    published = program.stack.layout.published / "example.org"
    content = published.read_text()
    refuse(program)
    outcome = program.run("request", Forced())
    its = outcome.zones["example.org"]
    assert (its.failed, its.serial) == ("verify", TODAY + 2)
    assert "ns1 answers SERVFAIL" in its.reason
    assert outcome.failed
    assert outcome.zones["example.net"].failed is None
    assert program.metric("converge_failures_total", step="verify") == 1
    program.serves(
        {
            "example.net": (TODAY + 1, program.stack.main),
            "example.org": (TODAY + 2, program.stack.main),
        }
    )
    assert program.told == {"example.net": TODAY + 1, "example.org": TODAY + 2}
    assert published.read_text() == content.replace(str(TODAY), str(TODAY + 2))
    assert recorded(program.stack)["example.org"] == TODAY + 2
    assert not left_over(program.stack)


def test_a_refused_zone_is_served_again_though_it_took_the_last_of_the_disk(stack: Stack) -> None:
    """What was served goes back in its place before it is written anew."""
    with mounted(stack.layout.published) as disk:
        stack.parts["ns1"].restart()
        program = unchecked(stack)
        program.run("start")
        refuse(program)
        with disk.full(but=1):
            its = program.run("request", Forced(("example.org",))).zones["example.org"]
            assert its.failed == "verify"
            program.serves_org((TODAY + 2, stack.main))


def test_a_refused_zone_that_cannot_be_written_anew_is_back_as_it_was(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its old serial, and that is said; it stays so, and no serial is used up by it."""
    put_all = files.put_all

    def full(folder: Path, contents: Iterable[tuple[str, bytes]], **how: Any) -> dict[str, OSError]:
        if "keep" in how or folder != program.stack.layout.published:
            return put_all(folder, contents, **how)
        return {name: OSError(errno.ENOSPC, "No space left") for name, _ in contents}

    refuse(program)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(publish.files, "put_all", full)
        its = program.run("request", Forced(("example.org",))).zones["example.org"]
        assert its.failed == "write"
        why = f"last content can't be put back with serial {TODAY + 2}: No space left"
        assert its.reason == why
        program.serves_org((TODAY, program.stack.main))
        for trigger in ("timer", "webhook", "start"):
            its = program.run(trigger).zones["example.org"]
            assert (its.failed, its.serial) == ("verify", TODAY)
            assert f"its last content is back, with serial {TODAY}; tried again" in its.reason
    assert recorded(program.stack)["example.org"] == TODAY + 2
    program.serves_org((TODAY, program.stack.main))
    assert not left_over(program.stack)
    program.run("request", Forced(("example.org",)))
    program.serves_org((TODAY + 4, program.stack.main))


def test_a_refused_zone_whose_source_is_edited_meanwhile(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is served again all the same; by that edit all is well, and nothing is left to change."""
    path = state(program.stack) / "accepted" / "example.org.base"
    give_back = Publisher.give_back

    def edited(its: Publisher, names: Collection[str]) -> Mapping[str, int]:
        path.write_text(path.read_text().removesuffix(REFUSED))
        return give_back(its, names)

    refuse(program)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Publisher, "give_back", edited)
        its = program.run("request", Forced()).zones["example.org"]
    assert (its.failed, its.serial) == ("verify", TODAY + 2)
    program.serves_org((TODAY + 2, program.stack.main))
    assert not program.run("timer").failed
    program.serves_org((TODAY + 2, program.stack.main))


def test_a_refused_zone_that_goes_on_is_read_once(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens to its source after that is for the next run: it holds up no other zone."""
    refuse(program)
    program.run("request", Forced())
    source, read = State.source, set[str]()

    def once(its: State, zone: str) -> bytes:
        if zone in read:
            raise StateError(its.folder, "was changed")
        read.add(zone)
        return source(its, zone)

    monkeypatch.setattr(State, "source", once)
    assert program.run("start").failing == {"example.org"}
    assert read == set(ZONES)


def test_a_refused_zone_is_not_tried_again_and_again(program: Program) -> None:
    """Not at ticks, not after a restart; each run says so. Once an hour it is."""
    refuse(program)
    reason = program.run("request", Forced()).zones["example.org"].reason
    times = tried(program)
    for trigger in ("timer", "webhook", "start"):
        again = unchecked(program.stack) if trigger == "start" else program
        its = again.run(trigger).zones["example.org"]
        assert (its.failed, its.serial, its.reason) == ("verify", TODAY + 2, reason)
        assert again.told["example.org"] == TODAY + 2
    assert tried(program) == times
    program.now = NOW + timedelta(hours=1, minutes=1)
    assert program.run("webhook").zones["example.org"].serial == TODAY + 4
    assert tried(program) > times
    program.serves_org((TODAY + 4, program.stack.main))
    program.now += timedelta(minutes=1)
    assert program.run("webhook").zones["example.org"].serial == TODAY + 4


def test_a_refused_zone_that_was_mended(program: Program) -> None:
    """By a person's word it is right at once, and all is as ever."""
    good = refuse(program)
    program.run("request", Forced())
    (program.stack.layout.sources / "example.org.base").write_text(good)
    assert not program.run("request", Forced(("example.org",))).failed
    program.serves_org((TODAY + 3, program.stack.main))
    assert State(state(program.stack)).refused() == {}
    program.down["main"] = True
    assert not program.run().failed
    program.serves_org((TODAY + 4, program.stack.backup))
    assert not left_over(program.stack)


def test_a_refused_zone_at_a_switch(program: Program) -> None:
    """It is tried for the other server, and is served after that; no other zone waits for it."""
    refuse(program)
    program.run("request", Forced())
    program.down["main"] = True
    its = program.run().zones["example.org"]
    assert (its.failed, its.serial) == ("verify", TODAY + 4)
    assert program.stack.address_of("ns1", "example.net") == program.stack.backup
    wait_for(lambda: program.served()["example.org"][0] == TODAY + 4, 5, "the last good content")
    for trigger in ("timer", "webhook"):
        assert program.run(trigger).zones["example.org"].serial == TODAY + 4
    assert not left_over(program.stack)


@pytest.mark.parametrize("years", [-5, 5])
def test_a_refused_zone_and_a_wrong_clock(program: Program, years: int) -> None:
    """When the clock is right again, it is tried again within the hour all the same."""
    refuse(program)
    program.now = NOW + timedelta(days=365 * years)
    serial = program.run("request", Forced()).zones["example.org"].serial
    assert serial
    program.now = NOW + timedelta(hours=1, minutes=1)
    assert program.run("webhook").zones["example.org"].serial == serial + 2


def test_a_zone_that_was_refused_from_its_first_day() -> None:
    """There is nothing to give back: it uses up no serials, and holds up no other."""
    text = "$TTL 60\n@ SOA ns1 owner @serial number@ 2h 10m 4w 60\n@ NS ns1\nns1 A @IP@\n"
    with Stack(parts=["ns1"], sources={"new.example": text + REFUSED}) as stack:
        program = unchecked(stack)
        its = program.run("start").zones["new.example"]
        assert its.failed == "verify"
        assert "ns1 answers SERVFAIL" in its.reason
        program.down["main"] = True
        program.run("webhook")
        program.serves(dict.fromkeys(ZONES, (TODAY + 1, stack.backup)))
        used = recorded(stack)["new.example"]
        for _ in range(3):
            program.run("timer")
        assert recorded(stack)["new.example"] == used
        (stack.layout.sources / "new.example.base").write_text(text)
        assert not program.run("request", Forced(("new.example",))).failed
        assert stack.serial_of("ns1", "new.example") == used + 1
        assert not left_over(stack)


def test_a_zone_that_is_refused_whatever_its_content(program: Program) -> None:
    """The name server can't read its file any more: no serials are used up over that."""
    ns1 = program.stack.parts["ns1"]
    ns1.stop()
    ns1.argv = (*ORDINARY, *ns1.argv)
    ns1.start()
    path = program.stack.layout.published / "example.org"
    reload = " ".join(program.config.primary.control)
    script = program.stack.layout.folder / "control"
    write_script(
        script, f'chmod 000 {path}; exec {find("nsd-control")} {reload.partition(" ")[2]} "$@"'
    )
    primary = program.config.primary.model_copy(update={"control": (str(script),)})
    again = Program(program.stack, primary=primary)
    again.down["main"] = True
    its = again.run("webhook").zones["example.org"]
    assert its.failed == "verify"
    assert "ns1 answers SERVFAIL" in its.reason
    assert program.stack.address_of("ns1", "example.net") == program.stack.backup
    used = recorded(program.stack)["example.org"]
    for trigger in ("timer", "webhook", "timer"):
        assert again.run(trigger).zones["example.org"].failed == "verify"
    assert recorded(program.stack)["example.org"] == used
    path.chmod(0o644)
    write_script(script, f'exec {find("nsd-control")} {reload.partition(" ")[2]} "$@"')
    assert not again.run("request", Forced(("example.org",))).failed
    program.serves_org((used + 1, program.stack.backup))
    assert not left_over(program.stack)


def test_a_refused_zone_over_http(daemon: Stack) -> None:
    """503, the reason logged once; the source put right, the next word is 200."""
    keep_sources(daemon)
    path = daemon.layout.sources / "example.org.base"
    good = path.read_text()
    before, logged = serials(daemon), len(log(daemon))
    path.write_text(good + REFUSED)
    answer = rewrite(daemon, "example.org")
    assert answer.status_code == 503
    its = answer.json()["zones"]["example.org"]
    assert its["failed"] == "verify"
    assert "ns1 answers SERVFAIL" in its["reason"]
    at_serials(daemon, before | {"example.org": raised(before, 2)["example.org"]})
    ticks(daemon)
    assert len(about(daemon, logged, "verify of example.org")) == 1
    assert failing(daemon) == {"example.org"}
    path.write_text(good)
    assert rewrite(daemon, "example.org").status_code == 200
    assert failing(daemon) == set()


# --- a wrong clock ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("years", "there", "back"),
    [
        (-5, TODAY + 1, TODAY + 2),
        (3, TODAY + 3 * 1_000_000, TODAY + 3 * 1_000_000 + 1),
        (15, TODAY + 1, TODAY + 2),
    ],
    ids=["years back", "years ahead", "beyond belief"],
)
def test_a_wrong_clock_and_a_right_one_again(
    program: Program, caplog: pytest.LogCaptureFixture, years: int, there: int, back: int
) -> None:
    """The zones are switched, and handed back; no serial is ever lower than one before."""
    program.now = NOW.replace(year=NOW.year + years)
    program.down["main"] = True
    assert not program.run("webhook").failed
    program.serves(dict.fromkeys(ZONES, (there, program.stack.backup)))
    assert {its.serial for its in program.run("timer").zones.values()} == {there}
    doubts = [vars(r)["reason"] for r in caplog.records if r.message == "serial doubted"]
    assert bool(doubts) == (years == 15)
    assert all(doubt.startswith(f"the clock says {NOW.year + 15}-") for doubt in doubts)
    program.now = NOW + timedelta(minutes=1)
    again = unchecked(program.stack)
    again.now, again.down = program.now, program.down
    assert again.written(again.run("start")) == set()
    again.down["main"] = False
    assert not again.run("webhook").failed
    again.serves(dict.fromkeys(ZONES, (back, program.stack.main)))


# --- sources ------------------------------------------------------------------------------------


def source_metrics(stack: Stack, zone: str) -> tuple[float | None, float | None]:
    """Whether the source is valid, and whether it waits for a person's word."""
    shown = metrics(stack)
    valid, pending = (
        shown.get(f'zonerw_zone_source_{what}{{zone="{zone}"}}') for what in ("valid", "pending")
    )
    return valid, pending


def source_of(stack: Stack, zone: str) -> Any:
    """How the status says that a zone's source stands."""
    return ask(stack, "GET", "/status").json()["zones"][zone]["source"]


# What becomes of a source, and the line that is named then.
BREAKS: Mapping[str, Callable[[str], tuple[str, int]]] = {
    "half-saved": lambda text: (text[: text.index("60 )")], line_of(text, "SOA")),
    "mistyped": lambda text: (text + "more A 192.0.2.300\n", text.count("\n") + 1),
    "mistyped marker": lambda text: (text + "more A @ip@\n", text.count("\n") + 1),
}


def line_of(text: str, word: str) -> int:
    """The number of the first line with this word."""
    return text[: text.index(word)].count("\n") + 1


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_source(daemon: Stack, how: str) -> None:
    """Shown, with file and line; a switch goes by the accepted one; nothing else does anything."""
    keep_sources(daemon)
    path = daemon.layout.sources / "example.org.base"
    good = path.read_text()
    before = serials(daemon)
    assert source_metrics(daemon, "example.org") == (1, 0)
    broken, line = BREAKS[how](good)
    path.write_text(broken)
    assert source_metrics(daemon, "example.org") == (0, 1)
    assert source_metrics(daemon, "example.net") == (1, 0)
    its = source_of(daemon, "example.org")
    assert its["state"] == "broken"
    assert re.match(rf"{re.escape(str(path))}:{line}: ", its["why"]), its["why"]
    said = daemon.zonerw("status").stdout
    broken_is_told = "the source of example.org is broken; it is served on as it was accepted:\n"
    assert f"{broken_is_told}  {path}:{line}: " in said

    assert pin(daemon, "backup").status_code == 200
    moved(daemon, daemon.backup, raised(before, 1))
    refused = rewrite(daemon)
    assert refused.status_code == 422
    assert refused.json()["zones"]["example.org"]["failed"] == "accept"
    assert refused.json()["zones"]["example.org"]["reason"].startswith(f"{path}:{line}: ")
    after = raised(before, 1) | {"example.net": raised(before, 2)["example.net"]}
    at_serials(daemon, after)

    path.write_text(good + "more A @IP@\n")
    assert source_metrics(daemon, "example.org") == (1, 1)
    ticks(daemon)
    at_serials(daemon, after)
    assert rewrite(daemon, "example.org").status_code == 200
    assert source_metrics(daemon, "example.org") == (1, 0)
    at_serials(daemon, raised(before, 2))


def test_a_vanished_source(daemon: Stack) -> None:
    """Shown; it is switched all the same."""
    keep_sources(daemon)
    path = daemon.layout.sources / "example.org.base"
    before, kept = serials(daemon), path.read_text()
    path.unlink()
    assert source_metrics(daemon, "example.org")[1] == 1
    assert source_of(daemon, "example.org")["state"] == "gone"
    assert pin(daemon, "backup").status_code == 200
    moved(daemon, daemon.backup, raised(before, 1))
    path.write_text(kept)
    assert source_metrics(daemon, "example.org") == (1, 0)


def test_a_folder_of_sources_that_is_not_there(daemon: Stack) -> None:
    """Said by status; a switch does not need it."""
    away = daemon.layout.sources.rename(daemon.layout.folder / "away")
    before = serials(daemon)
    try:
        troubles = ask(daemon, "GET", "/status").json()["troubles"]
        expected = {
            "file": str(daemon.layout.sources),
            "why": "can't be read: No such file or directory",
        }
        assert troubles == [expected]
        assert metrics(daemon)
        assert pin(daemon, "backup").status_code == 200
        moved(daemon, daemon.backup, raised(before, 1))
        answer = rewrite(daemon)
        assert answer.status_code == 422
        at_serials(daemon, raised(before, 1))
    finally:
        away.rename(daemon.layout.sources)


def test_a_new_source(daemon: Stack) -> None:
    """It waits for a person's word, and is shown meanwhile."""
    keep_sources(daemon)
    text = (daemon.layout.sources / "example.org.base").read_text()
    (daemon.layout.sources / "newer.example.base").write_text(text)
    assert source_metrics(daemon, "newer.example") == (1, 1)
    its = source_of(daemon, "newer.example")
    assert (its["state"], its["why"]) == ("pending", "new")
    ticks(daemon)
    assert daemon.published("newer.example") is None


def slowly_checked(text: str) -> str:
    """Configure the daemon as ever, with a checker that takes its time and notes that it began."""
    note = re.search(r'(?m)^state = "(.+)"', text)
    assert note
    slow = f'checker = ["sh", "-c", "touch {Path(note[1]).with_name("checking")}; sleep 2"]'
    return by_itself(text).replace('checker = ["true"]', slow)


def test_who_ends_the_daemon_waits_for_no_sources_to_be_checked() -> None:
    """Not for all those that are still to be, as on a first start; nothing is accepted then."""
    with Stack(parts=["ns1"], edit=slowly_checked) as stack:
        text = (stack.layout.sources / "example.org.base").read_text()
        for number in range(200):
            (stack.layout.sources / f"zone{number}.example.base").write_text(text)
        program = (sys.executable, "-m", "actions", "--config", str(stack.layout.config))
        daemon = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        try:
            wait_for((stack.layout.folder / "checking").exists, SOON, "the checks to begin")
            wait_for(lambda: healthy(stack), SOON, "the daemon to listen")
            daemon.send_signal(signal.SIGTERM)
            _, said = daemon.communicate(timeout=15)
        finally:
            daemon.kill()
            daemon.communicate()
        assert daemon.returncode == 0
        assert "Traceback" not in said
        assert State(state(stack)).accepted() == {}


def healthy(stack: Stack) -> bool:
    """Whether the daemon answers."""
    try:
        return http("GET", stack.layout.url("actions") + "/-/healthy").ok
    except requests.ConnectionError:
        return False
