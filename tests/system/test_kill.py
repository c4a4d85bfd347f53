"""What must not matter: when actions is killed, and that main comes and goes. On the whole stack.

As a soak the same for longer; its figures are printed at the end of each test.
"""

import os
import random
import re
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
from conftest import free_port
from observed import (
    BACK,
    SOON,
    THERE,
    at_serials,
    log,
    places,
    raised,
    serials,
    switches,
    witnesses,
)

from actions.state import State, StateError
from actions.zone import render, serial_of
from demo.stack import PARTS, Stack, wait_for
from exporter import config as configuration
from exporter import zonefile

# A failure names its seed; set, it makes the same choices again.
SEED = int(os.environ.get("ZONERW_SEED", random.randrange(2**32)))  # noqa: S311 - no secret

Happened = Callable[[], bool]
Say = Callable[[str], None]


@pytest.fixture
def say(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Say:
    """Print figures: those of a soak at once, others where a test fails."""
    soak = request.node.get_closest_marker("soak") is not None

    def write(text: str) -> None:
        with capsys.disabled() if soak else nullcontext():
            sys.stdout.write(f"\n{text}\n")

    return write


@contextmanager
def noted(what: str) -> Iterator[None]:
    """Add to a failure what was being done."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise


# --- actions is killed ----------------------------------------------------------------------

# Reading this often sees most files that are there for a moment only.
LOOK_SECONDS = 0.002

# From putting a switch down to the last secondary it is some 100 ms, in a handful of steps: so
# soon after one of them begins the next, or the one after it.
AIMED_SECONDS = 0.03

# By then nothing is left to do.
AFTERWARDS_SECONDS = 0.3

ANY_MOMENT = "any moment"

# Each step of a switch that can be seen from outside: what a run was killed right after.
STEPS: dict[str, Callable[[Stack], Happened]] = {
    "it is put down": lambda stack: replaced(state_folder(stack) / "meant.json"),
    "it is in the history": lambda stack: replaced(state_folder(stack) / "history.jsonl"),
    "serials are recorded": lambda stack: replaced(state_folder(stack) / "serials.json"),
    "a zone is written": lambda stack: replaced(stack.layout.published / stack.zones[0]),
    "the primary serves": lambda stack: logged(stack, b'msg="primary serves"'),
    "a secondary serves": lambda stack: logged(stack, b'msg="secondary serves"'),
}
AIMS = (ANY_MOMENT, *STEPS)


@dataclass(frozen=True)
class Kill:
    """One kill: what it aimed at, whether the switch was put down by then, and how it went on.

    `start` is from the new start to readiness, `right` from there until all was as it should be;
    both in seconds.
    """

    aim: str
    put_down: bool
    start: float
    right: float


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(14, marks=pytest.mark.timeout(900)),
        pytest.param(210, marks=[pytest.mark.soak, pytest.mark.timeout(14400)]),
    ],
)
def test_actions_is_killed_at_random_moments_of_a_switch(kills: int, say: Say) -> None:
    """Started again, it ends the switch: everywhere, whole, with nothing left over or done twice.

    Main's web server dies and comes back in turn, a kill for each.
    """
    chance = random.Random(SEED)  # noqa: S311 - no secret
    done: list[Kill] = []
    with Stack() as stack, Ground(stack) as ground, noted(f"ZONERW_SEED={SEED}"):
        stack.settle()
        undisturbed = {address: switch(ground, address) for address in (stack.backup, stack.main)}
        for number in range(kills):
            aim = AIMS[number // 2 % len(AIMS)]
            address = stack.main if number % 2 else stack.backup
            with noted(f"kill {number + 1} of {kills}, at {address}, aimed at: {aim}"):
                at = chance.uniform(0, undisturbed[address] + AFTERWARDS_SECONDS)
                soon = AIMED_SECONDS * chance.random() ** 3  # every other one within 4 ms
                threading.Event().wait(chance.uniform(0, 1))  # another phase of Prometheus's second
                done.append(killed_while_switching(ground, address, aim, at, soon))
        assert "Traceback" not in stack.parts["actions"].log.read_text()
    say(figures(done, undisturbed.values()))


def switch(ground: "Ground", address: str) -> float:
    """Let main die or return, undisturbed; the seconds until all is right."""
    began = time.monotonic()
    turn(ground.stack, address)
    ground.wait_until_right(address)
    return time.monotonic() - began


def turn(stack: Stack, address: str) -> None:
    """Make this the address that is right: main's web server ends, or starts again."""
    web = stack.parts["web-main"]
    if address == stack.main:
        web.launch()
    else:
        web.kill()


def killed_while_switching(
    ground: "Ground", address: str, aim: str, at: float, soon: float
) -> Kill:
    """Kill actions once while it switches: `at` seconds after, or `soon` after the step aimed at.

    Then start it again.
    """
    stack = ground.stack
    actions = stack.parts["actions"]
    put_down = STEPS["it is put down"](stack)
    step = STEPS[aim](stack) if aim in STEPS else lambda: True
    turn(stack, address)
    wait_closely(step, aim)
    threading.Event().wait(at if aim == ANY_MOMENT else soon)
    actions.kill()
    was_put_down = put_down()
    began = time.monotonic()
    actions.start()
    ready = time.monotonic()
    ground.wait_until_right(address)
    return Kill(aim, was_put_down, ready - began, time.monotonic() - ready)


def wait_closely(happened: Happened, what: str) -> None:
    """Wait until it has happened; knows it within a millisecond or two."""
    deadline = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < deadline, f"waited {SOON:g} s in vain for this: {what}"
        threading.Event().wait(0.001)


def replaced(path: Path) -> Happened:
    """Whether a file has been replaced since now."""
    before = mark_of(path)
    return lambda: mark_of(path) != before


def mark_of(path: Path) -> object:
    """What is another one once a file was replaced; None while there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def logged(stack: Stack, words: bytes) -> Happened:
    """Whether actions has logged these words since now."""
    log = stack.parts["actions"].log
    begin = log.stat().st_size

    def happened() -> bool:
        with log.open("rb") as file:
            file.seek(begin)
            return words in file.read()

    return happened


def state_folder(stack: Stack) -> Path:
    """Where actions keeps what must outlive a crash."""
    return stack.layout.folder / "state"


class Ground:
    """A stack whose files are read all the time, as a name server or a person may at any moment."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._state = State(state_folder(stack))
        self._servers = configuration.read(stack.layout.config).servers
        self._sources = {
            zone: zonefile.parse(
                zone, (stack.layout.sources / f"{zone}.base").read_bytes(), self._servers
            )
            for zone in stack.zones
        }
        self._faults: list[str] = []
        self._highest: dict[str, int] = {}  # zone -> the highest serial ever published
        self._contents: dict[tuple[str, int], bytes] = {}  # zone, serial -> what was published
        self._switches: list[tuple[str, str, str]] = []  # those that there have to be
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading."""
        self._ending.set()
        self._thread.join()

    def wait_until_right(self, address: str) -> None:
        """Wait until one more switch, to this address, is done; see that nothing is amiss."""
        self._switches.append(BACK if address == self.stack.main else THERE)
        wait_for(lambda: places(self.stack) == {address}, SOON, f"all zones at {address}")
        wait_for(
            lambda: serials(self.stack) == {zone: {n} for zone, n in self._highest.items()},
            SOON,
            f"the highest serials that were ever published, {self._highest}, everywhere",
        )
        history = [(its.before, its.server, its.cause) for its in self._state.history()]
        assert history == self._switches
        assert self._left_over() == []
        assert self._faults == []

    def _left_over(self) -> list[Path]:
        folders = (self._state.folder, self.stack.layout.published)
        return [path for folder in folders for path in folder.rglob(".*")]

    def _run(self) -> None:
        published = [self.stack.layout.published / zone for zone in self._sources]
        state = {
            self._state.folder / "meant.json": self._state.meant,
            self._state.folder / "history.jsonl": self._state.history,
            self._state.folder / "serials.json": self._state.serials,
        }
        marks: dict[Path, object] = {}
        while not self._ending.wait(LOOK_SECONDS):
            for path in (*published, *state):
                before, marks[path] = marks.get(path), mark_of(path)
                if marks[path] == before:
                    continue
                if path in state:
                    self._read_state(state[path])
                else:
                    self._read_zone(path)

    def _read_state(self, read: Callable[[], object]) -> None:
        try:
            read()
        except StateError as error:
            self._faults.append(str(error))

    def _read_zone(self, path: Path) -> None:
        zone, content = path.name, path.read_bytes()
        serial = serial_of(zone, content)
        renderings = (
            render(self._sources[zone], self._servers, server, serial or 0)
            for server in self._servers
        )
        if serial is None or content not in renderings:
            self._faults.append(f"{zone} is not whole: {content!r}")
            return
        highest = self._highest.get(zone, serial)
        if serial < highest:
            self._faults.append(f"{zone} has serial {serial} after {highest}")
        if self._contents.setdefault((zone, serial), content) != content:
            self._faults.append(f"{zone} has two contents with the same serial {serial}")
        self._highest[zone] = max(serial, highest)


def figures(kills: Sequence[Kill], undisturbed: Iterable[float]) -> str:
    """What it came to: how long it took, by what was aimed at."""
    began = " and ".join(f"{seconds:.2f}" for seconds in undisturbed)
    lines = [f"undisturbed, there and back: {began} s. Median (maximum), seconds, of the others:"]
    groups: dict[str, list[Kill]] = defaultdict(list)
    for kill in kills:
        groups[f"{kill.aim}, {'put down' if kill.put_down else 'not yet put down'}"].append(kill)
    for name, group in sorted(groups.items()):
        start, right = (
            f"{statistics.median(column):.2f} ({max(column):.2f})"
            for column in ([its.start for its in group], [its.right for its in group])
        )
        lines.append(f"{len(group):4} {name}: ready after {start}, right after another {right}")
    return "\n".join(lines)


# --- main comes and goes --------------------------------------------------------------------


class Flapping(ThreadingHTTPServer):
    """A web server that can change from one answer to the next: 200 while `up`, else 503."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", free_port("127.0.0.1")), _Page)
        self.up = True

    def flap(self, period: float, seconds: float) -> None:
        """Change every `period` seconds, an odd number of times: it ends as it did not begin."""
        began, times = time.monotonic(), round(seconds / period) | 1
        for number in range(times):
            self.up = not self.up
            threading.Event().wait(began + (number + 1) * period - time.monotonic())


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer as the server stands at this moment."""
        assert isinstance(self.server, Flapping)
        self.send_response(200 if self.server.up else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@dataclass(frozen=True)
class Flap:
    """Main's web server that flaps, and the stack that looks at it there."""

    web: Flapping
    stack: Stack


@pytest.fixture(scope="module")
def flap() -> Iterator[Flap]:
    """One stack for all that flaps: what the zones point at for main is of no concern."""
    with Flapping() as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            with Stack(
                parts=[name for name in PARTS if name != "web-main"],
                edit=lambda text: main_looked_at(text, web.server_port),
            ) as stack:
                stack.settle()
                yield Flap(web, stack)
        finally:
            web.shutdown()
            thread.join()


def main_looked_at(text: str, port: int) -> str:
    """Look at main there."""
    for old, new in (
        (r"(?m)^(?=\[servers\.main\.checks\.web\])", 'look_at = ["127.0.0.1"]\n'),
        (r":\d+/index\.html", f":{port}/index.html"),
    ):
        text, changed = re.subn(old, new, text, count=1)
        assert changed, old
    return text


@pytest.mark.parametrize("ends_up", [True, False], ids=["ends up", "ends down"])
@pytest.mark.parametrize(
    ("period", "seconds", "at_most"),
    [
        pytest.param(1, 30, 4, id="every second"),
        *(
            pytest.param(
                period, 180, at_most, id=f"every {period} s, long",
                marks=[pytest.mark.soak, pytest.mark.timeout(600)],
            )
            for period, at_most in ((0.5, 24), (1, 24), (3, 61), (5, 37))
        ),
    ],
)  # fmt: skip
def test_main_flaps(  # noqa: PLR0913 - what is to be tried, and what it is tried on
    flap: Flap, say: Say, *, period: float, seconds: float, at_most: int, ends_up: bool
) -> None:
    """The zones move seldom, and never more than once for a change; each move is one serial.

    It ends as it did not begin: the one move that is due then is made.
    """
    stack, chance = flap.stack, random.Random(f"{SEED} {period} {ends_up}")  # noqa: S311
    flap.web.up = not ends_up
    at_rest(stack, up=not ends_up)
    before, counted, logged = serials(stack), sum(switches(stack).values()), len(log(stack))
    with noted(f"ZONERW_SEED={SEED}"):
        threading.Event().wait(chance.uniform(0, 1))  # which phase of Prometheus's second
        flap.web.flap(period, seconds)
        at_rest(stack, up=ends_up)
        count = sum(switches(stack).values()) - counted
        say(f"{count} switches in {seconds} s of being up and down for {period} s each")
        at_serials(stack, raised(before, count))
        assert count <= at_most, "\n".join(log(stack)[logged:])


def at_rest(stack: Stack, *, up: bool) -> None:
    """Wait until the alert says how main is, and the zones point where they should, alike."""
    alert = "quiet" if up else "firing"
    address = stack.main if up else stack.backup
    wait_for(
        lambda: witnesses(stack, "main")[0] == alert and places(stack) == {address},
        SOON,
        f"the alert to be {alert}, and all zones at {address}",
    )
    stack.settle()
