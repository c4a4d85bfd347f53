"""What converges and follows of zonerw, in a process of its own, told what to do line by line.

Its parts are wired as the daemon wires them; but for who is down: nobody is probed, and what is to
be served is a pin. `Program` is the side of whoever measures.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actions import notify
from actions.__main__ import keeping, wire
from actions.converge import Word
from actions.decide import Look
from actions.looks import Attention, Seen
from actions.metrics import Metrics, Trigger
from actions.notify import Behind, Follower
from actions.outcome import Outcome
from actions.state import Pin
from actions.witness import Heard
from actions.worker import Worker
from exporter import config as configuration
from exporter import log as logs

# The timer's usual pace, and how long it takes until everything was looked at anew once: a minute,
# and the next tick.
_EVERY_SECONDS = 5.0
_IDLE_SECONDS = 66.0

_FOLLOWED_WITHIN_SECONDS = 600.0
_LOOK_SECONDS = 0.25

_LOGGED_LAST = 2000  # characters


@dataclass(frozen=True)
class Used:
    """Processor seconds, of the process with all its threads, and of the programs it has run."""

    own: float
    programs: float

    def since(self, before: "Used") -> "Used":
        """What was used between the two."""
        return Used(self.own - before.own, self.programs - before.programs)


@dataclass(frozen=True)
class Ran:
    """One run of converge: how long it took, and what became of the zones.

    `failures` are those of zones, each reason once.
    """

    seconds: float
    used: Used
    written: int
    serials: Sequence[int]
    failed: int
    failures: Sequence[str]


@dataclass(frozen=True)
class Idle:
    """A minute with nothing to do: processor seconds of a run of the timer, and of it all.

    `tick` is the median run, `look` the one that looked at every zone, `minute` all that was used,
    the followers' look among it.
    """

    tick: float
    look: float
    minute: float


class Program:
    """The process, and what it says; it lives while the block does."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self._log = log

    def __enter__(self) -> Self:
        """Start it; it does nothing yet."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(self._config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it; where something went wrong, what it logged last is shown."""
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        if isinstance(error, Exception):
            sys.stderr.write(self._log.read_text()[-_LOGGED_LAST:])

    def tell(self, *words: str) -> None:
        """Say what to do; what comes of it is told later."""
        assert self._process.stdin  # noqa: S101 - for the type checker
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def ran(self) -> Ran:
        """What the run came to that it was told to do: "start", or "serve SERVER"."""
        answer = self._answer()
        return Ran(**answer | {"used": Used(**answer["used"])})

    def followed(self) -> Used:
        """What was used since the last run began, until it knew that every secondary has it all.

        It ends (ChildProcessError) where it does not come to know that.
        """
        self.tell("followed")
        return Used(**self._answer())

    def idle(self) -> Idle:
        """See it have nothing to do for a minute."""
        self.tell("idle")
        return Idle(**self._answer())

    def peak(self) -> int:
        """The most memory it ever had, in bytes."""
        self.tell("peak")
        return int(self._answer()["bytes"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError("zonerw's program ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


# --- in the process -------------------------------------------------------------------------


class _Subject:
    def __init__(self, config_file: Path) -> None:
        config = configuration.read(config_file)
        up = {server: Look("up", "nobody looks here") for server in config.servers}

        def looks(_: Attention) -> Seen:
            return Seen(up, None, frozenset(up), looking=False)

        self._followers: list[Follower]
        converger, self._followers = wire(config, Metrics(config), looks, Heard())
        self._converge = keeping(converger, self._followers)
        self._before = _used()
        for follower in self._followers:
            follower.start()

    def do(self, word: str, *more: str) -> object:
        match word:
            case "start":
                return self._run("start", None)
            case "serve":
                until = datetime.now(UTC) + timedelta(days=1)
                return self._run("request", Pin(server=more[0], until=until, reason="", by="us"))
            case "followed":
                return self._follow()
            case "idle":
                return self._idle()
            case "peak":
                return {"bytes": _peak()}
        raise ValueError(word)

    def stop(self) -> None:
        notify.stop(self._followers)

    def _run(self, trigger: Trigger, word: Word | None) -> Ran:
        self._before = _used()
        began = time.monotonic()
        zones = self._converge(trigger, word).zones.values()
        return Ran(
            seconds=time.monotonic() - began,
            used=_used().since(self._before),
            written=sum(its.written for its in zones),
            serials=sorted({its.serial for its in zones if its.serial is not None}),
            failed=sum(its.failed is not None for its in zones),
            failures=sorted({f"{its.failed}: {its.reason}" for its in zones if its.failed}),
        )

    def _follow(self) -> Used:
        deadline = time.monotonic() + _FOLLOWED_WITHIN_SECONDS
        while behind := self._behind():
            if time.monotonic() > deadline:
                said = f"{len(behind)} zones are behind on a secondary, such as {behind[0]}"
                raise TimeoutError(said)
            time.sleep(_LOOK_SECONDS)
        return _used().since(self._before)

    def _behind(self) -> list[str]:
        return [
            f"{zone}: {its.reason}"
            for follower in self._followers
            for zone, its in follower.seen().items()
            if isinstance(its, Behind)
        ]

    def _idle(self) -> Idle:
        runs: list[float] = []

        def converge(trigger: Trigger, word: Word | None) -> Outcome:
            began = time.thread_time()
            outcome = self._converge(trigger, word)
            if trigger == "timer":
                runs.append(time.thread_time() - began)
            return outcome

        worker = Worker(converge, _EVERY_SECONDS)
        worker.start()
        worker.request(None).result()  # after the first run, which looks at everything
        before = _used()
        time.sleep(_IDLE_SECONDS)
        used = _used().since(before)
        worker.stop()
        return Idle(statistics.median(runs), max(runs), used.own + used.programs)


def _used() -> Used:
    children = os.times()
    return Used(time.process_time(), children.children_user + children.children_system)


def _peak() -> int:
    """What the kernel noted; `ru_maxrss` would begin with that of whoever started us."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


def main() -> None:
    """Do what is said, and say what came of it, until there is nobody to say anything."""
    logs.to_stderr()
    subject = _Subject(Path(sys.argv[1]))
    for line in sys.stdin:
        answer = subject.do(*line.split())
        # Ran, Used and Idle; a peak is a mapping already.
        said = answer if isinstance(answer, dict) else asdict(answer)  # type: ignore[call-overload]
        print(json.dumps(said), flush=True)
    subject.stop()


if __name__ == "__main__":
    main()
