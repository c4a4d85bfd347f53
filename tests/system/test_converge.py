"""Converging, against a real NSD as the primary; what the witness says is the test's choice."""

import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actions import converge, files, nameserver, primary
from actions.__main__ import keeping
from actions.accept import Checked
from actions.converge import Around, Converger, Forced, Unpin, Word
from actions.decide import Alert, Look
from actions.judge import Witnesses
from actions.looks import Attention, Seen
from actions.metrics import Metrics, Trigger
from actions.notify import Wanted
from actions.outcome import Outcome
from actions.state import Pin, State, StateError
from actions.witness import Alerts
from actions.zone import serial_of
from demo import shipped
from demo.stack import Stack, wait_for
from exporter import config as configuration
from exporter import soa
from exporter.config import Config, Primary

ZONES = ("example.net", "example.org")
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
TODAY = 2026112200


class Program:
    """The converging half of actions, as a fresh process each time it is made."""

    def __init__(self, stack: Stack, **changes: object) -> None:
        self.stack = stack
        self.config: Config = replace(configuration.read(stack.layout.config), **changes)
        self.metrics = Metrics(self.config)
        self.down: dict[str, bool | None] = dict.fromkeys(self.config.servers, False)
        self.seen: dict[str, dict[str, int]] = {}
        self.stuck: set[str] = set()
        self.missing: str | None = None
        self.blind: str | None = None
        self.now = NOW
        self.told: dict[str, int] = {}  # what the followers were told, zone -> serial
        self.addresses: dict[str, object] = {}  # and where that points
        around = Around(
            secondaries=lambda _: self.seen,
            stuck=lambda: self.stuck,
            served=self.served_now,
            witnesses=Witnesses(self.alerts, self.looks),
            now=lambda: self.now,
        )
        self.converger = Converger(self.config, self.metrics, around)
        self.converger.prepare()

    def alerts(self) -> Alerts:
        """What the alerts say: down, well, or None: nobody knows."""
        states = {True: Alert("firing", "firing"), False: Alert("quiet", "quiet")}
        unknown = Alert("unknown", "unknown")
        return Alerts({n: states.get(d, unknown) for n, d in self.down.items()}, self.missing)

    def looks(self, _: Attention) -> Seen:
        """Our own looks say the same; nobody is probed where the alerts know nothing."""
        states = {True: Look("down", "down"), False: Look("up", "up"), None: Look("unclear", "?")}
        looks = {name: states[down] for name, down in self.down.items()}
        met = frozenset(name for name, look in looks.items() if look.state == "up")
        return Seen(looks, self.blind, met, looking=False)

    def served_now(self, told: Mapping[str, Wanted]) -> None:
        """Take note of what the followers are told."""
        self.told |= {zone: its.soa.serial for zone, its in told.items()}
        self.addresses |= {zone: its.addresses for zone, its in told.items()}

    def run(self, trigger: Trigger = "request", word: Word | None = None) -> Outcome:
        """Converge once."""
        return self.converger.run(trigger, word)

    def written(self, outcome: Outcome) -> set[str]:
        """The zones that a run wrote."""
        return {name for name, its in outcome.zones.items() if its.written}

    def metric(self, name: str, **labels: str) -> float | None:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"zonerw_{name}", labels)

    def serves(self, expected: dict[str, tuple[int | None, str | None]]) -> None:
        """See the primary serve this; NSD can give an old answer once more after a new one."""
        wait_for(lambda: self.served() == expected, 5, str(expected))

    def serves_org(self, expected: tuple[int | None, str | None]) -> None:
        """The same of one zone."""
        wait_for(lambda: self.served()["example.org"] == expected, 5, str(expected))

    def served(self) -> dict[str, tuple[int | None, str | None]]:
        """What the primary serves: zone -> serial and address of www."""
        stack = self.stack
        return {z: (stack.serial_of("ns1", z), stack.address_of("ns1", z)) for z in ZONES}


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A primary with two zones that nobody has published yet."""
    with Stack(parts=["ns1"]) as stack:
        yield stack


@pytest.fixture
def program(stack: Stack) -> Program:
    """The program, after its first run: main serves."""
    program = Program(stack)
    program.run("start")
    return program


def edit(stack: Stack, zone: str, old: str, new: str) -> None:
    """Edit a source as its owner would."""
    path = stack.layout.sources / f"{zone}.base"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_first_start_accepts_all_valid_sources_and_publishes_them(stack: Stack) -> None:
    """With nothing put down, the preferred server; a broken source is named, the others go."""
    (stack.layout.sources / "broken.example.base").write_text("$TTL 60\n@ SOA a b (\n")
    program = Program(stack)
    outcome = program.run("start")
    assert program.written(outcome) == set(ZONES)
    program.serves(dict.fromkeys(ZONES, (TODAY, stack.main)))
    assert outcome.meant.server == "main"
    broken = outcome.zones["broken.example"]
    assert broken.failed == "accept"
    assert broken.reason.startswith(f"{stack.layout.sources}/broken.example.base:2: ")


@pytest.mark.parametrize("sources", ["misspelt", "empty", "all broken"])
def test_a_first_start_that_accepts_nothing_is_not_the_first_start_yet(
    stack: Stack, sources: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It heals by itself once they are there; meanwhile nothing is meant, and no switch is told."""
    caplog.set_level("INFO")
    there, away = stack.layout.sources, stack.layout.folder / "away"
    there.rename(away)
    if sources != "misspelt":
        there.mkdir()
    if sources == "all broken":
        (there / "broken.example.base").write_text("$TTL 60\n@ SOA a b (\n")
    program = Program(stack)
    for trigger in ("start", "timer", "webhook"):
        outcome = program.run(trigger)
        program.down["main"] = True  # it was seen up
        assert (outcome.refused, outcome.failed, outcome.switched_from) == (True, False, None)
    assert State(program.config.actions.state).meant() is None
    assert not {"switch", "first start"} & set(caplog.messages)
    shutil.rmtree(there, ignore_errors=True)
    away.rename(there)
    outcome = program.run("timer")
    assert program.written(outcome) == set(ZONES)
    assert outcome.switched_from == "main"
    program.serves(dict.fromkeys(ZONES, (TODAY, stack.backup)))
    assert caplog.messages.count("first start") == caplog.messages.count("switch") == 1


def test_a_switch_by_another_process_is_told_and_counted(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with its reason: the log and the metrics are the daemon's."""
    caplog.set_level("INFO")
    by_hand = Program(program.stack)
    by_hand.run("request", pin(NOW + timedelta(hours=1)))
    by_hand.run("request", Unpin())
    by_hand.run("request", pin(NOW + timedelta(hours=1)))
    caplog.clear()
    for _ in range(3):
        program.run("timer")
    told = [vars(its) for its in caplog.records if its.message == "switch"]
    assert [(its["from"], its["to"], its["why"], its["by"]) for its in told] == [
        ("main", "backup", "backup was pinned: disks", "alice")
    ]
    assert program.metric("switches_total", **{"from": "main", "to": "backup", "cause": "pin"}) == 1


def test_a_fault_of_our_own_is_counted_and_known(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: the alerts and the status go by it, until a run ends well."""

    def broken(*_: object) -> None:
        raise ValueError("of our own")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(converge.Publisher, "publish", broken)
        with pytest.raises(ValueError, match="of our own"):
            program.run("start")
    assert program.metric("converge_failures_total", step="unexpected") == 1
    assert program.converger.latest.error == "ValueError('of our own')"
    program.run("timer")
    assert program.converger.latest.error is None


@pytest.mark.parametrize("data", ["A \\# 4 7f350005", "A 127.53.0.\\053", "TYPE1 \\# 4 7F350005"])
def test_an_address_in_other_words_is_read_too(program: Program, data: str) -> None:
    """RFC 3597's, or escaped: the secondaries are to have it, and no run stumbles over it."""
    edit(program.stack, "example.org", "\nwww ", f"\n@ {data}\nwww ")
    assert not program.run("request", Forced(("example.org",))).failed
    program.down["main"] = True
    program.run("timer")
    assert program.told == {"example.net": TODAY + 1, "example.org": TODAY + 2}
    assert ip_address("127.53.0.5") in program.addresses["example.org"]


def test_a_second_run_changes_nothing(program: Program) -> None:
    """No file is touched, no serial moves, nothing is reloaded."""
    files_before = {p.name: p.stat().st_mtime_ns for p in program.stack.layout.published.iterdir()}
    for trigger in ("timer", "webhook", "request", "start"):
        outcome = program.run(trigger)
        assert program.written(outcome) == set()
        assert {its.serial for its in outcome.zones.values()} == {TODAY}
        assert program.told == dict.fromkeys(ZONES, TODAY)
    again = Program(program.stack).run("start")
    assert program.written(again) == set()
    files_after = {p.name: p.stat().st_mtime_ns for p in program.stack.layout.published.iterdir()}
    assert files_after == files_before


def test_main_down_and_back(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    """Each switch moves every zone once, and is logged with its reason."""
    caplog.set_level("INFO")
    program.down["main"] = True
    outcome = program.run("timer")
    assert outcome.switched_from == "main"
    assert program.written(outcome) == set(ZONES)
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
    switch = next(record for record in caplog.records if record.message == "switch")
    assert {key: vars(switch)[key] for key in ("from", "to", "why", "by")} == {
        "from": "main",
        "to": "backup",
        "why": "main: firing, down; backup: quiet, up",
        "by": "timer",
    }
    program.down["main"] = False
    program.run("timer")
    program.serves(dict.fromkeys(ZONES, (TODAY + 2, program.stack.main)))
    switches = {"from": "main", "to": "backup", "cause": "down"}
    assert program.metric("switches_total", **switches) == 1
    assert program.metric("intended_server", server="main") == 1
    assert program.metric("intended_server", server="backup") == 0
    assert program.metric("intended_since_timestamp_seconds", server="main") == NOW.timestamp()
    assert program.metric("zone_published_serial", zone="example.org") == TODAY + 2
    assert program.metric("converges_total", trigger="timer") == 2


def test_what_is_meant_survives_a_restart_without_a_witness(program: Program) -> None:
    """A new process that can't ask anybody keeps to what was put down."""
    program.down["main"] = True
    meant = program.run().meant
    again = Program(program.stack)
    again.down, again.missing = dict.fromkeys(again.down), "nobody answers"
    outcome = again.run("start")
    assert (outcome.meant, outcome.judgement.missing) == (meant, "nobody answers")
    assert again.written(outcome) == set()


def pin(until: datetime, server: str = "backup") -> Pin:
    """A person's override."""
    return Pin(server=server, until=until, reason="disks", by="alice")


def test_a_pin_holds_until_it_expires(program: Program) -> None:
    """Also in a new process; then all is as if there had been none."""
    outcome = program.run("request", pin(NOW + timedelta(hours=1)))
    assert (outcome.switched_from, outcome.pin) == ("main", pin(NOW + timedelta(hours=1)))
    assert outcome.meant.model_dump(include={"server", "why", "by", "before", "cause"}) == {
        "server": "backup", "why": "backup was pinned: disks", "by": "alice", "before": "main",
        "cause": "pin",
    }  # fmt: skip
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
    assert program.metric("pinned") == 1
    again = Program(program.stack)
    again.now = NOW + timedelta(minutes=59)
    assert again.run("timer").meant == outcome.meant
    again.now = NOW + timedelta(minutes=60)
    assert again.run("timer").meant.server == "main"
    assert (again.metric("pinned"), again.metric("pin_expiry_timestamp_seconds")) == (0, None)


def test_a_pin_is_taken_away(program: Program) -> None:
    """By a person; the preferred server that is up is served again at once."""
    program.run("request", pin(NOW + timedelta(hours=1)))
    outcome = program.run("request", Unpin())
    assert (outcome.meant.server, outcome.meant.cause, outcome.pin) == ("main", "handback", None)


def test_another_programs_pin_is_heard_of_by_the_next_run(program: Program) -> None:
    """The timer's run does not go by what it knew."""
    State(program.stack.layout.folder / "state").put_pin(pin(NOW + timedelta(hours=1)))
    assert program.run("timer").meant.server == "backup"
    State(program.stack.layout.folder / "state").unpin()
    assert program.run("look").meant.server == "main"


def test_another_programs_forced_rewrite_is_heard_of_by_the_next_run(program: Program) -> None:
    """Else the followers would take the secondaries, which have it, for being ahead."""
    program.run("timer")
    Program(program.stack).run("request", Forced())
    outcome = program.run("timer")
    assert {its.serial for its in outcome.zones.values()} == {TODAY + 1}
    assert program.told == dict.fromkeys(ZONES, TODAY + 1)


@pytest.mark.parametrize("name", ["pin.json", "meant.json", "seen.json"])
def test_a_damaged_file_holds_things_as_they_are(program: Program, name: str) -> None:
    """It is not "no pin"; a person's word, or the file taken away, is what heals it."""
    program.run("request", pin(NOW + timedelta(hours=1)))
    path = program.stack.layout.folder / "state" / name
    path.write_text("{")
    for trigger in ("timer", "webhook", "start"):
        with pytest.raises(StateError, match=f"{name}: is damaged"):
            program.run(trigger)
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
    assert program.metric("converge_failures_total", step="state") == 3
    if name == "pin.json":
        assert program.run("request", Unpin()).meant.server == "main"
    else:
        path.unlink()
        assert program.run("timer").meant.server == "backup"


def test_blind_nothing_moves(program: Program) -> None:
    """Whatever else is said."""
    program.down["main"], program.blind = True, "no reference answers"
    assert program.run().meant.server == "main"
    program.blind = None
    assert program.run().meant.server == "backup"


def test_every_switch_is_in_the_history_once(program: Program) -> None:
    """Also one whose run was killed before it got there."""
    state = State(program.stack.layout.folder / "state")
    assert state.history() == []
    program.down["main"] = True
    over = program.run().meant
    (state.folder / "history.jsonl").unlink()
    again = Program(program.stack)
    again.down = program.down
    again.run("start")
    assert state.history() == [over]
    program.down["main"] = False
    back = program.run().meant
    program.run()
    assert state.history() == [over, back]
    assert [(its.before, its.server, its.cause) for its in state.history()] == [
        ("main", "backup", "down"), ("backup", "main", "handback"),
    ]  # fmt: skip


def test_a_switch_whose_run_was_killed_is_in_the_history_before_the_next_one(
    program: Program,
) -> None:
    """Also where the next run decides for yet another server at once."""
    state = State(program.stack.layout.folder / "state")
    program.down["main"] = True
    over = program.run().meant
    (state.folder / "history.jsonl").unlink()
    back = Program(program.stack).run("start").meant
    assert state.history() == [over, back]


def test_a_wrong_check_that_is_put_right_again_was_seen_up(program: Program) -> None:
    """A slip in the configuration, and main really down when it is mended: it is left."""
    slip = {"look_at": (ip_address("127.0.0.9"),)}
    servers = {name: s.model_copy(update=slip) for name, s in program.config.servers.items()}
    wrong = Program(program.stack, servers=servers)
    wrong.down["main"] = True
    assert wrong.run("start").meant.server == "main"
    right = Program(program.stack)
    right.down["main"] = True
    assert right.run("start").meant.server == "backup"


def test_who_was_seen_up_is_known_after_a_restart(program: Program) -> None:
    """So that a restart in the middle of an outage can vote it down."""
    again = Program(program.stack)
    again.down["main"] = True
    assert again.run("start").meant.server == "backup"


def test_a_server_that_was_down_from_the_first_day_is_not_left(stack: Stack) -> None:
    """Its check is wrong, or nobody has ever seen it: people are not sent elsewhere by that."""
    program = Program(stack)
    program.down["main"] = True
    assert program.run("start").meant.server == "main"
    assert program.run("look").meant.server == "main"
    program.down["main"] = False
    program.run("look")
    program.down["main"] = True
    assert program.run("look").meant.server == "backup"


def test_a_forced_rewrite_moves_every_serial_by_one(program: Program) -> None:
    """All, if none is named, though no byte has changed."""
    outcome = program.run("request", Forced())
    assert program.written(outcome) == set(ZONES)
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.main)))


def test_a_forced_rewrite_of_one_zone_leaves_the_others(program: Program) -> None:
    """Another source that was edited and not named does not ride along."""
    edit(program.stack, "example.net", "@IP@", "@IP:backup@")
    outcome = program.run("request", Forced(("example.org",)))
    assert program.written(outcome) == {"example.org"}
    assert program.stack.serial_of("ns1", "example.net") == TODAY


def test_an_edited_source_waits_for_a_persons_word(program: Program) -> None:
    """A switch in the night publishes what was accepted, not what is half saved."""
    edit(program.stack, "example.org", "@serial number@", "@serial nu")
    program.down["main"] = True
    outcome = program.run()
    assert program.written(outcome) == set(ZONES)
    assert not any(its.failed for its in outcome.zones.values())
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))


def test_a_refused_source_leaves_what_is_served(program: Program) -> None:
    """The reason names file and line; the other zone is done; the old zone stays."""
    edit(program.stack, "example.org", "@serial number@", "@Serial Number@")
    outcome = program.run("request", Forced())
    its = outcome.zones["example.org"]
    assert its.failed == "accept"
    assert "/example.org.base:" in its.reason
    assert "@Serial Number@" in its.reason
    assert its.serial == TODAY
    assert program.written(outcome) == {"example.net"}
    program.serves_org((TODAY, program.stack.main))


def test_the_name_servers_own_checker_is_heard(program: Program) -> None:
    """What the markers and dnspython let pass, NSD's checker may still refuse: file and line."""
    path = program.stack.layout.sources / "example.org.base"
    lines = path.read_text().count("\n")
    path.write_text(path.read_text() + "$GENERATE 1-3 host$ A 192.0.2.$\n")
    its = program.run("request", Forced(("example.org",))).zones["example.org"]
    assert its.failed == "accept"
    assert its.reason.startswith(f"{path}:{lines + 1}: nsd-checkzone: ")


def test_a_named_zone_without_a_source_is_said(program: Program) -> None:
    """A typo on the command line is no silent success."""
    outcome = program.run("request", Forced(("exmaple.org",)))
    its = outcome.zones["exmaple.org"]
    assert (its.failed, its.serial) == ("accept", None)
    assert program.metric("converge_failures_total", step="accept") == 1
    assert its.reason == f"{program.stack.layout.sources}/exmaple.org.base: no such source"


@pytest.mark.parametrize("damage", ["deleted", "edited", "cut off"])
def test_a_published_file_that_was_touched_is_written_anew(program: Program, damage: str) -> None:
    """With a higher serial, so that nobody keeps what stood there meanwhile."""
    path = program.stack.layout.published / "example.org"
    content = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(content + b"x A 192.0.2.9\n" if damage == "edited" else content[:60])
    outcome = program.run()
    assert program.written(outcome) == {"example.org"}
    program.serves_org((TODAY + 1, program.stack.main))


def test_a_lost_state_folder_lowers_no_serial(program: Program) -> None:
    """The published files and the primary know the serials too, and who is served."""
    program.down["main"] = True
    program.run()
    shutil.rmtree(program.stack.layout.folder / "state")
    again = Program(program.stack)
    again.down, again.missing = dict.fromkeys(again.down), "nobody answers"
    outcome = again.run("start")
    assert outcome.meant.server == "backup"
    assert again.written(outcome) == set()
    shutil.rmtree(program.stack.layout.folder / "state")
    for zone in ZONES:
        (program.stack.layout.published / zone).unlink()
    again = Program(program.stack)
    again.run("start")
    again.serves(dict.fromkeys(ZONES, (TODAY + 2, program.stack.main)))


def test_a_serial_that_a_secondary_is_ahead_with_is_passed(program: Program) -> None:
    """A secondary that has a later serial would never take ours."""
    program.seen = {"ns2": {"example.org": TODAY + 41}}
    program.down["main"] = True
    program.run()
    program.serves(
        {
            "example.net": (TODAY + 1, program.stack.backup),
            "example.org": (TODAY + 42, program.stack.backup),
        }
    )


@pytest.mark.parametrize("nameserver", ["ns1", "ns2"])
def test_one_that_numbers_zones_by_itself_does_not_drive_our_serials(
    program: Program, nameserver: str
) -> None:
    """It is ahead of whatever we write, at once: overtaken once an hour, and by every switch."""
    serials = []
    for _ in range(5):
        outcome = program.run()
        serial = outcome.zones["example.org"].serial
        assert serial is not None
        serials.append(serial)
        program.seen = {nameserver: {"example.org": serial + 1}}
    assert serials == [TODAY, TODAY + 2, TODAY + 2, TODAY + 2, TODAY + 2]
    again = Program(program.stack)
    again.seen = program.seen
    assert again.run().zones["example.org"].serial == TODAY + 2
    again.now = NOW + timedelta(minutes=61)
    assert again.run().zones["example.org"].serial == TODAY + 4


def test_a_secondary_that_stays_behind_gets_one_higher_serial_a_day(program: Program) -> None:
    """Some cure only by that; a new process knows that it had its own."""
    program.stuck = {"example.org"}
    for _ in range(3):
        outcome = program.run()
        assert outcome.zones["example.org"].serial == TODAY + 1
    program.serves_org((TODAY + 1, program.stack.main))
    assert outcome.zones["example.net"].serial == TODAY
    again = Program(program.stack)
    again.stuck, again.now = {"example.org"}, NOW + timedelta(hours=23)
    assert again.run().zones["example.org"].serial == TODAY + 1
    again.now = NOW + timedelta(hours=25)
    assert again.run().zones["example.org"].serial == TODAY + 100


def test_a_restored_older_file_gets_a_serial_above_the_served_one(program: Program) -> None:
    """An old file put back, with the mtime of now: the primary must not go back."""
    path = program.stack.layout.published / "example.org"
    old = path.read_bytes()
    for _ in range(3):
        program.run("request", Forced())
    path.write_bytes(old)
    program.run()
    program.serves_org((TODAY + 4, program.stack.main))


def test_a_clock_far_ahead_is_not_believed(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """The serial goes up by one, and a warning says why."""
    program.now = NOW.replace(year=2046)
    program.run("request", Forced())
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.main)))
    assert "serial doubted" in caplog.messages


def test_a_name_server_that_is_down_is_right_at_its_next_start(program: Program) -> None:
    """The files are written all the same; the run says what failed, and the next one heals."""
    program.stack.parts["ns1"].kill()
    program.down["main"] = True
    outcome = program.run()
    assert {its.failed for its in outcome.zones.values()} == {"reload"}
    assert all("nsd-control" in its.reason for its in outcome.zones.values())
    assert program.written(outcome) == set(ZONES)
    program.stack.parts["ns1"].start()
    wait_for(lambda: program.served()["example.org"][0], 5, "the primary")
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))
    outcome = program.run("timer")
    assert not any(its.failed for its in outcome.zones.values())
    assert program.written(outcome) == set()


def test_a_zone_that_the_name_server_does_not_know_holds_up_no_other(program: Program) -> None:
    """Waited for once; then the others are told of at once, and its serial does not creep up."""
    source = (program.stack.layout.sources / "example.org.base").read_text()
    (program.stack.layout.sources / "new.example.base").write_text(source)
    outcome = program.run("request", Forced())
    its = outcome.zones["new.example"]
    assert (its.failed, its.reason) == (
        "verify",
        "ns1 answers REFUSED: is the zone in its configuration?",
    )
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.main)))
    began = time.monotonic()
    for _ in range(3):
        assert program.run("timer").zones["new.example"].serial == its.serial
    program.down["main"] = True
    program.run("timer")
    assert time.monotonic() - began < primary._VERIFY_SECONDS
    assert program.told == dict.fromkeys(ZONES, TODAY + 2)


def test_the_others_are_told_of_before_a_late_zone_is_given_up(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secondary need not wait for another zone's trouble."""
    source = (program.stack.layout.sources / "example.org.base").read_text()
    (program.stack.layout.sources / "new.example.base").write_text(source)
    monkeypatch.setattr(primary, "_VERIFY_SECONDS", 1.0)
    ticks: list[bool] = []
    sleep = time.sleep

    def look(seconds: float) -> None:
        ticks.append(program.told == dict.fromkeys(ZONES, TODAY + 1))
        sleep(seconds)

    monkeypatch.setattr(primary.time, "sleep", look)
    program.run("request", Forced())
    assert ticks[-1]


def test_a_vanished_source_is_served_on_until_it_is_named(program: Program) -> None:
    """A folder that is not mounted retires nothing; a person's word for this zone does."""
    path = program.stack.layout.sources / "example.org.base"
    path.unlink()
    its = program.run("request", Forced()).zones["example.org"]
    assert its.failed is None
    assert its.reason == (
        f"{path} is gone; served on as it was accepted until --forced example.org retires it"
    )
    program.down["main"] = True
    program.run()
    program.serves_org((TODAY + 1, program.stack.backup))
    its = program.run("request", Forced(("example.org",))).zones["example.org"]
    assert (its.failed, its.serial) == (None, None)
    assert "is not written any more" in its.reason
    program.down["main"] = False
    assert set(program.run().zones) == {"example.net"}


@pytest.mark.parametrize("names", [(), ("example.org",), ("example.net", "example.org")])
def test_an_empty_folder_retires_nothing(program: Program, names: tuple[str, ...]) -> None:
    """It is not mounted, most likely; whoever is named, nothing is forgotten."""
    for path in program.stack.layout.sources.iterdir():
        path.unlink()
    outcome = program.run("request", Forced(names))
    assert outcome.refused
    assert {z: outcome.zones[z].serial for z in ZONES} == dict.fromkeys(ZONES, TODAY)
    assert program.run("webhook").zones.keys() == set(ZONES)


def test_a_source_that_cant_be_one_is_refused_not_retired(program: Program) -> None:
    """A link to nowhere stands where the file was."""
    path = program.stack.layout.sources / "example.org.base"
    path.unlink()
    path.symlink_to("nowhere")
    for names in ((), ("example.org",)):
        its = program.run("request", Forced(names)).zones["example.org"]
        assert (its.failed, its.serial) == ("accept", TODAY)
        assert its.reason == f"{path}: not a regular file"


def test_a_first_start_by_a_persons_word_for_one_zone_accepts_all(stack: Stack) -> None:
    """The others are not forgotten over it; a typo is still said."""
    program = Program(stack)
    outcome = program.run("request", Forced(("exmaple.org",)))
    assert program.written(outcome) == set(ZONES)
    assert outcome.zones["exmaple.org"].failed == "accept"


def test_a_zone_that_was_late_is_asked_for_after_the_reload(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets less time than the others, but it is not given up before it is asked."""
    monkeypatch.setattr(primary, "_VERIFY_SECONDS", 0.5)
    with monkeypatch.context() as lost:
        lost.setattr(nameserver, "reload", lambda _: None)
        program.run("request", Forced())
    program.told.clear()
    program.down["main"] = True
    assert not program.run().failed
    assert program.told == dict.fromkeys(ZONES, TODAY + 2)


def test_a_name_server_that_loads_nothing_of_ours_uses_up_no_serials(program: Program) -> None:
    """A wrong address, say: its serial is far ahead and not believed, and ours stays."""
    path = program.stack.layout.published / "example.org"
    ours = path.read_bytes()
    program.stack.parts["ns1"].stop()
    path.write_bytes(ours.replace(str(TODAY).encode(), b"3000000000"))
    program.stack.parts["ns1"].start()
    wait_for(lambda: program.stack.serial_of("ns1", "example.org") == 3000000000, 5, "the foreign")
    path.write_bytes(ours)
    changes: dict[str, object] = {
        "primary": program.config.primary.model_copy(
            update={"control": ("true",)}  # it says yes, and loads nothing
        )
    }
    again = Program(program.stack, **changes)
    for _ in range(4):
        its = again.run("webhook").zones["example.org"]
        assert (its.serial, its.failed) == (TODAY, "verify")
        assert its.reason == f"ns1 serves 3000000000, not {TODAY}"
    assert "example.org" not in again.told


def test_a_change_of_the_configuration_publishes_no_broken_zone(program: Program) -> None:
    """Right when it was accepted, wrong with the servers of now: said, and not published."""
    path = program.stack.layout.sources / "example.org.base"
    path.write_text(path.read_text() + "v6 IN AAAA @IP6@\n   IN TXT taken\n")
    six = {
        name: server.model_copy(
            update={"addresses": (*server.addresses, ip_address(f"2001:db8::{number}"))}
        )
        for number, (name, server) in enumerate(program.config.servers.items())
    }
    with_six = Program(program.stack, servers=six)
    assert with_six.run("request", Forced()).zones["example.org"].failed is None
    with_six.serves_org((TODAY + 1, program.stack.main))
    six["backup"] = program.config.servers["backup"]
    again = Program(program.stack, servers=six)
    again.down["main"] = True
    its = again.run().zones["example.org"]
    assert its.failed == "render"
    assert "has no IPv6 address" in its.reason
    again.serves(
        {
            "example.net": (TODAY + 2, program.stack.backup),
            "example.org": (TODAY + 1, program.stack.main),
        }
    )


def test_a_recorded_serial_is_never_used_again(program: Program) -> None:
    """It was recorded and perhaps written, then the file was lost: the next one is above it."""
    State(program.stack.layout.folder / "state").record({"example.org": TODAY + 7})
    (program.stack.layout.published / "example.org").unlink()
    program.run("webhook")
    program.serves_org((TODAY + 8, program.stack.main))


def test_a_lost_reload_is_asked_for_again(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name server said ok and did nothing: it is told again when the serial does not come."""
    original, calls = nameserver.reload, []

    def lost(primary: Primary) -> None:
        calls.append(primary)
        if len(calls) > 1:
            original(primary)

    monkeypatch.setattr(nameserver, "reload", lost)
    program.down["main"] = True
    assert not program.run().failed
    assert len(calls) == 2
    program.serves(dict.fromkeys(ZONES, (TODAY + 1, program.stack.backup)))


def test_a_run_waits_for_the_one_of_another_process(program: Program) -> None:
    """The lock is held from the decision on."""
    program.down["main"] = True
    with ThreadPoolExecutor(1) as pool:
        with State(program.stack.layout.folder / "state").locked():
            outcome = pool.submit(program.run)
            with pytest.raises(TimeoutError):
                outcome.result(0.3)
            program.serves(dict.fromkeys(ZONES, (TODAY, program.stack.main)))
        assert program.written(outcome.result(10)) == set(ZONES)


def test_a_server_that_is_gone_from_the_configuration(program: Program) -> None:
    """What was put down for it is void: what the published zones point at counts, or the first."""
    others = {"new" if name == "main" else name: s for name, s in program.config.servers.items()}
    again = Program(program.stack, servers=others)
    again.missing, again.down = "nobody answers", dict.fromkeys(others)
    outcome = again.run("start")
    assert outcome.meant.server == "new"  # the same address: the zones point there
    assert again.written(outcome) == set()


def test_the_timer_trusts_the_last_run_for_a_minute_only(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile a touched file is not seen; then it is."""
    path = program.stack.layout.published / "example.org"
    program.run("webhook")
    path.unlink()
    program.run("timer")
    assert not path.exists()
    now = time.monotonic()
    monkeypatch.setattr(primary.time, "monotonic", lambda: now + converge._LOOK_AGAIN_SECONDS)
    program.run("timer")
    assert path.exists()


def test_meanwhile_only_what_fails_is_looked_at_again(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of zones that are well are left alone for one that is not."""
    unknown = (program.stack.layout.sources / "example.org.base").read_text()
    (program.stack.layout.sources / "new.example.base").write_text(unknown)
    program.run("request", Forced())
    well = program.stack.layout.published / "example.org"
    well.unlink()
    asked: list[set[str]] = []
    ask = soa.ask

    def noted(*args: Any, **more: Any) -> Any:
        asked.append(set(args[1]))
        return ask(*args, **more)

    monkeypatch.setattr(soa, "ask", noted)
    outcome = program.run("timer")
    assert set.union(*asked) == {"new.example"}
    assert outcome.zones["new.example"].failed == "verify"
    assert outcome.zones["example.org"].serial == TODAY + 1
    assert not well.exists()
    program.run()
    assert well.exists()


def test_one_that_is_not_known_is_not_reloaded_for_at_every_tick(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for, so that it is seen once it is known; a reload is for the minute's look.

    And for what had to be written again.
    """
    unknown = (program.stack.layout.sources / "example.org.base").read_text()
    (program.stack.layout.sources / "new.example.base").write_text(unknown)
    program.run("request", Forced())
    reloads: list[Primary] = []
    monkeypatch.setattr(nameserver, "reload", reloads.append)
    for _ in range(3):
        its = program.run("timer").zones["new.example"]
        assert (its.failed, its.reason) == (
            "verify",
            "ns1 answers REFUSED: is the zone in its configuration?",
        )
    assert not reloads
    monkeypatch.setattr(primary, "_VERIFY_SECONDS", 0.3)
    (program.stack.layout.published / "new.example").unlink()
    program.run("timer")
    assert len(reloads) == 1
    program.run("timer")
    assert len(reloads) == 1
    program.run()
    assert len(reloads) > 1


def test_zones_that_come_slowly_are_waited_for(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as one comes now and then, the others may come too."""
    monkeypatch.setattr(primary, "_VERIFY_SECONDS", 0.6)
    ask, began = soa.ask, time.monotonic()
    late = soa.NoSerial("timeout")

    def slow(*args: Any, **more: Any) -> Any:
        """The second zone is there half a second after the first one, which takes as long."""
        there = dict(zip(ZONES, (0.4, 0.8), strict=True))
        waited = time.monotonic() - began
        return {z: a if waited > there[z] else late for z, a in ask(*args, **more).items()}

    program.down["main"] = True
    monkeypatch.setattr(soa, "ask", slow)
    assert not program.run("timer").failed


def test_a_lift_that_could_not_be_written_is_made_up_for(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was none: the next run lifts, and no other."""
    program.stuck = {"example.org"}
    put_all = files.put_all

    def full(folder: Path, contents: Iterable[tuple[str, bytes]], **more: Any) -> Any:
        if folder != program.stack.layout.published:
            return put_all(folder, contents, **more)
        return {name: OSError(28, "No space left") for name, _ in contents}

    with monkeypatch.context() as at_first:
        at_first.setattr(files, "put_all", full)
        assert program.run().zones["example.org"].failed == "write"
    assert program.run().zones["example.org"].serial == TODAY + 1
    assert program.run().zones["example.org"].serial == TODAY + 1


def test_a_lift_that_is_to_come_holds_back_none(program: Program) -> None:
    """The clock was ahead by a year for a while."""
    program.stuck = {"example.org"}
    State(program.config.actions.state).put_lifted({"example.org": NOW + timedelta(days=300)})
    assert program.run().zones["example.org"].serial == TODAY + 1
    assert program.run().zones["example.org"].serial == TODAY + 1


def test_state_that_is_lost_before_the_lock_is_had_makes_a_first_start(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every zone is accepted anew; where they point is read from the zones."""
    program.down["main"] = True
    program.run()
    folder = program.config.actions.state
    locked = State.locked

    def losing(state: State) -> AbstractContextManager[None]:
        monkeypatch.setattr(State, "locked", locked)
        shutil.rmtree(folder)
        return state.locked()

    monkeypatch.setattr(State, "locked", losing)
    outcome = program.run("timer")
    assert outcome.meant.server == "backup"
    assert {name: its.failed for name, its in outcome.zones.items()} == dict.fromkeys(ZONES)
    program.down["main"] = False
    assert program.written(program.run()) == set(ZONES)
    program.serves(dict.fromkeys(ZONES, (TODAY + 2, program.stack.main)))


def test_a_first_start_that_another_has_made_accepts_nothing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was edited since is not what anybody has asked for."""
    check = converge.check

    def slow(config: Config, zones: tuple[str, ...]) -> Checked:
        monkeypatch.setattr(converge, "check", check)
        Program(stack).run("start")
        edit(stack, "example.org", "www ", "web ")
        return check(config, zones)

    monkeypatch.setattr(converge, "check", slow)
    program = Program(stack)
    assert program.written(program.run("start")) == set()
    program.serves(dict.fromkeys(ZONES, (TODAY, stack.main)))


def test_a_first_start_by_a_persons_word_checks_all_once(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for the lock meanwhile."""
    words: list[tuple[str, ...]] = []
    check = converge.check

    def noted(config: Config, zones: tuple[str, ...]) -> Checked:
        with State(config.actions.state).locked():
            words.append(zones)
        return check(config, zones)

    monkeypatch.setattr(converge, "check", noted)
    program = Program(stack)
    program.run("request", Forced())
    assert words == [()]
    program.serves(dict.fromkeys(ZONES, (TODAY, stack.main)))


def test_followers_let_go_of_a_zone_that_is_retired(program: Program) -> None:
    """And of no other, whatever is wrong with it."""
    kept: list[set[str]] = []
    run = keeping(program.converger, [SimpleNamespace(keep=kept.append)])
    run("timer", None)
    (program.stack.layout.sources / "example.org.base").unlink()
    (program.stack.layout.published / "example.net").unlink()
    (program.stack.layout.published / "example.net").mkdir()
    run("request", Forced(("example.org",)))
    assert kept == [set(ZONES), {"example.net"}]


def test_a_source_that_is_refused_twice_is_told_of_once(stack: Stack) -> None:
    """At a first start by a person's word for it, all are checked, and it once more."""
    (stack.layout.sources / "broken.example.base").write_text("$TTL 60\n@ SOA a b (\n")
    its = Program(stack).run("request", Forced(("broken.example",))).zones["broken.example"]
    assert its.failed == "accept"
    assert its.reason.count("( that is never closed") == 1


def test_a_refused_source_hides_no_failure(program: Program) -> None:
    """What was accepted is to be published all the same, and a retry may help there."""
    (program.stack.layout.sources / "example.org.base").write_text("rubbish\n")
    broken = program.config.primary.model_copy(update={"control": ("false",)})
    again = Program(program.stack, primary=broken)
    again.down["main"] = True
    its = again.run("request", Forced()).zones["example.org"]
    assert its.failed == "reload"
    assert "its source is refused" in its.reason


def test_what_another_process_put_down_and_did_not_finish_is_seen(program: Program) -> None:
    """It was killed before it wrote anything; we see the server that is served as the right one."""
    state = State(program.config.actions.state)
    before = program.run("timer").meant
    state.put_down(before.model_copy(update={"server": "backup", "since": NOW}))
    assert program.run("timer").meant.cause == "handback"
    meant = state.meant()
    assert meant
    assert meant.server == "main"


def test_many_zones_have_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Ten thousand lines say no more than one."""
    text = (shipped.folder() / "examples/zones/example.org.base").read_text()
    more = {f"z{n}.example": text for n in range(20)}
    with Stack(parts=["ns1"], sources=more) as stack:
        caplog.set_level("INFO")
        Program(stack).run("start")
    told = [record for record in caplog.records if record.name.startswith("actions.")]
    said = [(record.message, vars(record).get("number")) for record in told]
    assert said == [("first start", None), ("published", 22), ("primary serves", 22)]


def test_the_timer_notices_what_another_process_decided(program: Program) -> None:
    """The command line put something else down."""
    other = Program(program.stack)
    other.down["main"] = True
    other.run("request")
    program.down["main"] = True
    assert program.run("timer").meant.server == "backup"
    assert program.told == dict.fromkeys(ZONES, TODAY + 1)


def test_a_zone_that_cant_be_written_holds_up_no_other(program: Program) -> None:
    """Something stands in its way: named with its path; the other zone is switched; it heals."""
    in_the_way = program.stack.layout.published / ".example.org.tmp"
    in_the_way.mkdir()
    program.down["main"] = True
    its = program.run().zones["example.org"]
    assert its.failed == "write"
    assert its.reason == f"{in_the_way.with_name('example.org')}: {in_the_way}: Is a directory"
    program.serves(
        {
            "example.net": (TODAY + 1, program.stack.backup),
            "example.org": (TODAY, program.stack.main),
        }
    )
    for _ in range(5):  # no serial is used up by what is never written
        program.run("timer")
    in_the_way.rmdir()
    program.run("timer")
    serial, address = program.served()["example.org"]
    assert serial in (TODAY + 1, TODAY + 2)  # + 1 was handed out, with nothing recorded before
    assert address == program.stack.backup


def test_damaged_state_holds_things_as_they_are(program: Program) -> None:
    """It is an error that names the file, not a fresh start."""
    (program.stack.layout.folder / "state" / "meant.json").write_text("{")
    program.down["main"] = True
    with pytest.raises(StateError, match=r"meant\.json: is damaged"):
        program.run()
    program.serves(dict.fromkeys(ZONES, (TODAY, program.stack.main)))


def test_another_user_can_read_the_published_files(program: Program) -> None:
    """The name server runs as somebody else."""
    for path in program.stack.layout.published.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


class _KilledError(BaseException):
    """Stands for SIGKILL at this very point."""


CRASHES = {
    "before it is put down": (State, "put_down", 0),
    "before the serials are recorded": (State, "record", 0),
    "before the first zone": (files, "_written", 2),
    "between two zones": (files, "_written", 3),
    "before the first zone is in place": (os, "replace", 2),
    "between two zones in place": (os, "replace", 3),
    "before the folder is synced": (files, "sync_folder", 2),
    "before the reload": (nameserver, "reload", 0),
}


@pytest.mark.parametrize("point", CRASHES)
def test_a_run_that_was_killed_is_finished_by_the_next(
    program: Program, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Whatever step it was killed at: the same end, and no serial used for two contents."""
    owner, name, let_pass = CRASHES[point]
    original, calls = getattr(owner, name), []

    def dies(*args: object, **more: object) -> object:
        calls.append(name)
        if len(calls) > let_pass:
            raise _KilledError
        return original(*args, **more)

    program.down["main"] = True
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dies)
        with pytest.raises(_KilledError):
            program.run()
    contents = {_serial(path): path.read_bytes() for path in _files(program)}
    again = Program(program.stack)
    again.down["main"] = True
    outcome = again.run("start")
    assert outcome.meant.server == "backup"
    wait_for(
        lambda: {address for _, address in again.served().values()} == {program.stack.backup},
        5,
        "the backup's address everywhere",
    )
    for path in _files(program):
        assert contents.get(_serial(path), path.read_bytes()) == path.read_bytes()
    assert {path.name for path in program.stack.layout.published.iterdir()} == set(ZONES)


@pytest.mark.parametrize("let_pass", [0, 1, 2])
def test_a_first_start_that_was_killed_begins_anew(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, let_pass: int
) -> None:
    """Killed between two sources that are being accepted: none of them is forgotten."""
    program, original, calls = Program(stack), files.put, []

    def dies(*args: object, **more: object) -> object:
        calls.append(args)
        if len(calls) > let_pass:
            raise _KilledError
        return original(*args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(files, "put", dies)
        with pytest.raises(_KilledError):
            program.run("start")
    Program(stack).run("start")
    program.serves(dict.fromkeys(ZONES, (TODAY, stack.main)))


def _files(program: Program) -> list[Path]:
    return [program.stack.layout.published / zone for zone in ZONES]


def _serial(path: Path) -> tuple[str, int | None]:
    return path.name, serial_of(path.name, path.read_bytes())
