"""The configuration file: what it means, and how each of its faults is told."""

import json
import re
import tomllib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from exporter.config import (
    CommandJob,
    Config,
    ConfigError,
    Listen,
    Reference,
    Roots,
    UnisonJob,
    path_from,
    read,
)

FAULTY = Path(__file__).parent / "config"
EXAMPLE = Path(__file__).parent.parent / "examples" / "zonerw.toml"

MINIMAL = """\
[servers.main]
addresses = ["192.0.2.1"]

[zones]
sources = "/etc/zonerw/zones"
published = "/var/lib/nsd/zones"

[primary]
kind = "nsd"
address = "127.0.0.1"
"""


def config_of(folder: Path, text: str) -> Config:
    path = folder / "zonerw.toml"
    path.write_text(text, encoding="utf-8")
    return read(path)


# --- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FAULTY.glob("*.toml")), ids=lambda path: path.stem)
def test_each_fault_is_told_in_these_words(path: Path) -> None:
    """A faulty file is refused with exactly the text beside it, one line a fault."""
    with pytest.raises(ConfigError) as refused:
        read(path)
    told = str(refused.value).replace(str(path), path.name)
    assert told + "\n" == path.with_suffix(".error").read_text(encoding="utf-8")


def test_every_faulty_file_has_its_words() -> None:
    """No file without its error text, no error text without its file."""
    files = {path.stem for path in FAULTY.glob("*.toml")}
    assert files
    assert files == {path.stem for path in FAULTY.glob("*.error")}


def test_the_error_carries_the_path_and_each_fault(tmp_path: Path) -> None:
    """Whoever catches the error has the faults one by one, and the file they are in."""
    with pytest.raises(ConfigError) as refused:
        config_of(tmp_path, MINIMAL.replace('"nsd"', '"powerdns"').replace('"127.0.0.1"', "53"))
    assert refused.value.path == tmp_path / "zonerw.toml"
    assert [fault.partition(":")[0] for fault in refused.value.faults] == [
        "primary.address",
        "primary.kind",
    ]


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    """Without the file, the two ways to point at one are named."""
    with pytest.raises(ConfigError) as refused:
        read(tmp_path / "zonerw.toml")
    assert refused.value.faults == [
        "no such file; name the configuration with --config or ZONERW_CONFIG"
    ]


def test_what_cant_be_read_says_why(tmp_path: Path) -> None:
    """A folder in the file's place is a fault like any other, in the system's own words."""
    with pytest.raises(ConfigError) as refused:
        read(tmp_path)
    assert refused.value.faults == ["can't be read: Is a directory"]


def test_an_endless_number_is_no_toml(tmp_path: Path) -> None:
    """A number that Python refuses to read is a fault of the file, not of the program."""
    with pytest.raises(ConfigError, match="not TOML: "):
        config_of(tmp_path, "port = " + "5" * 5000)


ODD = [3, -1, True, 1.5, "", "x", "ä b", [], [3], [[]], {}, {"x": 1}]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_whatever_stands_at_whatever_key_is_answered_in_plain_english(
    tmp_path: Path, odd: object
) -> None:
    """Each key of the example with an odd value: it reads, or is told by place and expectation."""
    example = whole_example()
    for place in places(tomllib.loads(example)):
        tree = tomllib.loads(example)
        put(tree, place, odd)
        try:
            config_of(tmp_path, "".join(f"{key} = {toml(tree[key])}\n" for key in tree))
        except ConfigError as error:
            for fault in error.faults:
                where, _, what = fault.partition(": ")
                assert where.startswith(spelt(place))
                assert re.search('expected [a-z0-9"]', what)
                assert not re.search("(?i)input|should|valid|tuple|dict|string|none|type", what)


def whole_example() -> str:
    """The example with all that its owner may take in, as the last part of it says."""
    before, comment, after = EXAMPLE.read_text(encoding="utf-8").partition("# Mail and sites")
    return before + comment + re.sub(r"(?m)^# (?=\[sync|[a-z_]+ = )", "", after)


def test_the_whole_example_can_be_read(tmp_path: Path) -> None:
    """What stands there as a comment is right too: mail by Unison, a site from git."""
    jobs = config_of(tmp_path, whole_example()).sync
    mail, site = jobs["mail"], jobs["site"]
    assert isinstance(mail, UnisonJob)
    assert isinstance(site, CommandJob)
    assert [roots.local for roots in mail.pairs] == ["/var/vmail/alice/Maildir"]
    assert (mail.every, mail.timeout, mail.max_deletions) == (600, 600, 0.05)
    assert site.command[0] == "git"


@pytest.mark.parametrize(
    "remote",
    [
        "ssh://192.0.2.1//home/alice/Maildir",
        "ssh://sync@main.example.org:2222//home/alice/Maildir",
        "ssh://sync@[2001:db8::1]//home/alice/my mail",
        "/mnt/main/alice/Maildir/",
    ],
)
def test_the_second_root_by_url_or_by_path(tmp_path: Path, remote: str) -> None:
    """An ssh:// URL as Unison has them, or a folder of this machine, mounted perhaps."""
    text = f'{MINIMAL}[sync.mail]\nunison = [["/a/", "{remote}"], ["/b", "/c"]]\n'
    job = config_of(tmp_path, text).sync["mail"]
    assert isinstance(job, UnisonJob)
    assert job.pairs == (Roots("/a", remote.rstrip("/")), Roots("/b", "/c"))


def places(tree: object, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of everything in the file: tables, values, and what is in arrays."""
    if above:
        yield above
    if isinstance(tree, dict):
        for key, below in tree.items():
            yield from places(below, (*above, key))
    if isinstance(tree, list):
        for number, below in enumerate(tree):
            yield from places(below, (*above, number))


def spelt(place: tuple[str | int, ...]) -> str:
    keys = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(keys).removeprefix(".")


def put(tree: dict, place: tuple[str | int, ...], value: object) -> None:
    for part in place[:-1]:
        tree = tree[part]
    tree[place[-1]] = value


def toml(value: object) -> str:
    """A value as TOML has it, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


# --- what is read ---------------------------------------------------------------------------


def test_the_example_reads(tmp_path: Path) -> None:
    """The shipped example is right, and means what its comments say."""
    example = read(EXAMPLE)
    assert example.path == EXAMPLE
    assert list(example.servers) == ["main", "backup"]
    assert example.servers["main"].addresses == (
        IPv4Address("192.0.2.1"),
        IPv6Address("2001:db8::1"),
    )
    assert example.servers["main"].checks["web"].url == "http://www.example.org/index.html"
    assert example.servers["backup"].look_at == (IPv4Address("127.0.0.1"),)
    assert example.references == {
        "quad9": Reference("tcp", IPv4Address("9.9.9.9"), 53),
        "google": Reference("tcp", IPv4Address("8.8.8.8"), 53),
    }
    assert example.primary.name == "ns1"
    tsig = example.secondaries["ns2"].tsig
    assert tsig is not None
    assert (tsig.name, tsig.algorithm) == ("transfer", "hmac-sha256")
    assert tsig.secret_file == Path("/etc/zonerw/transfer.key")
    assert example.alertmanager is not None
    assert example.alertmanager.url == "http://127.0.0.1:9093"
    assert example.actions.webhook_token_file == Path("/etc/zonerw/webhook.token")
    assert example.actions.operator_token_file == Path("/etc/zonerw/operator.token")
    # Its other values are the defaults, so that it shows them.
    minimal = config_of(tmp_path, MINIMAL)
    assert example.alertmanager.poll == 5
    assert example.policy == minimal.policy
    assert example.exporter == minimal.exporter
    assert example.actions.listen == minimal.actions.listen
    assert example.actions.state == minimal.actions.state


@pytest.mark.parametrize(
    ("kind", "control", "checker"),
    [
        ("nsd", ("nsd-control",), ("nsd-checkzone",)),
        ("bind", ("rndc",), ("named-checkzone", "-i", "local", "-k", "fail")),
        ("knot", ("knotc",), ("kzonecheck",)),
    ],
)
def test_the_primarys_programs_are_its_kinds_but_for_what_is_given(
    tmp_path: Path, kind: str, control: tuple[str, ...], checker: tuple[str, ...]
) -> None:
    """Each of the two can be another one."""
    text = MINIMAL.replace('"nsd"', f'"{kind}"')
    primary = config_of(tmp_path, text).primary
    assert (primary.kind, primary.control, primary.checker) == (kind, control, checker)
    primary = config_of(tmp_path, text + 'control = ["sudo", "control"]\n').primary
    assert (primary.control, primary.checker) == (("sudo", "control"), checker)
    primary = config_of(tmp_path, text + 'checker = ["true"]\n').primary
    assert (primary.control, primary.checker) == (control, ("true",))


def test_only_servers_zones_and_primary_have_to_be_there(tmp_path: Path) -> None:
    """The smallest file, and the defaults that stand for all the rest."""
    config = config_of(tmp_path, MINIMAL)
    assert config.servers["main"].checks == {}
    assert config.servers["main"].look_at is None
    assert config.references == {}
    assert config.zones.sources == Path("/etc/zonerw/zones")
    assert config.zones.published == Path("/var/lib/nsd/zones")
    assert config.primary.name == "primary"
    assert config.primary.address == IPv4Address("127.0.0.1")
    assert config.primary.port == 53
    assert config.primary.control == ("nsd-control",)
    assert config.primary.checker == ("nsd-checkzone",)
    assert config.secondaries == {}
    assert config.alertmanager is None
    assert (config.policy.looks, config.policy.every) == (3, 5)
    assert config.policy.handback == "auto"
    assert config.exporter.listen == Listen("127.0.0.1", 9853)
    assert config.actions.listen == Listen("127.0.0.1", 9854)
    assert config.actions.state == Path("/var/lib/zonerw")
    assert config.actions.webhook_token_file is None
    assert config.actions.operator_token_file is None


def test_what_was_read_stays_as_it_is(tmp_path: Path) -> None:
    """Nobody changes the configuration after it was read."""
    config = config_of(tmp_path, MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.primary.port = 5353  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("1s", 1),
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86_400),
        ("1w", 7 * 86_400),
        ("1y", 365 * 86_400),
        ("1h30m", 5400),
        ("1m500ms", 60.5),
        ("0m1s", 1),
        ("1y2w3d4h5m6s7ms", (365 + 2 * 7 + 3) * 86_400 + 4 * 3600 + 5 * 60 + 6.007),
        ("100y", 100 * 365 * 86_400),
    ],
)
def test_durations_are_written_as_in_prometheus(tmp_path: Path, text: str, seconds: float) -> None:
    """Whole numbers with their units, the large ones first, each unit once."""
    config = config_of(tmp_path, f'{MINIMAL}\n[policy]\nevery = "{text}"\n')
    assert config.policy.every == seconds


@pytest.mark.parametrize(
    ("text", "listen", "loopback"),
    [
        ("127.0.0.1:9853", Listen("127.0.0.1", 9853), True),
        ("127.8.9.10:1", Listen("127.8.9.10", 1), True),
        ("[::1]:65535", Listen("::1", 65535), True),
        ("0.0.0.0:9853", Listen("0.0.0.0", 9853), False),  # noqa: S104 - read, not listened on
        ("[2001:DB8::1]:9853", Listen("2001:db8::1", 9853), False),
    ],
)
def test_listen_is_an_address_and_a_port(
    tmp_path: Path, text: str, listen: Listen, loopback: bool
) -> None:
    """An IPv6 address stands in brackets; both are written again in their usual form."""
    config = config_of(tmp_path, f'{MINIMAL}\n[exporter]\nlisten = "{text}"\n')
    assert config.exporter.listen == listen
    assert config.exporter.listen.is_loopback is loopback
    assert str(config.exporter.listen) == text.lower()


def test_with_token_files_actions_may_listen_anywhere(tmp_path: Path) -> None:
    """Tokens are what guards an address that others can reach."""
    actions = """
[actions]
listen = "[::]:9854"
webhook_token_file = "/etc/zonerw/webhook.token"
operator_token_file = "/etc/zonerw/operator.token"
"""
    assert config_of(tmp_path, MINIMAL + actions).actions.listen == Listen("::", 9854)


@pytest.mark.parametrize(
    ("url", "reference"),
    [
        ("tcp://9.9.9.9:53", Reference("tcp", IPv4Address("9.9.9.9"), 53)),
        ("tcp://[2620:fe::fe]:443", Reference("tcp", IPv6Address("2620:fe::fe"), 443)),
        ("dns://9.9.9.9", Reference("dns", IPv4Address("9.9.9.9"), 53)),
        ("dns://[2620:fe::fe]:5353", Reference("dns", IPv6Address("2620:fe::fe"), 5353)),
    ],
)
def test_a_reference_is_an_address_and_what_to_ask_there(
    tmp_path: Path, url: str, reference: Reference
) -> None:
    """TCP has no usual port, DNS has one; neither has a URL to ask for."""
    config = config_of(tmp_path, f'{MINIMAL}\n[references]\nother-line = "{url}"\n')
    assert config.references == {"other-line": reference}


@pytest.mark.parametrize(
    ("url", "scheme", "address", "port"),
    [
        ("http://192.0.2.80", "http", IPv4Address("192.0.2.80"), 80),
        ("http://192.0.2.80:8080/a?b", "http", IPv4Address("192.0.2.80"), 8080),
        ("https://9.9.9.9/", "https", IPv4Address("9.9.9.9"), 443),
        ("https://[2620:fe::fe]:8443/", "https", IPv6Address("2620:fe::fe"), 8443),
    ],
)
def test_a_web_reference_keeps_its_url(
    tmp_path: Path,
    url: str,
    scheme: Literal["http", "https"],
    address: IPv4Address | IPv6Address,
    port: int,
) -> None:
    """It is asked for as it stands."""
    config = config_of(tmp_path, f'{MINIMAL}\n[references]\nweb = "{url}"\n')
    assert config.references == {"web": Reference(scheme, address, port, url)}


def test_a_reference_may_be_beside_a_server(tmp_path: Path) -> None:
    """Another address than the servers' own is somebody else's, however near."""
    config = config_of(tmp_path, f'{MINIMAL}\n[references]\nnext = "tcp://192.0.2.2:53"\n')
    assert config.references == {"next": Reference("tcp", IPv4Address("192.0.2.2"), 53)}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "WWW.Example.ORG",
        "www.example.org.",
        "xn--exmple-cua.org",
        "alert_manager",
        "192.0.2.1",
        "[2001:db8::1]",
        f"{'x' * 63}.example.org",
        ".".join(["x" * 62] * 4) + ".x",
        ".".join(["x" * 62] * 4) + ".x.",
    ],
    ids=lambda host: host[-24:],
)
@pytest.mark.parametrize("url", ["https://{}/index.html", "http://{}:8080"])
def test_a_url_may_name_any_host_that_there_can_be(tmp_path: Path, url: str, host: str) -> None:
    """Labels of 63 and names of 253 are the longest; a dot may end them."""
    check = f'[servers.main.checks]\nweb.url = "{url.format(host)}"\n'
    config = config_of(tmp_path, f"{MINIMAL}\n{check}")
    assert config.servers["main"].checks["web"].url == url.format(host)


def test_handing_back_can_be_left_to_a_person(tmp_path: Path) -> None:
    """The one other way than by itself."""
    config = config_of(tmp_path, f'{MINIMAL}\n[policy]\nhandback = "manual"\n')
    assert config.policy.handback == "manual"


# --- what follows from it -------------------------------------------------------------------


def test_the_first_server_is_the_preferred_one(tmp_path: Path) -> None:
    """The order of the file is the order of preference."""
    config = config_of(tmp_path, 'servers.zulu.addresses = ["198.51.100.7"]\n' + MINIMAL)
    assert list(config.servers) == ["zulu", "main"]
    assert config.preferred == "zulu"


def test_a_server_has_an_address_of_each_family_or_none(tmp_path: Path) -> None:
    """The markers' values are found by family, in whatever order the addresses stand."""
    both = '["2001:db8::1", "192.0.2.1"]'
    server = config_of(tmp_path, MINIMAL.replace('["192.0.2.1"]', both)).servers["main"]
    assert server.ipv4 == IPv4Address("192.0.2.1")
    assert server.ipv6 == IPv6Address("2001:db8::1")
    assert config_of(tmp_path, MINIMAL).servers["main"].ipv6 is None


def test_probes_go_to_look_at_where_it_is_given(tmp_path: Path) -> None:
    """Behind a NAT a server is looked at elsewhere; its zones keep its public address."""
    assert config_of(tmp_path, MINIMAL).servers["main"].looked_at == (IPv4Address("192.0.2.1"),)
    look_at = 'look_at = ["127.0.0.1", "::1"]\n\n[zones]'
    server = config_of(tmp_path, MINIMAL.replace("\n[zones]", look_at)).servers["main"]
    assert server.looked_at == (IPv4Address("127.0.0.1"), IPv6Address("::1"))
    assert server.ipv4 == IPv4Address("192.0.2.1")


def test_servers_may_be_looked_at_where_others_are(tmp_path: Path) -> None:
    """A forwarder in front of both, at one of them: only what zones point at is told apart."""
    both = 'look_at = ["198.51.100.7"]\n'
    other = f'[servers.backup]\naddresses = ["198.51.100.7"]\n{both}'
    config = config_of(tmp_path, f"{MINIMAL}\n{other}".replace("\n[zones]", f"{both}\n[zones]"))
    looked_at = {name: server.looked_at for name, server in config.servers.items()}
    assert looked_at == dict.fromkeys(("main", "backup"), (IPv4Address("198.51.100.7"),))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (IPv4Address("192.0.2.1"), "http://192.0.2.1/index.html"),
        (IPv6Address("2001:db8::1"), "http://[2001:db8::1]/index.html"),
    ],
)
def test_without_checks_the_default_page_is_asked_for(
    tmp_path: Path, address: IPv4Address | IPv6Address, url: str
) -> None:
    """One check called web: /index.html at the address itself."""
    checks = config_of(tmp_path, MINIMAL).servers["main"].checks_at(address)
    assert {name: check.url for name, check in checks.items()} == {"web": url}


def test_configured_checks_take_the_default_pages_place() -> None:
    """The same checks are made at each address."""
    main = read(EXAMPLE).servers["main"]
    for address in main.looked_at:
        assert main.checks_at(address) == main.checks


def test_nameservers_are_the_primary_and_then_the_secondaries() -> None:
    """By the names that metrics know them by."""
    config = read(EXAMPLE)
    assert list(config.nameservers) == ["ns1", "ns2", "ns3"]
    assert config.nameservers["ns1"] is config.primary
    assert config.nameservers["ns3"] is config.secondaries["ns3"]


@pytest.mark.parametrize(
    ("option", "environment", "path"),
    [
        (Path("/a.toml"), {"ZONERW_CONFIG": "/b.toml"}, Path("/a.toml")),
        (None, {"ZONERW_CONFIG": "/b.toml"}, Path("/b.toml")),
        (None, {"ZONERW_CONFIG": ""}, Path("/etc/zonerw/zonerw.toml")),
        (None, {}, Path("/etc/zonerw/zonerw.toml")),
    ],
    ids=["option", "environment", "empty environment", "neither"],
)
def test_which_file_is_read(option: Path | None, environment: dict[str, str], path: Path) -> None:
    """The command line's, else the environment's, else the one in /etc."""
    assert path_from(option, environment) == path
