"""NSD, BIND and Knot as the primary, each with secondaries of all three kinds.

The followers are real. What our own looks say is the test's choice; nobody is asked about alerts.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
from nameservers import BACKUP, MAIN, SOURCE, Daemon, Nameservers, nameservers, prepare

from actions import nameserver, notify
from actions.__main__ import wire
from actions.converge import Forced
from actions.decide import Look
from actions.looks import Attention, Seen
from actions.metrics import Metrics
from actions.nameserver import find
from actions.outcome import Outcome
from actions.witness import Heard
from demo.layout import fill
from demo.stack import wait_for
from exporter import config as configuration
from exporter.kinds import KINDS

ZONES = ("example.net", "example.org")
SOON = 20.0

# What each kind says, with status 0, of a reload that it goes on to lose.
PROMISES = {"nsd": "ok", "bind": "server reload queued", "knot": "OK"}

# Our own parse lets each of these pass; the name server refuses the whole zone for it.
REFUSED = {
    "nsd": "$GENERATE 1-3 host$ A 192.0.2.$\n",
    "bind": "a_b A 192.0.2.7\n",
    "knot": "$GENERATE 1-3 host$ A 192.0.2.$\n",
}

# What its control says where the name server has gone.
GONE = {
    "nsd": "error: connect (",
    "bind": "rndc: connect failed: ",
    "knot": "error: failed to connect to socket ",
}

Start = Callable[..., Nameservers]
Answer = tuple[int, str] | str  # the serial and the address of www, or what went wrong


class Program:
    """Converging and following, as a fresh process each time it is made."""

    def __init__(self, them: Nameservers, **primary: object) -> None:
        config = configuration.read(them.config)
        self.config = replace(config, primary=config.primary.model_copy(update=primary))
        self.them = them
        self.down = False  # whether main is
        metrics = Metrics(self.config)
        self.converger, self.followers = wire(self.config, metrics, self.looks, Heard())

    def __enter__(self) -> Self:
        """Begin to follow the secondaries."""
        for follower in self.followers:
            follower.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the followers."""
        notify.stop(self.followers)

    def looks(self, _: Attention) -> Seen:
        """Our own looks: the backup is always up."""
        up = {"main": not self.down, "backup": True}
        looks = {n: Look("up", "up") if its else Look("down", "down") for n, its in up.items()}
        return Seen(looks, None, frozenset(n for n, its in up.items() if its), looking=False)

    def run(self, word: Forced | None = None) -> Outcome:
        """Converge once."""
        return self.converger.run("request", word)

    def everywhere(self, address: str, zones: Collection[str] = ZONES) -> dict[str, int]:
        """See every nameserver serve these zones with this address and one serial; the serials."""
        served = wait_for(lambda: self._served_alike(address, zones), SOON, f"{address} everywhere")
        return served or {}

    def _served_alike(self, address: str, zones: Collection[str]) -> dict[str, int] | None:
        serials = {}
        for zone in zones:
            answers = {answer(daemon, zone) for daemon in self.them.all.values()}
            match list(answers):
                case [(int(serial), its)] if its == address:
                    serials[zone] = serial
                case _:
                    return None
        return serials


def answer(daemon: Daemon, zone: str) -> Answer:
    """What a nameserver serves of a zone."""
    found = []
    for name, kind in ((zone, "SOA"), (f"www.{zone}", "A")):
        question = dns.message.make_query(name, kind, flags=dns.flags.Flag(0))
        reply = dns.query.udp(question, daemon.address, 5, daemon.port)
        if reply.rcode() or not reply.flags & dns.flags.AA:
            return dns.rcode.to_text(reply.rcode())
        found.append(reply.answer[0][0])
    return found[0].serial, found[1].address


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a primary of some kind, with a secondary of each kind."""
    with ExitStack() as running:

        def start(kind: str, address: str = "127.0.0.1") -> Nameservers:
            return running.enter_context(nameservers(tmp_path, ZONES, kind, address=address))

        yield start


@pytest.fixture(params=KINDS)
def them(request: pytest.FixtureRequest, start: Start) -> Nameservers:
    """The name servers, each kind as the primary in turn; nothing is published yet."""
    return start(request.param)


@pytest.fixture
def program(them: Nameservers) -> Iterator[Program]:
    """The program after its first run: main serves, everywhere."""
    with Program(them) as program:
        program.run()
        program.everywhere(MAIN)
        yield program


@pytest.fixture
def unchecked(them: Nameservers) -> Iterator[Program]:
    """The same, of an owner who wants no checker."""
    with Program(them, checker=("true",)) as program:
        program.run()
        program.everywhere(MAIN)
        yield program


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_start_a_switch_and_the_way_back_reach_all(
    start: Start, kind: str, address: str
) -> None:
    """Over IPv4 and IPv6, each with one higher serial, the same on all four."""
    them = start(kind, address)
    with Program(them) as program:
        for down, there in ((False, MAIN), (True, BACKUP), (False, MAIN)):
            program.down = down
            outcome = program.run()
            assert {its.reason for its in outcome.zones.values() if its.failed} == set()
            assert program.everywhere(there) == outcome.serials
        assert {serial % 100 for serial in outcome.serials.values()} == {2}


def test_a_lost_reload_is_asked_for_again(program: Program, tmp_path: Path) -> None:
    """It said that it would, and did not."""
    kind = program.them.primary.kind
    lost = tmp_path / "lost"
    with Program(
        program.them,
        control=script(
            tmp_path, program, f"rm {lost} 2>/dev/null && echo {PROMISES[kind]} && exit"
        ),
    ) as loses:
        lost.touch()
        loses.down = True
        outcome = loses.run()
        assert not outcome.failed
        assert not lost.exists()
        assert loses.everywhere(BACKUP) == outcome.serials


def test_reloads_lost_in_a_whole_run_are_made_good_by_the_next(
    program: Program, tmp_path: Path
) -> None:
    """Each zone is told with the serial that it should have and the one it has."""
    kind = program.them.primary.kind
    before = program.everywhere(MAIN)
    lost = tmp_path / "lost"
    losing = script(tmp_path, program, f"[ -e {lost} ] && echo {PROMISES[kind]} && exit")
    with Program(program.them, control=losing) as loses:
        lost.touch()
        loses.down = True
        outcome = loses.run()
        for zone, its in outcome.zones.items():
            told = f"ns1 serves {before[zone]}, not {its.serial}"
            assert (its.failed, its.reason) == ("verify", told)
        lost.unlink()
        assert not loses.run().failed
        assert loses.everywhere(BACKUP) == outcome.serials


FAILURES: Mapping[str, tuple[str, str]] = {
    "exit status": ("echo no way >&2; exit 1", "zonerw-control reload: no way"),
    "no words": ("exit 7", "zonerw-control reload: exit status 7"),
    "no end": ("exec sleep 60", "zonerw-control: no end within 0.5 s"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_control_that_fails_is_told_in_its_own_words_and_asked_again(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nothing moves meanwhile; when it works again, the serials are those that were meant."""
    monkeypatch.setattr(nameserver, "_RELOAD_SECONDS", 0.5)
    commands, told = FAILURES[how]
    fails, before = tmp_path / "fails", program.everywhere(MAIN)
    control = script(tmp_path, program, f"if [ -e {fails} ]; then {commands}; fi")
    with Program(program.them, control=control) as failing:
        fails.touch()
        failing.down = True
        outcome = failing.run()
        verb = KINDS[program.them.primary.kind].reload[0]
        told = told.replace("zonerw-control reload", f"{control[0]} {verb}")
        told = told.replace("zonerw-control", control[0])
        assert {(its.failed, its.reason) for its in outcome.zones.values()} == {("reload", told)}
        assert failing.everywhere(MAIN) == before
        fails.unlink()
        monkeypatch.undo()
        assert not failing.run().failed
        assert failing.everywhere(BACKUP) == outcome.serials


def test_a_primary_that_says_nothing_holds_no_run_up_for_long(program: Program) -> None:
    """Its sockets are there and nobody answers: control and questions have their time limits."""
    program.them.primary.part.silence()
    program.down = True
    outcome = program.run()
    assert {its.failed for its in outcome.zones.values()} == {"reload"}
    assert {its.reason.partition(": ")[2] for its in outcome.zones.values()} == {
        "no end within 3 s"
    }
    program.them.primary.part.resume()
    assert not program.run().failed
    program.everywhere(BACKUP)


def test_a_primary_that_was_away_comes_back_with_what_is_right(program: Program) -> None:
    """Killed before a switch: its start needs no run of ours."""
    primary = program.them.primary
    primary.kill()
    program.down = True
    outcome = program.run()
    for its in outcome.zones.values():
        assert its.failed == "reload"
        assert GONE[primary.kind] in its.reason
    primary.start()
    assert {zone: answer(primary, zone) for zone in ZONES} == {
        zone: (serial, BACKUP) for zone, serial in outcome.serials.items()
    }
    assert not program.run().failed
    assert program.everywhere(BACKUP) == outcome.serials


def test_a_primary_that_is_restarted_serves_the_same(program: Program) -> None:
    """What the files say, and nothing that it remembers."""
    program.down = True
    program.run()
    program.everywhere(BACKUP)
    program.down = False
    serials = program.run().serials
    program.everywhere(MAIN)
    program.them.primary.stop()
    program.them.primary.start()
    assert program.everywhere(MAIN) == serials
    assert not any(its.written for its in program.run().zones.values())


def test_a_zone_that_the_primary_refuses_holds_up_no_other(unchecked: Program) -> None:
    """It is said, and goes on being served as it was, by all; the owner's correction heals it."""
    before = unchecked.everywhere(MAIN)["example.org"]
    spoil(unchecked)
    outcome = unchecked.run(Forced())
    its = outcome.zones["example.org"]
    keeps = f"ns1 serves {before}, not {its.serial}"
    told = "ns1 answers SERVFAIL" if unchecked.them.primary.kind == "nsd" else keeps
    assert (its.failed, its.reason[: len(told)]) == ("verify", told)
    changed = unchecked.everywhere(MAIN, ["example.net"])
    assert changed == {"example.net": outcome.serials["example.net"]}
    assert unchecked.everywhere(MAIN, ["example.org"])["example.org"] >= before
    unchecked.down = True
    outcome = unchecked.run()
    assert {name for name, its in outcome.zones.items() if its.failed} == {"example.org"}
    unchecked.everywhere(BACKUP, ["example.net"])
    unchecked.everywhere(MAIN, ["example.org"])
    (unchecked.them.sources / "example.org.base").write_text(SOURCE)
    outcome = unchecked.run(Forced())
    assert not outcome.failed
    assert unchecked.everywhere(BACKUP) == outcome.serials


def test_a_refused_zone_is_served_after_a_restart_too(unchecked: Program) -> None:
    """A name server that had the old zone in memory alone has lost it then: it gets it back."""
    spoil(unchecked)
    unchecked.run(Forced())
    unchecked.them.primary.kill()
    unchecked.them.primary.start()
    its = unchecked.run().zones["example.org"]
    assert (its.failed, its.reason.partition(" to ")[0]) == ("verify", "ns1 answers SERVFAIL")
    unchecked.everywhere(MAIN)


def test_a_zone_that_the_primary_does_not_know_holds_up_no_other(program: Program) -> None:
    """It is not in its configuration: said, by name."""
    (program.them.sources / "example.com.base").write_text(SOURCE)
    outcome = program.run(Forced())
    its = outcome.zones["example.com"]
    assert (its.failed, its.reason) == (
        "verify",
        "ns1 answers REFUSED: is the zone in its configuration?",
    )
    program.everywhere(MAIN)
    program.down = True
    outcome = program.run()
    assert {name for name, its in outcome.zones.items() if its.failed} == {"example.com"}
    assert program.everywhere(BACKUP).items() <= outcome.serials.items()


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("kind", ["bind", "knot"])
def test_the_shipped_configurations_work_together(tmp_path: Path, kind: str) -> None:
    """With our addresses and paths in them; the secondary also starts without its primary."""
    them = prepare(tmp_path, ZONES, kind, {"ns2": kind})
    secondary = them.secondaries["ns2"]
    for daemon, server in ((them.primary, "backup"), (secondary, "main")):
        example = (EXAMPLES / kind / f"{server}.conf").read_text()
        daemon.conf.write_text(shipped(daemon, fill(example, FILLED[kind, server](them))))
    with ExitStack() as running, Program(them) as program:
        for daemon in them.all.values():
            running.callback(daemon.kill)
            daemon.start()
        program.run()
        program.everywhere(MAIN)
        program.down = True
        serials = program.run().serials
        assert program.everywhere(BACKUP) == serials
        them.primary.kill()
        secondary.stop()
        secondary.start()
        for zone in ZONES:
            expected = (serials[zone], BACKUP)
            wait_for(lambda: answer(secondary, zone) == expected, SOON, zone)  # noqa: B023


# What is replaced in the shipped files: paths, and addresses by loopback's.
FILLED: Mapping[tuple[str, str], Callable[[Nameservers], Mapping[str, str]]] = {
    ("bind", "backup"): lambda them: {
        'include "/etc/bind/transfer.key";': "",
        '"/var/lib/bind/zones/': f'"{them.published}/',
    },
    ("bind", "main"): lambda them: {
        'include "/etc/bind/transfer.key";': "",
        "{ 198.51.100.7 key": f"{{ 127.0.0.1 port {them.primary.port} key",
    },
    ("knot", "backup"): lambda them: {
        'include: "transfer.key"': "",
        '"/var/lib/knot/zones"': f'"{them.published}"',
        "[ 192.0.2.1, 203.0.113.53 ]": "[ 127.0.0.1 ]",
    },
    ("knot", "main"): lambda them: {
        'include: "transfer.key"': "",
        "id: backup\n    address: 198.51.100.7\n    key: transfer\n\nacl:\n  - id: backup\n"
        "    address: 198.51.100.7\n": f"id: backup\n    address: 127.0.0.1@{them.primary.port}\n"
        "    key: transfer\n\nacl:\n  - id: backup\n    address: 127.0.0.1\n",
    },
}


def shipped(daemon: Daemon, example: str) -> str:
    """The example below what a daemon of ours needs beside it, with which it would give no zone."""
    text = daemon.conf.read_text()
    match daemon.kind:
        case "bind":
            head = text[: text.index('zone "')]
            return re.sub(r"(?m)^  (allow-\w+|notify) .*\n", "", head) + example
        case _:
            return text[: text.index("acl:\n")] + example


def spoil(program: Program) -> None:
    """Edit example.org's source so that the primary refuses the zone."""
    them = program.them
    (them.sources / "example.org.base").write_text(SOURCE + REFUSED[them.primary.kind])


def script(folder: Path, program: Program, first: str) -> tuple[str, ...]:
    """A control that does something else `first`, and then what it should."""
    command, *words = program.config.primary.control
    path = folder / "control"
    path.write_text(f'#!/bin/sh\n{first}\nexec {find(command)} {" ".join(words)} "$@"\n')
    path.chmod(0o755)
    return (str(path),)
