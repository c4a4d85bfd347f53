"""What must never happen to mail, whatever people and accidents do on both sides, in any order.

The model is independent: it notes what was done to each message, and reads the promises from that.
As a soak the same with more stories.
"""

import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import free_port
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mail import SYNC_SECONDS, Machines, Maildir, disks, kill, machines

from actions.unison import Pair

SIDES = ("here", "there")
# Of messages, by whoever reads mail on a side.
DEEDS: Mapping[str, Callable[[Maildir, str], None]] = {
    "read": lambda maildir, message: maildir.read(message),
    "flag": lambda maildir, message: maildir.flag(message, "F"),
    "unflag": lambda maildir, message: maildir.unflag(message, "S"),
    "move": lambda maildir, message: maildir.move(message, ".Sent"),
    "delete": lambda maildir, message: maildir.delete(message),
}
FOLDER_DEEDS = ("make a folder", "rename a folder", "delete a folder")
# What may befall all messages of a side at once.
LOSSES: Mapping[str, Callable[[Maildir], None]] = {
    "lose all messages": lambda maildir: each(Path.unlink, files_of(maildir)),
    "lose all folders": lambda maildir: each(shutil.rmtree, maildir.path.glob("[!t]*")),  # but tmp
    "lose all texts": lambda maildir: each(lambda path: path.write_bytes(b""), files_of(maildir)),
}
SUBFOLDERS = (".Work", ".Play")


def files_of(maildir: Maildir) -> list[Path]:
    """The files of all messages."""
    return list(itertools.chain.from_iterable(maildir.messages().values()))


def each(act: Callable[[Path], object], paths: Iterable[Path]) -> None:
    """Do it to each."""
    for path in list(paths):
        act(path)


# From the start of a run: between two disks it takes a fifth of a second.
KILLED_SECONDS = (0.0, 0.5)


@dataclass(frozen=True)
class Step:
    """One thing that happens; `which` of the messages that are there, `after` seconds of a run."""

    what: str
    side: str
    which: int = 0
    after: float = 0.0
    victim: str = ""


_side = st.sampled_from(SIDES)
_deliver = st.builds(Step, st.just("deliver"), _side)
_deed = st.builds(Step, st.sampled_from([*DEEDS]), _side, st.integers(0, 30))
_sync = st.just(Step("sync", ""))
_killed = st.builds(
    Step,
    st.just("killed"),
    st.just(""),
    after=st.floats(*KILLED_SECONDS),
    victim=st.sampled_from(["zonerw-unison", "unison", "all"]),
)
_folder = st.builds(
    Step, st.sampled_from([*FOLDER_DEEDS]), _side, st.integers(0, 30), st.floats(*KILLED_SECONDS)
)
_lost = st.builds(Step, st.sampled_from([*LOSSES]), _side)
stories = st.lists(
    st.one_of(_deliver, _deliver, _deed, _deed, _deed, _sync, _killed, _folder, _lost),
    min_size=8,
    max_size=30,
)


@dataclass
class Model:
    """What was done to each message, by what side, since the last run that did all."""

    delivered: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    contested: set[str] = field(default_factory=set)  # whatever may become of them, but for a loss
    changed: dict[str, set[str]] = field(default_factory=dict)

    def deed(self, message: str, side: str, what: str) -> None:
        """Note a change on a side; what both sides have changed, each in its way, is contested."""
        if self.changed.setdefault(message, set()) - {side}:
            self.contested.add(message)
        self.changed[message].add(side)
        if what != "deliver":
            self.touched.add(message)
        if what == "delete":
            self.deleted.add(message)

    def ran(self, *, all_done: bool) -> None:
        """Note a run. What one left half done may be on both sides already, and in no archive."""
        if all_done:
            self.changed.clear()
        for sides in self.changed.values():
            sides.add("a run")


@dataclass
class World:
    """Two sides with mail, and what is expected of them."""

    them: Machines
    model: Model = field(default_factory=Model)
    files: Mapping[str, int] | None = None

    def live(self, step: Step) -> None:
        """Let it happen."""
        if step.what == "sync":
            self.model.ran(all_done=self.sync())
        elif step.what == "killed":
            self.model.ran(all_done=self.sync(step))
        elif step.what in FOLDER_DEEDS:
            self._folder_deed(step)
        elif step.what in LOSSES:
            self._loss(step)
        else:
            self._deed(step)

    def _deed(self, step: Step) -> None:
        maildir = self.them.here if step.side == "here" else self.them.there
        if step.what == "deliver":
            message = f"{step.side}-{len(self.model.delivered)}"
            maildir.deliver(message)
            self.model.delivered.add(message)
        elif present := sorted(maildir.messages()):
            message = present[step.which % len(present)]
            DEEDS[step.what](maildir, message)
        else:
            return
        self.model.deed(message, step.side, step.what)

    def _side(self, step: Step) -> tuple[Maildir, Maildir]:
        """The side where it happens, and the other."""
        here, there = self.them.here, self.them.there
        return (here, there) if step.side == "here" else (there, here)

    def _at_rest(self) -> None:
        """Have all done, so that what comes next meets no change on the other side."""
        assert self.sync(allow=True)
        self.model.ran(all_done=True)

    def _folder_deed(self, step: Step) -> None:
        """Between two runs, one of which is killed: else folders differ, for a person to settle."""
        self._at_rest()
        its, _ = self._side(step)
        one, other = SUBFOLDERS if (its.path / SUBFOLDERS[0]).exists() else SUBFOLDERS[::-1]
        messages = [*Maildir(its.path / one).messages()]
        match step.what:
            case "make a folder":
                its.create(one)
                message = f"{one}-{len(self.model.delivered)}"
                its.deliver(message, one)
                self.model.delivered.add(message)
                self.model.deed(message, step.side, "deliver")
            case "rename a folder" if (its.path / one).exists():
                shutil.rmtree(its.path / other, ignore_errors=True)
                (its.path / one).rename(its.path / other)
                for message in messages:
                    self.model.deed(message, step.side, "move")
            case "delete a folder" if (its.path / one).exists():
                shutil.rmtree(its.path / one)
                for message in messages:
                    self.model.deed(message, step.side, "delete")
        self.sync(replace(step, victim="all"))
        self._at_rest()

    def _loss(self, step: Step) -> None:
        """It is refused, then and later, whatever is known; and once it is undone, all goes on."""
        self._at_rest()
        its, other = self._side(step)
        before = other.files()
        if len(before) < 2:
            return  # who has one message may delete it
        saved = its.path.with_name("saved")
        shutil.copytree(its.path, saved)
        LOSSES[step.what](its)
        for _ in range(2):
            assert not self.sync()
            assert other.files() == before
        shutil.rmtree(its.path)
        saved.rename(its.path)
        self._at_rest()
        assert its.files() == before

    def sync(self, killed: Step | None = None, *, allow: bool = False) -> bool:
        """Run once as sync does; whether all was done."""
        remote = self.them.root
        pair = Pair(
            str(self.them.here.path), remote, "backup", SYNC_SECONDS, 0.5, allow, self.files
        )
        with subprocess.Popen(
            [str(Path(sys.executable).with_name("zonerw-unison"))],
            env=self.them.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as run:
            assert run.stdin
            assert run.stdout
            assert run.stderr
            run.stdin.write(json.dumps(asdict(pair)).encode() + b"\n")
            run.stdin.flush()
            if killed:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(killed.after)
                kill(self._victims(killed.victim, run.pid))
            said, complained = run.stdout.read(), run.stderr.read()
        self._wait_for_the_end()
        assert not complained, complained.decode()
        try:
            result = json.loads(said)
        except ValueError:
            assert killed, said
            return False
        assert killed or result["outcome"] in ("done", "refused"), result
        if result["files"] is not None:
            self.files = result["files"]
        return result["outcome"] == "done" and not result["skipped"]

    def _victims(self, victim: str, run: int) -> list[int]:
        ours = [] if victim == "unison" else [run]
        return ours if victim == "zonerw-unison" else [*ours, *self.them.processes("unison")]

    def _wait_for_the_end(self) -> None:
        deadline = time.monotonic() + SYNC_SECONDS
        while left := self.them.processes():
            assert time.monotonic() < deadline, left

    def end(self) -> None:
        """Let two undisturbed runs do what is left to do: a person's word allows it."""
        for _ in range(2):
            assert self.sync(allow=True)

    def promises(self) -> None:
        """Nothing is lost, nothing untouched comes out twice, what was deleted stays so."""
        model = self.model
        here, there = self.them.here.copies(), self.them.there.copies()
        assert self.them.here.files() == self.them.there.files()
        kept = model.delivered - model.deleted
        assert kept <= here.keys()
        untouched = model.delivered - model.touched
        assert {here[message] for message in untouched} <= {1}
        assert not (model.deleted - model.contested) & here.keys()
        assert here == there
        assert not self.them.here.temporary()


def lives(them: Machines, story: Sequence[Step]) -> None:
    """Tell a story to its end."""
    for side in (them.here, them.there):
        side.create(".Sent")
    world = World(them)
    for step in story:
        world.live(step)
    world.end()
    world.promises()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yield a new folder for each story."""
    with TemporaryDirectory(prefix="zonerw-") as name:
        yield Path(name)


def between_disks(story: Sequence[Step]) -> None:
    """Both sides are folders of this machine."""
    with folder() as its, disks(its / "mail") as them:
        lives(them, story)


def over_ssh(story: Sequence[Step]) -> None:
    """One side is behind ssh."""
    with folder() as its, machines(its / "mail", free_port("127.0.0.1")) as them:
        lives(them, story)


# A story is not made shorter where it fails: when a kill falls differs each time.
QUICK = settings(
    phases=[Phase.generate],
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.too_slow],
)


@given(stories)
@settings(QUICK)
def test_mail_between_disks(story: Sequence[Step]) -> None:
    """Delivered, read, flagged, moved, deleted, run and killed in any order."""
    between_disks(story)


@given(stories)
@settings(QUICK, max_examples=2)
def test_mail_over_ssh(story: Sequence[Step]) -> None:
    """The same, with what is killed on either side."""
    over_ssh(story)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@given(stories)
@settings(QUICK, derandomize=False, max_examples=400)
def test_much_mail_between_disks(story: Sequence[Step]) -> None:
    """The same for many stories, others each time."""
    between_disks(story)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@given(stories)
@settings(QUICK, derandomize=False, max_examples=60)
def test_much_mail_over_ssh(story: Sequence[Step]) -> None:
    """Likewise."""
    over_ssh(story)
