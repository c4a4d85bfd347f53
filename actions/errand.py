"""Runs a program until it ends by itself, or has to: its time is up, or we are told to end.

Owns how it is ended, with all that it began, and what is kept of its words.
"""

import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import IO

# From SIGTERM to SIGKILL; and from the end of its input, where it has one, to SIGTERM.
_END_SECONDS = 5.0
_INPUT_SECONDS = 20.0

_CHUNK = 65_536
# Bytes that are kept of what it says: of a command its last words, of ours all its folders' names.
_MOST = 65_536
_MOST_OF_OURS = 67_108_864
_WORDS = 300  # characters of its last words


class Stop:
    """Ends the programs under way, and every one that is begun later."""

    def __init__(self) -> None:
        self.file = os.eventfd(0, os.EFD_CLOEXEC)  # readable, for ever, from when it is told
        self.ends_something = False  # whether a program is under way

    def tell(self) -> None:
        """End them."""
        os.eventfd_write(self.file, 1)


@dataclass(frozen=True)
class Ended:
    """A program that has ended: its exit status (None by a signal), what it said.

    `cut_off` says why it did not end by itself, or never began.
    """

    status: int | None = None
    out: bytes = b""
    err: bytes = b""
    cut_off: str = ""

    @property
    def words(self) -> str:
        """The last words of it, on one line."""
        said = self.err.strip() or self.out.strip()
        words = " ".join(said.decode(errors="replace").split())[-_WORDS:]
        return words or (
            "ended by a signal" if self.status is None else f"exit status {self.status}"
        )


def run(
    command: Sequence[str], given: bytes | None, seconds: float, lock: int | None, stop: Stop
) -> Ended:
    """Run a program; what it is `given` goes to its standard input, which ends when it has to.

    It holds `lock`, an open file, too: were we killed, nobody begins beside what is left of it.
    Not for programs that leave others behind: these would hold it, too.
    """
    stop.ends_something = True
    if shutil.which(command[0]) is None:
        return Ended(cut_off=f"no such program: {command[0]}")
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            ("setpriv", "--pdeathsig", "TERM", *command),  # noqa: S607  should we be killed
            stdin=subprocess.DEVNULL if given is None else pipe,
            stdout=pipe,
            stderr=pipe,
            pass_fds=() if lock is None else (lock,),
            cwd="/",  # as in the daemon: a person's folder may be nobody else's to look at
            start_new_session=True,  # it asks nobody at a terminal, and is ended with all it began
        )
    except OSError as error:
        return Ended(cut_off=f"setpriv: {error.strerror}")
    most = _MOST if given is None else _MOST_OF_OURS
    out, err = _Heard(process.stdout, most), _Heard(process.stderr, _MOST)
    cut_off = "interrupted"
    try:
        _give(process, given)
        cut_off = _listen((out, err), seconds, stop)
    finally:
        _end(process, cut_off=cut_off)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
    status = process.returncode
    return Ended(status if status is None or status >= 0 else None, out.said, err.said, cut_off)


def _give(process: subprocess.Popen[bytes], given: bytes | None) -> None:
    if process.stdin and given:
        with suppress(BrokenPipeError):  # it has ended: its words say why
            process.stdin.write(given)
            process.stdin.flush()


class _Heard:
    """What a program has said so far in one of its two ways."""

    def __init__(self, stream: IO[bytes] | None, most: int) -> None:
        self.stream = stream
        self._most = most
        self.said = b""

    def listen(self) -> bool:
        """Hear some more; False at the end."""
        chunk = os.read(self.stream.fileno(), _CHUNK) if self.stream else b""
        self.said = (self.said + chunk)[-self._most :]
        return chunk != b""


def _listen(both: Sequence[_Heard], seconds: float, stop: Stop) -> str:
    """Hear a program until it has said all; why it has to be ended before, if so."""
    until = monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(stop.file, selectors.EVENT_READ)
        for heard in both:
            if heard.stream:
                selector.register(heard.stream, selectors.EVENT_READ, heard)
        while len(selector.get_map()) > 1:
            left = until - monotonic()
            if left <= 0:
                return f"no end within {round(seconds, 1):g} s"
            for key, _ in selector.select(left):
                if key.data is None:
                    return "told to end"
                if not key.data.listen():
                    selector.unregister(key.fileobj)
    return ""


def _end(process: subprocess.Popen[bytes], *, cut_off: str) -> None:
    """See a program ended; it and all that it began, if it does not do so by itself."""
    if process.stdin:
        with suppress(BrokenPipeError):
            process.stdin.close()
    elif cut_off:
        _signal(process, signal.SIGTERM)
    if not _ends(process, _INPUT_SECONDS if process.stdin else _END_SECONDS):
        _signal(process, signal.SIGTERM)
        _ends(process, _END_SECONDS)
    if cut_off or process.returncode is None:
        _signal(process, signal.SIGKILL)
        _ends(process, _END_SECONDS)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # None is left, or they are another user's, as behind `sudo`: those end with their input.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None
