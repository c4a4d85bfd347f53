"""The shipped dashboards, as Grafana would read them. What they ask is asked in tests/system."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools import run

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in GRAFANA.glob("dashboards/*")}
PANELS = [
    (f"{board['uid']} {panel['title']}", panel)
    for board in DASHBOARDS.values()
    for panel in board["panels"]
]
TABLES = [(title, panel) for title, panel in PANELS if panel["type"] == "table"]
GOLDEN = "".join(path.read_text() for path in (ROOT / "tests" / "golden").iterdir())

# Where the README has pip install to.
PREFIX = Path("/opt/zonerw")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

each_dashboard = pytest.mark.parametrize("name", sorted(DASHBOARDS))
each_panel = pytest.mark.parametrize(
    "panel", [pytest.param(its, id=title) for title, its in PANELS]
)
each_table = pytest.mark.parametrize(
    "panel", [pytest.param(its, id=title) for title, its in TABLES]
)


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_what_is_committed_is_what_is_generated(hash_seed: str, tmp_path: Path) -> None:
    """To the byte, file by file, whenever it is generated."""
    for path in GRAFANA.glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "dashboards").mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, tmp_path / "generate.py"], env=environment, check=True)
    generated = {path.name: path.read_bytes() for path in (tmp_path / "dashboards").iterdir()}
    assert generated == {name: (GRAFANA / "dashboards" / name).read_bytes() for name in DASHBOARDS}


def test_there_are_three_dashboards_that_lead_to_each_other() -> None:
    """Each has a fixed address, and a link to all that have its tag."""
    assert {name: its["uid"] for name, its in DASHBOARDS.items()} == {
        f"{uid}.json": uid for uid in ("zonerw-overview", "zonerw-looks", "zonerw-machine-room")
    }
    for board in DASHBOARDS.values():
        (link,) = board["links"]
        assert (link["type"], link["tags"]) == ("dashboards", board["tags"])
        assert (link["includeVars"], link["keepTime"]) == (True, True)


@each_dashboard
def test_a_dashboard_asks_the_prometheus_that_is_chosen_at_its_top(name: str) -> None:
    """None is named, neither by a panel nor by a query nor by the choice itself."""
    (variable,) = DASHBOARDS[name]["templating"]["list"]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    assert variable["query"] == "prometheus"
    assert "current" not in variable
    named = list(values(DASHBOARDS[name], "datasource"))
    panels = DASHBOARDS[name]["panels"]
    queries = sum(len(panel["targets"]) for panel in panels)
    assert named == [SOURCE] * (len(panels) + queries + len(marks(name)))


@each_dashboard
def test_a_dashboard_shows_switches_and_pins_as_lines(name: str) -> None:
    """A switch at the very time that its value tells, in ms; a pin for as long as it lasts."""
    switch, pinned = marks(name)
    assert (switch["name"], switch["useValueForTime"]) == ("Switch", True)
    assert switch["expr"].endswith("timestamp_seconds) * 1000")
    assert "{{server}}" in switch["textFormat"]
    assert (pinned["name"], pinned["useValueForTime"]) == ("Pinned", False)


@each_dashboard
def test_panels_fill_the_width_and_each_has_a_number(name: str) -> None:
    """Rows of 24 columns without holes; links to a panel go by its number."""
    panels = DASHBOARDS[name]["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    covered: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in covered, panel["title"]
                covered[x, y] = panel["title"]
    bottom = max(y for _, y in covered) + 1
    assert covered.keys() == {(x, y) for x in range(24) for y in range(bottom)}


@each_panel
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """In a sentence for who forgot how it works; with a unit, and with a word for nothing."""
    assert re.fullmatch(r"[A-Zz].{20,}\.", panel["description"]), panel["description"]
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["noValue"]


@each_panel
def test_a_rate_is_taken_over_an_interval_that_fits_the_picture(panel: dict[str, Any]) -> None:
    """Of any other range it is too coarse, or finer than scrapes are."""
    for expr in exprs(panel):
        rates = re.findall(r"\b(?:i?rate|increase|i?delta|deriv|resets|changes)\b", expr)
        assert len(re.findall(r"\w+\[\$__rate_interval\]", expr)) == len(rates), expr


@each_panel
def test_a_panel_asks_for_metrics_that_there_are(panel: dict[str, Any]) -> None:
    """Each name is on the golden page of the exporter, or of actions, or is Prometheus's own."""
    known = {
        *re.findall(r"^(\w+)", GOLDEN, re.MULTILINE),
        "up",
        "scrape_duration_seconds",
        "ALERTS",
    }
    for expr in exprs(panel):
        asked = set(re.findall(r"zonerw\w+(?=[\[{)])|\w+(?=\{)", expr))
        assert asked, expr
        assert asked <= known


@each_panel
def test_a_legend_names_labels_that_the_query_keeps(panel: dict[str, Any]) -> None:
    """One that is aggregated away would leave a hole in the name."""
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"\b{label}\b", target["expr"]), label


@each_table
def test_a_table_calls_its_columns_by_names_that_it_has(panel: dict[str, Any]) -> None:
    """A value is Value #A and so on where there are several; the last names are gone by."""
    refs = [target["refId"] for target in panel["targets"]]
    organize = panel["transformations"][-1]["options"]
    values_of = {"Value"} if len(refs) == 1 else {f"Value #{ref}" for ref in refs}
    assert {its for its in organize["renameByName"] if its.startswith("Value")} <= values_of
    shown = set(organize["renameByName"].values())
    sorted_by = {its["displayName"] for its in panel.get("options", {}).get("sortBy", ())}
    told_of = {
        its["matcher"]["options"]
        for its in panel["fieldConfig"]["overrides"]
        if its["matcher"]["id"] == "byName"
    }
    assert sorted_by | told_of <= shown


def test_serials_are_written_out() -> None:
    """Not as 2.03 Bil."""
    (serials,) = (
        panel
        for panel in DASHBOARDS["zonerw-overview.json"]["panels"]
        if panel["title"] == "Serials"
    )
    units = {
        its["matcher"]["options"]: prop["value"]
        for its in serials["fieldConfig"]["overrides"]
        for prop in its["properties"]
        if prop["id"] == "unit"
    }
    assert (units["published"], units["served"]) == ("none", "none")


# --- what is told, of what Prometheus may have --------------------------------------------------

MEANT = 'zonerw_intended_server{server="%s"}'
SWITCHES = 'zonerw_switches_total{from="%s",to="%s",cause="%s"}'
DOWN, BACK = SWITCHES % ("main", "backup", "down"), SWITCHES % ("backup", "main", "handback")
CHECK = '{server="main",check="web",address="192.0.2.1",instance="%s"%s}'


@pytest.mark.parametrize(
    ("down", "back", "until", "cause"),
    [
        pytest.param(24, 28, 90, "handback", id="both within a step"),
        pytest.param(28, 24, 90, "down", id="both within a step, the other way round"),
        pytest.param(83, 24, 90, "down", id="one since the last whole step"),
        pytest.param(24, 4, 50, "down", id="actions has died since"),
    ],
)
def test_the_last_switch_is_the_last_in_a_whole_day_too(
    down: int, back: int, until: int, cause: str, tmp_path: Path
) -> None:
    """At a step of 5 min, which a small panel has. When what was so is counted in scrapes."""
    (expr,) = exprs(panel_called("Last switch"))
    for name, value in (("rate_interval", "315s"), ("range", "24h"), ("interval", "300s")):
        expr = expr.replace(f"$__{name}", value)
    series = {
        MEANT % "main": f"{int(back > down)}x{until}",
        MEANT % "backup": f"{int(down > back)}x{until}",
        DOWN: f"0x{down - 1} 1x{until - down}",
        BACK: f"0x{back - 1} 1x{until - back}",
    }
    way = {"down": "main to backup", "handback": "backup to main"}[cause]
    told(tmp_path, series, f"count by (why) ({expr})", 21, {f'{{why="{way}: {cause}"}}': 1})


@pytest.mark.parametrize(
    ("role", "value", "colour"),
    [("main", 1, "green"), ("backup", 2, "orange"), (None, 3, "blue")],
)
def test_only_the_preferred_server_serves_in_green(
    role: str | None, value: int, colour: str, tmp_path: Path
) -> None:
    """And not one that the exporter, being dead, tells nothing of."""
    panel = panel_called("Serving")
    series = {MEANT % "it": "1", MEANT % "other": "0"}
    if role:
        series[f'zonerw_server_up{{server="it",role="{role}"}}'] = "0"
    told(tmp_path, series, *exprs(panel), 0, {'{server="it"}': value})
    assert words_of(panel)[str(value)]["color"] == colour


@pytest.mark.parametrize(
    ("series", "up", "reason"),
    [
        # One of two sees it up.
        (
            {
                "zonerw_check_up" + CHECK % ("one", ""): "0",
                "zonerw_check_failing" + CHECK % ("one", ',reason="timeout"'): "1",
                "zonerw_check_up" + CHECK % ("two", ""): "1",
            },
            1,
            "{}",
        ),
        # Each sees it down, for a reason of its own.
        (
            {
                "zonerw_check_up" + CHECK % ("one", ""): "0",
                "zonerw_check_failing" + CHECK % ("one", ',reason="timeout"'): "1",
                "zonerw_check_up" + CHECK % ("two", ""): "0",
                "zonerw_check_failing" + CHECK % ("two", ',reason="reset"'): "1",
            },
            0,
            '{reason="any"}',
        ),
    ],
)
def test_a_check_has_one_row_whoever_looks(
    series: dict[str, str], up: int, reason: str, tmp_path: Path
) -> None:
    """It fails when everyone says so, as its alert does; with a reason just then."""
    (expr,) = exprs(panel_called("Checks"))
    told(tmp_path, series, f"sum({expr})", 0, {"{}": up})
    reasons = f'label_replace({expr}, "reason", "any", "reason", ".+")'
    told(tmp_path, series, f"count by (reason) ({reasons})", 0, {reason: 1})


def test_each_number_that_is_not_known_says_so(tmp_path: Path) -> None:
    """While actions is dead nobody knows what is published, nor who is meant."""
    panel = panel_called("Zones at nameservers that are not right")
    series = {
        'zonerw_zone_query_up{zone="a",nameserver="ns1"}': "1",
        'zonerw_zone_serial{zone="a",nameserver="ns1"}': "1",
        'zonerw_zone_points_to{zone="a",nameserver="ns1",server="main"}': "1",
    }
    for expr, value in zip(exprs(panel), (-1, 0, -1), strict=True):
        told(tmp_path, series, expr, 0, {"{}": value})
    words = words_of(panel)["-1"]
    assert (words["text"], words["color"]) == ("not known", "blue")


SYNC = 'zonerw_sync_%s{job="mail",instance="it"}'
FIRST, LAST = "since_timestamp_seconds", "last_success_timestamp_seconds"
ALL_DONE = {LAST: 60, "skipped": 0, "failed": 0, "refused_deletions": 0}


@pytest.mark.parametrize(
    ("its", "standing", "word"),
    [
        pytest.param(ALL_DONE, 0, "in step", id="all done"),
        pytest.param({LAST: 60}, 0, "in step", id="a command"),
        pytest.param({FIRST: 60}, 0, "in step", id="no success yet"),
        pytest.param({FIRST: 59}, 2, "stale", id="never a success"),
        pytest.param({FIRST: 0, LAST: 59}, 2, "stale", id="no success any more"),
        pytest.param({**ALL_DONE, "skipped": 1}, 1, "leaves files", id="skipped"),
        pytest.param({**ALL_DONE, "failed": 1}, 1, "leaves files", id="failed"),
        pytest.param({**ALL_DONE, "failed": 1, LAST: 59}, 2, "stale", id="failed for long"),
        pytest.param({**ALL_DONE, "refused_deletions": 7, LAST: 59}, 3, "refused", id="refused"),
    ],
)
def test_of_a_sync_job_what_is_worst_is_told(
    its: dict[str, int], standing: int, word: str, tmp_path: Path
) -> None:
    """At 31 min, of one that runs every ten: whatever else is wrong with it."""
    panel = panel_called("Mail and sites over time")
    series = {SYNC % name: f"{value}x130" for name, value in its.items()}
    series[SYNC % "interval_seconds"] = "600x130"
    told(tmp_path, series, *exprs(panel), 31, {'{job="mail"}': standing})
    assert words_of(panel)[str(standing)]["text"] == word


def told(
    folder: Path, series: Mapping[str, str], expr: str, at: int, samples: Mapping[str, float]
) -> None:
    """Have Prometheus' own tool find that the query gives these; `at`: min."""
    expected = [{"labels": labels, "value": value} for labels, value in samples.items()]
    test = {
        "interval": "15s",
        "input_series": [{"series": its, "values": values} for its, values in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": f"{at}m", "exp_samples": expected}],
    }
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    run("promtool", "test", "rules", folder / "test.yml")


# --- provisioning -----------------------------------------------------------------------------


def test_grafana_finds_the_dashboards_where_pip_puts_them() -> None:
    """Provisioning names the folder of the installed JSON; the generator stays here."""
    shared = wheel()["shared-data"]
    provisioning = read("dashboards/zonerw.yml")
    assert provisioning["apiVersion"] == 1
    (provider,) = provisioning["providers"]
    assert provider["type"] == "file"
    assert Path(provider["options"]["path"]) == PREFIX / shared["grafana/dashboards"]
    ours = {source for source in shared if Path(source).parts[0] == "grafana"}
    assert ours == {"grafana/dashboards", "grafana/provisioning"}
    assert str(PREFIX / shared["grafana/provisioning"]) in (ROOT / "README.md").read_text()


def test_grafana_is_given_a_prometheus_to_choose() -> None:
    """The one of the same machine, with the interval at which it scrapes the servers."""
    provisioning = read("datasources/zonerw.yml")
    assert provisioning["apiVersion"] == 1
    (source,) = provisioning["datasources"]
    assert (source["uid"], source["type"]) == ("zonerw", "prometheus")
    prometheus = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    (interval,) = {
        job["scrape_interval"]
        for job in prometheus["scrape_configs"]
        if job["job_name"] in ("zonerw-servers", "zonerw-actions")
    }
    assert source["jsonData"]["timeInterval"] == interval


def read(path: str) -> Any:
    return yaml.safe_load((GRAFANA / "provisioning" / path).read_text())


def wheel() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: dict[str, Any] = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    return found


def panel_called(title: str) -> dict[str, Any]:
    (found,) = (panel for _, panel in PANELS if panel["title"] == title)
    return found


def words_of(panel: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What it says in place of a value, and in which colour."""
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    found: dict[str, dict[str, str]] = mapping["options"]
    return found


def marks(name: str) -> list[dict[str, Any]]:
    """What a dashboard draws across its pictures."""
    found: list[dict[str, Any]] = DASHBOARDS[name]["annotations"]["list"]
    return found


def exprs(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def values(tree: object, key: str) -> Iterator[object]:
    """Whatever stands under this key, anywhere."""
    if isinstance(tree, dict):
        for name, its in tree.items():
            if name == key:
                yield its
            else:
                yield from values(its, key)
    elif isinstance(tree, list):
        for its in tree:
            yield from values(its, key)
