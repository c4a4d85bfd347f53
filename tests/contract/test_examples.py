"""The shipped configurations of name servers: what their own tools say, and what zonerw.toml says.

That they work together is seen in the demo (NSD) and in tests/system/test_nameservers.py.
"""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import dns.zone
import pytest
import yaml

from actions.nameserver import find
from actions.zone import render
from exporter import config
from exporter.kinds import KINDS
from exporter.zonefile import parse

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = config.read(EXAMPLES / "zonerw.toml")
ZONES = {path.stem for path in (EXAMPLES / "zones").glob("*.base")}
SECRET = "c2VjcmV0"  # noqa: S105 - not one

both = pytest.mark.parametrize("server", ["backup", "main"])


@both
def test_nsd_accepts_the_configuration(server: str, tmp_path: Path) -> None:
    """It is complete, but for the file that holds the key."""
    assert not ask(server, tmp_path)


@both
def test_the_zones_are_those_that_have_a_base_file(server: str, tmp_path: Path) -> None:
    """Both servers and the owner's folder name the same zones."""
    assert set(ask(server, tmp_path, "-o", "zones")) == ZONES


def test_the_primary_loads_what_zonerw_writes(tmp_path: Path) -> None:
    """NSD looks into the folder where the published zones go, for files named like the zones."""
    assert ask("backup", tmp_path, "-o", "zonesdir") == [str(CONFIG.zones.published)]
    assert ask("backup", tmp_path, "-z", "example.org", "-o", "zonefile") == ["%s"]


def test_the_primary_is_reloaded_over_a_socket(tmp_path: Path) -> None:
    """A user who is not root, and has no keys of nsd-control's, can ask for a reload."""
    (interface,) = ask("backup", tmp_path, "-o", "control-interface")
    assert Path(interface).is_absolute()


def test_the_primary_gives_the_zones_to_each_secondary_and_nobody_else(tmp_path: Path) -> None:
    """Who is notified may transfer, with the same key."""
    allowed = ask("backup", tmp_path, "-z", "example.org", "-o", "provide-xfr")
    secondaries = CONFIG.secondaries.values()
    assert allowed == [f"{its.address} {its.tsig.name}" for its in secondaries if its.tsig]


@pytest.mark.parametrize("option", ["allow-notify", "request-xfr"])
def test_the_secondary_listens_to_the_backup_alone(option: str, tmp_path: Path) -> None:
    """NOTIFYs and zones come from the backup's public address, signed."""
    allowed = ask("main", tmp_path, "-z", "example.net", "-o", option)
    assert allowed == [f"{CONFIG.servers['backup'].ipv4} transfer"]


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
        f'key:\n    name: "transfer"\n    algorithm: hmac-sha256\n    secret: "{SECRET}"\n'
    )
    text = (EXAMPLES / "nsd" / f"{server}.conf").read_text()
    assert '"/etc/nsd/transfer.key"' in text
    copy.write_text(text.replace('"/etc/nsd/transfer.key"', f'"{key}"'))
    told = run("nsd-checkconf", *words, str(copy))
    return told.split("\n")[:-1] if told.strip() else []


def test_mail_comes_to_main_or_else_the_backup_whoever_serves() -> None:
    """Two MX, by names that stay where they are."""
    its = parse(
        "example.org", (EXAMPLES / "zones" / "example.org.base").read_bytes(), CONFIG.servers
    )
    main, backup = (str(CONFIG.servers[name].ipv4) for name in ("main", "backup"))
    for serving in CONFIG.servers:
        text = render(its, CONFIG.servers, serving, 2026010100).decode()
        zone = dns.zone.from_text(text, "example.org", relativize=False)
        found = {
            mx.preference: [str(a) for a in zone.find_rdataset(mx.exchange, "A")]
            for mx in zone.find_rdataset("@", "MX")
        }
        assert found == {10: [main], 20: [backup]}, serving


# --- BIND and Knot ----------------------------------------------------------------------------


@both
def test_bind_accepts_the_configuration(server: str, tmp_path: Path) -> None:
    """It names the zones that have a base file, but for the file that holds the key."""
    assert bind(server, tmp_path).keys() == ZONES


def test_binds_primary_serves_what_zonerw_writes(tmp_path: Path) -> None:
    """To whoever has the key; it sends no NOTIFYs of its own."""
    text = (EXAMPLES / "bind" / "backup.conf").read_text()
    published = said(text, "published")
    for zone, settings in bind("backup", tmp_path).items():
        assert settings == {
            "type": "primary",
            "file": f'"{published}/{zone}"',
            "allow-transfer": '{ key "transfer"; }',
            "notify": "no",
        }


def test_binds_secondary_listens_to_the_key_and_asks_the_backup_alone(tmp_path: Path) -> None:
    """It has a file for a start without the backup."""
    for zone, settings in bind("main", tmp_path).items():
        assert settings == {
            "type": "secondary",
            "file": f'"{zone}"',
            "primaries": '{ "backup"; }',
            "allow-notify": '{ key "transfer"; }',
            "allow-transfer": '{ "none"; }',
            "notify": "no",
        }
    text = (EXAMPLES / "bind" / "main.conf").read_text()
    backup = CONFIG.servers["backup"].ipv4
    assert f'primaries "backup" {{ {backup} key "transfer"; }};' in text


@both
def test_knot_accepts_the_configuration(server: str, tmp_path: Path) -> None:
    """Also below what Debian's own file says; it names the zones that have a base file."""
    (tmp_path / "transfer.key").write_text(
        f"key:\n  - id: transfer\n    algorithm: hmac-sha256\n    secret: {SECRET}\n"
    )
    (tmp_path / "zonerw.conf").write_text((EXAMPLES / "knot" / f"{server}.conf").read_text())
    (tmp_path / "knot.conf").write_text(
        "server:\n    automatic-acl: on\n"
        'template:\n  - id: default\n    file: "%s.zone"\nzone:\ninclude: "zonerw.conf"\n'
    )
    run("knotc", "-c", str(tmp_path / "knot.conf"), "conf-check")
    zones = knot(server)["zone"]
    assert {its["domain"] for its in zones} == ZONES
    assert {its["template"] for its in zones} == {"zonerw"}


def test_knots_primary_serves_what_zonerw_writes() -> None:
    """To the secondaries of zonerw.toml, signed; it gives no serials and writes no files itself."""
    text = (EXAMPLES / "knot" / "backup.conf").read_text()
    example = knot("backup")
    assert example["template"] == [
        {
            "id": "zonerw",
            "storage": said(text, "published"),
            "file": "%s",
            "zonefile-load": "whole",
            "zonefile-sync": -1,
            "journal-content": "none",
            "acl": "secondaries",
        }
    ]
    addresses = [str(its.address) for its in CONFIG.secondaries.values()]
    assert example["acl"] == [
        {"id": "secondaries", "address": addresses, "key": "transfer", "action": "transfer"}
    ]


def test_knots_secondary_listens_to_the_backup_alone() -> None:
    """NOTIFYs and zones come from the backup's public address, signed."""
    example = knot("main")
    backup = {"id": "backup", "address": str(CONFIG.servers["backup"].ipv4), "key": "transfer"}
    assert example["remote"] == [backup]
    assert example["acl"] == [{**backup, "action": "notify"}]
    assert example["template"] == [
        {
            "id": "zonerw",
            "master": "backup",
            "acl": "backup",
            "zonefile-load": "none",
            "zonefile-sync": -1,
            "journal-content": "all",
        }
    ]


@pytest.mark.parametrize("kind", ["bind", "knot"])
def test_what_the_comments_say_of_zonerw_toml_is_right(kind: str, tmp_path: Path) -> None:
    """Put into the example in the place of NSD's, it is a configuration for this kind."""
    comments = (EXAMPLES / kind / "backup.conf").read_text()
    lines = re.findall(
        r"^(?://|#)   ((?:published|kind|control) = .*?)(?:   #.*)?$", comments, re.M
    )
    values = dict(line.split(" = ") for line in lines)
    example = (EXAMPLES / "zonerw.toml").read_text()
    example, changed = re.subn(
        '(?m)^published = ".*"', f"published = {values['published']}", example
    )
    assert changed == 1
    its = f"kind = {values['kind']}\n"
    its += f"control = {values['control']}\n" if "control" in values else ""
    example, changed = re.subn('(?m)^kind = "nsd".*\n', its, example)
    assert changed == 1
    (tmp_path / "zonerw.toml").write_text(example)
    read = config.read(tmp_path / "zonerw.toml")
    assert read.primary.kind == kind
    assert read.primary.control[0] == KINDS[kind].control[0]
    assert str(read.zones.published) == said(comments, "published")


def said(comments: str, key: str) -> str:
    """What a file's comments want in zonerw.toml."""
    (value,) = re.findall(rf'^(?://|#)   {key} = "(.*)"', comments, re.MULTILINE)
    return str(value)


def bind(server: str, folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Zone -> settings, as named-checkconf reads a copy that takes a key file of ours."""
    key, copy = folder / "transfer.key", folder / "named.conf"
    key.write_text(f'key "transfer" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n')
    text = (EXAMPLES / "bind" / f"{server}.conf").read_text()
    assert '"/etc/bind/transfer.key"' in text
    copy.write_text(text.replace('"/etc/bind/transfer.key"', f'"{key}"'))
    told = re.sub(r"\s+", " ", run("named-checkconf", "-p", str(copy)))
    zones = re.findall(r'zone "(.*?)" \{ (.*?) \};(?= zone|$| $)', told)
    return {zone: dict(re.findall(r"(\S+) (\{ .*? \}|\S+);", settings)) for zone, settings in zones}


def knot(server: str) -> Mapping[str, list[Mapping[str, object]]]:
    """The sections of an example, which is plain YAML."""
    read = yaml.safe_load((EXAMPLES / "knot" / f"{server}.conf").read_text())
    return {section: its for section, its in read.items() if section != "include"}


def run(program: str, *words: str) -> str:
    """What a program says that has nothing to complain about."""
    found = find(program)
    assert found, f"{program} is not installed"
    done = subprocess.run([found, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
