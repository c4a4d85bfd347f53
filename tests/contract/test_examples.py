"""The shipped NSD configurations: what NSD's own tool says, and what zonerw.toml says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter import config

EXAMPLES = Path(__file__).parents[2] / "examples"
CHECKER = shutil.which("nsd-checkconf", path=f"{os.environ['PATH']}:/usr/sbin") or "nsd-checkconf"

both = pytest.mark.parametrize("server", ["backup", "main"])


@both
def test_nsd_accepts_the_configuration(server: str, tmp_path: Path) -> None:
    """It is complete, but for the file that holds the key."""
    assert not ask(server, tmp_path)


@both
def test_the_zones_are_those_that_have_a_base_file(server: str, tmp_path: Path) -> None:
    """Both servers and the owner's folder name the same zones."""
    sources = {path.stem for path in (EXAMPLES / "zones").glob("*.base")}
    assert set(ask(server, tmp_path, "-o", "zones")) == sources


def test_the_primary_loads_what_zonerw_writes(tmp_path: Path) -> None:
    """NSD looks into the folder where the published zones go, for files named like the zones."""
    zones = config.read(EXAMPLES / "zonerw.toml").zones
    assert ask("backup", tmp_path, "-o", "zonesdir") == [str(zones.published)]
    assert ask("backup", tmp_path, "-z", "example.org", "-o", "zonefile") == ["%s"]


def test_the_primary_is_reloaded_over_a_socket(tmp_path: Path) -> None:
    """A user who is not root, and has no keys of nsd-control's, can ask for a reload."""
    (interface,) = ask("backup", tmp_path, "-o", "control-interface")
    assert Path(interface).is_absolute()


def test_the_primary_gives_the_zones_to_each_secondary_and_nobody_else(tmp_path: Path) -> None:
    """Who is notified may transfer, with the same key."""
    allowed = ask("backup", tmp_path, "-z", "example.org", "-o", "provide-xfr")
    secondaries = config.read(EXAMPLES / "zonerw.toml").secondaries.values()
    assert allowed == [f"{its.address} {its.tsig.name}" for its in secondaries if its.tsig]


@pytest.mark.parametrize("option", ["allow-notify", "request-xfr"])
def test_the_secondary_listens_to_the_backup_alone(option: str, tmp_path: Path) -> None:
    """NOTIFYs and zones come from the backup's public address, signed."""
    backup = config.read(EXAMPLES / "zonerw.toml").servers["backup"].ipv4
    assert ask("main", tmp_path, "-z", "example.net", "-o", option) == [f"{backup} transfer"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("xfrdfile", ""), ("xfrd-reload-timeout", "0"), ("zonefiles-write", "1")],
)
def test_the_secondary_loses_no_time(option: str, value: str, tmp_path: Path) -> None:
    """It shows at once what it transfers, and asks for news whenever it starts."""
    assert ask("main", tmp_path, "-o", option) == ([value] if value else [])


def ask(server: str, folder: Path, *words: str) -> list[str]:
    """What nsd-checkconf answers about a copy that reads a key file of ours; it has to like it."""
    key, copy = folder / "transfer.key", folder / "nsd.conf"
    key.write_text(
        'key:\n    name: "transfer"\n    algorithm: hmac-sha256\n    secret: "c2VjcmV0"\n'
    )
    text = (EXAMPLES / "nsd" / f"{server}.conf").read_text()
    assert '"/etc/nsd/transfer.key"' in text
    copy.write_text(text.replace('"/etc/nsd/transfer.key"', f'"{key}"'))
    done = subprocess.run([CHECKER, *words, str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []
