"""When the primary is asked, told to reload, and given up; on a clock of the test's own."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actions import nameserver, primary
from actions.metrics import Metrics
from actions.outcome import Tally
from actions.primary import Answer, Primary
from exporter import config as configuration
from exporter import soa

OLD, NEW, AGAIN = 1, 2, 3
SERVFAIL = soa.NoSerial("SERVFAIL")


def serial(number: int) -> soa.Serial:
    """An SOA's."""
    return soa.Serial(number, b"")


@dataclass
class Server:
    """A name server that answers by the clock: seconds since the first reload, and the zone."""

    answer: Callable[[str, float], Answer]
    now: float = 1000.0
    reloads: list[float] = field(default_factory=list)
    began: float = 1000.0

    def sleep(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds

    def reload(self, _: object) -> None:
        """Note when."""
        self.reloads.append(self.now - self.began)

    def ask(self, _: object, zones: Collection[str], _patience: float) -> Mapping[str, Answer]:
        """Answer, in no time."""
        return {zone: self.answer(zone, self.now - self.began) for zone in zones}


@dataclass
class Publishing:
    """Notes when what was served, and given back."""

    server: Server
    refusable: Collection[str] = ()
    told: dict[str, float] = field(default_factory=dict)
    back: dict[str, float] = field(default_factory=dict)

    def served(self, zones: Mapping[str, soa.Serial]) -> None:
        """They are."""
        assert not self.told.keys() & zones.keys()
        self.told |= dict.fromkeys(zones, self.server.now - self.server.began)

    def give_back(self, zones: Collection[str]) -> Mapping[str, int]:
        """They are, with another serial."""
        self.back |= dict.fromkeys(zones, self.server.now - self.server.began)
        return {zone: AGAIN for zone in zones if zone != "lost"}


Seeing = Callable[..., tuple[Publishing, Tally]]


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> Seeing:
    """See zones served by a server that answers so."""
    config = configuration.read(Path("examples/zonerw.toml"))

    def see(
        zones: Collection[str],
        answer: Callable[[str, float], Answer],
        *,
        refusable: Collection[str] = (),
        hopeless: Collection[str] = (),
        insist: bool = True,
    ) -> tuple[Publishing, Tally]:
        server = Server(answer)
        monkeypatch.setattr(time, "monotonic", lambda: server.now)
        monkeypatch.setattr(time, "sleep", server.sleep)
        monkeypatch.setattr(nameserver, "reload", server.reload)
        monkeypatch.setattr(soa, "ask", server.ask)
        publishing, tally = Publishing(server, refusable), Tally(Metrics(config))
        answers = server.ask(None, zones, 0)
        Primary(config.primary, tally).see_served(
            dict.fromkeys(zones, NEW), answers, hopeless, publishing, insist=insist
        )
        return publishing, tally

    return see


def named(number: int, what: str = "zone") -> list[str]:
    """So many zones."""
    return [f"{what}{n}.example" for n in range(number)]


def coming(at: float) -> Callable[[str, float], Answer]:
    """Zones that come then, but for those that are stuck for good."""

    def answer(zone: str, now: float) -> Answer:
        return serial(NEW if now >= at and not zone.startswith("stuck") else OLD)

    return answer


@pytest.mark.parametrize("stuck", [1, 19, 20, 40])
def test_stuck_zones_hide_no_others(see: Seeing, stuck: int) -> None:
    """However many they are, and though they stand first."""
    zones = [*named(stuck, "stuck"), *named(200)]
    publishing, tally = see(zones, coming(0.35))
    assert publishing.told.keys() == set(named(200))
    assert max(publishing.told.values()) < 0.45
    assert {n for n, its in tally.zones.items() if its.failed == "verify"} == set(zones[:stuck])


def test_one_zone_among_thousands_is_seen_with_the_next_reload(see: Seeing) -> None:
    """All are asked for then, though none of some was there."""
    publishing, _ = see([*named(5000, "stuck"), "zone"], coming(0.3))
    second = publishing.server.reloads[1]
    assert publishing.told["zone"] <= max(second, 0.3) + 0.1


def test_a_file_that_was_gone_is_not_taken_for_a_refusal(see: Seeing) -> None:
    """The primary answered so before it was told to load what is there now."""

    def answer(_: str, now: float) -> Answer:
        return serial(NEW) if now >= 1.5 else SERVFAIL

    publishing, _ = see(["zone"], answer, refusable={"zone"})
    assert publishing.told["zone"] == pytest.approx(1.5, abs=0.1)
    assert not publishing.back


def test_what_is_refused_is_given_back_once(see: Seeing) -> None:
    """What comes in its place is waited for; where that is refused too, no longer than others."""

    def answer(zone: str, now: float) -> Answer:
        if zone == "good":
            return serial(AGAIN) if now > 1 else serial(OLD) if now == 0 else SERVFAIL
        return SERVFAIL if now else serial(OLD)

    publishing, tally = see(["good", "bad"], answer, refusable={"good", "bad"})
    assert publishing.back.keys() == {"good", "bad"}
    assert publishing.back["good"] == pytest.approx(0.65, abs=0.1)
    assert publishing.told.keys() == {"good"}
    assert tally.zones["bad"].failed == "verify"
    assert publishing.server.now - publishing.server.began < 6


def test_what_is_refused_and_cant_be_given_back_is_given_up(see: Seeing) -> None:
    """Nobody waits for it any longer."""
    publishing, tally = see(
        ["lost"], lambda _, now: SERVFAIL if now else serial(OLD), refusable={"lost"}
    )
    assert publishing.back.keys() == {"lost"}
    assert tally.zones["lost"].failed == "verify"
    assert publishing.server.now - publishing.server.began < 1


def test_a_hopeless_zone_costs_a_reload_only_where_something_was_written(see: Seeing) -> None:
    """And then no more time than one more reload takes."""
    zones = ["stuck"]
    publishing, tally = see(zones, coming(0), hopeless=zones, insist=False)
    assert publishing.server.reloads == []
    assert tally.zones["stuck"].failed == "verify"
    publishing, _ = see(zones, coming(0), hopeless=zones)
    assert len(publishing.server.reloads) == 1
    assert publishing.server.now - publishing.server.began < 0.5


def test_zones_that_trickle_in_hold_up_nobody_for_ever(see: Seeing) -> None:
    """A newer decision may be waiting."""

    def answer(zone: str, now: float) -> Answer:
        return serial(NEW if now >= 3 * int(zone) else OLD)

    publishing, tally = see(list(map(str, range(1, 100))), answer)
    assert publishing.told["10"] == pytest.approx(30, abs=0.5)
    assert publishing.server.now - publishing.server.began < primary._AT_MOST_SECONDS + 1
    assert tally.zones["99"].failed == "verify"
