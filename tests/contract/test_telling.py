"""README.md's "Who tells you": what is to be copied from there does what it says."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import StartNsd, free_port
from tools import run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("\n## Who tells you\n")[2].partition("\n## ")[0]
SETTINGS = {name: ROOT / "alertmanager" / name for name in ("alertmanager.yml", "fast.yml")}

PRIMARY = "198.51.100.7"  # what the README calls it
TRIES = 6


def test_the_line_to_fill_in_is_there() -> None:
    """In both profiles, word by word."""
    (line,) = re.findall(r"(?m)^    (smtp_from: .*)$", SECTION)
    for path in SETTINGS.values():
        assert f"\n  {line}\n" in path.read_text()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_heartbeat_goes_out_while_servers_are_watched_and_only_then(
    name: str, tmp_path: Path
) -> None:
    """Alertmanager takes its route and receiver in place of the shipped ones; no other changes."""
    settings = yaml.safe_load(SETTINGS[name].read_text())
    (block,) = re.findall(r"(?m)^    route:\n(?:    .*\n)+", SECTION)
    theirs: dict[str, Any] = yaml.safe_load(block)
    replace(settings["route"]["routes"], theirs["route"]["routes"], "matchers")
    replace(settings["receivers"], theirs["receivers"], "name")
    merged = tmp_path / "alertmanager.yml"
    merged.write_text(yaml.safe_dump(settings))
    run("amtool", "check-config", str(merged))
    for alert, receivers in (("ServerWatched", "evidence"), ("MainDown", "actions,owner")):
        run(
            *("amtool", "config", "routes", "test", f"--config.file={merged}"),
            *(f"--verify.receivers={receivers}", f"alertname={alert}", "server=main"),
        )


def replace(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], by: str) -> None:
    """Put each of theirs in the place of the one of ours that has the same."""
    for its in theirs:
        (place,) = [number for number, one in enumerate(ours) if one.get(by) == its[by]]
        ours[place] = its


def test_cron_is_silent_while_the_primary_answers(tmp_path: Path, start_nsd: StartNsd) -> None:
    """Once, and that is all: what cron gets to see, it mails."""
    port = start_nsd({"example.org": 1}).port
    assert cron(tmp_path, port) == ("", ["0"])


def test_cron_tells_of_a_primary_that_does_not_serve_the_zone(
    tmp_path: Path, start_nsd: StartNsd
) -> None:
    """It answers, and refuses: nobody can ask it for a zone either."""
    told(*cron(tmp_path, start_nsd({"example.net": 1}).port))


def test_cron_tells_of_a_primary_that_refuses_connections(tmp_path: Path) -> None:
    """Nothing listens there; dig's own lines about it are not mailed."""
    told(*cron(tmp_path, free_port("127.0.0.1")))


def test_cron_tells_of_a_primary_that_is_silent(tmp_path: Path) -> None:
    """The power cut."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        told(*cron(tmp_path, nobody.getsockname()[1]))


def test_one_lost_answer_is_no_silence(tmp_path: Path, start_nsd: StartNsd) -> None:
    """The second try, ten minutes later, finds it."""
    port = start_nsd({"example.org": 1}).port
    assert cron(tmp_path, free_port("127.0.0.1"), port) == ("", ["0", "600"])


def told(said: str, slept: list[str]) -> None:
    """See that it tries for the better part of an hour, and then says one sentence."""
    assert said == f"For 50 minutes, the DNS primary {PRIMARY} has not answered for example.org.\n"
    assert slept == ["0", *["600"] * (TRIES - 1)]
    assert sum(map(int, slept)) == 50 * 60


def cron(folder: Path, *ports: int) -> tuple[str, list[str]]:
    """Do as cron would; what it prints, and how long it would have slept each time.

    Its tries go to these ports, one after the other, and all further ones to the last.
    """
    (line,) = re.findall(r"(?m)^    \d+ \* \* \* \*  nobody  (.*)$", SECTION)
    assert "%" not in line  # to cron, that is a line's end
    dig = shutil.which("dig")
    assert dig, "dig is not installed"
    slept = folder / "slept"
    command(folder / "sleep", f'echo "$1" >>{slept}')
    # It has slept once before each try: so often is also which one it is.
    tries = " ".join(map(str, (*ports, *[ports[-1]] * TRIES)))
    command(
        folder / "dig",
        f'port=$(echo {tries} | cut -d " " -f $(wc -l <{slept}))',
        f'exec {dig} -p "$port" "$@"',
    )
    ran = subprocess.run(
        ["/bin/sh", "-c", line.replace(f"@{PRIMARY}", "@127.0.0.1").replace("+time=5", "+time=1")],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout, slept.read_text().splitlines()


def command(path: Path, *lines: str) -> None:
    """Put a shell script there."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
