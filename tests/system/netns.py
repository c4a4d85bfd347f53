"""A machine far away, and the line to it, which can be cut: a network namespace, a pair of veth.

It takes root. The kernel removes the namespace when the last process in it has ended, and both
ends of the line with it. All that run there end with us, however we end.
"""

import ipaddress
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import pytest

from actions.nameserver import find
from demo.parts import Part

# RFC 2544, appendix C.2.2: addresses for tests, which no machine on the Internet has.
_LINES = list(ipaddress.IPv4Network("198.18.0.0/15").subnets(new_prefix=29))

_END = "far"  # what the line's other end is called there
_MAC = "02:00:00:00:00:01"  # its hardware address: one that is given by hand, not by a maker


@dataclass(frozen=True)
class Far:
    """The machine at the other end: its two addresses, and our own interface towards it."""

    address: str
    other: str
    interface: str
    _holder: int
    _leaving: ExitStack

    def cut(self) -> None:
        """Let packets vanish, both ways: no reset, no ICMP, nobody is told."""
        self._run("ip", "link", "set", _END, "down")

    def mend(self) -> None:
        """Let packets through again."""
        self._run("ip", "link", "set", _END, "up")

    def web(self, name: str, port: int, folder: Path, *, at: str | None = None) -> Part:
        """Start a web server there, at the first address or another.

        It is ready when it listens, also while the line is cut.
        """
        address = at or self.address
        root = folder / name
        root.mkdir()
        (root / "index.html").write_text("welcome")
        where = ("--bind", address, "--directory", str(root), str(port))
        with_us = ("setpriv", "--pdeathsig", "KILL")
        part = Part(
            name=name,
            title=f"{name}, far away",
            argv=self._there(*with_us, sys.executable, "-m", "http.server", *where),
            log=folder / f"{name}.log",
            environment=os.environ,
            ready=lambda: bool(self._run("ss", "-Hltn", "src", f"{address}:{port}")),
        )
        self._leaving.callback(part.kill)
        part.start()
        return part

    def _run(self, *words: str) -> str:
        return _run(*self._there(*words))

    def _there(self, *words: str) -> tuple[str, ...]:
        return _command("nsenter", f"--net=/proc/{self._holder}/ns/net", "--", *_command(*words))


@contextmanager
def far_away() -> Iterator[Far]:
    """Yield a machine of our own at the end of a line of our own, whole at first.

    What runs there ends with the block.
    """
    with _namespace() as holder, ExitStack() as leaving:
        interface, (ours, theirs, other) = _line_to(holder)
        far = Far(theirs, other, interface, holder, leaving)
        for address in (theirs, other):
            far._run("ip", "address", "add", f"{address}/29", "dev", _END)
        far.mend()
        _run("ip", "address", "add", f"{ours}/29", "dev", interface)
        _run("ip", "link", "set", interface, "up")
        # Where the hardware address is told, nobody asks for it. One who asked in vain would know
        # of the cut, and programs would hear "no route to host" after 3 s.
        for address in (theirs, other):
            _run("ip", "neighbour", "replace", address, "lladdr", _MAC, "dev", interface)
        yield far


@contextmanager
def _namespace() -> Iterator[int]:
    """Yield the id of a process in a network namespace of its own; it ends with its input."""
    with subprocess.Popen(
        _command("unshare", "--net", "sh", "-c", "echo there; exec cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us: we stop what runs there first
    ) as holder:
        assert holder.stdout
        assert holder.stderr
        if not holder.stdout.readline():
            _give_up(holder.stderr.read().decode())
        yield holder.pid


def _line_to(holder: int) -> tuple[str, tuple[str, str, str]]:
    """Lay a line that is nobody else's: our interface; our address, and the two far ones."""
    for number in random.sample(range(len(_LINES)), len(_LINES)):
        interface = f"zonerw{number}"
        peer = ("peer", "name", _END, "address", _MAC, "netns", str(holder))
        made = _try("ip", "link", "add", interface, "type", "veth", *peer)
        if made.returncode == 0:
            ours, theirs, other = islice(_LINES[number].hosts(), 3)
            return interface, (str(ours), str(theirs), str(other))
        if "File exists" not in made.stderr:
            _give_up(made.stderr)
    raise AssertionError("every line is laid already")


def _give_up(reason: str) -> NoReturn:
    needs = "cutting a line takes root, and a kernel that gives it network namespaces and veth"
    pytest.fail(f"{needs}: {reason.strip()}", pytrace=False)


def _run(*words: str) -> str:
    """Run a command that works; returns what it says."""
    done = _try(*words)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def _try(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*words), capture_output=True, text=True, timeout=10, check=False)


def _command(*words: str) -> tuple[str, ...]:
    """The words, the first as the program's path."""
    program = find(words[0])
    assert program, f"{words[0]} is not installed"
    return (program, *words[1:])
