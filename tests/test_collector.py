"""What one scrape looks at, what it tells as metrics, and what it logs."""

import contextlib
import dataclasses
import logging
import os
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import StartNsd, StartWeb, free_port, write_config
from prometheus_client import CollectorRegistry

from exporter import config as configuration
from exporter import probes
from exporter.collector import GROUPS, LastSeen, Sources, SourcesError, collect
from exporter.config import (
    Config,
    HttpCheck,
    Nameserver,
    Reference,
    Secondary,
    Server,
    TcpCheck,
)
from exporter.web import LONGEST

SLACK = 1.0


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric: the values of its labels, and its own."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def names(registry: CollectorRegistry) -> set[str]:
    return {metric.name for metric in registry.collect()}


def closed() -> Nameserver:
    """A nameserver that nobody started."""
    return Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))


@pytest.fixture
def silent() -> Iterator[Nameserver]:
    """A nameserver from which nothing comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        yield Nameserver(address="127.0.0.1", port=bound.getsockname()[1])


def config_of(
    folder: Path,
    servers: dict[str, int],
    nameservers: dict[str, Nameserver] | None = None,
    zones: tuple[str, ...] = (),
) -> Config:
    return configuration.read(
        write_config(folder, servers, nameservers or {"ns1": closed()}, zones)
    )


def with_server(config: Config, server: Server) -> Config:
    """The configuration with this as its only server."""
    return dataclasses.replace(config, servers={"main": server})


# --- servers --------------------------------------------------------------------------------


def test_each_server_is_up_or_down_with_its_role(tmp_path: Path, start_web: StartWeb) -> None:
    """The first of the configuration is main, all others are backups."""
    up, down = start_web().port, free_port("127.0.0.1")
    config = config_of(tmp_path, {"main": down, "backup": up, "third": up})
    seen = collect(config, LastSeen(), ["servers"], 5)
    assert samples(seen, "zonerw_server_up") == {
        ("main", "main"): 0,
        ("backup", "backup"): 1,
        ("third", "backup"): 1,
    }


def test_a_failing_check_tells_why(tmp_path: Path, start_web: StartWeb) -> None:
    """A series with the reason is there while it fails, and at no other time."""
    config = config_of(tmp_path, {"main": free_port("127.0.0.1"), "backup": start_web().port})
    seen = collect(config, LastSeen(), ["servers"], 5)
    assert samples(seen, "zonerw_check_up") == {
        ("main", "web", "127.0.0.1"): 0,
        ("backup", "web", "127.0.0.1"): 1,
    }
    assert samples(seen, "zonerw_check_failing") == {
        ("main", "web", "127.0.0.1", "connection refused"): 1
    }
    durations = samples(seen, "zonerw_check_duration_seconds")
    assert durations.keys() == samples(seen, "zonerw_check_up").keys()
    assert all(0 < seconds < 1 for seconds in durations.values())


def test_the_first_address_decides_and_the_others_are_shown(
    tmp_path: Path, start_web: StartWeb
) -> None:
    """A server with a broken second address is up; what is broken can be seen."""
    config = config_of(tmp_path, {"main": start_web().port})
    # Nobody listens on the second address: http.server has the first one only.
    both = (ip_address("127.0.0.1"), ip_address("127.0.0.2"))
    server = config.servers["main"].model_copy(update={"look_at": both})
    seen = collect(with_server(config, server), LastSeen(), ["servers"], 5)
    assert samples(seen, "zonerw_server_up") == {("main", "main"): 1}
    assert samples(seen, "zonerw_check_up") == {
        ("main", "web", "127.0.0.1"): 1,
        ("main", "web", "127.0.0.2"): 0,
    }


def test_a_server_is_judged_by_all_its_checks(tmp_path: Path, start_web: StartWeb) -> None:
    """One of two fails: the server is down, the metrics say which."""
    port = start_web().port
    config = config_of(tmp_path, {"main": port})
    checks = {
        "web": HttpCheck(url=f"http://www.example.org:{port}/index.html"),
        "shop": HttpCheck(url=f"http://www.example.org:{port}/shop.html"),
    }
    server = config.servers["main"].model_copy(update={"checks": checks})
    seen = collect(with_server(config, server), LastSeen(), ["servers"], 5)
    assert samples(seen, "zonerw_server_up") == {("main", "main"): 0}
    assert samples(seen, "zonerw_check_failing") == {("main", "shop", "127.0.0.1", "status 404"): 1}


def test_a_check_that_is_not_required_is_shown_and_makes_nothing_down(
    tmp_path: Path, start_web: StartWeb
) -> None:
    """It fails for all to see."""
    port = start_web().port
    config = config_of(tmp_path, {"main": port})
    checks = {
        "web": HttpCheck(url=f"http://www.example.org:{port}/index.html"),
        "mail": TcpCheck(tcp=free_port("127.0.0.1"), required=False),
    }
    server = config.servers["main"].model_copy(update={"checks": checks})
    seen = collect(with_server(config, server), LastSeen(), ["servers"], 5)
    assert samples(seen, "zonerw_server_up") == {("main", "main"): 1}
    assert samples(seen, "zonerw_check_up") == {
        ("main", "web", "127.0.0.1"): 1,
        ("main", "mail", "127.0.0.1"): 0,
    }


def test_a_certificate_s_end_is_shown_whatever_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that fails for a day hides no certificate that ends."""
    config = config_of(tmp_path, {"main": 80})
    address = ip_address("127.0.0.1")
    failed = probes.Down("status 503", "503 Busy", 0.1, expiry=4070908800.0)
    monkeypatch.setattr("exporter.collector.probes.look", lambda *_: {("web", address): failed})
    seen = collect(config, LastSeen(), ["servers"], 5)
    assert samples(seen, "zonerw_check_tls_expiry_timestamp_seconds") == {
        ("main", "web", "127.0.0.1"): 4070908800.0
    }


def test_references_are_up_or_down(tmp_path: Path, start_web: StartWeb) -> None:
    """Each by itself, and only where they are asked for."""
    port = start_web().port
    config = config_of(tmp_path, {"main": port})
    references = {
        "third": Reference("tcp", ip_address("127.0.0.1"), port),
        "fourth": Reference("dns", ip_address("127.0.0.1"), free_port("127.0.0.1")),
    }
    config = dataclasses.replace(config, references=references)
    seen = collect(config, LastSeen(), ["references"], 5)
    assert samples(seen, "zonerw_reference_up") == {("third",): 1, ("fourth",): 0}
    assert samples(seen, "zonerw_server_up") == {}


def test_references_are_asked_with_their_group_alone(tmp_path: Path) -> None:
    """Whoever decides by the servers waits for no reference that is silent."""
    with socket.create_server(("127.0.0.1", 0)) as reference:
        reference.setblocking(False)
        port = reference.getsockname()[1]
        config = dataclasses.replace(
            config_of(tmp_path, {"main": free_port("127.0.0.1")}),
            references={"third": Reference("tcp", ip_address("127.0.0.1"), port)},
        )
        for groups in (["servers"], ["zones"]):
            assert "zonerw_reference_up" not in names(collect(config, LastSeen(), groups, 1))
            with pytest.raises(BlockingIOError):
                reference.accept()
        collect(config, LastSeen(), ["references"], 1)
        reference.accept()[0].close()


def test_nameservers_are_told_with_the_server_that_they_run_on(tmp_path: Path) -> None:
    """By the addresses of both; a third party's runs on none of ours."""
    config = config_of(tmp_path, {"main": 80, "backup": 80})
    nameservers = {"ns2": "192.0.2.1", "ns3": "203.0.113.53"}
    config = dataclasses.replace(
        config,
        primary=config.primary.model_copy(update={"address": ip_address("192.0.2.2")}),
        secondaries={
            name: Secondary(address=address, port=free_port("127.0.0.1"))
            for name, address in nameservers.items()
        },
    )
    seen = collect(config, LastSeen(), ["zones"], 1)
    assert samples(seen, "zonerw_nameserver_info") == {
        (config.primary.name, "primary", "backup"): 1,
        ("ns2", "secondary", "main"): 1,
        ("ns3", "secondary", ""): 1,
    }


def test_each_scrape_looks_anew(tmp_path: Path, start_web: StartWeb) -> None:
    """Nothing of an earlier scrape is told again."""
    web = start_web()
    config, last_seen = config_of(tmp_path, {"main": web.port}), LastSeen()
    before = collect(config, last_seen, ["servers"], 5)
    web.kill()
    after = collect(config, last_seen, ["servers"], 5)
    assert samples(before, "zonerw_server_up") == {("main", "main"): 1}
    assert samples(before, "zonerw_check_failing") == {}
    assert samples(after, "zonerw_server_up") == {("main", "main"): 0}


# --- zones ----------------------------------------------------------------------------------


def test_each_zone_has_its_serial_at_each_nameserver(tmp_path: Path, start_nsd: StartNsd) -> None:
    """With the times of its SOA, as this nameserver serves it."""
    new = start_nsd({"example.org": 2026010102, "example.net": 5})
    old = start_nsd({"example.org": 2026010101, "example.net": 5})
    zones = ("example.org", "example.net")
    config = config_of(tmp_path, {"main": 80}, {"ns1": new, "ns2": old}, zones)
    seen = collect(config, LastSeen(), ["zones"], 5)
    assert samples(seen, "zonerw_zone_serial") == {
        ("example.org", "ns1"): 2026010102,
        ("example.org", "ns2"): 2026010101,
        ("example.net", "ns1"): 5,
        ("example.net", "ns2"): 5,
    }
    places = samples(seen, "zonerw_zone_serial").keys()
    assert samples(seen, "zonerw_zone_query_up") == dict.fromkeys(places, 1)
    assert samples(seen, "zonerw_zone_refresh_seconds") == dict.fromkeys(places, 3600)
    assert samples(seen, "zonerw_zone_expire_seconds") == dict.fromkeys(places, 864000)


def test_an_unknown_serial_is_absent(tmp_path: Path, start_nsd: StartNsd) -> None:
    """0 is a serial like any other: where there is none, there is no sample."""
    nsd = start_nsd({"example.org": 1})
    zones = ("example.org", "example.net")
    config = config_of(tmp_path, {"main": 80}, {"ns1": nsd, "ns2": closed()}, zones)
    seen = collect(config, LastSeen(), ["zones"], 5)
    assert samples(seen, "zonerw_zone_query_up") == {
        ("example.org", "ns1"): 1,
        ("example.net", "ns1"): 0,
        ("example.org", "ns2"): 0,
        ("example.net", "ns2"): 0,
    }
    for name in ("serial", "refresh_seconds", "expire_seconds"):
        assert samples(seen, f"zonerw_zone_{name}").keys() == {("example.org", "ns1")}


@contextlib.contextmanager
def most_sockets_and_threads() -> Iterator[Counter[str]]:
    """Count what there is more of than before, at the most, while the block runs."""
    before, most, over = sockets_and_threads(), Counter[str](), threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            most.update((sockets_and_threads() - before) - most)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield most
    finally:
        over.set()
        sampler.join()


def sockets_and_threads() -> Counter[str]:
    found = Counter({"threads": len(list(Path("/proc/self/task").iterdir()))})
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found["sockets"] += str(descriptor.readlink()).startswith("socket:")
    return found


def test_a_thousand_zones_at_three_nameservers_are_one_scrape(
    tmp_path: Path, start_nsd: StartNsd
) -> None:
    """All SOAs, and all addresses beside them, in the time of a scrape that Prometheus gives 10 s.

    There is a socket for a nameserver, and no thread for a question.
    """
    zones = tuple(f"zone{n}.example" for n in range(1000))
    nameservers = {f"ns{n}": start_nsd(dict.fromkeys(zones, n)) for n in (1, 2, 3)}
    config, last_seen = config_of(tmp_path, {"main": 80}, nameservers), LastSeen()
    for zone in zones:
        (config.zones.sources / f"{zone}.base").write_text(SOURCE + "ns1 A @IP@\n")
    collect(config, last_seen, ["zones"], 60)  # the first scrape has to parse the sources
    with most_sockets_and_threads() as most:
        seen = collect(config, last_seen, ["zones"], LONGEST)
    assert samples(seen, "zonerw_zone_serial") == {
        (zone, f"ns{n}"): n for zone in zones for n in (1, 2, 3)
    }
    assert samples(seen, "zonerw_zone_points_to") == {
        (zone, nameserver, "main"): 1 for zone in zones for nameserver in nameservers
    }
    assert most["sockets"] <= 10
    assert most["threads"] <= 10


def test_a_silent_nameserver_costs_its_timeout_once_whatever_the_zones(
    tmp_path: Path, start_nsd: StartNsd, silent: Nameserver
) -> None:
    """The others' answers are all there; waiting for a thousand zones takes one socket."""
    zones = tuple(f"zone{n}.example" for n in range(1000))
    nameservers = {"ns1": silent} | {f"ns{n}": start_nsd(dict.fromkeys(zones, n)) for n in (2, 3)}
    config = config_of(tmp_path, {"main": 80}, nameservers, zones)
    started = time.monotonic()
    with most_sockets_and_threads() as most:
        seen = collect(config, LastSeen(), ["zones"], 3)
    assert 3 <= time.monotonic() - started < 3 + 3 * SLACK  # not twice
    assert samples(seen, "zonerw_zone_serial") == {
        (zone, f"ns{n}"): n for zone in zones for n in (2, 3)
    }
    silence = {place for place, up in samples(seen, "zonerw_zone_query_up").items() if not up}
    assert silence == {(zone, "ns1") for zone in zones}
    assert 1 <= most["sockets"] <= 10
    assert most["threads"] <= 10


# --- where zones point ----------------------------------------------------------------------

SOURCE = """\
$TTL 300
@ SOA ns1 hostmaster @serial number@ 2h 10m 4w 60
@ NS ns1
"""


def serving(folder: Path, name: str, records: str) -> str:
    """Let NSD serve example.org with these records; a part of its configuration."""
    path = folder / name
    path.write_text(SOURCE.replace("@serial number@", "7") + "ns1 A 192.0.2.53\n" + records)
    return f"zone:\n  name: example.org\n  zonefile: {path}\n"


def write_source(config: Config, records: str) -> Path:
    path = config.zones.sources / "example.org.base"
    path.write_text(SOURCE + records)
    return path


def test_a_zone_points_to_the_server_whose_address_it_has(
    tmp_path: Path, start_nsd: StartNsd
) -> None:
    """At each nameserver for itself; no series for what is nobody's, or not served at all."""
    at_backup = start_nsd({}, serving(tmp_path, "backup", "www A 192.0.2.2\nns9 A 192.0.2.1\n"))
    at_main = start_nsd({}, serving(tmp_path, "main", "www A 192.0.2.1\n"))
    at_nobody = start_nsd({}, serving(tmp_path, "nobody", "www A 192.0.2.9\n"))
    without = start_nsd({}, serving(tmp_path, "without", ""))
    nameservers = {
        "ns1": at_backup,
        "ns2": at_main,
        "ns3": at_nobody,
        "ns4": without,
        "ns5": closed(),
    }
    config = config_of(tmp_path, {"main": 80, "backup": 80}, nameservers)
    write_source(config, "ns9 A @IP:main@\nwww A @IP@\n")
    seen = collect(config, LastSeen(), ["zones"], 5)
    assert samples(seen, "zonerw_zone_points_to") == {
        ("example.org", "ns1", "backup"): 1,
        ("example.org", "ns2", "main"): 1,
    }


def test_a_zone_that_follows_nobody_points_to_nobody(tmp_path: Path, start_nsd: StartNsd) -> None:
    """It has main's address whoever serves, and rightly so."""
    nsd = start_nsd({}, serving(tmp_path, "main", "@ A 192.0.2.1\nns9 A 192.0.2.1\n"))
    config = config_of(tmp_path, {"main": 80, "backup": 80}, {"ns1": nsd})
    write_source(config, "@ A 192.0.2.1\nns9 A @IP:main@\n")
    seen = collect(config, LastSeen(), ["zones"], 5)
    assert samples(seen, "zonerw_zone_points_to") == {}
    assert samples(seen, "zonerw_zone_query_up") == {("example.org", "ns1"): 1}


def test_a_zone_that_has_two_servers_addresses_points_to_both(
    tmp_path: Path, start_nsd: StartNsd
) -> None:
    """What is there is told, be it meant or not; an IPv6 address is a server's own as well."""
    records = "@ A 192.0.2.1\n@ A 192.0.2.2\nwww AAAA 2001:db8::1\n"
    config = config_of(
        tmp_path,
        {"main": 80, "backup": 80},
        {"ns1": start_nsd({}, serving(tmp_path, "both", records))},
    )
    last_seen = LastSeen()
    write_source(config, "@ A @IP@\n@ A 192.0.2.2\n")
    assert samples(collect(config, last_seen, ["zones"], 5), "zonerw_zone_points_to") == {
        ("example.org", "ns1", "main"): 1,
        ("example.org", "ns1", "backup"): 1,
    }
    both = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    main = config.servers["main"].model_copy(update={"addresses": both})
    config = dataclasses.replace(config, servers={**config.servers, "main": main})
    write_source(config, "www AAAA @IP@ ; the first and only marked name\n")
    assert samples(collect(config, last_seen, ["zones"], 5), "zonerw_zone_points_to") == {
        ("example.org", "ns1", "main"): 1
    }


@pytest.mark.parametrize("content", ["", "www A @IP@\n", SOURCE + "www A @ip@\n"])
def test_of_a_broken_source_the_serial_is_known_all_the_same(
    tmp_path: Path, start_nsd: StartNsd, content: str
) -> None:
    """What name to ask for is not known; which zone is, by the file's name."""
    nsd = start_nsd({}, serving(tmp_path, "main", "@ A 192.0.2.1\nwww A 192.0.2.1\n"))
    config = config_of(tmp_path, {"main": 80}, {"ns1": nsd})
    (config.zones.sources / "example.org.base").write_text(content)
    seen = collect(config, LastSeen(), ["zones"], 5)
    assert samples(seen, "zonerw_zone_serial") == {("example.org", "ns1"): 7}
    assert samples(seen, "zonerw_zone_points_to") == {}


def test_a_source_is_parsed_again_when_its_file_is_another(tmp_path: Path) -> None:
    """By time, size or inode; a file that is the same by all three is not even read."""
    config = config_of(tmp_path, {"main": 80})
    sources = Sources()
    path = write_source(config, "www A @IP@\n")

    def name() -> str:
        found = sources.pointers({"example.org": path}, config.servers, time.monotonic() + 60)
        return str(found["example.org"].name)

    assert name() == "www.example.org."
    first = path.stat()
    write_source(config, "ftp A @IP@\n")  # as long as before
    os.utime(path, ns=(first.st_atime_ns, first.st_mtime_ns))
    assert name() == "www.example.org."
    os.utime(path, ns=(first.st_atime_ns, first.st_mtime_ns + 1))
    assert name() == "ftp.example.org."
    write_source(config, "mail A @IP@\n")
    os.utime(path, ns=(first.st_atime_ns, first.st_mtime_ns + 1))
    assert name() == "mail.example.org."
    other = tmp_path / "other"
    other.write_text(path.read_text().replace("mail", "smtp"))
    os.utime(other, ns=(first.st_atime_ns, first.st_mtime_ns + 1))
    other.replace(path)
    assert name() == "smtp.example.org."


def test_what_was_parsed_is_kept_from_scrape_to_scrape(tmp_path: Path, start_nsd: StartNsd) -> None:
    """A source that seems the same is not parsed again: here it isn't, and nobody notices."""
    nsd = start_nsd({}, serving(tmp_path, "zone", "www A 192.0.2.1\nftp A 192.0.2.2\n"))
    config = config_of(tmp_path, {"main": 80, "backup": 80}, {"ns1": nsd})
    last_seen = LastSeen()
    path = write_source(config, "www A @IP@\n")
    before = path.stat()
    for _ in range(2):
        seen = collect(config, last_seen, ["zones"], 5)
        assert samples(seen, "zonerw_zone_points_to").keys() == {("example.org", "ns1", "main")}
        write_source(config, "ftp A @IP@\n")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_sources_that_there_was_no_time_for_wait_for_the_next_scrape(tmp_path: Path) -> None:
    """What was parsed is known in no time, the others are absent until then."""
    config = config_of(tmp_path, {"main": 80})
    path = write_source(config, "www A @IP@\n")
    later = tmp_path / "later"
    later.write_text(path.read_text())
    sources, over = Sources(), time.monotonic() - 1
    assert sources.pointers({"example.org": path}, config.servers, over) == {}
    sources.pointers({"example.org": path}, config.servers, time.monotonic() + 60)
    both = {"example.org": path, "example.net": later}
    assert sources.pointers(both, config.servers, over).keys() == {"example.org"}


def test_a_source_that_is_gone_meanwhile_is_no_trouble(tmp_path: Path) -> None:
    """It was there when the folder was listed."""
    config = config_of(tmp_path, {"main": 80})
    paths = {"example.net": tmp_path / "gone", "example.org": write_source(config, "w A @IP@\n")}
    found = Sources().pointers(paths, config.servers, time.monotonic() + 60)
    assert found.keys() == {"example.org"}


# --- what is asked for ----------------------------------------------------------------------


def test_a_group_alone_asks_for_nothing_else(tmp_path: Path) -> None:
    """Servers every second must not mean a thousand SOAs every second, nor the other way round."""
    with (
        socket.create_server(("127.0.0.1", 0)) as web,
        socket.socket(type=socket.SOCK_DGRAM) as dns,
    ):
        dns.bind(("127.0.0.1", 0))
        web.setblocking(False)
        dns.setblocking(False)
        nameserver = Nameserver(address="127.0.0.1", port=dns.getsockname()[1])
        config = config_of(
            tmp_path, {"main": web.getsockname()[1]}, {"ns1": nameserver}, ("example.org",)
        )
        zones = collect(config, LastSeen(), ["zones"], 0.2)
        assert dns.recv(512)
        with pytest.raises(BlockingIOError):
            web.accept()
        while True:
            try:
                dns.recv(512)  # asked again meanwhile
            except BlockingIOError:
                break
        servers = collect(config, LastSeen(), ["servers"], 0.2)
        web.accept()[0].close()
        with pytest.raises(BlockingIOError):
            dns.recv(512)
    build = {"zonerw_build_info"}
    assert names(zones) & names(servers) == build
    assert names(zones) | names(servers) == {
        *build,
        "zonerw_server_up",
        "zonerw_check_up",
        "zonerw_check_duration_seconds",
        "zonerw_check_failing",
        "zonerw_check_tls_expiry_timestamp_seconds",
        "zonerw_nameserver_info",
        "zonerw_zone_query_up",
        "zonerw_zone_serial",
        "zonerw_zone_points_to",
        "zonerw_zone_refresh_seconds",
        "zonerw_zone_expire_seconds",
    }


def test_servers_and_zones_are_looked_at_side_by_side(
    tmp_path: Path, start_web: StartWeb, silent: Nameserver
) -> None:
    """Two silent servers and two silent nameservers take as long as one."""
    web = start_web()
    web.silence()
    config = config_of(
        tmp_path,
        {"main": web.port, "backup": web.port},
        {"ns1": silent, "ns2": silent},
        ("example.org", "example.net"),
    )
    started = time.monotonic()
    seen = collect(config, LastSeen(), GROUPS, 1.5)
    assert 1.5 <= time.monotonic() - started < 1.5 + SLACK
    assert set(samples(seen, "zonerw_server_up").values()) == {0}
    assert set(samples(seen, "zonerw_zone_query_up").values()) == {0}


# --- sources --------------------------------------------------------------------------------


def test_without_the_sources_the_servers_are_told_all_the_same(
    tmp_path: Path, start_web: StartWeb, caplog: pytest.LogCaptureFixture
) -> None:
    """Which zones there are is not known, so nothing is said about them; the log says why, once."""
    caplog.set_level(logging.INFO)
    config, last_seen = config_of(tmp_path, {"main": start_web().port}), LastSeen()
    shutil.rmtree(config.zones.sources)
    for _ in range(3):
        seen = collect(config, last_seen, GROUPS, 5)
        assert samples(seen, "zonerw_server_up") == {("main", "main"): 1}
        assert samples(seen, "zonerw_zone_query_up") == {}
    config.zones.sources.mkdir()
    for _ in range(3):
        collect(config, last_seen, GROUPS, 5)
    told = [record for record in caplog.records if "sources" in record.getMessage()]
    assert [record.getMessage() for record in told] == [
        "sources can't be read",
        "sources can be read again",
    ]
    assert vars(told[0])["reason"] == "No such file or directory"
    assert vars(told[0])["folder"] == config.zones.sources


def test_zones_alone_cannot_be_told_without_the_sources(tmp_path: Path) -> None:
    """An empty page would look as if there were no zones."""
    config = config_of(tmp_path, {"main": 80})
    shutil.rmtree(config.zones.sources)
    with pytest.raises(SourcesError, match="zones: No such file or directory"):
        collect(config, LastSeen(), ["zones"], 5)


# --- faults of our own ----------------------------------------------------------------------


def test_a_look_that_breaks_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not known is absent: nobody is down for want of descriptors here."""
    config = config_of(tmp_path, {"main": 80, "backup": free_port("127.0.0.1")})
    look = probes.look

    def breaks(server: Server, timeout: float) -> object:
        if server == config.servers["main"]:
            raise probes.OutOfResourcesError("Too many open files")
        return look(server, timeout)

    monkeypatch.setattr("exporter.collector.probes.look", breaks)
    last_seen = LastSeen()
    seen = collect(config, last_seen, ["servers"], 5)
    assert samples(seen, "zonerw_server_up") == {("backup", "backup"): 0}
    assert last_seen.servers.endswith("UTC: backup is down (web: connection refused).")
    (broken,) = [record for record in caplog.records if record.getMessage() == "looking failed"]
    assert vars(broken)["server"] == "main"


# --- log ------------------------------------------------------------------------------------


def test_a_server_s_change_of_state_is_logged(
    tmp_path: Path, start_web: StartWeb, caplog: pytest.LogCaptureFixture
) -> None:
    """The first look counts as a change; a server that stays as it is is not mentioned."""
    caplog.set_level(logging.INFO)
    web = start_web()
    config, last_seen = config_of(tmp_path, {"main": web.port}), LastSeen()
    for _ in range(2):
        collect(config, last_seen, ["servers"], 5)
    web.kill()
    for _ in range(2):
        collect(config, last_seen, ["servers"], 5)
    up, check, down = caplog.records
    assert (up.getMessage(), up.levelname, vars(up)["server"]) == ("server up", "INFO", "main")
    assert 0 < float(vars(up)["seconds"]) < 1
    assert (down.getMessage(), down.levelname) == ("server down", "WARNING")
    assert (check.getMessage(), check.levelname) == ("check fails", "WARNING")
    fields = ("server", "check", "address", "reason", "detail")
    for record in (check, down):
        assert [vars(record)[field] for field in fields] == [
            "main",
            "web",
            "127.0.0.1",
            "connection refused",
            "[Errno 111] Connection refused",
        ]


def test_a_check_that_decides_nothing_is_logged_too(
    tmp_path: Path, start_web: StartWeb, caplog: pytest.LogCaptureFixture
) -> None:
    """Its reason in full, each new one, and once when it is over; the server stays up."""
    caplog.set_level(logging.INFO)
    port = start_web().port
    config, last_seen = config_of(tmp_path, {"main": port}), LastSeen()
    web = HttpCheck(url=f"http://www.example.org:{port}/index.html")

    def look_with(news: HttpCheck) -> None:
        checks = {"web": web, "news": news}
        server = config.servers["main"].model_copy(update={"checks": checks})
        seen = collect(with_server(config, server), last_seen, ["servers"], 5)
        assert samples(seen, "zonerw_server_up") == {("main", "main"): 1}

    news = web.model_copy(update={"required": False})
    for broken in ({"contains": "news"}, {"contains": "news"}, {"url": f"{web.url}.gone"}, {}):
        look_with(news.model_copy(update=broken))
    text, up, status, over = caplog.records
    assert up.getMessage() == "server up"
    assert [(its.getMessage(), vars(its)["check"]) for its in (text, status, over)] == [
        ("check fails", "news"),
        ("check fails", "news"),
        ("check succeeds again", "news"),
    ]
    assert [(vars(its)["reason"], vars(its)["detail"]) for its in (text, status)] == [
        ("text missing", '"news" is not in the 7 bytes of the page'),
        ("status 404", "404 File not found"),
    ]


def test_a_reference_s_change_of_state_is_logged(
    tmp_path: Path, start_web: StartWeb, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is up from the start is not mentioned."""
    caplog.set_level(logging.INFO)
    web = start_web()
    reference = Reference("tcp", ip_address("127.0.0.1"), web.port)
    config = config_of(tmp_path, {"main": web.port})
    config = dataclasses.replace(config, references={"third": reference})
    last_seen = LastSeen()
    collect(config, last_seen, ["references"], 5)
    assert not caplog.records
    web.kill()
    for _ in range(2):
        collect(config, last_seen, ["references"], 5)
    (down,) = caplog.records
    assert (down.getMessage(), down.levelname) == ("reference down", "WARNING")
    fields = ("reference", "reason", "detail")
    assert [vars(down)[field] for field in fields] == [
        "third",
        "connection refused",
        "[Errno 111] Connection refused",
    ]


def test_a_look_that_a_later_one_has_overtaken_is_no_news() -> None:
    """Scrapes overlap, and one with a long timeout ends after those that began after it."""
    last_seen = LastSeen()
    assert last_seen.is_news("server main", True, began=1)
    assert last_seen.is_news("server main", False, began=3)
    assert not last_seen.is_news("server main", True, began=2)
    assert not last_seen.is_news("server main", False, began=4)
    assert last_seen.is_news("server main", True, began=5)
