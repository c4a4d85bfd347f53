"""The line that can be cut, as the tests that cut it take it for granted."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from netns import far_away

from actions.nameserver import find
from demo.stack import http, wait_for

# Whoever asks in vain for a hardware address hears "no route" after 3 s: longer than that.
SILENCE = 4.0

HOLD = """\
import sys
from pathlib import Path
from netns import far_away
with far_away() as far:
    far.web("web", 80, Path(sys.argv[1]))
    print(far.interface)
    input()
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "LC_ALL": "C"}


def test_a_cut_line_is_silent_and_a_mended_one_works(tmp_path: Path) -> None:
    """Packets vanish: no reset, no "no route", and none of them finds another way."""
    with far_away() as far:
        far.web("web", 80, tmp_path)
        assert answers(far.address)
        far.cut()
        with pytest.raises(TimeoutError):
            socket.create_connection((far.address, 80), timeout=SILENCE)
        assert f" dev {far.interface} " in route(far.address)
        far.mend()
        wait_for(lambda: answers(far.address), 10, "an answer over the mended line")


def test_a_machine_far_away_has_two_addresses_on_one_line(tmp_path: Path) -> None:
    """Each has its own servers, ready when they are said to be; the cut is for both."""
    with far_away() as far:
        far.web("web", 80, tmp_path)
        assert refuses(far.other)
        far.web("reference", 80, tmp_path, at=far.other)
        assert answers(far.address)
        assert answers(far.other)
        far.cut()
        with pytest.raises(TimeoutError):
            socket.create_connection((far.other, 80), timeout=SILENCE)
        far.mend()
        wait_for(lambda: answers(far.other), 10, "an answer over the mended line")


def test_what_happens_behind_a_cut_line_shows_once_it_is_mended(tmp_path: Path) -> None:
    """The web server dies and comes back there, and both are done when they are said to be."""
    with far_away() as far:
        web = far.web("web", 80, tmp_path)
        far.cut()
        web.kill()
        far.mend()
        wait_for(lambda: refuses(far.address), 10, "a refusal")
        far.cut()
        web.start()
        far.mend()
        wait_for(lambda: answers(far.address), 10, "an answer")


def test_two_lines_do_not_meet(tmp_path: Path) -> None:
    """Runs at the same time each have their own; one is cut, the other is not."""
    with far_away() as one, far_away() as other:
        assert len({one.address, one.other, other.address, other.other}) == 4
        assert one.interface != other.interface
        other.web("web", 80, tmp_path)
        one.cut()
        assert answers(other.address)


def test_a_line_is_gone_when_its_block_is_left() -> None:
    """Also when a test fails."""
    with pytest.raises(ValueError, match="the test's"), far_away() as far:
        raise ValueError("the test's")
    wait_for(lambda: not is_there(far.interface), 10, "the line to be gone")


def test_a_line_is_gone_when_its_program_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves nothing, with a web server far away neither."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", HOLD, str(tmp_path)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        interface = program.stdout.readline().strip()
        assert is_there(interface)
        program.kill()
    wait_for(lambda: not is_there(interface), 10, "the line to be gone")


def test_without_the_right_to_cut_one_sentence_says_so() -> None:
    """A failure, no skip: what is not tried is not known to work."""
    setpriv = find("setpriv")
    assert setpriv
    without = () if os.geteuid() else (setpriv, "--bounding-set=-sys_admin")
    done = subprocess.run(
        [*without, sys.executable, "-c", HOLD],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith(
        "cutting a line takes root, and a kernel that gives it network namespaces and veth:"
        " unshare: unshare failed: Operation not permitted"
    )


def answers(address: str) -> bool:
    """Whether the web server far away answers."""
    try:
        return http("GET", f"http://{address}/index.html", timeout=1).ok
    except requests.RequestException:
        return False


def refuses(address: str) -> bool:
    """Whether the machine answers, and nobody listens there."""
    try:
        socket.create_connection((address, 80), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return False


def is_there(interface: str) -> bool:
    """Whether this machine has such an interface."""
    return any(name == interface for _, name in socket.if_nameindex())


def route(address: str) -> str:
    """The way that packets take there."""
    ip = find("ip")
    assert ip
    return subprocess.run(
        [ip, "route", "get", address], check=True, capture_output=True, text=True
    ).stdout
