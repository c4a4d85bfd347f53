"""The shipped Alertmanager configuration, as Alertmanager's own tool sees it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from durations import seconds, without_durations
from tools import run

from actions import witness
from exporter import config

ROOT = Path(__file__).parents[2]
PROFILES = {
    "default": ROOT / "alertmanager" / "alertmanager.yml",
    "fast": ROOT / "alertmanager" / "fast.yml",
}

RULES = {
    "default": ROOT / "prometheus" / "rules.yml",
    "fast": ROOT / "prometheus" / "fast" / "rules.yml",
}

# The owner hears of all but of what always fires. Actions hears of servers that are down, and of
# nothing else: never of its own troubles.
RECEIVERS = {
    "MainDown": "actions,owner",
    "BackupDown": "actions,owner",
    "ServerWatched": "evidence",
}
OWNER = "owner"

profile = pytest.mark.parametrize("profile", PROFILES)


@profile
def test_alertmanager_accepts_the_configuration(profile: str) -> None:
    """Receivers, routes and times are what Alertmanager understands."""
    run("amtool", "check-config", PROFILES[profile])


@profile
def test_each_alert_goes_to_whom_it_concerns(profile: str) -> None:
    """Whatever else its labels say; what is not one of ours is the owner's too."""
    named = alerts(profile)
    assert set(RECEIVERS) <= named
    for alert in (*named, "DiskFull"):
        told = receivers(
            PROFILES[profile], f"alertname={alert}", "server=main", "severity=critical"
        )
        assert told == RECEIVERS.get(alert, OWNER), alert


def test_actions_is_told_of_the_alerts_that_it_goes_by() -> None:
    """The webhook gets those that are evidence, no others."""
    told = {alert for alert, receivers in RECEIVERS.items() if "actions" in receivers.split(",")}
    assert told == set(witness.DOWN_ALERTS)


@profile
def test_actions_is_called_where_it_listens_with_its_token(profile: str) -> None:
    """The one webhook: every alert of a group, resolved ones too, authorised, no redirects."""
    settings = read(profile)
    example = config.read(ROOT / "examples" / "zonerw.toml").actions
    assert {r["name"]: set(r) - {"name"} for r in settings["receivers"]} == {
        "actions": {"webhook_configs"},
        "evidence": set(),
        "owner": {"email_configs"},
    }
    (webhook,) = next(r for r in settings["receivers"] if r["name"] == "actions")["webhook_configs"]
    assert webhook == {
        "url": f"http://{example.listen}/webhook",
        "send_resolved": True,
        "max_alerts": 0,
        "http_config": {
            "authorization": {"credentials_file": str(example.webhook_token_file)},
            "follow_redirects": False,
        },
    }


@profile
def test_the_last_word_is_repeated_within_a_minute(profile: str) -> None:
    """An alert that still fires is sent again at a group interval's tick, under a minute later."""
    (route,) = [r for r in read(profile)["route"]["routes"] if r["receiver"] == "actions"]
    tick, repeat = seconds(route["group_interval"]), seconds(route["repeat_interval"])
    assert route["group_by"] == ["alertname", "server"]
    assert tick >= 10  # less makes newer versions storm
    next_tick = -(-repeat // tick) * tick
    assert 0 < next_tick - repeat <= 1
    assert next_tick < 60


@profile
def test_the_owner_fills_in_one_line(profile: str) -> None:
    """Sender and recipient are one; that a trouble is over is told too; this machine's mailer."""
    text = PROFILES[profile].read_text()
    assert text.count("you@example.org") == 1
    settings = yaml.safe_load(text.replace("you@example.org", "me@example.net"))
    assert settings["global"] == {
        "smtp_from": "me@example.net",
        "smtp_smarthost": "127.0.0.1:25",
        "smtp_require_tls": False,
    }
    (owner,) = [r for r in settings["receivers"] if r["name"] == "owner"]
    assert owner["email_configs"] == [{"to": "me@example.net", "send_resolved": True}]


@profile
def test_a_thousand_zones_are_one_mail_and_what_goes_on_is_told_daily(profile: str) -> None:
    """Alerts are grouped by name alone; zones that get well in waves are a few mails."""
    routes = [r for r in read(profile)["route"]["routes"] if r["receiver"] == OWNER]
    for route in routes:
        assert route["group_by"] == ["alertname"]
        assert 10 <= seconds(route["group_wait"]) <= 60
        assert seconds(route["repeat_interval"]) == 24 * 3600
    servers, rest = routes
    assert "matchers" not in rest
    assert 60 <= seconds(servers["group_interval"]) <= 300
    assert seconds(rest["group_interval"]) >= 5 * seconds(servers["group_interval"])


@profile
def test_of_servers_the_owner_hears_sooner(profile: str) -> None:
    """That main is well again is not to be waited for; they are few, so their mails are too."""
    route = next(r for r in read(profile)["route"]["routes"] if r["receiver"] == OWNER)
    soon = matched(profile, route["matchers"])
    assert soon == {"MainDown", "BackupDown", "BackupServes", "NotSwitched", "PinnedServerDown"}
    assert all(labels_of(profile, alert) == {"server"} for alert in soon)


# Muted: while the first fires, the second is told to nobody, where both say the same of these.
MUTED = {
    ("MainDown", "CheckFailing"): {"server"},
    ("BackupDown", "CheckFailing"): {"server"},
    ("ZonePointsElsewhere", "NameserverBehind"): {"zone", "nameserver"},
    ("SyncStale", "SyncSkipped"): {"job"},
}


@profile
def test_only_what_follows_from_another_alert_is_muted(profile: str) -> None:
    """And where both have the labels: what neither has is alike for Alertmanager."""
    found = {}
    for rule in read(profile)["inhibit_rules"]:
        sources, targets = (matched(profile, rule[f"{w}_matchers"]) for w in ("source", "target"))
        found |= {(s, t): set(rule["equal"]) for s in sources for t in targets}
    assert found == MUTED
    for (source, target), labels in found.items():
        assert labels <= labels_of(profile, source) & labels_of(profile, target)


def test_profiles_differ_in_durations_only() -> None:
    """What holds for the fast profile, which the demo and the tests run, holds for the other."""
    default, fast = (PROFILES[p].read_text() for p in ("default", "fast"))
    assert without_durations(fast) == without_durations(default)
    assert fast != default


def receivers(settings: Path, *labels: str) -> str:
    return run("amtool", "config", "routes", "test", f"--config.file={settings}", *labels).strip()


def read(profile: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(PROFILES[profile].read_text())
    return settings


def rules(profile: str) -> dict[str, dict[str, Any]]:
    """Alert -> its rule."""
    groups = yaml.safe_load(RULES[profile].read_text())["groups"]
    return {r["alert"]: r for group in groups for r in group["rules"] if "alert" in r}


def alerts(profile: str) -> set[str]:
    return set(rules(profile))


def labels_of(profile: str, alert: str) -> set[str]:
    """Those that its expression keeps."""
    match = re.search(r" by \((.*?)\)", rules(profile)[alert]["expr"])
    return set(match[1].split(", ")) if match else set()


def matched(profile: str, matchers: list[str]) -> set[str]:
    """The alerts whose names the matchers take."""
    (pattern,) = [m for m in matchers if m.startswith("alertname")]
    name = re.fullmatch(r'alertname=~?"(.*)"', pattern)
    assert name, pattern
    return {alert for alert in alerts(profile) if re.fullmatch(name[1], alert)}
