"""The operator's command: what it refuses, and what it says without any other program."""

import os
import pwd
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from conftest import free_port
from typer.testing import CliRunner

from actions import byhand, cli
from actions.state import Meant, State

MEANT = Meant(server="main", since=datetime(2026, 11, 20, 10, tzinfo=UTC), why="w", by="start")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration without token files, whose state folder is there and empty."""
    (tmp_path / "zones").mkdir()
    (tmp_path / "state").mkdir(mode=0o700)
    path = tmp_path / "zonerw.toml"
    path.write_text(f"""\
[servers.main]
addresses = ["192.0.2.1"]
[servers.backup]
addresses = ["198.51.100.7"]
[zones]
sources = "{tmp_path}/zones"
published = "{tmp_path}/published"
[primary]
kind = "nsd"
address = "127.0.0.1"
port = {free_port("127.0.0.1")}
[sync.mail]
unison = ["{tmp_path}/here", "{tmp_path}/there"]
[sync.site]
command = ["sh", "-c", "cat {tmp_path}/site"]
[actions]
state = "{tmp_path}/state"
listen = "127.0.0.1:{free_port("127.0.0.1")}"
""")
    return path


def zonerw(config: Path, *words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli.cli, [*words, "--config", str(config)])


@pytest.mark.parametrize("words", [("--help",), ("sync", "site"), ("status", "--serving")])
def test_what_cron_and_scripts_call_loads_little(config: Path, words: tuple[str, ...]) -> None:
    """The daemon's libraries take longer to load than all that these do."""
    State(config.parent / "state").put_down(MEANT)
    (config.parent / "site").touch()
    program = (
        "import sys; from actions.cli import main\n"
        "try: main()\n"
        "finally: print('\\n', *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=os.environ | {"ZONERW_CONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "actions.sync" in loaded
    assert not loaded & {"fastapi", "uvicorn", "requests", "urllib3", "prometheus_client"}
    assert not loaded & {"actions.byhand", "actions.__main__", "exporter.__main__", "demo"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pin", "mian"), "unknown server: 'mian'; expected one of main, backup\n"),
        (("pin", "main", "--for", "1 day"), "--for: expected a duration such as "),
        (("pin", "main", "--for", "0s"), "--for: expected a duration such as "),
        (("pin",), "Missing argument"),
        (("pin", "main", "--reason", "\x1b[31m"), "--reason: expected printable text"),
        (("pin", "main", "--reason", "x" * 201), "--reason: expected printable text, 200 char"),
        (
            ("pin", "main", "--reason", "\udcff"),
            "--reason: expected printable text, 200 characters",
        ),
        (("status", "--json", "--serving"), "expected --json or --serving, not both"),
        (("sync",), "Missing argument"),
        (("sync", "mial"), "mial: no such job; expected one of [sync.NAME]: mail, site\n"),
        (("sync", "site", "--allow-deletions"), "site: --allow-deletions is for jobs of Unison's"),
    ],
)
def test_wrong_usage(config: Path, words: tuple[str, ...], said: str) -> None:
    """Exit status 2, the reason on standard error, and nothing is put down."""
    done = zonerw(config, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert list((config.parent / "state").iterdir()) == []


def test_who_serves_in_one_word(config: Path) -> None:
    """For scripts: by what is put down, whatever else is damaged, and nobody is asked."""
    state = State(config.parent / "state")
    none = zonerw(config, "status", "--serving")
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr == "nothing is put down yet: no run has ended, or no source was accepted\n"
    state.put_down(MEANT)
    (state.folder / "pin.json").write_text("{")
    done = zonerw(config, "status", "--serving")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "main\n", "")
    (state.folder / "meant.json").write_text("{")
    damaged = zonerw(config, "status", "--serving")
    assert (damaged.exit_code, damaged.stdout) == (1, "")
    assert damaged.stderr.startswith(f"{state.folder}/meant.json: is damaged: ")


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("status", "--serving")])
def test_a_state_that_cannot_be_read(config: Path, words: tuple[str, ...]) -> None:
    """Exit status 2 and one line; a file in the folder's place stands for another's folder."""
    folder = config.parent / "state"
    folder.rmdir()
    folder.touch()
    done = zonerw(config, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"{folder}: can't be read: Not a directory\n"


def test_a_token_that_cannot_be_read(config: Path) -> None:
    """Exit status 2 and one line; who serves is told without it."""
    State(config.parent / "state").put_down(MEANT)
    missing = config.parent / "operator.token"
    (config.parent / "webhook.token").write_text("w" * 32)
    config.write_text(
        f"{config.read_text()}"
        f'webhook_token_file = "{config.parent}/webhook.token"\n'
        f'operator_token_file = "{missing}"\n'
    )
    done = zonerw(config, "status")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"{missing}: can't be read: No such file or directory\n"
    assert zonerw(config, "status", "--serving").stdout == "main\n"


def test_who_gives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The person behind sudo, else who logged in at this terminal, else the user."""
    monkeypatch.setenv("SUDO_USER", "\udce9ric\x1b")
    assert byhand._person() == "?ric?"
    monkeypatch.setenv("SUDO_USER", "alice")
    assert byhand._person() == "alice"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(os, "getlogin", lambda: "bob")
    assert byhand._person() == "bob"

    def no_terminal() -> str:
        raise OSError

    monkeypatch.setattr(os, "getlogin", no_terminal)
    assert byhand._person() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    assert byhand._person() == "user 2147483646"


def test_a_job_by_hand(config: Path) -> None:
    """One line says what it came to: on standard output if it did, else on the other."""
    failed = zonerw(config, "sync", "site")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert (
        failed.stderr == f"site: failed: sh: cat: {config.parent}/site: No such file or directory\n"
    )
    (config.parent / "site").touch()
    done = zonerw(config, "sync", "site")
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.fullmatch(r"site: done in 0\.\d s\n", done.stdout)


def test_a_missing_folder_is_refused(config: Path) -> None:
    """A disk that is not mounted, perhaps: nothing is asked of Unison."""
    done = zonerw(config, "sync", "mail")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"mail: refused: {config.parent}/here is missing; is it mounted?\n"


def test_a_state_folder_that_cant_be_used_runs_no_job(config: Path) -> None:
    """Status 2, with the reason."""
    (config.parent / "state").rmdir()
    (config.parent / "state").touch()
    done = zonerw(config, "sync", "site")
    assert done.exit_code == 2
    assert "state: can't be used: File exists\n" in done.stderr
