"""The shipped Prometheus configuration, as Prometheus's own tools and the calendar see it."""

import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from durations import seconds, without_durations
from tools import run

from actions.metrics import Step
from exporter import config

ROOT = Path(__file__).parents[2]
PROFILES = {"default": ROOT / "prometheus", "fast": ROOT / "prometheus" / "fast"}
ALERTMANAGER = {
    "default": ROOT / "alertmanager" / "alertmanager.yml",
    "fast": ROOT / "alertmanager" / "fast.yml",
}
LONGEST_PROBE = 5.0  # the exporter gives a server no more, however patient the scrape
LONGEST_RELOAD = 4.0  # for so long actions waits for its primary

# By how often they are evaluated: as often as a server's death is to be seen, and less often.
CASES = ("rules_test.yml", "rules_minutes_test.yml", "rules_days_test.yml")
FILES = ("prometheus.yml", "rules.yml", *CASES)

profile = pytest.mark.parametrize("profile", PROFILES)


@profile
def test_prometheus_accepts_the_configuration_from_any_folder(profile: str, tmp_path: Path) -> None:
    """The rules are found beside the configuration, wherever Prometheus is started."""
    told = promtool("check", "config", PROFILES[profile] / "prometheus.yml", cwd=tmp_path)
    assert "1 rule files found" in told


@profile
def test_lint_finds_nothing_in_the_rules(profile: str) -> None:
    """All of promtool's lints pass."""
    told = promtool("check", "rules", "--lint=all", "--lint-fatal", PROFILES[profile] / "rules.yml")
    assert f"{len(rules(profile))} rules found" in told


@profile
@pytest.mark.parametrize("name", CASES)
def test_rules_fire_when_they_should_and_only_then(profile: str, name: str) -> None:
    """The cases beside the rules hold, on Prometheus's own engine."""
    promtool("test", "rules", PROFILES[profile] / name)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """An alert without the one may never fire; without the other it may always."""
    expected: dict[bool, set[str]] = {True: set(), False: set()}
    for name in CASES:
        for case in yaml.safe_load((PROFILES["default"] / name).read_text())["tests"]:
            for test in case["alert_rule_test"]:
                expected[bool(test["exp_alerts"])].add(test["alertname"])
    named = {rule["alert"] for rule in alerts("default")}
    assert expected == {True: named, False: named}


@pytest.mark.parametrize("name", FILES)
def test_profiles_differ_in_durations_only(name: str) -> None:
    """What holds for the fast profile, which the demo and the tests run, holds for the other."""
    default, fast = ((PROFILES[p] / name).read_text() for p in ("default", "fast"))
    alike, fast_alike = (re.sub(r"\[\w+\]\)", "[RANGE])", text) for text in (default, fast))
    assert without_durations(fast_alike) == without_durations(alike)
    assert fast != default


@pytest.mark.parametrize(("profile", "at_worst"), [("default", 90.0), ("fast", 5.0)])
def test_worst_case_from_mains_death_to_the_webhook(profile: str, at_worst: float) -> None:
    """The promise holds by arithmetic, even for a server that goes silent right after a look."""
    interval, timeout, evaluation = looks(profile)
    hold = alert_for(profile, "MainDown")
    probe = min(timeout, LONGEST_PROBE)
    pending = math.ceil(hold / evaluation) * evaluation
    worst = interval + probe + evaluation + pending + group_wait(profile)
    assert worst < at_worst


@profile
def test_one_lost_look_is_over_before_an_alert_fires(profile: str) -> None:
    """A look stands until the next one is in; an alert waits longer, whatever the phases."""
    interval, _, evaluation = looks(profile)
    for alert in ("MainDown", "BackupDown"):
        pending = math.ceil(alert_for(profile, alert) / evaluation) * evaluation
        assert pending >= 1.5 * interval


@profile
def test_a_server_is_said_to_be_down_before_it_is_said_to_be_watched(profile: str) -> None:
    """Watched and not down means well, also right after a restart of Prometheus."""
    evaluation = looks(profile)[2]
    watched = math.ceil(alert_for(profile, "ServerWatched") / evaluation)
    for alert in ("MainDown", "BackupDown"):
        assert watched > math.ceil(alert_for(profile, alert) / evaluation)


@profile
def test_a_switch_under_way_is_not_said_to_be_missing(profile: str) -> None:
    """NotSwitched gives actions the time of a switch, with alerts or alone, and more to show it."""
    policy = config.Policy()
    evaluation = looks(profile)[2]
    pending = math.ceil(alert_for(profile, "MainDown") / evaluation) * evaluation
    told = pending + group_wait(profile) + LONGEST_PROBE
    alone = policy.looks * (policy.every + LONGEST_PROBE)
    shown = scrape_interval(profile, "zonerw-actions") + evaluation
    assert alert_for(profile, "NotSwitched") > max(told, alone) + LONGEST_RELOAD + shown


@profile
def test_a_nameserver_is_asked_several_times_before_it_is_said_to_be_behind(profile: str) -> None:
    """Zones are looked at less often than servers; the looks before a switch say nothing of it."""
    interval = scrape_interval(profile, "zonerw-zones")
    for alert in ("ZonePointsElsewhere", "NameserverBehind", "ZoneNotServed"):
        assert alert_for(profile, alert) >= 4 * interval
    assert alert_for(profile, "NameserverUnreachable") >= 4 * interval


@profile
def test_what_excuses_a_nameserver_is_told_before_it_would_be(profile: str) -> None:
    """And what was seen of it in a dead server's time is over before it is no longer excused."""
    (rule,) = [r for r in alerts(profile) if r["alert"] == "NameserverUnreachable"]
    excuses = "|".join(re.findall(r'alertname=~?"(.*?)"', rule["expr"])).split("|")
    assert set(excuses) == {"MainDown", "BackupDown", "Blind"}
    scrape = scrape_interval(profile, "zonerw-zones")
    for alert in excuses:
        assert alert_for(profile, alert) + 2 * scrape <= seconds(rule["for"])


@profile
def test_what_excuses_a_sync_job_is_told_before_it_is_said_to_be_stale(profile: str) -> None:
    """However short its interval is: whom it can't reach is down before it would be told of."""
    (rule,) = [
        r for r in rules(profile) if r.get("record") == "zonerw:sync_excused:timestamp_seconds"
    ]
    excuses = re.findall(r'alertname=~"(.*?)"', rule["expr"])[0].split("|")
    assert set(excuses) == {"MainDown", "BackupDown", "Blind"}
    interval, timeout, evaluation = looks(profile)
    for alert in excuses:
        seen = interval + min(timeout, LONGEST_PROBE) + 2 * evaluation
        assert alert_for(profile, alert) + seen <= alert_for(profile, "SyncStale")


@profile
def test_zones_are_reckoned_with_as_often_as_they_are_asked_for(profile: str) -> None:
    """Twice as often would only be twice the work; servers come at the evaluation interval."""
    intervals = {group["name"]: group.get("interval") for group in groups(profile)}
    zones = intervals.pop("zonerw-zones")
    assert seconds(zones) == scrape_interval(profile, "zonerw-zones")
    assert intervals == {"zonerw": None}


@profile
def test_what_waits_for_hours_is_restored_when_prometheus_is_restarted(profile: str) -> None:
    """Prometheus takes up a `for` of ten minutes or more where it was; less begins anew."""
    for alert in ("SourcePending", "ReferenceDown", "SyncSkipped"):
        assert alert_for(profile, alert) >= 600


@profile
def test_runs_that_go_on_failing_are_seen_to_and_one_that_failed_is_forgotten(profile: str) -> None:
    """ConvergeFailing sees several of the timer's runs, and waits until they are out of sight."""
    (rule,) = [r for r in alerts(profile) if r["alert"] == "ConvergeFailing"]
    (range_,) = map(seconds, re.findall(r"\[(\w+)\]", rule["expr"]))
    run = config.Alertmanager(url="http://127.0.0.1:9093").poll + LONGEST_RELOAD
    scrape = scrape_interval(profile, "zonerw-actions")
    assert range_ >= 3 * run + scrape
    assert seconds(rule["for"]) >= 2 * range_ + looks(profile)[2]


@profile
def test_a_restart_of_prometheus_is_over_before_actions_is_said_to_be_alone(profile: str) -> None:
    """Until all servers are watched again, nothing is known of any of them."""
    interval, _, evaluation = looks(profile)
    watched = math.ceil(alert_for(profile, "ServerWatched") / evaluation) * evaluation
    assert alert_for(profile, "RunningAlone") >= 2 * (interval + evaluation + watched)


@profile
def test_each_alert_tells_in_words_whom_it_is_about(profile: str) -> None:
    """Every alert has a severity, a summary and a description; both name what its labels say.

    A nameserver's server is there to keep still by: a third party's has none.
    """
    for rule in alerts(profile):
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in ("critical", "warning", "none")
        said = {
            name: set(re.findall(r"\{\{ \$labels\.(\w+) \}\}", rule["annotations"][name]))
            for name in ("summary", "description")
        }
        if rule["alert"] == "NameserverUnreachable":
            assert said == {"summary": {"nameserver"}, "description": {"nameserver", "role"}}
        else:
            assert said == {"summary": labels(rule), "description": labels(rule)}


@profile
def test_alerts_keep_no_label_of_a_scrape(profile: str) -> None:
    """However many look, from wherever: one alert for each server, or name server and zone.

    A sync job's `job` is its own.
    """
    assert {rule["alert"]: labels(rule) for rule in alerts(profile)} == {
        "MainDown": {"server"},
        "BackupDown": {"server"},
        "ServerWatched": {"server"},
        "ActionsUnreachable": set(),
        "ConvergeFailing": {"step"},
        "AlertmanagerUnreachable": set(),
        "RunningAlone": set(),
        "Blind": set(),
        "BackupServes": {"server"},
        "PinnedServerDown": {"server"},
        "NotSwitched": {"server"},
        "Flapping": set(),
        "NeverSeenUp": {"server"},
        "NotHandedBack": {"server"},
        "CheckFailing": {"server", "check", "address"},
        "CertificateExpiring": {"server", "check", "address"},
        "ExportersDisagree": {"server"},
        "ExporterUnreachable": {"instance"},
        "ReferenceDown": {"reference"},
        "NothingPublished": set(),
        "SyncSkipped": {"job"},
        "SyncRefused": {"job"},
        "SyncStale": {"job"},
        "ZoneExpiring": {"zone", "nameserver"},
        "NameserverUnreachable": {"nameserver", "role", "server"},
        "ZoneNotServed": {"zone", "nameserver"},
        "NameserverBehind": {"zone", "nameserver"},
        "ZonePointsElsewhere": {"zone", "nameserver", "server"},
        "SourceBroken": {"zone"},
        "SourcePending": {"zone"},
        "SerialsLow": {"zone"},
    }


def test_rules_ask_for_metrics_and_steps_that_there_are() -> None:
    """About a metric of another name an alert would never fire; a misspelt step leaves none out."""
    pages = [
        (ROOT / "tests" / "golden" / name).read_text() for name in ("actions.txt", "metrics.txt")
    ]
    there = {name for page in pages for name in re.findall(r"(?m)^(zonerw_\w+)", page)}
    said = [r["expr"] + r.get("annotations", {}).get("description", "") for r in rules("default")]
    asked = {name for text in said for name in re.findall(r"zonerw_\w+", text)}
    steps = {step for text in said for step in re.findall(r'step!?="(.*?)"', text)}
    assert asked
    assert asked <= there
    assert steps
    assert steps <= set(get_args(Step))


@profile
def test_rules_ask_for_jobs_that_there_are(profile: str) -> None:
    """An alert about a job of another name would never fire."""
    settings = yaml.safe_load((PROFILES[profile] / "prometheus.yml").read_text())
    asked = {
        job
        for rule in rules(profile)
        for jobs in re.findall(r'job=~?"(.*?)"', rule["expr"])
        for job in jobs.split("|")
    }
    assert asked
    assert asked <= {job["job_name"] for job in settings["scrape_configs"]}


@profile
def test_scrapes_go_where_the_programs_listen(profile: str) -> None:
    """The targets are the programs' own default addresses, and the example's Alertmanager."""
    settings = yaml.safe_load((PROFILES[profile] / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: (job["static_configs"][0]["targets"], job.get("params"))
        for job in settings["scrape_configs"]
    }
    exporter, actions = str(config.Exporter().listen), str(config.Actions().listen)
    assert targets == {
        "zonerw-servers": ([exporter], {"collect[]": ["servers"]}),
        "zonerw-zones": ([exporter], {"collect[]": ["zones", "references"]}),
        "zonerw-actions": ([actions], None),
    }
    example = config.read(ROOT / "examples" / "zonerw.toml").alertmanager
    assert example is not None
    (alertmanager,) = settings["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"] == [{"targets": [example.url.removeprefix("http://")]}]


@profile
def test_a_sync_job_keeps_its_name_as_label(profile: str) -> None:
    """Actions says `job` of its sync jobs, and nobody else has a word in where he is scraped."""
    settings = yaml.safe_load((PROFILES[profile] / "prometheus.yml").read_text())
    honoured = {j["job_name"] for j in settings["scrape_configs"] if j.get("honor_labels")}
    assert honoured == {"zonerw-actions"}


def test_grafana_steps_as_finely_as_servers_are_looked_at() -> None:
    """The data source knows the default profile's scrape interval."""
    provisioned = ROOT / "grafana" / "provisioning" / "datasources" / "zonerw.yml"
    (source,) = yaml.safe_load(provisioned.read_text())["datasources"]
    assert source["uid"] == "zonerw"
    assert seconds(source["jsonData"]["timeInterval"]) == looks("default")[0]


def promtool(*words: str | Path, cwd: Path = ROOT) -> str:
    return run("promtool", *words, cwd=cwd, timeout=150)


def looks(profile: str) -> tuple[float, float, float]:
    """The servers' scrape interval and timeout, and the evaluation interval, in seconds."""
    settings = yaml.safe_load((PROFILES[profile] / "prometheus.yml").read_text())
    (job,) = [j for j in settings["scrape_configs"] if j["job_name"] == "zonerw-servers"]
    return (
        seconds(job["scrape_interval"]),
        seconds(job["scrape_timeout"]),
        seconds(settings["global"]["evaluation_interval"]),
    )


def scrape_interval(profile: str, job: str) -> float:
    settings = yaml.safe_load((PROFILES[profile] / "prometheus.yml").read_text())
    (one,) = [j for j in settings["scrape_configs"] if j["job_name"] == job]
    return seconds(one["scrape_interval"])


def group_wait(profile: str) -> float:
    routes = yaml.safe_load(ALERTMANAGER[profile].read_text())["route"]["routes"]
    (route,) = [r for r in routes if r["receiver"] == "actions"]
    return seconds(route["group_wait"])


def groups(profile: str) -> list[dict[str, Any]]:
    its: list[dict[str, Any]] = yaml.safe_load((PROFILES[profile] / "rules.yml").read_text())[
        "groups"
    ]
    return its


def rules(profile: str) -> list[dict[str, Any]]:
    return [rule for group in groups(profile) for rule in group["rules"]]


def alerts(profile: str) -> list[dict[str, Any]]:
    return [rule for rule in rules(profile) if "alert" in rule]


def alert_for(profile: str, alert: str) -> float:
    (rule,) = [r for r in alerts(profile) if r["alert"] == alert]
    return seconds(rule["for"])


def labels(rule: dict[str, Any]) -> set[str]:
    """The labels that its expression leaves to an alert: those it aggregates by, first of all."""
    match = re.match(r"(?:max|min|sum)(?: by \((.*?)\) )?\(", rule["expr"])
    assert match, rule["expr"]
    return set(match[1].split(", ")) if match[1] else set()
