"""The shipped Alertmanager configuration, as Alertmanager's own tool sees it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from durations import seconds, without_durations

from actions import witness
from exporter import config

ROOT = Path(__file__).parents[2]
AMTOOL = shutil.which("amtool") or "amtool"  # not found: the error names it
PROFILES = {
    "default": ROOT / "alertmanager" / "alertmanager.yml",
    "fast": ROOT / "alertmanager" / "fast.yml",
}

RULES = {
    "default": ROOT / "prometheus" / "rules.yml",
    "fast": ROOT / "prometheus" / "fast" / "rules.yml",
}

# Actions hears of servers that are down, and of nothing else: never of its own troubles.
RECEIVERS = {
    "MainDown": "actions",
    "BackupDown": "actions",
    "ServerWatched": "evidence",
    "ActionsUnreachable": "owner",
    "ConvergeFailing": "owner",
    "AlertmanagerUnreachable": "owner",
    "RunningAlone": "owner",
    "Blind": "owner",
    "PinnedServerDown": "owner",
    "NotSwitched": "owner",
    "ZonePointsElsewhere": "owner",
    "Flapping": "owner",
    "NeverSeenUp": "owner",
}

profile = pytest.mark.parametrize("profile", PROFILES)


@profile
def test_alertmanager_accepts_the_configuration(profile: str) -> None:
    """Receivers, routes and times are what Alertmanager understands."""
    amtool("check-config", PROFILES[profile])


@profile
@pytest.mark.parametrize("alert", [*RECEIVERS, "DiskFull"])
def test_each_alert_goes_to_whom_it_concerns(profile: str, alert: str) -> None:
    """One receiver for each, whatever else its labels say; what is not ours is the owner's."""
    amtool(
        "config",
        "routes",
        "test",
        f"--config.file={PROFILES[profile]}",
        f"--verify.receivers={RECEIVERS.get(alert, 'owner')}",
        f"alertname={alert}",
        "server=main",
        "severity=critical",
    )


@profile
def test_actions_is_told_of_the_alerts_that_it_goes_by(profile: str) -> None:
    """Every rule has its receiver above; the webhook gets those that are evidence, no others."""
    (group,) = yaml.safe_load(RULES[profile].read_text())["groups"]
    assert {rule["alert"] for rule in group["rules"]} == set(RECEIVERS)
    told = {alert for alert, receiver in RECEIVERS.items() if receiver == "actions"}
    assert told == set(witness.DOWN_ALERTS)


@profile
def test_actions_is_called_where_it_listens_with_its_token(profile: str) -> None:
    """The one webhook: every alert of a group, resolved ones too, authorised, no redirects."""
    settings = read(profile)
    example = config.read(ROOT / "examples" / "zonerw.toml").actions
    assert {r["name"]: set(r) - {"name"} for r in settings["receivers"]} == {
        "actions": {"webhook_configs"},
        "evidence": set(),
        "owner": set(),
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


def test_profiles_differ_in_durations_only() -> None:
    """What holds for the fast profile, which the demo and the tests run, holds for the other."""
    default, fast = (PROFILES[p].read_text() for p in ("default", "fast"))
    assert without_durations(fast) == without_durations(default)
    assert fast != default


def amtool(*words: str | Path) -> None:
    ran = subprocess.run([AMTOOL, *words], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def read(profile: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(PROFILES[profile].read_text())
    return settings
