"""How sources stand to what was accepted of them, and how far checking is."""

import logging
import time
from pathlib import Path

import pytest
from conftest import free_port, write_config
from zones import HEAD

from actions import accept
from actions.accept import Standing, Watch, check
from actions.state import State
from exporter import config as configuration
from exporter.config import Config, Nameserver

ZONES = ("example.net", "example.org")
SOURCE = f"{HEAD}www A @IP@\n"


@pytest.fixture
def checker(tmp_path: Path) -> Path:
    """A checker that is content, and notes the zones that it was asked for."""
    path = tmp_path / "checker"
    path.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/checked\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def config(tmp_path: Path, checker: Path) -> Config:
    """Two servers, two zones, and that checker."""
    nobody = Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))
    path = write_config(tmp_path, {"main": 1, "backup": 2}, {"ns1": nobody}, ZONES)
    ours = f'[actions]\nstate = "{tmp_path}/state"\n[primary]\nchecker = ["{checker}"]'
    path.write_text(path.read_text().replace("[primary]", ours))
    for zone in ZONES:
        (tmp_path / "zones" / f"{zone}.base").write_text(SOURCE)
    return configuration.read(path)


@pytest.fixture
def watch(config: Config) -> Watch:
    """One that has looked when both sources were accepted."""
    state = State(config.actions.state)
    state.prepare()
    accept.accept(config, state, check(config, ()))
    watch = Watch(config, state)
    assert watch.look() == dict.fromkeys(ZONES, Standing("accepted"))
    return watch


def path_of(config: Config, zone: str) -> Path:
    """Where a zone's source is."""
    return config.zones.sources / f"{zone}.base"


def checked(config: Config) -> list[str]:
    """What the checker was asked for, in order."""
    return (config.path.parent / "checked").read_text().split()


def test_an_edited_source_is_checked_once(config: Config, watch: Watch) -> None:
    """For both servers; then only when it changes again."""
    path_of(config, "example.org").write_text(f"{SOURCE}ftp A @IP@\n")
    before = checked(config)
    for _ in range(3):
        assert watch.look()["example.org"] == Standing("pending", "edited")
    assert checked(config) == [*before, "example.org", "example.org"]
    path_of(config, "example.org").write_text(SOURCE)
    assert watch.look()["example.org"] == Standing("accepted")
    path_of(config, "new.example").write_text(SOURCE)
    assert watch.look()["new.example"] == Standing("pending", "new")
    path_of(config, "example.net").unlink()
    assert watch.look()["example.net"] == Standing("gone")


def test_a_broken_source_is_named_with_its_line_until_it_is_right(
    config: Config, watch: Watch, checker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cause is elsewhere, and the source has not changed: soon it is tried again."""
    path = path_of(config, "example.org")
    path.write_text(f"{SOURCE}www A @ip@\n")
    its = watch.look()["example.org"]
    assert its.state == "broken"
    assert its.why.startswith(f"{path}:6: @ip@ is no marker")
    path.write_text(f"{SOURCE}ftp A @IP@\n")
    checker.chmod(0o644)
    assert watch.look()["example.org"].state == "broken"
    checker.chmod(0o755)
    assert watch.look()["example.org"].state == "broken"  # one that hangs is not run at each look
    now = time.monotonic()
    monkeypatch.setattr(accept.time, "monotonic", lambda: now + accept._CHECK_AGAIN_SECONDS)
    assert watch.look()["example.org"] == Standing("pending", "edited")


def test_a_look_takes_a_while_at_most(
    config: Config, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of edited sources are told of at once, and checked in the next looks."""
    path_of(config, "example.org").write_text(f"{SOURCE}ftp A @IP@\n")
    with monkeypatch.context() as hurried:
        hurried.setattr(accept, "_CHECK_SECONDS", 0.0)
        assert watch.look()["example.org"] == Standing("unchecked")
    assert watch.look()["example.org"] == Standing("pending", "edited")


def test_a_checker_that_hangs_does_not_hold_up_a_look(
    config: Config, watch: Watch, checker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over with the look's; others are not kept from being checked by it."""
    monkeypatch.setattr(accept, "_CHECK_SECONDS", 1.0)
    right = checker.read_text()
    checker.write_text('#!/bin/sh\n[ "$1" = example.org ] || exit 0\nexec sleep 600\n')
    for name in ("example.org", "new.example"):
        path_of(config, name).write_text(f"{SOURCE}ftp A @IP@\n")
    began = time.monotonic()
    looks = [watch.look() for _ in range(3)]
    assert time.monotonic() - began < 8
    assert [look["example.org"] for look in looks] == [accept.SLOW] * 3
    assert looks[-1]["new.example"] == Standing("pending", "new")
    monotonic, later = time.monotonic, accept._CHECK_SLOW_AGAIN_SECONDS
    monkeypatch.setattr(accept, "_CHECK_SLOW_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(accept.time, "monotonic", lambda: monotonic() + later)
    path_of(config, "new.example").write_text(f"{SOURCE}ftp A @IP6@\n")
    assert watch.look()["new.example"].state == "broken"  # what is slow comes last
    checker.write_text(right)
    monkeypatch.setattr(accept, "_CHECK_SECONDS", 30.0)
    assert watch.look()["example.org"] == Standing("pending", "edited")


def test_checking_says_how_far_it_is(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for minutes wants to know; whoever does not, hears nothing."""
    caplog.set_level(logging.INFO)
    check(config, ())
    assert not caplog.records
    monkeypatch.setattr(accept, "_TELL_EVERY_SECONDS", 0.0)
    check(config, ())
    said = [(record.message, vars(record)["done"], vars(record)["of"]) for record in caplog.records]
    assert said == [("checking sources", 0, 2), ("checking sources", 1, 2)]


def test_what_changed_while_it_was_checked_is_not_accepted(config: Config) -> None:
    """Checking takes a while: a person may have said something newer, or taken it away."""
    state = State(config.actions.state)
    state.prepare()
    slow = check(config, ())
    path_of(config, "example.org").write_text(f"{SOURCE}newer A @IP@\n")
    accept.accept(config, state, check(config, ("example.org",)))
    verdict = accept.accept(config, state, slow)["example.org"]
    path = path_of(config, "example.org")
    assert (verdict.kind, verdict.why) == ("refused", f"{path}: changed while it was checked")
    assert b"newer" in state.source("example.org")
    path.unlink()
    accept.accept(config, state, check(config, ("example.org",)))
    accept.accept(config, state, slow)
    assert set(state.accepted()) == {"example.net"}


@pytest.mark.parametrize("named", [(), ("example.net", "example.org")], ids=["all", "named"])
def test_what_was_put_back_while_others_were_checked_is_not_retired(
    config: Config, named: tuple[str, ...]
) -> None:
    """A newer word has accepted it meanwhile."""
    state = State(config.actions.state)
    state.prepare()
    accept.accept(config, state, check(config, ()))
    path = path_of(config, "example.org")
    path.unlink()
    slow = check(config, named)
    path.write_text(f"{SOURCE}newer A @IP@\n")
    accept.accept(config, state, check(config, ("example.org",)))
    verdict = accept.accept(config, state, slow)["example.org"]
    assert (verdict.kind, verdict.why) == ("refused", f"{path}: changed while it was checked")
    assert b"newer" in state.source("example.org")


def test_a_lost_source_can_be_retired(config: Config) -> None:
    """Its owner took it away, and what was accepted of it is gone too."""
    state = State(config.actions.state)
    state.prepare()
    accept.accept(config, state, check(config, ()))
    state.record({"example.org": 7})
    path_of(config, "example.org").unlink()
    (config.actions.state / "accepted" / "example.org.base").unlink()
    assert state.lost() == {"example.org"}
    verdicts = accept.accept(config, state, check(config, ("example.org",)))
    assert verdicts["example.org"].kind == "retired"
    assert state.lost() == set()


def test_one_that_comes_back_can_be_lost_again(config: Config) -> None:
    """That it was retired once is forgotten when it is accepted anew."""
    state = State(config.actions.state)
    state.prepare()
    accept.accept(config, state, check(config, ()))
    state.record({"example.org": 7})
    state.retire("example.org")
    accept.accept(config, state, check(config, ()))
    (config.actions.state / "accepted" / "example.org.base").unlink()
    assert state.lost() == {"example.org"}


def test_retiring_leaves_nothing_behind(config: Config) -> None:
    """Of what a killed run has left beside the published file."""
    state = State(config.actions.state)
    state.prepare()
    accept.accept(config, state, check(config, ()))
    config.zones.published.mkdir()
    for name in (".example.org.last", ".example.org.tmp", "example.org", ".example.net.last"):
        (config.zones.published / name).touch()
    path_of(config, "example.org").unlink()
    accept.accept(config, state, check(config, ("example.org",)))
    left = {path.name for path in config.zones.published.iterdir()}
    assert left == {"example.org", ".example.net.last"}


def test_retiring_that_was_killed_leaves_nothing_behind(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a zone is retired no run looks after it, and no word names it."""
    state = State(config.actions.state)
    state.prepare()
    accept.accept(config, state, check(config, ()))
    config.zones.published.mkdir()
    (config.zones.published / ".example.org.spare").touch()
    path_of(config, "example.org").unlink()
    retire = State.retire

    def killed(state: State, zone: str) -> None:
        retire(state, zone)
        raise KeyboardInterrupt

    monkeypatch.setattr(State, "retire", killed)
    with pytest.raises(KeyboardInterrupt):
        accept.accept(config, state, check(config, ("example.org",)))
    assert set(state.accepted()) == {"example.net"}
    assert not list(config.zones.published.iterdir())
