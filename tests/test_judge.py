"""Asking both witnesses, and what follows."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from witnesses import ALERTS, LOOKS

from actions.judge import Judgement, Witnesses, judge, mark
from actions.looks import Attention, Seen
from actions.state import Pin
from actions.witness import Alerts
from exporter import config as configuration
from exporter.config import Config, Server

CONFIG = configuration.read(Path("examples/zonerw.toml"))
BOTH = {name: mark(server) for name, server in CONFIG.servers.items()}


class World:
    """What the witnesses say is the test's choice."""

    def __init__(self, main: str, backup: str = "quiet up", *, met: str = "") -> None:
        said = {"main": main.split(), "backup": backup.split()}
        self._alerts = Alerts({name: ALERTS[its[0]] for name, its in said.items()}, None)
        looks = {name: LOOKS[its[1]] for name, its in said.items()}
        self._seen = Seen(looks, None, frozenset(met.split()), looking=True)
        self.attended: Attention | None = None

    def judge(
        self,
        serving: str = "main",
        pin: Pin | None = None,
        seen_up: Mapping[str, str] = BOTH,
        config: Config = CONFIG,
        *,
        blind: str | None = None,
    ) -> Judgement:
        """Ask and decide."""

        def looks(attended: Attention) -> Seen:
            self.attended = attended
            return replace(self._seen, blind=blind)

        return judge(config, Witnesses(lambda: self._alerts, looks), serving, pin, seen_up)


def test_both_are_asked_and_the_decision_follows() -> None:
    """Who was looked at, who said what, and why."""
    world = World("firing down")
    judgement = world.judge()
    assert world.attended == Attention(("main", "backup"), True, ("firing", "quiet"))
    assert judgement.decision.server == "backup"
    assert judgement.decision.why == ("main: alert firing, look down; backup: alert quiet, look up")
    assert (judgement.serving, judgement.looking, judgement.alone) == ("main", True, False)


def test_who_was_never_seen_up_is_not_voted_down() -> None:
    """And it is said."""
    judgement = World("firing down").judge(seen_up={})
    assert judgement.decision.server == "main"
    assert judgement.doubts["main"].startswith("alert firing, look down, but never seen up")


def test_a_quiet_alert_is_no_sight_of_a_server() -> None:
    """It may be by the check of before, that was changed for a wrong one just now."""
    judgement = World("quiet unclear").judge(seen_up={})
    assert not judgement.testimonies["main"].seen_up


def test_a_look_is() -> None:
    """From the first one that succeeds."""
    judgement = World("firing down", met="main").judge(seen_up={})
    assert judgement.testimonies["main"].seen_up
    assert judgement.decision.server == "backup"


@pytest.mark.parametrize(
    "change",
    [
        {"checks": {"web": {"url": "http://www.example.org/other.html"}}},
        {"addresses": ["192.0.2.99"]},
        {"look_at": ["192.0.2.99"]},
    ],
)
def test_seen_up_holds_for_the_checks_it_was_seen_with(change: dict[str, object]) -> None:
    """Another page, or another place to look at, has to be seen anew."""
    main = CONFIG.servers["main"].model_dump(mode="json", exclude_defaults=True)
    changed = {**CONFIG.servers, "main": Server.model_validate({**main, **change})}
    config = replace(CONFIG, servers=changed)
    judgement = World("firing down").judge(config=config)
    assert not judgement.testimonies["main"].seen_up
    assert judgement.testimonies["backup"].seen_up


def test_the_order_of_the_checks_is_none_of_the_mark() -> None:
    """A file put in order is no new configuration."""
    checks = {"a": {"url": "http://a/"}, "b": {"url": "http://b/"}}
    one, other = (
        Server.model_validate({"addresses": ["192.0.2.1"], "checks": dict(order)})
        for order in (checks.items(), reversed(checks.items()))
    )
    assert mark(one) == mark(other)


def test_a_check_that_is_only_shown_is_none_of_the_mark() -> None:
    """Who adds one, or corrects it, has not to wait until main is seen up again."""
    web = {"web": {"url": "http://a/"}}
    shown = {"news": {"tcp": 119, "required": False}}
    one, other = (
        Server.model_validate({"addresses": ["192.0.2.1"], "checks": checks})
        for checks in (web, web | shown)
    )
    assert mark(one) == mark(other)


def test_blind_nothing_is_decided() -> None:
    """Though both witnesses have spoken."""
    judgement = World("firing down").judge(blind="no reference answers")
    assert judgement.decision.server == "main"
    assert judgement.blind == "no reference answers"


def test_the_mark_is_that_of_the_same_file_read_again() -> None:
    """It outlives a restart, and an upgrade that adds keys with defaults."""
    again = configuration.read(Path("examples/zonerw.toml"))
    assert {name: mark(server) for name, server in again.servers.items()} == BOTH


PIN = Pin(server="backup", until=datetime(2026, 11, 23, tzinfo=UTC), reason="disks", by="alice")


def test_a_pin_decides_and_its_reason_is_told() -> None:
    """Whatever the witnesses say; they are heard all the same."""
    judgement = World("quiet up").judge(pin=PIN)
    assert (judgement.decision.server, judgement.decision.cause) == ("backup", "pin")
    assert judgement.decision.why == "backup was pinned: disks"
    assert judgement.testimonies["main"].verdict == "up"


def test_what_is_in_doubt_is_told_with_its_reason() -> None:
    """Who disagrees, and that our own line is down; nothing where all is clear."""
    assert World("quiet up").judge().doubts == {}
    judgement = World("firing up").judge(blind="no reference answers")
    assert judgement.doubts == {
        "our own line": "no reference answers",
        "main": "alert and look disagree: alert firing, look up",
    }


def test_alone_is_who_knows_no_alert_of_anybody() -> None:
    """One is enough not to be."""
    assert World("unknown up", "unknown up").judge().alone
    assert not World("unknown up", "quiet up").judge().alone


def test_handed_back_by_hand_only() -> None:
    """As the configuration says."""
    manual = replace(CONFIG, policy=CONFIG.policy.model_copy(update={"handback": "manual"}))
    assert World("quiet up").judge("backup").decision.server == "main"
    assert World("quiet up").judge("backup", config=manual).decision.server == "backup"
