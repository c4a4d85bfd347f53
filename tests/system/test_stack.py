"""The stack that demo, system tests and benchmarks stand on: what it starts, it stops."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import processes_of

from demo.layout import fill
from demo.parts import PartError
from demo.shipped import MissingError
from demo.stack import PARTS, Stack, http, wait_for

ZONE = """\
$TTL 60
@    IN SOA ns1 hostmaster ( @serial number@ 3600 600 86400 60 )
     IN NS  ns1
ns1  IN A   198.51.100.7
www  IN A   @IP@
"""
PUBLISHED = ZONE.replace("@serial number@", "{serial}").replace("@IP@", "{address}")

FEW = ("web-main", "ns1", "ns2")  # one that forks, two that do not: enough to be stopped


@pytest.fixture
def few() -> Iterator[Stack]:
    """A web server, and a primary and a secondary for a zone that nobody has published."""
    with Stack(parts=FEW, sources={"example.org": ZONE}) as stack:
        yield stack


def test_a_whole_stack_works_and_leaves_nothing() -> None:
    """Every part is ready at the start; the zones are served everywhere; nothing is left."""
    said: list[str] = []
    with Stack(sources={"example.org": ZONE}, progress=said.append) as stack:
        stack.settle()
        folder = stack.layout.folder
        assert {part.name for part in stack.parts.values() if part.running} == set(PARTS)
        assert {stack.address_of(name, "example.org") for name in stack.nameservers} == {stack.main}
        assert stack.published("example.org") is not None
        token = stack.layout.operator_token
        assert stack.post("/rewrite", {"mode": "minimal"}, token).status_code == 200
        assert len(processes_of(folder)) >= len(PARTS)
    assert sum(" ready, " in line for line in said) == len(PARTS)
    assert not folder.exists()
    assert not processes_of(folder)


@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_stack_is_gone_however_its_block_ends(trouble: type[BaseException]) -> None:
    """An exception in the block is no reason to leave anything."""
    stack = Stack(parts=FEW)
    with pytest.raises(trouble), stack:
        raise trouble
    assert not stack.layout.folder.exists()
    assert not processes_of(stack.layout.folder)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((stack.main, stack.layout.ports.web), timeout=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["launched", "up"])
def test_a_stack_is_gone_when_its_program_is_told_to_end(
    number: signal.Signals, when: str, tmp_path: Path
) -> None:
    """Ctrl-C, a polite kill, a closed terminal: while it starts or later, nothing is left."""
    program = (
        "import signal, time\n"
        # As a shell in a terminal starts it, whoever started us: nohup ignores some of these.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from demo.stack import Stack\n"
        f"with Stack(parts={FEW!r}):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
    )
    ours = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    with ours:
        if when == "up":
            assert ours.stdout
            assert ours.stdout.readline() == b"up\n"
        else:
            wait_for(lambda: processes_of(tmp_path), 20, "a first part")
        ours.send_signal(number)
        ours.wait(20)
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_stacks_do_not_meet(few: Stack) -> None:
    """Each has its own addresses and its own folder, and answers for itself."""
    with Stack(parts=FEW) as other:
        assert not {few.main, few.backup} & {other.main, other.backup}
        assert few.layout.folder != other.layout.folder
        other.parts["web-main"].kill()
        assert "main" in page(few)


def test_a_part_that_fails_says_why_and_takes_the_others_along() -> None:
    """The error shows the end of the part's log; nothing else goes on."""
    said: list[str] = []
    stack = Stack(
        parts=("web-main", "exporter"), edit=lambda _: "nonsense", keep=True, progress=said.append
    )
    with (
        pytest.raises(PartError, match=r"(?s)^exporter: ended by itself, exit status 2.*TOML"),
        stack,
    ):
        pass
    folder = stack.layout.folder
    assert not processes_of(folder)
    assert said[-1] == f"everything is kept in {folder}"
    assert (folder / "exporter.log").read_text()
    shutil.rmtree(folder)


def test_a_program_that_lacks_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install, before anything is started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"apt-get install prometheus prometheus-alertmanager$"):
        Stack(parts=("prometheus", "alertmanager")).__enter__()


def test_killed_is_gone_with_all_it_forked(few: Stack) -> None:
    """NSD's servers die with it, be they stopped, and it can be started again."""
    primary = few.parts["ns1"]
    primary.silence()  # or they would see that it is gone, and end by themselves
    primary.kill()
    assert not primary.running
    assert not processes_of(few.layout.folder / "ns1")
    primary.start()
    assert processes_of(few.layout.folder / "ns1")


def test_silent_answers_nothing_until_resumed(few: Stack) -> None:
    """A silenced part runs, keeps its sockets and says nothing; its end is in good order."""
    publish(few, 1, few.main)
    wait_for(lambda: few.serial_of("ns1", "example.org") == 1, 5, "serial 1")
    few.parts["ns1"].silence()
    assert few.parts["ns1"].running
    assert few.serial_of("ns1", "example.org") is None
    few.parts["ns1"].resume()
    assert wait_for(lambda: few.serial_of("ns1", "example.org"), 5, "an answer") == 1
    few.parts["ns1"].silence()
    few.parts["ns1"].stop()
    assert not processes_of(few.layout.folder / "ns1")
    assert "shutting down" in few.parts["ns1"].tail()


def test_a_primary_that_starts_before_its_zone_file_serves_it_after_a_reload(few: Stack) -> None:
    """It does not matter which of NSD and zonerw is there first."""
    assert few.serial_of("ns1", "example.org") is None
    publish(few, 1, few.main)
    wait_for(lambda: few.address_of("ns1", "example.org") == few.main, 5, "main's address")


def test_a_secondary_that_was_away_asks_for_news_when_it_starts(few: Stack) -> None:
    """Main's nameserver misses the switch that its death brings, and catches up by itself."""
    publish(few, 1, few.main)
    few.parts["ns2"].restart()
    wait_for(lambda: few.serial_of("ns2", "example.org") == 1, 5, "serial 1 at ns2")
    wait_for((few.layout.folder / "ns2" / "example.org").exists, 5, "ns2's copy")
    few.parts["ns2"].kill()
    publish(few, 2, few.backup)
    wait_for(lambda: few.serial_of("ns1", "example.org") == 2, 5, "serial 2 at ns1")
    few.parts["ns2"].start()
    wait_for(lambda: few.address_of("ns2", "example.org") == few.backup, 5, "the news at ns2")


def test_filling_in_is_loud_about_what_is_not_there() -> None:
    """Values are not filled in again; a shipped file that has changed stops the demo."""
    assert fill("a b a", {"a": "b", "b": "c"}) == "b c b"
    with pytest.raises(ValueError, match="expected 'port = 54' in the shipped file"):
        fill("port = 5353", {"port = 53": "", "port = 54": ""})


def page(stack: Stack) -> str:
    """What main's web server shows."""
    return http("GET", f"http://{stack.main}:{stack.layout.ports.web}/index.html").text


def publish(stack: Stack, serial: int, address: str) -> None:
    """Put the zone where the primary reads it, and have it reloaded."""
    text = PUBLISHED.format(serial=serial, address=address)
    (stack.layout.published / "example.org").write_text(text)
    control = ["/usr/sbin/nsd-control", "-c", str(stack.layout.folder / "ns1" / "nsd.conf")]
    subprocess.run([*control, "reload"], check=True, capture_output=True)
