"""When a job runs, how it is ended, what is put down and said of it: by commands of the shell."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_config import MINIMAL

from actions import sync
from actions.errand import Stop
from actions.records import Records, SyncRecord
from actions.state import StateError
from actions.sync import Jobs, Schedule, pause
from demo.stack import wait_for
from exporter import config as configuration
from exporter.config import Config

CONFIG = f"""\
{MINIMAL}
[actions]
state = "{{state}}"

[sync.site]
command = {{command}}
every = "{{every}}"
timeout = "{{timeout}}"
"""


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is told of the runs."""
    caplog.set_level(logging.INFO, "actions.sync")
    return caplog


def config_of(folder: Path, script: str, every: str = "10m", timeout: str = "30s") -> Config:
    """A job that runs a script of the shell in this folder."""
    command = json.dumps(["sh", "-c", f"cd {folder}; {script}"])
    path = folder / "zonerw.toml"
    values = {"state": folder / "state", "every": every, "timeout": timeout}
    path.write_text(CONFIG.format(command=command, **values))
    return configuration.read(path)


def ran(config: Config, stop: Stop | None = None) -> SyncRecord:
    """Run it; what is put down then."""
    run, record = Jobs(config).run("site", stop or Stop()), Records(config.actions.state).of("site")
    assert record
    assert (run.result.outcome, run.result.reason) == (record.outcome, record.reason)
    return record


def gone(pid: Path) -> bool:
    """Whether the process that put its number there has ended."""
    try:
        os.kill(int(pid.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def lines(path: Path) -> Sequence[str]:
    return path.read_text().split() if path.exists() else ()


def test_a_command_that_ends_well(tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    """It is put down, with the totals so far; one line is logged."""
    config = config_of(tmp_path, "echo fine")
    first, second = ran(config), ran(config)
    assert (second.outcome, second.end, second.reason) == ("done", 0, "")
    assert second.since == first.since < first.ended < second.ended == second.succeeded
    assert (second.runs_total, second.failures_total) == (2, 0)
    assert [(line.message, vars(line)["job"]) for line in logged.records] == [
        ("sync done", "site")
    ] * 2
    assert not hasattr(logged.records[0], "transferred")  # a command says no such thing


def test_a_command_that_fails(tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    """Its exit status and its last words are the reason; when it last went well is kept."""
    config = config_of(tmp_path, "cat not-there")
    (tmp_path / "not-there").touch()
    well = ran(config)
    (tmp_path / "not-there").unlink()
    record = ran(config)
    assert (record.outcome, record.end) == ("failed", 1)
    assert record.reason == "sh: cat: not-there: No such file or directory"
    assert record.succeeded == well.succeeded
    assert (record.runs_total, record.failures_total) == (2, 1)
    assert (logged.records[-1].levelname, logged.records[-1].message) == ("WARNING", "sync failed")
    assert vars(logged.records[-1])["reason"] == record.reason


def test_a_command_without_words_has_its_exit_status_for_a_reason(tmp_path: Path) -> None:
    """`git diff --quiet`, say."""
    assert ran(config_of(tmp_path, "exit 7")).reason == "sh: exit status 7"


def test_a_command_that_somebody_kills(tmp_path: Path) -> None:
    """That is no success, though it has no exit status."""
    record = ran(config_of(tmp_path, "kill -9 $$"))
    assert (record.outcome, record.end, record.reason) == ("failed", None, "sh: ended by a signal")


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    """The system's words, with the program's name; no exit status."""
    config = config_of(tmp_path, "")
    path = tmp_path / "zonerw.toml"
    path.write_text(path.read_text().replace('["sh"', '["no-such-program"'))
    record = ran(configuration.read(config.path))
    assert (record.end, record.reason) == (None, "no such program: no-such-program")


def test_it_is_ended_with_all_that_it_began(tmp_path: Path) -> None:
    """At its timeout: what it started itself too, though that would not hear SIGTERM."""
    deaf = """sh -c 'trap "" TERM; echo $$ > pid; exec sleep 60' & wait"""
    record = ran(config_of(tmp_path, deaf, timeout="500ms"))
    assert (record.outcome, record.end, record.reason) == ("failed", None, "no end within 0.5 s")
    wait_for(lambda: gone(tmp_path / "pid"), 10, "the end of it")


def test_told_to_end_it_ends(tmp_path: Path) -> None:
    """A run under way ends at once, and another one does not begin to do anything."""
    config, stop = config_of(tmp_path, "echo $$ > pid; exec sleep 60"), Stop()

    def end_when_begun() -> None:
        wait_for(lambda: lines(tmp_path / "pid"), 10, "the beginning of the run")
        stop.tell()

    threading.Thread(target=end_when_begun).start()
    assert ran(config, stop).reason == "told to end"
    wait_for(lambda: gone(tmp_path / "pid"), 10, "the end of it")


def test_never_twice_at_once(tmp_path: Path) -> None:
    """The second waits for the first, and says so; then it runs."""
    script = "echo begin >> log; until test -e go; do sleep 0.02; done; echo end >> log"
    config, told = config_of(tmp_path, script), threading.Event()
    first = threading.Thread(target=ran, args=(config,))
    first.start()
    wait_for(lambda: lines(tmp_path / "log") == ["begin"], 10, "the run")

    def run_second() -> None:
        Jobs(config).run("site", Stop(), waits=told.set)

    second = threading.Thread(target=run_second)
    second.start()
    assert told.wait(10)
    assert lines(tmp_path / "log") == ["begin"]
    (tmp_path / "go").touch()
    first.join(10)
    second.join(10)
    assert lines(tmp_path / "log") == ["begin", "end"] * 2


def test_who_is_killed_takes_its_run_along(tmp_path: Path) -> None:
    """Nobody would end it when its time is up."""
    config = config_of(tmp_path, "echo $$ > pid; exec sleep 60")
    main = "import sys; from actions.cli import main; main()"
    command = [sys.executable, "-c", main, "sync", "site", "--config", str(config.path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        wait_for(lambda: lines(tmp_path / "pid"), 20, "the beginning of the run")
        killed.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(tmp_path / "pid"), 10, "the end of it")


def test_what_a_command_leaves_behind_keeps_no_lock(tmp_path: Path) -> None:
    """As git's maintenance: it may take its time."""
    config = config_of(tmp_path, "sleep 60 >/dev/null 2>&1 & echo $! >> pids")
    ran(config)
    try:
        assert ran(config).runs_total == 2
    finally:
        for pid in lines(tmp_path / "pids"):
            os.kill(int(pid), signal.SIGKILL)


def test_what_prints_without_end_is_ended(tmp_path: Path) -> None:
    """And what it said does not fill our memory."""
    record = ran(config_of(tmp_path, "yes", timeout="500ms"))
    assert (record.outcome, record.reason) == ("failed", "no end within 0.5 s")


def test_a_damaged_record_is_put_aside(tmp_path: Path) -> None:
    """The status says so until the next run, which begins a new one."""
    config = config_of(tmp_path, "true")
    ran(config)
    path = tmp_path / "state" / "sync" / "site.json"
    path.write_text("{")
    with pytest.raises(StateError, match=r"site\.json: is damaged"):
        Records(config.actions.state).of("site")
    assert sync.show(config)["site"][1] is None
    assert ran(config).runs_total == 1
    assert path.with_suffix(".damaged").read_text() == "{"


def test_what_is_shown_before_the_first_run(tmp_path: Path) -> None:
    """The job is known, and nothing of it: that is absent, never 0."""
    config = config_of(tmp_path, "true")
    assert sync.show(config) == {"site": (config.sync["site"], None)}


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 600), (1, 10), (2, 20), (3, 40), (6, 320), (7, 600), (5000, 600)]
)
def test_after_a_failure_it_is_tried_again_sooner(failures: int, seconds: float) -> None:
    """Twice as long after each, and at last as often as it is due."""
    assert pause(600, failures) == seconds


def test_a_job_that_is_due_more_often_is_tried_as_often() -> None:
    """No failure makes it come later."""
    assert pause(5, 1) == 5


def test_the_schedule(tmp_path: Path) -> None:
    """It runs at the start, when it is woken, and when it is due; not after its end."""
    config = config_of(tmp_path, "echo run >> log", every="10m")
    schedule = Schedule(config)
    schedule.start()
    wait_for(lambda: len(lines(tmp_path / "log")) == 1, 10, "the run")
    wait_for(lambda: Records(config.actions.state).of("site"), 10, "the record")
    schedule.wake()
    wait_for(lambda: len(lines(tmp_path / "log")) == 2, 10, "the run")
    schedule.stop()
    schedule.wake()
    assert len(lines(tmp_path / "log")) == 2


def test_it_is_run_when_due(tmp_path: Path) -> None:
    """Again and again, unasked."""
    schedule = Schedule(config_of(tmp_path, "echo run >> log", every="50ms"))
    schedule.start()
    wait_for(lambda: len(lines(tmp_path / "log")) >= 3, 10, "the run")
    schedule.stop()


def test_the_end_of_the_schedule_ends_a_run(tmp_path: Path) -> None:
    """The daemon's stop waits for no mailbox."""
    schedule = Schedule(config_of(tmp_path, "echo $$ > pid; exec sleep 60"))
    schedule.start()
    wait_for(lambda: lines(tmp_path / "pid"), 10, "the beginning of the run")
    begun = time.monotonic()
    schedule.stop()
    assert time.monotonic() - begun < 5
    wait_for(lambda: gone(tmp_path / "pid"), 10, "the end of it")


def test_a_state_folder_that_cant_be_used_is_told_of(
    tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    """And the schedule goes on trying."""
    config = config_of(tmp_path, "true", every="50ms")
    (tmp_path / "state").write_text("no folder")
    schedule = Schedule(config)
    schedule.start()
    wait_for(lambda: len(logged.records) >= 2, 10, "the second failure")
    schedule.stop()
    assert {line.message for line in logged.records} == {"sync failed"}
    assert "can't be used" in vars(logged.records[0])["reason"]
