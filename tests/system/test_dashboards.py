"""Every query of every dashboard, asked of a real Prometheus that has watched an outage."""

import contextlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from certificates import make_certificate
from conftest import free_port
from listening import showing
from observed import SOON, down_alerts, everywhere

from demo.stack import Stack, http, wait_for

ROOT = Path(__file__).parents[2]
DASHBOARDS = [json.loads(path.read_text()) for path in ROOT.glob("grafana/dashboards/*.json")]

# What a panel has room for; how long a time a person looks at.
POINTS = 1000
SECONDS = 120

# The step at which Grafana shows a whole day in a small panel, and that day.
A_DAY = (300, 24 * 3600)

# What there is only of trouble, or of a person's word; and what has a reason only then.
EMPTY_IN_PEACE = ("Alerts", "Pinned")
ONLY_IN_TROUBLE = ("Alerts", "Checks")

# The name in the certificate, which vouches for itself; good until then.
HOST, ENDS = "www.example.invalid", "20991231000000Z"

# So many messages are more than ever vanish unasked.
MESSAGES = 8

Series = list[tuple[Mapping[str, str], float]]


@dataclass(frozen=True)
class Query:
    """One of a panel, or of a dashboard's lines across all pictures."""

    of: str
    ref: str
    expr: str
    instant: bool
    step: int
    labels: frozenset[str]


def queries() -> list[Query]:
    """All that Grafana asks for, as the committed files have it."""
    return [
        query
        for board in DASHBOARDS
        for query in (
            *map(of_mark, board["annotations"]["list"]),
            *(of_panel(panel, its) for panel in board["panels"] for its in panel["targets"]),
        )
    ]


def of_mark(mark: Mapping[str, Any]) -> Query:
    labels = names_in(mark["titleFormat"] + mark["textFormat"])
    step = int(mark["step"].removesuffix("s"))
    return Query(mark["name"], "", mark["expr"], instant=False, step=step, labels=labels)


def of_panel(panel: Mapping[str, Any], target: Mapping[str, Any]) -> Query:
    return Query(
        panel["title"],
        target["refId"],
        target["expr"],
        instant=target.get("instant", False),
        step=interval(),
        labels=names_in(target["legendFormat"]),
    )


def names_in(legend: str) -> frozenset[str]:
    return frozenset(re.findall(r"\{\{(\w+)\}\}", legend))


def columns_of(panel: Mapping[str, Any]) -> frozenset[str]:
    """The labels that a table has columns of."""
    labels: set[str] = set()
    for transformation in panel.get("transformations", ()):
        options = transformation["options"]
        labels |= set(options.get("renameByName", ()))
        labels |= {
            options[key] for key in ("rowField", "columnField", "valueField") if key in options
        }
    return frozenset(its for its in labels if re.fullmatch(r"[a-z_]+", its))


def interval() -> int:
    """How fine a picture is, in s: as the data source says, when set up for the fast profile."""
    profile = yaml.safe_load((ROOT / "prometheus" / "fast" / "prometheus.yml").read_text())
    scrape = int(profile["global"]["scrape_interval"].removesuffix("s"))
    return max(scrape, SECONDS // POINTS)


def filled(expr: str, step: int, seconds: int) -> str:
    """The query with Grafana's own variables filled in, for that time at that step, in s."""
    scrape = interval()
    values = {
        "__rate_interval": f"{max(step + scrape, 4 * scrape)}s",
        "__range": f"{seconds}s",
        "__interval": f"{step}s",
    }
    return re.sub(r"\$(__\w+)", lambda found: values[found[1]], expr)


def ask(stack: Stack, query: Query, at: float, step: int = 0, seconds: int = SECONDS) -> Series:
    """What Prometheus answers; of a time, each series with its last value."""
    expr = filled(query.expr, step or interval(), seconds)
    url = stack.layout.url("prometheus") + "/api/v1/query"
    if query.instant:
        answer = http("GET", url, params={"query": expr, "time": at})
    else:
        times = {"start": at - SECONDS, "end": at, "step": query.step}
        answer = http("GET", f"{url}_range", params={"query": expr, **times})
    said = answer.json()
    assert said["status"] == "success", f"{query.of}: {said}"
    result = said["data"]["result"]
    last = (series["value"] if query.instant else series["values"][-1] for series in result)
    return [
        (series["metric"], float(value)) for series, (_, value) in zip(result, last, strict=True)
    ]


def answered(stack: Stack, *but: str) -> None:
    """Wait until every query gives something, but for those of these panels."""
    asked = [query for query in queries() if query.of not in but]

    def unanswered() -> list[str]:
        now = time.time()
        return [f"{its.of} {its.ref}" for its in asked if not ask(stack, its, now)]

    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not unanswered(), SOON, "an answer to every query")
    assert unanswered() == []


def shown(stack: Stack, title: str) -> list[Series]:
    """What the queries of a panel give now."""
    now = time.time()
    return [ask(stack, query, now) for query in queries() if query.of == title]


def test_every_query_gives_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In peace, in an outage, and pinned after it; and what matters most is what is so."""
    certificate, key = make_certificate(tmp_path, ENDS)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    port = free_port("127.0.0.1")
    check = f'[servers.main.checks.imaps]\ntcp = {port}\ntls = "{HOST}"\nrequired = false\n\n'
    mail = two_mailboxes(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Unison keeps what it knows
    roots = ", ".join(f'"{side}"' for side in mail)
    jobs = f'\n[sync.mail]\nunison = [{roots}]\n\n[sync.site]\ncommand = ["true"]\n'

    def with_tls_and_jobs(text: str) -> str:
        return text.replace("[servers.backup]\n", f"{check}[servers.backup]\n", 1) + jobs

    with Stack(edit=with_tls_and_jobs) as stack, showing(stack.main, port, certificate, key):
        stack.settle()
        in_peace(stack)
        changed_on_both(mail)
        in_an_outage(stack)
        emptied(mail)
        pinned_afterwards(stack)
        keeps_what_it_names(stack)


def two_mailboxes(folder: Path) -> tuple[Path, Path]:
    """One with messages, and an empty one beside it."""
    here, there = folder / "here", folder / "there"
    for side in (here, there):
        (side / "cur").mkdir(parents=True)
    for number in range(MESSAGES):
        (here / "cur" / f"{number}.M1P1.mail:2,").write_text(f"Subject: {number}\n\n")
    return here, there


def changed_on_both(mail: tuple[Path, Path]) -> None:
    """Have the next run skip a file."""
    for side in mail:
        (side / "subscriptions").write_text(f"{side}\n")


def emptied(mail: tuple[Path, Path]) -> None:
    """Have the next run be refused."""
    here, there = ([*(side / "cur").iterdir()] for side in mail)
    assert len(here) == len(there) == MESSAGES
    for path in here:
        path.unlink()


def in_peace(stack: Stack) -> None:
    """No panel is empty but for those of trouble."""
    answered(stack, *EMPTY_IN_PEACE)
    done = {"standing": 0, "exit status": 0, "runs every": 600}
    stands(stack, "mail", {**done, "files skipped": 0, "files failed": 0, "deletions refused": 0})
    stands(stack, "site", done)
    earliest = min(its["last success"] for its in jobs(stack).values()) / 1000
    assert time.time() - 10 * SOON < earliest < time.time()
    assert why(stack) == "none in the time shown"
    (certificates,) = shown(stack, "Certificates")
    ((labels, left),) = certificates
    assert labels == {"server": "main", "check": "imaps", "address": stack.main}
    assert 60 * 365 * 86400 < left < 80 * 365 * 86400

    def told() -> bool:
        return shown(stack, "Serving") == [[({"server": "main"}, 1)]] and standing(stack) == {
            "ns1": {2},
            "ns2": {2},
            "ns3": {2},
        }

    wait_for(told, SOON, "the panels to tell that all is well")


def in_an_outage(stack: Stack) -> None:
    """Main dies, its name server too: who serves, and why, what fails, who gives no answer."""
    for part in stack.on("main"):
        part.kill()
    everywhere(stack, stack.backup, "ns1", "ns3")

    def told() -> bool:
        (checks,), (alerts,) = shown(stack, "Checks"), shown(stack, "Alerts")
        reasons = {(its["server"], its["check"]): its.get("reason") for its, _ in checks}
        return (
            shown(stack, "Serving") == [[({"server": "backup"}, 2)]]
            and why(stack) == why(stack, *A_DAY) == "main to backup: down"
            and reasons.get(("main", "web")) == "connection refused"
            and ("MainDown", "firing")
            in {(its["alertname"], its["alertstate"]) for its, _ in alerts}
            and standing(stack) == {"ns1": {2}, "ns2": {4}, "ns3": {2}}
        )

    wait_for(told, SOON, "the panels to tell of the outage")
    stands(stack, "mail", {"standing": 1, "exit status": 1, "files skipped": 1})
    answered(stack, "Pinned")


def stands(stack: Stack, job: str, expected: Mapping[str, float]) -> None:
    """Wait until the table of jobs says so of one: the switch before this made it run."""

    def told() -> bool:
        return expected.items() <= jobs(stack).get(job, {}).items()

    with contextlib.suppress(TimeoutError):
        wait_for(told, SOON, f"the table to say {expected} of {job}")
    assert expected.items() <= jobs(stack)[job].items()


def jobs(stack: Stack) -> dict[str, dict[str, float]]:
    """By job, what the table of jobs says, column by column."""
    title = "Mail and sites"
    (panel,) = (its for board in DASHBOARDS for its in board["panels"] if its["title"] == title)
    columns = panel["transformations"][-1]["options"]["renameByName"]
    found: dict[str, dict[str, float]] = {}
    for target, series in zip(panel["targets"], shown(stack, title), strict=True):
        for its, value in series:
            found.setdefault(its["job"], {})[columns[f"Value #{target['refId']}"]] = value
    return found


def standing(stack: Stack) -> dict[str, set[float]]:
    """By nameserver, how its zones stand: 2 as published, 4 no answer."""
    found: dict[str, set[float]] = {}
    for its, value in shown(stack, "Serials")[2]:
        found.setdefault(its["nameserver"], set()).add(value)
    return found


def why(stack: Stack, *picture: int) -> str:
    """What the overview says of the last switch; at a step, of a time, in s, if given."""
    (query,) = (its for its in queries() if its.of == "Last switch")
    ((labels, _),) = ask(stack, query, time.time(), *picture)
    return labels["why"]


def pinned_afterwards(stack: Stack) -> None:
    """Main is back and pinned, a source waits for its owner's word."""
    for part in stack.on("main"):
        part.start()
    everywhere(stack, stack.main)
    wait_for(lambda: not down_alerts(stack), SOON, "the alerts to end")
    assert stack.zonerw("pin", "main", "--for", "1h").returncode == 0
    path = stack.layout.sources / "example.org.base"
    path.write_bytes(path.read_bytes() + b"; edited\n")

    def told() -> bool:
        ((_, until),) = shown(stack, "Pinned until")[0]
        sources = {its["zone"]: state for its, state in shown(stack, "Sources")[0]}
        return (
            shown(stack, "Serving") == [[({"server": "main"}, 1)]]
            and why(stack) == why(stack, *A_DAY) == "backup to main: handback"
            and until > time.time() * 1000
            and sources == {"example.org": 1, "example.net": 0}
        )

    wait_for(told, SOON, "the panels to tell of the pin and the source")
    stands(stack, "mail", {"standing": 3, "deletions refused": MESSAGES})
    stands(stack, "site", {"standing": 0})

    def alerted() -> bool:
        (alerts,) = shown(stack, "Alerts")
        return ("SyncRefused", "firing", "mail") in {
            (its["alertname"], its["alertstate"], its["about"].strip()) for its, _ in alerts
        }

    wait_for(alerted, SOON, "the alert that is about this job")
    answered(stack, "Alerts")


def keeps_what_it_names(stack: Stack) -> None:
    """Labels of legends and columns are there; where a series was scraped shows only if asked for.

    So a second exporter doubles nothing.
    """
    now = time.time()
    seen: dict[str, set[str]] = {}
    for query in queries():
        labels = {label for its, _ in ask(stack, query, now) for label in its}
        seen.setdefault(query.of, set()).update(labels)
        assert not labels or query.labels <= labels, query.of
        assert labels.isdisjoint({"instance", "job"} - set(re.findall(r"\w+", query.expr))), (
            query.of
        )
    for panel in (panel for board in DASHBOARDS for panel in board["panels"]):
        if panel["title"] not in ONLY_IN_TROUBLE:
            assert columns_of(panel) <= seen[panel["title"]], panel["title"]
