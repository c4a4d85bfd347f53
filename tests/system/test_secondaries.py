"""Secondaries of each kind, followed: NSD, BIND and Knot take nothing but our own NOTIFYs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import dns.tsig
import pytest
from nameservers import (
    ALL_KINDS,
    BACKUP,
    KEY,
    MAIN,
    Daemon,
    Nameservers,
    make_primary,
    make_secondary,
    write_zonerw_toml,
)

from actions import files, nameserver, notify
from actions.notify import Behind, Follower, Observer, Serves, Wanted
from demo.stack import wait_for
from exporter import config as configuration
from exporter import soa
from exporter.config import Secondary
from exporter.zonefile import Pointer

ZONES = tuple(f"{name}.example" for name in ("one", "two", "three", "four", "five"))
SERIAL = 2026112200
CONTENT = """\
$TTL 60
@ SOA ns1 hostmaster {serial} 2h 10m 4w 60
@ NS ns1
ns1 A 192.0.2.53
www A {address}
"""
NOBODY = Observer(lambda _name, _count: None, lambda _name, _count: None, lambda _name, _its: None)


@dataclass(frozen=True)
class Followed:
    """Name servers, and a follower for each secondary."""

    them: Nameservers
    followers: Mapping[str, Follower]

    def publish(self, serial: int, address: str) -> None:
        """Do what converge does: the followers are at it when the primary serves it."""
        for zone in self.them.zones:
            content = CONTENT.format(serial=serial, address=address)
            files.put(self.them.published / zone, content.encode())
        nameserver.reload(configuration.read(self.them.config).primary)
        serials = wait_for(lambda: self._served(serial), 30, f"{serial} at the primary")
        points = frozenset({ip_address(address)})
        wanted = {
            zone: Wanted(its, Pointer(f"www.{zone}.", "A"), points) for zone, its in serials.items()
        }
        for follower in self.followers.values():
            follower.want(wanted)

    def _served(self, serial: int) -> dict[str, soa.Serial]:
        answers = soa.ask(self.them.primary.where, self.them.zones, 1.0)
        found = {zone: its for zone, its in answers.items() if isinstance(its, soa.Serial)}
        serials = {zone: its.serial for zone, its in found.items()}
        return found if serials == dict.fromkeys(self.them.zones, serial) else {}

    def says(self, its: Serves | Behind) -> None:
        """Wait until every follower says this of every zone."""
        expected = {name: dict.fromkeys(self.them.zones, its) for name in self.followers}
        try:
            wait_for(lambda: self.said() == expected, 30, "the secondaries")
        except TimeoutError as error:
            raise AssertionError(f"not {its}: {self.said()}") from error

    def said(self) -> dict[str, dict[str, Serves | Behind]]:
        """How each zone stands at each secondary, as its follower has it."""
        return {name: follower.seen() for name, follower in self.followers.items()}

    def arrives(self, serial: int, address: str) -> None:
        """Wait until every follower says so, and hear from each secondary that it is true."""
        self.says(Serves(serial))
        for daemon in self.them.secondaries.values():
            assert served(daemon.where, self.them.zones) == {(serial, address)}


def served(
    where: configuration.Nameserver, zones: Sequence[str]
) -> set[tuple[int | None, str | None]]:
    """What a name server serves: each serial and address that some zone has there."""
    pointers = {zone: Pointer(f"www.{zone}.", "A") for zone in zones}
    answers = soa.ask_all({"it": where}, zones, pointers, 5.0)["it"]
    serials = {z: i.serial for z, i in answers.serials.items() if isinstance(i, soa.Serial)}
    points = {zone: ", ".join(map(str, its)) for zone, its in answers.addresses.items()}
    return {(serials.get(zone), points.get(zone)) for zone in zones}


def follow(daemon: Daemon, key: dns.tsig.Key | None) -> Follower:
    """Make a follower, not running yet."""
    place = Secondary.model_validate({"address": daemon.address, "port": daemon.port})
    return Follower(daemon.kind, place, key, NOBODY)


@contextmanager
def followed(
    folder: Path,
    *kinds: str,
    address: str = "127.0.0.1",
    key: dns.tsig.Key | None = KEY,
    edit: Callable[[str], str] = lambda text: text,
) -> Iterator[Followed]:
    """Start NSD as the primary, secondaries of these kinds (all), and their followers.

    `edit` changes what a secondary is configured with; `key` signs what the followers say.
    """
    published = folder / "published"
    published.mkdir()
    # Not where our messages come from: from its primary BIND would take them unsigned.
    primary = make_primary("nsd", folder / "ns1", published, ZONES, "127.0.0.2")
    secondaries = {
        kind: make_secondary(kind, folder / kind, ZONES, primary, address)
        for kind in kinds or ALL_KINDS
    }
    settings = write_zonerw_toml(folder, primary, secondaries)
    them = Nameservers(folder, ZONES, primary, secondaries, settings)
    for daemon in secondaries.values():
        daemon.conf.write_text(edit(daemon.conf.read_text()))
    followers = {kind: follow(daemon, key) for kind, daemon in secondaries.items()}
    with ExitStack() as running:
        for daemon in them.all.values():
            running.callback(daemon.kill)
            daemon.start()
        running.callback(notify.stop, followers.values())
        for follower in followers.values():
            follower.start()
        yield Followed(them, followers)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_kind_follows(tmp_path: Path, kind: str) -> None:
    """Serial and addresses, there and back; from the first transfer on."""
    with followed(tmp_path, kind) as its:
        for serial, address in ((SERIAL, MAIN), (SERIAL + 1, BACKUP), (SERIAL + 100, MAIN)):
            its.publish(serial, address)
            its.arrives(serial, address)
        assert its.followers[kind].serials(ZONES) == dict.fromkeys(ZONES, SERIAL + 100)
        assert not its.followers[kind].stuck()


def test_a_burst_of_switches_loses_no_update(tmp_path: Path) -> None:
    """Fifteen in a row, over and over: in the end each secondary serves the last one."""
    with followed(tmp_path) as its:
        its.publish(SERIAL, MAIN)
        its.arrives(SERIAL, MAIN)
        for burst in range(1, 5):
            for number in range(15):
                serial, address = SERIAL + 100 * burst + number, (MAIN, BACKUP)[number % 2]
                its.publish(serial, address)
            its.arrives(serial, address)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_secondary_over_ipv6(tmp_path: Path, kind: str) -> None:
    """Asked and notified there, like any other."""
    with followed(tmp_path, kind, address="::1") as its:
        for serial, address in ((SERIAL, MAIN), (SERIAL + 1, BACKUP)):
            its.publish(serial, address)
            its.arrives(serial, address)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_one_that_was_down_is_brought_back(tmp_path: Path, kind: str) -> None:
    """It is back with the old zones, or none, and would not ask the primary for long."""
    with followed(tmp_path, kind) as its:
        its.publish(SERIAL, MAIN)
        its.arrives(SERIAL, MAIN)
        its.them.secondaries[kind].kill()
        its.publish(SERIAL + 1, BACKUP)
        assert its.followers[kind].wait(time.monotonic() + 60) == dict.fromkeys(
            ZONES, Behind(None, "connection refused")
        )
        its.them.secondaries[kind].start()
        its.arrives(SERIAL + 1, BACKUP)


def test_one_that_is_silent_delays_no_other(tmp_path: Path) -> None:
    """Packets vanish, as in a power cut: the others have the new zones, and the end comes soon."""
    with followed(tmp_path) as its:
        its.publish(SERIAL, MAIN)
        its.arrives(SERIAL, MAIN)
        silent = its.them.secondaries["nsd"].part
        silent.silence()
        its.publish(SERIAL + 1, BACKUP)
        others = {kind: each for kind, each in its.followers.items() if kind != "nsd"}
        Followed(its.them, others).says(Serves(SERIAL + 1))
        its.publish(SERIAL + 2, MAIN)
        Followed(its.them, others).says(Serves(SERIAL + 2))
        Followed(its.them, {"nsd": its.followers["nsd"]}).says(Behind(None, "timeout"))
        silent.resume()
        its.arrives(SERIAL + 2, MAIN)
        silent.silence()
        its.publish(SERIAL + 3, BACKUP)
        begun = time.monotonic()
        notify.stop(its.followers.values())
        assert time.monotonic() - begun < 10
        silent.resume()


def test_one_that_is_ahead_is_said(tmp_path: Path) -> None:
    """The primary's zones were put back from a backup: no secondary takes them."""
    with followed(tmp_path) as its:
        its.publish(SERIAL + 50, MAIN)
        its.arrives(SERIAL + 50, MAIN)
        its.publish(SERIAL, BACKUP)
        its.says(Behind(SERIAL + 50, "is ahead of the primary"))
        for follower in its.followers.values():
            assert follower.serials(ZONES) == dict.fromkeys(ZONES, SERIAL + 50)
        its.publish(SERIAL + 51, BACKUP)
        its.arrives(SERIAL + 51, BACKUP)


def test_other_content_at_the_same_serial_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary loads it, no secondary ever hears of it: a higher serial is called for."""
    monkeypatch.setattr(notify, "_STUCK_SECONDS", 0.5)
    with followed(tmp_path) as its:
        its.publish(SERIAL, MAIN)
        its.arrives(SERIAL, MAIN)
        its.publish(SERIAL, BACKUP)
        its.says(Behind(SERIAL, f"serves other addresses at this serial: {MAIN}"))
        wait_for(
            lambda: all(each.stuck() == set(ZONES) for each in its.followers.values()),
            30,
            "calls for a new serial",
        )
        its.publish(SERIAL + 1, BACKUP)
        its.arrives(SERIAL + 1, BACKUP)
        assert not any(follower.stuck() for follower in its.followers.values())


def hold(copies: Sequence[Path], serial: bytes) -> bool:
    """Whether all these zone files, in BIND's raw format, have that serial somewhere."""
    return all(copy.exists() and serial in copy.read_bytes() for copy in copies)


def test_one_that_gives_no_soa_and_takes_notifies(tmp_path: Path) -> None:
    """A hidden distributor transfers, and answers no questions of ours."""

    def hidden(conf: str) -> str:
        return conf.replace("  allow-notify", "  allow-query { none; };\n  allow-notify")

    with followed(tmp_path, "bind", edit=hidden) as its:
        copies = [its.them.secondaries["bind"].folder / zone for zone in ZONES]
        for serial, address in ((SERIAL, MAIN), (SERIAL + 1, BACKUP)):
            its.publish(serial, address)
            assert its.followers["bind"].wait(time.monotonic() + 60) == dict.fromkeys(
                ZONES, Behind(None, "took the NOTIFY, gives no SOA: REFUSED")
            )
            wait_for(partial(hold, copies, serial.to_bytes(4)), 30, "the transfers")


@pytest.mark.parametrize(
    ("kind", "rcode"), [("nsd", "REFUSED"), ("bind", "REFUSED"), ("knot", "NOTAUTH")]
)
def test_one_that_refuses_the_notify_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, rcode: str
) -> None:
    """The key was forgotten in the configuration: status and log name the rcode."""
    with followed(tmp_path, kind) as its:
        its.publish(SERIAL, MAIN)
        its.arrives(SERIAL, MAIN)
        notify.stop(its.followers.values())
        unsigned = Followed(its.them, {kind: follow(its.them.secondaries[kind], None)})
        unsigned.publish(SERIAL + 1, MAIN)
        unsigned.followers[kind].start()
        said = f"serves an older serial; refuses NOTIFY: {rcode}"
        unsigned.says(Behind(SERIAL, said, coming=True))
        notify.stop(unsigned.followers.values())
    lines = [vars(line) for line in caplog.records if line.message == "notify failed"]
    assert [(its["nameserver"], its["zones"], its["reason"]) for its in lines] == [
        (kind, len(ZONES), rcode)
    ]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_wrong_secret_is_said(tmp_path: Path, kind: str) -> None:
    """It signs all that is said: neither question nor NOTIFY is answered."""
    wrong = dns.tsig.Key("transfer", "d3Jvbmc=", "hmac-sha256")
    with followed(tmp_path, kind, key=wrong) as its:
        its.publish(SERIAL, MAIN)
        its.says(Behind(None, "BADSIG"))
