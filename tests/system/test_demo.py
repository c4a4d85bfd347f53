"""The demo as a person runs it: from a checkout, and from an installed wheel."""

import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from processes import processes_of

from demo import shipped
from demo.stack import wait_for

DEMO = (sys.executable, "-m", "demo")
# Once installed it is to be done in under 90 s; here two run at once, beside other tests.
AT_MOST = 150


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """Start a demo whose temporary files go to a folder of its own."""
    folder.mkdir()
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
        start_new_session=True,
    )


def test_two_demos_at_once(tmp_path: Path) -> None:
    """Each ends in success with its table, and leaves neither a process nor a file."""
    folders = [tmp_path / "one", tmp_path / "two"]
    demos = [start(folder, *DEMO) for folder in folders]
    for folder, demo in zip(folders, demos, strict=True):
        out, err = demo.communicate(timeout=AT_MOST)
        assert (demo.returncode, err) == (0, "")
        for name in ("ns1", "ns2", "ns3"):
            assert re.search(rf"(?m)^{name} .*( +\d+\.\d\d){{3}}$", out), out
        assert "MainDown is firing for main" in out
        assert "switch from main to backup" in out
        assert "switch from backup to main" in out
        assert "All that was promised happened" in out
        assert list(folder.iterdir()) == []
        assert processes_of(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle: exit status 130, nothing left."""
    folder = tmp_path / "demo"
    demo = start(folder, *DEMO)
    wait_for(lambda: len(processes_of(folder)) > 5, 30, "parts to run")
    demo.send_signal(number)
    _, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "interrupted; everything is stopped" in err
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


# The story's kill goes nowhere; the one at the end comes after SIGTERM, when nothing runs any more.
SPARED = """
import sys
from demo import parts, story

kill = parts.Part.kill
parts.Part.kill = lambda part: None if part.name == "web-main" and part.running else kill(part)
story._PROMISED_SECONDS = 3.0
sys.exit(story.run())
"""


def test_a_broken_promise_is_told(tmp_path: Path) -> None:
    """When the zones do not move, the demo says so, and exits with 1."""
    program = tmp_path / "spared.py"
    program.write_text(SPARED)
    demo = start(tmp_path / "demo", sys.executable, str(program))
    _, err = demo.communicate(timeout=AT_MOST)
    assert demo.returncode == 1
    assert "not every zone was moved to the backup at ns1, ns2, ns3" in err


def test_the_wheel_runs_the_demo_from_anywhere(tmp_path: Path) -> None:
    """Built, installed into a fresh virtual environment, run from another folder."""
    project = shipped.folder()
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, project)
    (wheel,) = tmp_path.glob("zonerw-*.whl")
    venv.create(tmp_path / "venv")  # without a pip of its own, which Debian's Python can't give it
    binaries = tmp_path / "venv" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python")
    run(*pip, "install", "-c", project / "constraints.txt", wheel)
    for name in ("prometheus/fast/rules.yml", "alertmanager/fast.yml", "examples/zonerw.toml"):
        shipped_file = tmp_path / "venv" / "share" / "zonerw" / name
        assert shipped_file.read_bytes() == (project / name).read_bytes()
    grafana = tmp_path / "venv" / "share" / "zonerw" / "grafana"
    assert list(grafana.rglob("*.yml"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = run(binaries / "zonerw", "demo", folder=elsewhere)
    assert "All that was promised happened" in out


def run(*command: object, folder: Path | None = None) -> str:
    """Run a program that has to succeed; what it prints."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
