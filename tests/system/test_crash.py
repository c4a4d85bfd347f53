"""Crash safety: converging is killed (SIGKILL) before every step, and at random moments.

Thirty zones, a real NSD; once as they are, and once as where there are so many that files are used
again. All the while somebody reads the published files, as a name server may at
any moment. Each zone's serials are written down with what was published and served under them.
"""

import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dns.query
import dns.rdatatype
import dns.rrset
import dns.tsigkeyring
import dns.zone
import pytest
from dns.serial import Serial
from observed import SOON
from test_converge import Program
from test_kill import SEED, noted

from actions import publish
from actions.converge import Forced
from actions.state import State
from demo.layout import Layout
from demo.stack import Stack, wait_for

ZONES = ("example.net", "example.org", *(f"zone{number:02}.example" for number in range(28)))
EDITED = ZONES[5]  # whose source is edited

# The last one, whose records take several pages, is read while it is half there, if ever it is.
MORE = "".join(f"host{number} A 192.0.2.9\n" for number in range(400))

SOURCE = """\
$TTL 60
@ SOA ns1 owner @serial number@ 2h 10m 4w 60
@ NS ns1
@ A @IP@
ns1 A @IP:backup@
www A @IP@
"""
# What stands at the end of a source: as it is, and as it is edited to be. What NSD's checker would
# find in the last one is not looked for here: NSD refuses it.
EDITS = ("", "edited A @IP@\n", "$GENERATE 1-3 host$ A 192.0.2.$\n")
PLAIN, EDIT, REFUSED = range(3)

# As it is, and as it is published under that: the edit, and the address.
Content = tuple[int, str]
Sighting = tuple[str, int, Content]  # zone, serial, and what stood there

# Everything that a run needs is imported once; each process begins with it.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "actions.__main__", "demo.stack", "dns.zone"])


def source(zone: str, edit: int = PLAIN) -> str:
    """A zone's source."""
    return SOURCE + (MORE if zone == ZONES[-1] else "") + EDITS[edit]


def published(layout: Layout, zone: str, serial: int, content: Content) -> bytes:
    """A zone as it has to be published."""
    edit, address = content
    text = source(zone, edit).replace("@IP:backup@", layout.backup)
    return text.replace("@serial number@", str(serial)).replace("@IP@", address).encode()


def understood(layout: Layout, zone: str, text: bytes) -> Sighting | None:
    """What a published file is; None where it is not whole, or nothing of ours."""
    serial = re.search(rb" owner (\d+) 2h ", text)
    if serial is None:
        return None
    for edit in range(len(EDITS)):
        for address in (layout.main, layout.backup):
            if text == published(layout, zone, int(serial[1]), (edit, address)):
                return zone, int(serial[1]), (edit, address)
    return None


# --- who reads all the while --------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """What was seen since the last time, in its order; and what was amiss."""

    rounds: int
    sightings: Sequence[Sighting]
    faults: Sequence[str]


def read_on(layout: Layout, pipe: Connection) -> None:
    """Read all published files again and again; tell of it when asked."""
    last: dict[str, bytes] = {}
    rounds, sightings, faults = 0, list[Sighting](), list[str]()
    while True:
        for zone in ZONES:
            try:
                text = (layout.published / zone).read_bytes()
            except OSError as error:
                faults.append(f"{zone} can't be read: {error}")
                continue
            if text == last.get(zone):
                continue
            last[zone] = text
            if sighting := understood(layout, zone, text):
                sightings.append(sighting)
            else:
                faults.append(f"{zone} is not whole: {text!r}")
        rounds += 1
        if pipe.poll():
            pipe.recv()
            pipe.send(Read(rounds, sightings, faults))
            rounds, sightings, faults = 0, [], []


# --- who converges, and is killed ---------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run of converge: what the witnesses say of main, and a person's word."""

    main_down: bool
    many: int  # zones from which on files are used again
    word: Forced | None = None
    checker: str = "nsd-checkzone"

    def program(self, layout: Layout) -> Program:
        """The program as a fresh process."""
        publish.MANY = self.many
        stack = Stack(parts=["ns1"])
        stack.layout = layout
        primary = Program(stack).config.primary.model_copy(update={"checker": (self.checker,)})
        program = Program(stack, primary=primary)
        program.down["main"] = self.main_down
        return program


class Steps:
    """What a process does to the outside, step by step, each told right before it is done."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell

    def watch(self) -> None:
        """Begin; there is no end."""
        fsync = os.fsync

        def told_fsync(fd: Any) -> None:
            self._tell(f"sync {self._named(fd)}")
            fsync(fd)

        os.fsync = told_fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        match event, args:
            case "open", (str() | bytes() | os.PathLike() as path, _, int() as flags):
                if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(self._folder)):
                    self._tell(f"open {self._named(path)}")
            case "os.link" | "os.rename", (source, goal, *_):
                self._tell(f"{event[3:]} {self._named(source)} {self._named(goal)}")
            case "os.remove" | "os.rmdir" | "os.mkdir" | "os.chmod" | "os.utime", (path, *_):
                self._tell(f"{event[3:]} {self._named(path)}")
            case "subprocess.Popen", (_, words, *_):
                assert isinstance(words, list)
                self._tell(f"run {' '.join(map(str, words))}")
            case "socket.__new__", _:
                self._tell("ask")
            case _:
                pass

    def _named(self, path: object) -> str:
        where = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path
        return str(where).removeprefix(f"{self._folder}/")


def converge(layout: Layout, run: Run, steps: Sequence[str] | int | None, pipe: Connection) -> None:
    """Converge once; say when it begins, and at the end each step.

    `steps`: kill oneself right before the last of these patterns, each looked for from the one
    before it on; or before the step of that number.
    """
    tempfile.tempdir = str(temporary(layout))
    program = run.program(layout)
    done: list[str] = []
    wanted = list(steps) if isinstance(steps, Sequence) else []

    def tell(step: str) -> None:
        if wanted and re.search(wanted[0], step):
            del wanted[0]
            if not wanted:
                os.kill(os.getpid(), signal.SIGKILL)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        if step != "ask":  # how often that takes is another number each time
            done.append(step)

    if steps is not None:
        Steps(layout.folder, tell).watch()
    pipe.send(None)
    program.run("start", run.word)
    pipe.send(tuple(done))


def temporary(layout: Layout) -> Path:
    """Where runs have their temporary files."""
    return layout.folder / "tmp"


# --- what must hold -----------------------------------------------------------------------------


@dataclass
class Ledger:
    """Zone -> serial -> what was ever published or served under it."""

    used: dict[str, dict[int, Content]] = field(default_factory=lambda: defaultdict(dict))

    def enter(self, sightings: Sequence[Sighting]) -> None:
        """See that no serial is used for two contents."""
        for zone, serial, content in sightings:
            before = self.used[zone].setdefault(serial, content)
            assert before == content, f"{zone} {serial} was {before}, and is {content}"


@dataclass
class Order:
    """Each zone's latest serial, seen at one place."""

    place: str
    latest: dict[str, int] = field(default_factory=dict)

    def see(self, sightings: Sequence[Sighting]) -> None:
        """See that no serial comes after a higher one (RFC 1982)."""
        for zone, serial, _ in sightings:
            before = self.latest.get(zone, serial)
            assert not Serial(serial) < Serial(before), (
                f"{zone} is {self.place} with {serial} after {before}"
            )
            self.latest[zone] = serial


class Ground:
    """Thirty zones that are read all the while; runs that are killed, and what they come to."""

    def __init__(self, stack: Stack, reader: Connection, many: int) -> None:
        self.layout = stack.layout
        self._many = many
        self.main_down = False
        self.settled = False
        self._state = State(stack.layout.folder / "state")
        self._reader = reader
        self._ledger = Ledger()
        self._published, self._served = Order("published"), Order("served")
        self._switches: list[str] = []  # to whom, in their order
        self._keys = dns.tsigkeyring.from_text({"transfer": self.layout.transfer_key})
        self._known = {
            zone: {
                self._records(zone, (edit, address)): (edit, address)
                for edit in (PLAIN, EDIT)
                for address in (stack.main, stack.backup)
            }
            for zone in ZONES
        }

    # Runs.

    def run(self, word: Forced | None = None, checker: str = "nsd-checkzone") -> Run:
        """A run, with a person's word, as things are with main now."""
        return Run(self.main_down, self._many, word, checker)

    def edit(self, edit: int) -> None:
        """Edit the one source."""
        path = self.layout.sources / f"{EDITED}.base"
        path.write_text(source(EDITED, edit))

    def switch(self) -> Run:
        """The run that moves all zones to the other server."""
        self.main_down = not self.main_down
        self._switches.append("backup" if self.main_down else "main")
        return self.run()

    def call_off(self) -> Run:
        """The run that finds, after a switch was killed, that it is not wanted any more."""
        self.main_down = not self.main_down
        meant = self._state.meant()
        assert meant
        if meant.server == self._switches[-1]:
            self._switches.append("backup" if self.main_down else "main")
        else:  # nobody knows of it
            self._switches.pop()
        return self.run()

    def begin(self, run: Run, steps: Sequence[str] | int | None) -> tuple[BaseProcess, Connection]:
        """Let a run begin in a process of its own."""
        self.settled = False
        ours, theirs = _processes.Pipe()
        child = _processes.Process(target=converge, args=(self.layout, run, steps, theirs))
        child.start()
        theirs.close()
        ours.recv()
        return child, ours

    def killed(self, run: Run, steps: Sequence[str] | int) -> None:
        """See a run killed right before the last of these steps, or the step of this number."""
        child, _ = self.begin(run, steps)
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"there was no such step: {steps}"
        self.look()

    def undisturbed(self, run: Run) -> tuple[float, Sequence[str]]:
        """Let a run come to its end: how long it took, seconds, and its steps."""
        child, pipe = self.begin(run, ())
        began = time.monotonic()
        steps = pipe.recv()
        seconds = time.monotonic() - began
        child.join()
        return seconds, steps

    def finish(self, run: Run) -> None:
        """Let the next run, of a fresh program, do the rest."""
        run.program(self.layout).run("start", run.word)
        assert self._left_over() == []

    # What is there.

    @property
    def serials(self) -> dict[str, int]:
        """Zone -> the published serial."""
        return dict(self._published.latest)

    def look(self) -> Mapping[str, Content]:
        """See what was read meanwhile, and what is served now: whole, each under its own serial.

        Zone -> what is served.
        """
        read = self._read()
        assert read.faults == []
        assert read.rounds
        served = [sighting for zone in ZONES if (sighting := self._at_primary(zone))]
        self._ledger.enter([*read.sightings, *served])
        self._published.see(read.sightings)
        self._served.see(served)
        recorded = self._state.serials()
        for zone, serial in self._published.latest.items():
            assert not Serial(recorded[zone]) < Serial(serial), f"{zone} {serial} is not recorded"
        return {zone: content for zone, _, content in served}

    def is_right(self, edit: int = PLAIN) -> None:
        """See all as an undisturbed run leaves it, with this edit of the one source."""
        address = self.layout.backup if self.main_down else self.layout.main
        expected = dict.fromkeys(ZONES, (PLAIN, address)) | {EDITED: (edit, address)}
        recorded = self._state.serials()

        def all_seen() -> bool:
            seen = self.look() == expected
            return seen and recorded == self._published.latest == self._served.latest

        # NSD can give an old answer once more after a new one, and who reads the files meanwhile
        # may be amidst a round: after a switch that was called off, the content tells no more.
        wait_for(all_seen, SOON, f"all to be served at {address}, and seen in the files")
        assert recorded == self._state.serials()
        assert {zone: self._ledger.used[zone][n] for zone, n in recorded.items()} == expected
        meant = self._state.meant()
        assert meant
        assert meant.server == ("backup" if self.main_down else "main")
        assert [switch.server for switch in self._state.history()] == self._switches
        assert self._left_over() == []
        self.settled = True

    def begin_anew(self) -> None:
        """Be as at the beginning, whatever a test has left."""
        for path in self._hidden():
            path.unlink()
        self.edit(PLAIN)
        self.main_down = False
        self._read()
        self._published.latest.clear()
        self._served.latest.clear()
        run = self.run(Forced(), checker="true")
        run.program(self.layout).run("start", run.word)
        self._switches = [switch.server for switch in self._state.history()]
        self.is_right()

    def _read(self) -> Read:
        self._reader.send(None)
        read: Read = self._reader.recv()
        return read

    def _left_over(self) -> list[str]:
        """What a run should have taken away at its end."""
        found = (*self._hidden(), *temporary(self.layout).iterdir())
        return sorted(
            str(path.relative_to(self.layout.folder))
            for path in found
            if self._many > len(ZONES) or path.suffix != ".spare"
        )

    def _hidden(self) -> list[Path]:
        folders = (self._state.folder, self.layout.published)
        return [path for folder in folders for path in folder.rglob(".*")]

    def _at_primary(self, zone: str) -> Sighting | None:
        """What the primary serves of a zone, as a whole; None if nothing."""
        answers = wait_for(lambda: self._transferred(zone), SOON, f"an answer about {zone}")
        if answers == [None]:
            return None
        soa, *records = [line for its in answers if its for line in its.to_text().splitlines()]
        content = self._known[zone][frozenset(records) - {soa}]
        return zone, int(soa.split()[6]), content

    def _transferred(self, zone: str) -> Sequence[dns.rrset.RRset | None]:
        """A transfer of the zone; only None if it is refused, nothing if it was broken off."""
        layout = self.layout
        transfer = dns.query.xfr(
            layout.backup,
            zone,
            port=layout.ports.dns,
            keyring=self._keys,
            keyname="transfer",
            keyalgorithm="hmac-sha256",
            source=layout.main,
            relativize=False,
            lifetime=5,
        )
        try:
            return [rrset for message in transfer for rrset in message.answer]
        except dns.query.TransferError:
            return [None]
        except (ConnectionError, EOFError):
            return []  # by a reload: another process of NSD's answers from now on

    def _records(self, zone: str, content: Content) -> frozenset[str]:
        text = published(self.layout, zone, 1, content).decode()
        read = dns.zone.from_text(text, zone, relativize=False)
        return frozenset(
            line
            for name, rdataset in read.iterate_rdatasets()
            for line in rdataset.to_text(name).splitlines()
            if rdataset.rdtype != dns.rdatatype.SOA
        )


@pytest.fixture(scope="module", params=[publish.MANY, 1], ids=["few", "many"])
def running(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """One ground for all tests here."""
    many, as_it_is = request.param, publish.MANY
    with Stack(parts=["ns1"], sources={zone: source(zone) for zone in ZONES}) as stack:
        temporary(stack.layout).mkdir()
        Run(main_down=False, many=many).program(stack.layout).run("start")
        publish.MANY = as_it_is  # other tests may come in between
        ours, theirs = _processes.Pipe()
        reader = _processes.Process(target=read_on, args=(stack.layout, theirs))
        reader.start()
        try:
            yield Ground(stack, ours, many)
        finally:
            reader.kill()
            reader.join()


@pytest.fixture
def ground(running: Ground, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """The ground, all in order; runs in this process have their temporary files there too."""
    monkeypatch.setattr(publish, "MANY", publish.MANY)  # a program sets it
    monkeypatch.setattr(tempfile, "tempdir", str(temporary(running.layout)))
    if not running.settled:
        running.begin_anew()
    return running


# --- killed before each step --------------------------------------------------------------------

RELOAD = r"^run \S*nsd-control .* reload$"
# With many zones what was kept becomes a spare file, and that the next temporary one.
DROPPED = r"^(remove|rename) published/\.\S+\.last"
RENAMED = r"^rename published/\.\S+\.tmp "
TEMPORARY = r"published/\.\S+\.tmp$"
SOME = 15  # of the zones

# A step, each looked for from the one before it on; the run is killed right before the last one.
SWITCH: Mapping[str, Sequence[str]] = {
    "before it is put down": [r"^open state/\.meant\.json\.tmp"],
    "while it is put down": [r"^sync state/\.meant\.json\.tmp"],
    "nearly put down": [r"^rename state/\.meant\.json\.tmp"],
    "put down": [r"^rename state/\.meant", r"^sync state$"],
    "before the history": [r"^open state/\.history"],
    "before the serials are recorded": [r"^open state/\.serials"],
    "while the serials are recorded": [r"^rename state/\.serials"],
    "serials recorded": [r"^rename state/\.serials", r"^sync state$", r"published"],
    "before the old file is kept": [r"^link published/(\S+) published/\.\1\.last$"],
    "the old file kept": [r"^link published/", RENAMED],
    "nothing written yet": [rf"^chmod {TEMPORARY}"],
    "temporary file written": [rf"^sync {TEMPORARY}"],
    "before the rename": [RENAMED],
    "after the rename": [RENAMED, r"published"],
    "in the middle of the zones": [RENAMED] * SOME,
    "after the last zone": [r"^sync published$"],
    "before the reload": [RELOAD],
    "after the reload": [RELOAD, r"^ask"],
    "verified": [RELOAD, DROPPED],
    "while what was kept is dropped": [RELOAD, *[DROPPED] * SOME],
}


@pytest.mark.parametrize("step", SWITCH)
def test_a_switch_that_is_killed(ground: Ground, step: str) -> None:
    """The next run ends it, with one serial more at most; nobody has seen half of anything."""
    before = ground.serials
    run = ground.switch()
    ground.killed(run, SWITCH[step])
    ground.finish(run)
    ground.is_right()
    assert costs(before, ground.serials) <= {1, 2}


@pytest.mark.parametrize(
    "step",
    [
        "nearly put down",
        "put down",
        "while the serials are recorded",
        "serials recorded",
        "the old file kept",
        "temporary file written",
        "in the middle of the zones",
        "before the reload",
        "after the reload",
    ],
)
def test_a_switch_that_is_killed_and_not_wanted_any_more(ground: Ground, step: str) -> None:
    """The next run goes back, and nothing is left of it, but for serials."""
    before = ground.serials
    ground.killed(ground.switch(), SWITCH[step])
    ground.finish(ground.call_off())
    ground.is_right()
    assert costs(before, ground.serials) <= {0, 2}


def costs(before: Mapping[str, int], after: Mapping[str, int]) -> set[int]:
    """How many serials the zones have used."""
    return {Serial(after[zone]).value - before[zone] for zone in ZONES}


ACCEPTED = r"state/accepted/\S+"

EDIT_STEPS: Mapping[str, Sequence[str]] = {
    "before a check": [r"^run \S*nsd-checkzone "],
    "after a check": [r"^run \S*nsd-checkzone ", r"^(?!ask)"],
    "before it is accepted": [rf"^open {ACCEPTED}\.tmp"],
    "while it is accepted": [rf"^rename {ACCEPTED}\.tmp"],
    "accepted": [rf"^rename {ACCEPTED}\.tmp", r"^sync state/accepted"],
    "before its serial is recorded": [r"^open state/\.serials"],
    "before it is written": [rf"^open {TEMPORARY}"],
    "before the rename": [RENAMED],
    "before the reload": [RELOAD],
}


@pytest.mark.parametrize("step", EDIT_STEPS)
def test_an_edit_that_is_killed(ground: Ground, step: str) -> None:
    """The next run leaves the old or the new one, and nothing else; the word said again is done."""
    before = ground.serials
    ground.edit(EDIT)
    run = ground.run(Forced((EDITED,)))
    ground.killed(run, EDIT_STEPS[step])
    ground.finish(ground.run())
    ground.finish(run)
    ground.is_right(EDIT)
    after = ground.serials
    assert after[EDITED] - before[EDITED] in (1, 2, 3)
    assert after == before | {EDITED: after[EDITED]}
    ground.edit(PLAIN)
    ground.finish(run)
    ground.is_right()


REFUSED_RELOAD = [RELOAD, r"^open state/\.refused\.json\.tmp"]
GIVEN_BACK = [*REFUSED_RELOAD, RENAMED]

REFUSAL: Mapping[str, Sequence[str]] = {
    "before it is loaded": [RELOAD],
    "while it is loaded": [RELOAD, r"^ask"],
    "before the refusal is put down": REFUSED_RELOAD,
    "the refusal put down": [RELOAD, r"^rename state/\.refused", r"^open"],
    "before the last content is written": [*REFUSED_RELOAD, rf"^open {TEMPORARY}"],
    "before the last content is back": GIVEN_BACK,
    "the last content back": [*GIVEN_BACK, r"^sync published$"],
    "before the reload": [*GIVEN_BACK, RELOAD],
    "after the reload": [*GIVEN_BACK, RELOAD, r"^ask"],
    "served again": [*GIVEN_BACK, RELOAD, DROPPED],
}


@pytest.mark.parametrize("step", REFUSAL)
def test_a_refusal_that_is_killed(ground: Ground, step: str) -> None:
    """The next run gives the last good content back, under a serial that nobody has seen."""
    before = ground.serials
    ground.edit(REFUSED)
    ground.killed(ground.run(Forced((EDITED,)), checker="true"), REFUSAL[step])
    tick = ground.run(checker="true")
    ground.finish(tick)
    ground.is_right()
    after = ground.serials
    assert after[EDITED] - before[EDITED] in (2, 3, 4)
    assert after == before | {EDITED: after[EDITED]}
    ground.finish(tick)
    ground.is_right()
    assert ground.serials == after
    ground.edit(PLAIN)
    ground.finish(ground.run(Forced((EDITED,))))
    ground.is_right()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_switch_that_is_killed_before_any_step(ground: Ground) -> None:
    """Each there is, one after another."""
    _, steps = ground.undisturbed(ground.switch())
    for number, step in enumerate(steps):
        with noted(f"killed before step {number}: {step}"):
            run = ground.switch()
            ground.killed(run, number)
            ground.finish(run)
            ground.is_right()


# --- killed at random moments -------------------------------------------------------------------


@pytest.mark.parametrize(
    "kills", [20, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_runs_that_are_killed_at_random_moments(ground: Ground, kills: int) -> None:
    """Switches, and edits now and then; the run that should finish one may be killed as well."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    seconds, _ = ground.undisturbed(ground.switch())
    ground.is_right()
    edit, killed = PLAIN, 0
    with noted(f"ZONERW_SEED={SEED}"):
        while killed < kills:
            before, times = ground.serials, 0
            if switching := chance.random() < 0.8:
                run = ground.switch()
            else:
                edit = EDIT if edit == PLAIN else PLAIN
                ground.edit(edit)
                run = ground.run(Forced((EDITED,)))
            while times == 0 or chance.random() < 0.2:
                times += 1
                child, _ = ground.begin(run, None)
                child.join(chance.uniform(0, seconds * 1.1))
                child.kill()
                child.join()
                ground.look()
            killed += times
            if switching and chance.random() < 0.3:
                run = ground.call_off()
            ground.finish(run)
            ground.is_right(edit)
            assert max(costs(before, ground.serials)) <= 1 + times
