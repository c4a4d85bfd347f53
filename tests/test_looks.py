"""Our own looks: what so many of them come to, whom they go to, how often, and blindness."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from witnesses import ALERTS

from actions import looks
from actions.decide import Look
from actions.looks import Attention, Looker, Memory, Round, Seen
from demo.stack import wait_for
from exporter import config as configuration
from exporter.config import Config, Reference, Server, TcpCheck
from exporter.probes import Down, Up

UP, DOWN = Up(0.1), Down("web: timeout", "", 1.0)
BOTH = Attention(("main", "backup"), eager=True)
SLOWLY = replace(BOTH, eager=False)
NOBODY = Attention((), eager=False)


def seen(memory: Memory, attended: Attention = BOTH) -> Seen:
    """What it comes to."""
    return memory.seen(attended, ("main", "backup"))


def noted(*rounds: str, reference: str = "") -> Memory:
    """A memory of rounds such as "+-": main up, backup down; `reference`: that of each round."""
    memory = Memory(3)
    for number, results in enumerate(rounds):
        up = [UP if result == "+" else DOWN for result in results]
        references = {"quad9": UP if reference[number] == "+" else DOWN} if reference else {}
        memory.note(Round(dict(zip(("main", "backup"), up, strict=False)), references))
    return memory


@pytest.mark.parametrize(
    ("rounds", "look"),
    [
        pytest.param("", Look("unclear", "0 of 3 looks so far"), id="none"),
        pytest.param("--", Look("unclear", "2 of 3 looks so far"), id="too few that fail"),
        pytest.param("++", Look("unclear", "2 of 3 looks so far"), id="too few that succeed"),
        pytest.param("---", Look("down", "down in 3 looks (web: timeout)"), id="down"),
        pytest.param("+++", Look("up", "up in 3 looks"), id="up"),
        pytest.param("--+", Look("unclear", "up in 1 of 3 looks"), id="one succeeds"),
        pytest.param("++-", Look("unclear", "up in 2 of 3 looks"), id="one is lost"),
        pytest.param("+++---", Look("down", "down in 3 looks (web: timeout)"), id="down since"),
        pytest.param("---+++", Look("up", "up in 3 looks"), id="up again"),
        pytest.param("--+--", Look("unclear", "up in 1 of 3 looks"), id="not in a row"),
    ],
)
def test_what_looks_come_to(rounds: str, look: Look) -> None:
    """So many in a row, or unclear."""
    assert seen(noted(*rounds)).looks["main"] == look


def test_servers_are_looked_at_side_by_side() -> None:
    """What one does says nothing of the other; who was ever up is known."""
    its = seen(noted("-+", "-+", "-+"))
    assert {server: look.state for server, look in its.looks.items()} == {
        "main": "down", "backup": "up",
    }  # fmt: skip
    assert its.met == {"backup"}


@pytest.mark.parametrize(
    ("rounds", "references", "blind", "state"),
    [
        pytest.param("---", "+++", False, "down", id="a reference answers: the server is down"),
        pytest.param("---", "---", True, "unclear", id="none answers: our own line"),
        pytest.param("---", "++-", True, "unclear", id="what was seen before is forgotten"),
        pytest.param("----", "-+++", False, "unclear", id="looks taken meanwhile are forgotten"),
        pytest.param("---", "-++", True, "unclear", id="too short a time since"),
        pytest.param("-------", "-++++++", False, "down", id="so many looks after that"),
        pytest.param("++++++", "-+++++", False, "unclear", id="one too few after that"),
        pytest.param("-----", "-++-+", True, "unclear", id="it begins anew"),
        pytest.param("-------", "++-++++", False, "unclear", id="before and after is not in a row"),
    ],
)
def test_blind(rounds: str, references: str, *, blind: bool, state: str) -> None:
    """While no reference answers, and for as many rounds after it, looks say nothing."""
    its = seen(noted(*rounds, reference=references))
    assert (its.blind is not None, its.looks["main"].state) == (blind, state)


def test_one_reference_that_answers_is_enough() -> None:
    """The other one may be down by itself."""
    memory = Memory(1)
    memory.note(Round({"main": DOWN}, {"a": DOWN, "b": UP}))
    assert seen(memory).blind is None
    memory.note(Round({"main": DOWN}, {"a": DOWN, "b": DOWN}))
    assert seen(memory).blind == "no reference answers (a: web: timeout, b: web: timeout)"


def test_looks_are_forgotten_and_blindness_too_if_wished() -> None:
    """Old looks say nothing of now."""
    memory = noted("++", "++", "++")
    memory.forget(blindness=False)
    assert seen(memory).looks["main"] == Look("unclear", "0 of 3 looks so far")
    blind = noted("++", reference="-")
    blind.forget(blindness=False)
    assert seen(blind).blind
    blind.forget(blindness=True)
    assert seen(blind).blind is None


def test_who_is_not_attended_to_is_not_told_of() -> None:
    """Whatever was known."""
    only = seen(noted("++", "++", "++"), Attention(("backup",), eager=False))
    assert only.looks["main"] == Look("unclear", "not looked at while all is quiet")
    assert only.looks["backup"].state == "up"


@pytest.mark.parametrize(
    ("main", "backup", "serving", "attended"),
    [
        pytest.param("quiet", "quiet", "main", NOBODY, id="all is quiet: nobody"),
        pytest.param("quiet", "quiet", "backup", BOTH, id="not the preferred one serves"),
        pytest.param("firing", "quiet", "main", BOTH, id="main is said to be down"),
        pytest.param("quiet", "firing", "main", BOTH, id="the backup is said to be down"),
        pytest.param("firing", "unknown", "main", BOTH, id="the backup is not watched"),
        pytest.param("unknown", "quiet", "main", SLOWLY, id="main is not watched: no hurry"),
        pytest.param("unknown", "quiet", "backup", SLOWLY, id="nor back to it"),
        pytest.param("quiet", "unknown", "backup", SLOWLY, id="nor away from one not watched"),
        pytest.param("unknown", "unknown", "main", SLOWLY, id="alone: no hurry"),
    ],
)
def test_attention(main: str, backup: str, serving: str, attended: Attention) -> None:
    """Who is looked at."""
    alerts = {"main": ALERTS[main], "backup": ALERTS[backup]}
    states = (main, backup) if attended.servers else ()
    assert looks.attention(alerts, serving, ()) == replace(attended, alerts=states)


def test_who_was_never_seen_up_is_looked_at_while_all_is_quiet() -> None:
    """Or it would not be voted down when it is down."""
    alerts = dict.fromkeys(("main", "backup"), ALERTS["quiet"])
    attended = looks.attention(alerts, "main", {"backup"})
    assert attended == Attention(("backup",), eager=False)


# --- taken by themselves ----------------------------------------------------------------------


class Machine:
    """Stands for the servers and references: what a look sees is the test's choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down: set[str] = set()
        self.seconds = 0.0  # that a look at one that is down takes
        self.looks: list[tuple[str, float]] = []  # address, when
        self.timeouts: set[float] = set()
        self.meanwhile: Callable[[str], None] = lambda _: None  # happens in the middle of a look
        self.go_on = threading.Event()
        self._gate = threading.Event()
        monkeypatch.setattr("exporter.probes.probe", self._probe)
        monkeypatch.setattr("exporter.probes.ask_reference", self._ask)

    def count(self, address: str) -> int:
        """How often it was looked at."""
        return sum(looked_at == address for looked_at, _ in self.looks)

    def end(self) -> None:
        """Let go of all looks that still wait."""
        self._gate.set()

    def _probe(self, _check: object, address: object, timeout: float, **_: object) -> Up | Down:
        return self._look(str(address), timeout)

    def _ask(self, reference: Reference, timeout: float) -> Up | Down:
        return self._look(str(reference.address), timeout)

    def _look(self, address: str, timeout: float) -> Up | Down:
        self.looks.append((address, time.monotonic()))
        self.timeouts.add(math.ceil(timeout))
        self.meanwhile(address)
        if address not in self.down:
            return UP
        self._gate.wait(self.seconds)
        return Down("timeout", "", 0.1)


MAIN, BACKUP, QUAD9 = "192.0.2.1", "198.51.100.7", "9.9.9.9"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Everybody is up."""
    machine = Machine(monkeypatch)
    yield machine
    machine.end()


def config(every: float = 5.0) -> Config:
    """Two servers and a reference; main has two addresses."""
    example = configuration.read(Path("examples/zonerw.toml"))
    servers = {
        "main": Server.model_validate({"addresses": [MAIN, "2001:db8::1"]}),
        "backup": Server.model_validate({"addresses": [BACKUP]}),
    }
    reference = Reference("tcp", ip_address(QUAD9), 53)
    policy = example.policy.model_copy(update={"every": every})
    return replace(example, servers=servers, references={"quad9": reference}, policy=policy)


def test_a_burst_costs_a_silent_server_once(machine: Machine) -> None:
    """Its looks begin 250 ms apart, and overlap."""
    machine.down, machine.seconds = {MAIN}, 1.0
    began = time.monotonic()
    rounds = looks.take(config(), ("main", "backup"), 3)
    assert time.monotonic() - began < 2.9  # one after the other they would take 3 s at least
    assert [(type(r.servers["main"]), type(r.servers["backup"])) for r in rounds] == [
        (Down, Up)
    ] * 3
    begun = sorted(at - began for address, at in machine.looks if address == MAIN)
    assert [at > 0.24 * number for number, at in enumerate(begun)] == [True] * 3


def test_only_the_first_address_is_looked_at(machine: Machine) -> None:
    """By it a server is judged; the other one could cost its whole timeout each time."""
    looks.take(config(), ("main",), 1)
    assert {address for address, _ in machine.looks} == {MAIN, QUAD9}


def test_only_required_checks_are_looked_at(machine: Machine) -> None:
    """What decides nothing costs no time of those who decide."""
    its = config()
    main = its.servers["main"]
    checks = {
        "web": TcpCheck(tcp=80),
        "mail": TcpCheck(tcp=25),
        "news": TcpCheck(tcp=119, required=False),
    }
    servers = {**its.servers, "main": main.model_copy(update={"checks": checks})}
    looks.take(replace(its, servers=servers), ("main",), 1)
    assert machine.count(MAIN) == 2


@pytest.mark.parametrize(("every", "timeout"), [(0.1, 1), (2.0, 2), (3600.0, 5)])
def test_how_long_a_look_may_take(machine: Machine, every: float, timeout: float) -> None:
    """As long as until the next one, from 1 to 5 s."""
    looks.take(config(every), ("main",), 1)
    assert machine.timeouts == {timeout}


def test_a_line_cut_in_the_middle_of_a_look_is_no_lost_look(machine: Machine) -> None:
    """The reference answered before it, at once; it is asked again after a look that fails."""

    def cut(address: str) -> None:
        if address == MAIN:
            wait_for(lambda: machine.count(QUAD9), 10, "the reference to have answered")
            machine.down = {MAIN, QUAD9}

    machine.meanwhile = cut
    (seen_,) = looks.take(config(), ("main",), 1)
    assert isinstance(seen_.servers["main"], Down)
    assert isinstance(seen_.references["quad9"], Down)


def test_nobody_waits_for_a_dead_reference(machine: Machine) -> None:
    """One that answers is enough."""
    machine.down, machine.seconds = {MAIN, QUAD9}, 60.0
    living = Reference("tcp", ip_address("8.8.8.8"), 53)
    both = replace(config(), references={**config().references, "google": living})
    began = time.monotonic()
    (seen_,) = looks.take(both, ("backup",), 1)
    assert time.monotonic() - began < 30
    assert seen_.references == {"google": UP}


def test_dead_references_are_told_of_in_one_order(machine: Machine) -> None:
    """The configuration's: in any other, a line that stays dead would be news in each round."""
    answered = threading.Event()

    def first_is_last(address: str) -> None:
        if address == QUAD9:
            answered.wait(30)
        else:
            answered.set()

    machine.down, machine.meanwhile = {QUAD9, "8.8.8.8"}, first_is_last
    google = Reference("tcp", ip_address("8.8.8.8"), 53)
    both = replace(config(), references={**config().references, "google": google})
    (seen_,) = looks.take(both, (), 1)
    assert list(seen_.references) == ["quad9", "google"]


def test_a_look_that_breaks_takes_no_other_with_it(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """It is none, and no vote; the log says how it broke."""

    def break_(address: str) -> None:
        if address == MAIN:
            raise RuntimeError("broken")

    machine.meanwhile = break_
    (seen_,) = looks.take(config(), ("main", "backup"), 1)
    assert seen_.servers == {"backup": UP}
    assert caplog.messages == ["looking failed"]


def test_at_once(machine: Machine) -> None:
    """As many looks as say something, in one go; nobody is looked at without attention."""
    machine.down = {MAIN}
    its = looks.at_once(config(), BOTH)
    assert its.looks["main"] == Look("down", "down in 3 looks (web: timeout)")
    assert (its.looks["backup"].state, its.blind, its.looking) == ("up", None, False)
    machine.looks.clear()
    assert looks.at_once(config(), NOBODY).blind is None
    assert machine.looks == []
    machine.down = {MAIN, QUAD9}
    assert looks.at_once(config(), BOTH).blind == "no reference answers (quad9: timeout)"


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Looker, threading.Semaphore]]]:
    """Start a looker; it says changes by releasing the semaphore."""
    lookers = []

    def start_(every: float) -> tuple[Looker, threading.Semaphore]:
        changes = threading.Semaphore(0)
        looker = Looker(config(every), changes.release)
        lookers.append(looker)
        looker.start()
        return looker, changes

    yield start_
    for looker in lookers:
        looker.stop()
        looker._thread.join(10)
        assert not looker._thread.is_alive()


Start = Callable[[float], tuple[Looker, threading.Semaphore]]


def states(its: Seen) -> dict[str, str]:
    """What the looks come to, in a word each."""
    return {server: look.state for server, look in its.looks.items()}


def test_eager_it_looks_quickly_until_it_is_clear_and_then_seldom(
    machine: Machine, start: Start
) -> None:
    """With an hour between looks, only a burst can come to anything; then nothing follows."""
    looker, changes = start(3600.0)
    assert looker.attend(BOTH).looking
    assert changes.acquire(timeout=10)
    its = looker.attend(BOTH)
    assert (states(its), its.looking) == ({"main": "up", "backup": "up"}, False)
    assert not changes.acquire(timeout=0.6)  # two more looks would have been there
    assert machine.count(MAIN) == 3


def test_another_alert_has_everybody_looked_at_anew(machine: Machine, start: Start) -> None:
    """Main's alert is over: what the looks said before it, an hour ago perhaps, is not enough."""
    looker, changes = start(3600.0)
    firing, quiet = (replace(BOTH, alerts=(state, "quiet")) for state in ("firing", "quiet"))
    machine.down = {MAIN}
    looker.attend(firing)
    assert changes.acquire(timeout=10)
    assert states(looker.attend(firing))["main"] == "down"
    machine.down = set()
    assert looker.attend(quiet).looking
    assert changes.acquire(timeout=10)
    assert states(looker.attend(quiet))["main"] == "up"


def test_looks_from_before_another_alert_say_nothing_beside_it(
    machine: Machine, start: Start
) -> None:
    """Neither those that were taken, nor those under way."""
    looker, changes = start(3600.0)
    firing, quiet = (replace(BOTH, alerts=(state, "quiet")) for state in ("firing", "quiet"))
    looker.attend(firing)
    assert changes.acquire(timeout=10)
    assert states(looker.attend(firing))["main"] == "up"
    under_way = threading.Event()
    held: list[str] = []

    def hold(address: str) -> None:
        if address == MAIN and not held:
            held.append(address)
            under_way.set()
            machine.go_on.wait(30)

    machine.meanwhile = hold
    assert states(looker.attend(quiet)) == {"main": "unclear", "backup": "unclear"}
    assert under_way.wait(10)
    looker.attend(firing)
    machine.go_on.set()
    wait_for(lambda: states(looker.attend(firing))["main"] == "up", 10, "main's looks")
    assert machine.count(MAIN) == 9  # those before, those under way, and those that count


def test_a_look_that_outlives_all_attention_leaves_nobody_blind(
    machine: Machine, start: Start
) -> None:
    """It saw the cut line; nobody would look at another reference, and blindness never end."""
    under_way = threading.Event()

    def hold(address: str) -> None:
        if address == QUAD9:
            under_way.set()
            machine.go_on.wait(30)

    machine.down, machine.meanwhile = {QUAD9}, hold
    looker, _ = start(3600.0)
    looker.attend(BOTH)
    assert under_way.wait(10)
    looker.attend(NOBODY)
    machine.go_on.set()
    looker.stop()
    looker._thread.join(30)
    assert looker.attend(NOBODY).blind is None


def test_quick_looks_that_stay_unclear_become_slow(machine: Machine, start: Start) -> None:
    """A server that answers every other time would be looked at four times a second for good."""

    def every_other_time(address: str) -> None:
        if address == MAIN:
            machine.down = {MAIN} if machine.count(MAIN) % 2 else set()

    machine.meanwhile = every_other_time
    looker, _ = start(3600.0)
    looker.attend(BOTH)
    wait_for(lambda: not looker.attend(BOTH).looking, 60, "the looks to become slow")
    assert 3 * looks._BURSTS <= machine.count(MAIN) <= 3 * looks._BURSTS + 3


def test_after_a_long_blindness_it_hurries_again(machine: Machine, start: Start) -> None:
    """The line is back: how it stands with the servers is to be known soon."""
    looker, _ = start(0.5)
    wait_for(lambda: states(looker.attend(BOTH))["main"] == "up", 10, "main up")
    machine.down = {QUAD9}
    wait_for(lambda: looker.attend(BOTH).blind, 10, "blind")
    wait_for(lambda: not looker.attend(BOTH).looking, 60, "the looks to become slow")
    assert looker.attend(BOTH).blind
    machine.down = set()

    def hurries() -> bool:
        its = looker.attend(BOTH)
        return its.blind is None and its.looking

    wait_for(hurries, 20, "quick looks after the blindness")


def test_not_eager_it_looks_every_so_often(machine: Machine, start: Start) -> None:
    """So that three lost looks in a second are no outage where nobody else watches."""
    looker, _ = start(0.5)
    machine.down = {MAIN}
    looker.attend(SLOWLY)
    wait_for(lambda: states(looker.attend(SLOWLY))["main"] == "down", 10, "")
    at = [at for address, at in machine.looks if address == MAIN]
    assert len(at) >= 3
    assert at[2] - at[0] >= 0.9  # from one begin to the next


def test_nobody_is_looked_at_without_attention(machine: Machine, start: Start) -> None:
    """Before it and after it; and what was known is forgotten."""
    looker, changes = start(0.05)
    looker.attend(BOTH)
    wait_for(lambda: states(looker.attend(BOTH))["main"] == "up", 10, "main up")
    its = looker.attend(NOBODY)
    assert states(its) == {"main": "unclear", "backup": "unclear"}
    idle = Looker(config(0.05), lambda: None)
    assert idle.attend(NOBODY).looks["main"].why == "not looked at while all is quiet"
    while changes.acquire(timeout=0.3):
        pass  # a look that was under way
    count = len(machine.looks)
    assert not changes.acquire(timeout=0.3)
    assert len(machine.looks) == count


def test_changes_are_said_and_only_those(machine: Machine, start: Start) -> None:
    """Down, and up again; not each look."""
    looker, changes = start(0.05)
    looker.attend(BOTH)
    wait_for(lambda: states(looker.attend(BOTH))["main"] == "up", 10, "main up")
    while changes.acquire(timeout=0.3):
        pass
    machine.down = {MAIN}
    assert changes.acquire(timeout=10)
    wait_for(lambda: states(looker.attend(BOTH))["main"] == "down", 10, "main down")
    while changes.acquire(timeout=0.3):
        pass
    machine.down = {QUAD9}
    assert changes.acquire(timeout=10)
    wait_for(lambda: looker.attend(BOTH).blind, 10, "blind")


def test_a_look_that_breaks_does_not_end_the_looking(
    machine: Machine, start: Start, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Without looks nothing is ever decided."""
    real, broken = looks.take, [True]

    def take(*args: object) -> object:
        if broken and broken.pop():
            raise RuntimeError("broken")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(looks, "take", take)
    looker, _ = start(0.05)
    looker.attend(BOTH)
    wait_for(lambda: states(looker.attend(BOTH))["main"] == "up", 10, "main up")
    assert "looking failed" in caplog.messages
    assert machine.looks
