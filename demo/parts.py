"""Programs that run beside us: started, seen to be ready, silenced, killed, stopped.

Owns processes and signals. What is started, and with which files, is stack.py's business.

A part is a session and a process group of its own: Ctrl-C in the terminal reaches only us, and
what a part forks, as NSD does, is signalled with it. Linux only, as loopback's many addresses are.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Progress = Callable[[str], None]  # is told each step, one line of text

_READY_SECONDS = 15.0  # a small machine under load; an idle one takes a tenth of it
_STOP_SECONDS = 5.0  # then it is killed
_KILL_SECONDS = 5.0  # SIGKILL needs milliseconds; longer means that the kernel is stuck
_LOOK_SECONDS = 0.01
_TAIL_LINES = 15

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class PartError(Exception):
    """A part did not do what it was started for: which one, why, and the end of its log."""


@dataclass
class Part:
    """One program: `name` for code, `title` for people; `ready` asks it, and is quick."""

    name: str
    title: str
    argv: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended, be it silent or not."""
        return self._process is not None and self._ended() is None

    def start(self) -> None:
        """Start it where it does not run, and wait until it is ready."""
        start([self])

    def stop(self) -> None:
        """End it in good order, or by force where that takes too long."""
        stop([self])

    def restart(self) -> None:
        """Stop, start, ready again."""
        self.stop()
        self.start()

    def silence(self) -> None:
        """Let nothing come from it any more while its sockets stay: nobody is told (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the silence."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, with all it has forked, unasked; peers get a reset (SIGKILL)."""
        with signals_held():
            if self._process is None:
                return
            self.signal(signal.SIGKILL)
            group, deadline = self._process.pid, time.monotonic() + _KILL_SECONDS
            while _members(group):
                if time.monotonic() > deadline:
                    raise PartError(f"{self.title} can't be killed: process group {group}")
                time.sleep(_LOOK_SECONDS)
            # Only now is the leader reaped: until then nobody else can get the group's number.
            self._process.wait()
            self._process = None

    def ask_to_end(self) -> None:
        """Let it end in good order (SIGTERM); what it has forked is its own to end."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; nothing happens where there is none."""
        if self._process is not None:
            os.killpg(self._process.pid, number)

    def launch(self) -> None:
        """Start it where it does not run; not waiting for anything."""
        if self.running:
            return
        self.kill()  # what one that ended by itself has left behind
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise PartError(f"{self.title} can't be started: {error}") from error

    def trouble(self) -> str | None:
        """Why it will never get ready: it has ended."""
        ended = None if self._process is None else self._ended()
        return None if ended is None else f"ended by itself, {ended}"

    def tail(self) -> str:
        """The end of its log, indented."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines or ["(its log is empty)"])

    def _ended(self) -> str | None:
        """How it ended, leaving it unreaped (see `kill`)."""
        assert self._process is not None  # noqa: S101 - for the type checker; both callers know
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        result = os.waitid(os.P_PID, self._process.pid, options)
        if result is None:
            return None
        kind = "exit status" if result.si_code == os.CLD_EXITED else "by signal"
        return f"{kind} {result.si_status}"


def start(
    parts: Collection[Part], progress: Progress = lambda _: None, timeout: float = _READY_SECONDS
) -> None:
    """Start parts side by side, and wait until each is ready; PartError for the first that is not.

    Those that did start go on: stopping them is the caller's.
    """
    began = time.monotonic()
    with signals_held():
        for part in parts:
            part.launch()
    waiting = list(parts)
    while waiting:
        for part in tuple(waiting):
            seconds = time.monotonic() - began
            # First whether it ended: on its port might be somebody else, who answers for it.
            trouble = part.trouble()
            if trouble is None and part.ready():
                waiting.remove(part)
                progress(f"{part.title} ready, {seconds:.1f} s")
            elif trouble is not None or seconds > timeout:
                why = trouble or f"not ready within {timeout:g} s"
                raise PartError(f"{part.title}: {why}; the end of its log:\n{part.tail()}")
        time.sleep(_LOOK_SECONDS)


def stop(parts: Collection[Part], timeout: float = _STOP_SECONDS) -> None:
    """End parts in good order, side by side; kill those that take too long. All are gone then."""
    with signals_held():
        for part in parts:
            part.resume()
            part.ask_to_end()
        deadline = time.monotonic() + timeout
        while any(part.running for part in parts) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        for part in parts:
            part.kill()


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the signals that end us until the block is left: it is done wholly.

    In a thread this does nothing: signals interrupt the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    # One that is ignored, as nohup does, or that is not Python's stays as it is.
    before = {
        number: handler
        for number in _ENDING
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    for number in before:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP from a closed terminal, do what Ctrl-C does: leave every block."""
    main = threading.current_thread() is threading.main_thread()
    ours = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if main and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _members(group: int) -> list[int]:
    """The processes of a group that still run. Dead ones that nobody has reaped do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, its_group, *_ = stat.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended while we were looking
        if int(its_group) == group and state not in (b"Z", b"X"):
            found.append(int(stat.parent.name))
    return found
