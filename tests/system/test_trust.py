"""Faults that mislead whoever believes a single witness, on the whole stack.

Each ends with main serving by one change more, or by none: a serial moves only by a cause.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from observed import (
    BACK,
    SOON,
    THERE,
    Serials,
    alone,
    down_alerts,
    everywhere,
    heard,
    holds,
    log,
    metrics,
    moved,
    raised,
    seen_up,
    serials,
    switches,
    webhook,
    witnesses,
)

from demo.parts import Part
from demo.stack import Stack, http, wait_for

# Alertmanager forgets an alert that nobody tells it of after four resend delays: at Prometheus's
# default of a minute each, only `make soak` waits for that.
RESEND = "--rules.alert.resend-delay=2s"
FORGETS = 300.0  # by default, with time to spare

# What a webhook said counts for a minute where Alertmanager can't be asked, and no longer.
HEARD = 60.0

SECTION = "[servers.main.checks.web]"


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """One stack for most tests here: starting it takes longer than many of them.

    Its Prometheus and Alertmanager are told to be quick about what an alert's end takes.
    """

    def quickly(text: str) -> str:
        return re.sub(r"group_interval: \w+", "group_interval: 2s", text)

    flags = {"prometheus": [RESEND], "alertmanager": ["--log.level=debug"]}
    with Stack(poll="250ms", flags=flags, edit=unhurriedly) as stack:
        alertmanager = stack.layout.folder / "alertmanager.yml"
        with reconfigured(stack, alertmanager, quickly, "alertmanager"):
            at_peace(stack)
            yield stack


def unhurriedly(text: str) -> str:
    """Alone, look every other second.

    A scrape that is lost on a busy machine leaves the alerts unknown for longer than three looks
    at four a second: these would then rightly decide.
    """
    return text.replace('every = "250ms"', 'every = "2s"')


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The stack at peace: all run, no alert, main serves everywhere; and so again afterwards."""
    yield running
    at_peace(running)


def at_peace(stack: Stack) -> None:
    """Let all run, and main serve by a program that has heard nothing and decided nothing yet.

    A webhook that says resolved of the outage before may still come.
    """
    for part in stack.parts.values():
        part.resume()
        part.start()
    stack.settle()
    wait_for(lambda: not down_alerts(stack), SOON, "the alerts to end")
    everywhere(stack, stack.main, within=HEARD + SOON)
    stack.parts["actions"].kill()
    stack.parts["actions"].start()
    servers = ("main", "backup")
    wait_for(lambda: all(seen_up(stack, s) for s in servers), SOON, "both servers to be seen up")


def begin_anew(stack: Stack, *names: str) -> None:
    """Kill Prometheus or Alertmanager or both, and start them without anything they knew.

    That one told of an alert not long ago can keep it from telling of it again.
    """
    for name in names:
        stack.parts[name].kill()
        shutil.rmtree(stack.layout.folder / name)
    for name in names:
        stack.parts[name].start()


def main_dies(stack: Stack, within: float = SOON) -> Serials:
    """See the zones move to the backup, by one change; the serials then."""
    after = raised(serials(stack), 1)
    stack.parts["web-main"].kill()
    moved(stack, stack.backup, after, within)
    return after


def main_returns(stack: Stack, within: float = SOON) -> Serials:
    """See the zones handed back, by one change; the serials then."""
    after = raised(serials(stack), 1)
    stack.parts["web-main"].start()
    moved(stack, stack.main, after, within)
    return after


@contextmanager
def reconfigured(
    stack: Stack, path: Path, edit: Callable[[str], str], *names: str
) -> Iterator[None]:
    """Restart parts with a file changed, and with the old one afterwards.

    All others go on with what they read when they were started.
    """
    before = path.read_text()
    changed = edit(before)
    assert changed != before
    path.write_text(changed)
    try:
        for name in names:
            stack.parts[name].restart()
        yield
    finally:
        path.write_text(before)
        for name in names:
            stack.parts[name].restart()


@contextmanager
def web_server(stack: Stack, address: str) -> Iterator[Part]:
    """One more like main's, at this address of the stack's own."""
    main = stack.parts["web-main"]
    part = replace(
        main,
        name=f"web-{address}",
        title=f"a web server at {address}",
        argv=tuple(address if word == stack.main else word for word in main.argv),
        log=stack.layout.folder / f"web-{address}.log",
        ready=lambda: answers(f"http://{address}:{stack.layout.ports.web}/index.html"),
    )
    try:
        part.start()
        yield part
    finally:
        part.kill()


def another_address(stack: Stack) -> str:
    """An address of the stack's own that none of its machines has."""
    return f"{stack.main.rpartition('.')[0]}.4"


def answers(url: str) -> bool:
    """Whether there is a page."""
    try:
        return http("GET", url).ok
    except requests.ConnectionError:
        return False


def doubts(stack: Stack, since: int) -> list[str]:
    """What actions has logged, after so many lines, that keeps it from deciding."""
    return [line for line in log(stack)[since:] if 'msg="in doubt"' in line]


# --- the alert's way ------------------------------------------------------------------------


def test_alertmanager_resolves_since_prometheus_died_and_nothing_is_handed_back(
    stack: Stack,
) -> None:
    """Resolved is not recovered; once main is back, our own looks are enough."""
    prometheus_dies(stack, SOON)


@pytest.fixture
def unhurried() -> Iterator[Stack]:
    """A stack whose Prometheus resends as seldom as it does by default."""
    with Stack(poll="250ms") as stack:
        at_peace(stack)
        yield stack


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_at_prometheus_own_pace_too_its_death_hands_nothing_back(unhurried: Stack) -> None:
    """It takes Alertmanager four minutes then."""
    prometheus_dies(unhurried, FORGETS)


def prometheus_dies(stack: Stack, within: float) -> None:
    """Kill Prometheus in an outage; Alertmanager gets so many seconds to forget, and to know."""
    during = main_dies(stack)
    before = heard(stack, "resolved")
    stack.parts["prometheus"].kill()
    wait_for(lambda: not stack.alerts(), within, "Alertmanager to forget all alerts")
    wait_for(lambda: heard(stack, "resolved") > before, SOON, "a webhook that says resolved")
    holds(stack, stack.backup, during)
    assert alone(stack)
    wait_for(lambda: witnesses(stack, "main") == ("unknown", "down"), SOON, "our own looks")

    after = main_returns(stack)
    assert alone(stack)
    stack.parts["prometheus"].start()
    # Alerts that fire before it has found Alertmanager again are told of at the next resend only.
    wait_for(lambda: witnesses(stack, "main")[0] == "quiet", within, "main to be watched")
    holds(stack, stack.main, after)
    assert switches(stack) == {THERE: 1, BACK: 1}


@pytest.mark.parametrize("storage", ["lost", pytest.param("kept", marks=pytest.mark.soak)])
def test_prometheus_and_alertmanager_restarted_in_an_outage_hand_nothing_back(
    stack: Stack, storage: str
) -> None:
    """Both begin without an alert; neither that nor the first one that is back says main is up."""
    during = main_dies(stack)
    restarted = ("prometheus", "alertmanager")
    for name in restarted:
        stack.parts[name].kill()
        if storage == "lost":
            shutil.rmtree(stack.layout.folder / name)
    up = "zonerw_alertmanager_up"
    wait_for(lambda: metrics(stack)[up] == 0, SOON, "actions to ask in vain")
    for name in restarted:
        stack.parts[name].start()
    told = {("MainDown", "main"), ("ServerWatched", "main")}
    wait_for(lambda: told <= stack.alerts(), SOON, "the alerts to be back")
    holds(stack, stack.backup, during)
    main_returns(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_dead_main_that_only_seems_watched_and_well_is_handed_nothing(unhurried: Stack) -> None:
    """After a restart of Alertmanager, ServerWatched can be back long before MainDown is."""
    stack = unhurried
    during = main_dies(stack)  # within a minute of ServerWatched: so it is resent after that one
    begin_anew(stack, "alertmanager")
    seeming = ("quiet", "down")
    wait_for(lambda: witnesses(stack, "main") == seeming, 120, "main to seem watched and well")
    holds(stack, stack.backup, during)
    wait_for(lambda: witnesses(stack, "main") == ("firing", "down"), 120, "MainDown to be back")
    holds(stack, stack.backup, during)
    main_returns(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


def test_with_alertmanager_dead_our_own_looks_switch_and_hand_back(stack: Stack) -> None:
    """Nobody says that main is down, and nobody that it is up again."""
    stack.parts["alertmanager"].kill()
    wait_for(lambda: alone(stack), SOON, "actions to be alone")
    during = main_dies(stack)
    holds(stack, stack.backup, during)
    wait_for(lambda: witnesses(stack, "main") == ("unknown", "down"), SOON, "our own looks")
    after = main_returns(stack)
    assert alone(stack)
    stack.parts["alertmanager"].start()
    wait_for(lambda: witnesses(stack, "main")[0] == "quiet", SOON, "main to be watched")
    holds(stack, stack.main, after)
    assert switches(stack) == {THERE: 1, BACK: 1}


def test_alertmanager_dies_in_an_outage_and_main_is_handed_back_all_the_same(stack: Stack) -> None:
    """Here no webhook came through before: from then on our own looks decide alone."""
    with lost_webhooks(stack, "/webhook", "/elsewhere"):
        during = main_dies(stack)
        stack.parts["alertmanager"].kill()
        wait_for(lambda: alone(stack), SOON, "actions to be alone")
        holds(stack, stack.backup, during)
        main_returns(stack)
        assert alone(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


@pytest.mark.soak
def test_what_a_dead_alertmanager_said_last_counts_for_a_minute(stack: Stack) -> None:
    """Until then it contradicts our own looks; then these hand back."""
    during = main_dies(stack)
    wait_for(lambda: heard(stack, "firing"), SOON, "a webhook that says firing")
    stack.parts["alertmanager"].kill()
    holds(stack, stack.backup, during)
    stack.parts["web-main"].start()
    they_disagree(stack, "firing", "up")
    holds(stack, stack.backup, during)
    moved(stack, stack.main, raised(during, 1), within=HEARD + SOON)
    assert switches(stack) == {THERE: 1, BACK: 1}


def test_with_the_exporter_dead_our_own_looks_switch_and_hand_back(stack: Stack) -> None:
    """A comparison over series that vanished is empty: no alert ever fires."""
    stack.parts["exporter"].kill()
    wait_for(lambda: alone(stack), SOON, "actions to be alone")
    during = main_dies(stack)
    holds(stack, stack.backup, during)
    wait_for(lambda: witnesses(stack, "main") == ("unknown", "down"), SOON, "our own looks")
    assert not down_alerts(stack)
    main_returns(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


def test_the_exporter_dies_in_an_outage_and_nothing_is_handed_back(stack: Stack) -> None:
    """MainDown resolves since its series vanish, and says so by webhook."""
    during = main_dies(stack)
    wait_for(lambda: heard(stack, "firing"), SOON, "a webhook that says firing")
    before = heard(stack, "resolved")
    stack.parts["exporter"].kill()
    wait_for(lambda: heard(stack, "resolved") > before, SOON, "a webhook that says resolved")
    assert not down_alerts(stack)
    holds(stack, stack.backup, during)
    wait_for(lambda: witnesses(stack, "main") == ("unknown", "down"), SOON, "our own looks")
    main_returns(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


# --- silences and webhooks ------------------------------------------------------------------


def test_a_resolve_lost_under_a_silence_is_not_waited_for(stack: Stack) -> None:
    """Alertmanager never tells that main is back; it is asked."""
    main_dies(stack)
    wait_for(lambda: heard(stack, "firing"), SOON, "a webhook that says firing")
    before = heard(stack, "resolved")
    with silence(stack):
        wait_for(lambda: muted(stack), SOON, "MainDown to be silenced")
        after = main_returns(stack)
        wait_for(lambda: flushed(stack, "resolved"), SOON, "the resolve to have its turn")
        holds(stack, stack.main, after)
        assert heard(stack, "resolved") == before
    assert switches(stack) == {THERE: 1, BACK: 1}


def test_a_silence_is_no_evidence_of_health(stack: Stack) -> None:
    """Made before main dies: no webhook at all, and the zones move."""
    with silence(stack):
        during = main_dies(stack)
        wait_for(lambda: muted(stack), SOON, "MainDown to be silenced")
        holds(stack, stack.backup, during)
        assert witnesses(stack, "main") == ("firing", "down")
        assert heard(stack, "firing") == 0
        main_returns(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


@contextmanager
def silence(stack: Stack) -> Iterator[None]:
    """Silence MainDown."""
    url = stack.layout.url("alertmanager") + "/api/v2"
    now = datetime.now(UTC)
    wish = {
        "matchers": [{"name": "alertname", "value": "MainDown", "isRegex": False, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "the owner",
        "comment": "it wakes me up",
    }
    made = http("POST", f"{url}/silences", json=wish)
    made.raise_for_status()
    try:
        yield
    finally:
        http("DELETE", f"{url}/silence/{made.json()['silenceID']}").raise_for_status()


def muted(stack: Stack) -> bool:
    """Whether MainDown is active, and silenced."""
    return [alert["status"]["state"] for alert in main_down(stack)] == ["suppressed"]


def main_down(stack: Stack) -> list[dict[str, Any]]:
    """MainDown as Alertmanager tells it: no such alert, or the one."""
    url = stack.layout.url("alertmanager") + "/api/v2/alerts"
    return [a for a in http("GET", url).json() if a["labels"]["alertname"] == "MainDown"]


def flushed(stack: Stack, status: str) -> bool:
    """Whether Alertmanager last came to tell of MainDown that it is so, be it silenced or not."""
    lines = (stack.layout.folder / "alertmanager.log").read_text().splitlines()
    turns = [line for line in lines if "msg=flushing alerts=[MainDown[" in line]
    return bool(turns) and f"[{status}]" in turns[-1]


@pytest.mark.parametrize("alertmanager", ["alive", "dead"])
def test_a_forged_or_replayed_webhook_moves_nothing(stack: Stack, alertmanager: str) -> None:
    """With the right token, and word for word what was true an hour ago."""
    main_dies(stack)
    (told,) = wait_for(lambda: main_down(stack), SOON, "MainDown")
    after = main_returns(stack)
    forged = {"status": "firing", "labels": {"alertname": "MainDown", "server": "main"}}
    wait_for(lambda: not down_alerts(stack), SOON, "MainDown to end")
    if alertmanager == "dead":
        stack.parts["alertmanager"].kill()
    said = len(log(stack))
    for alert in (forged, told | {"status": "firing"}):
        assert webhook(stack, alert) in (200, 202)
    holds(stack, stack.main, after)
    if alertmanager == "dead":
        assert witnesses(stack, "main") == ("firing", "up")
        assert (
            "alert and look disagree: a webhook said that MainDown is firing, up in 3 looks"
            in "".join(doubts(stack, said))
        )
    assert switches(stack) == {THERE: 1, BACK: 1}


@pytest.mark.parametrize("alertmanager", ["alive", "dead"])
def test_a_forged_resolve_hands_nothing_back(stack: Stack, alertmanager: str) -> None:
    """Nor does it keep main from being handed back once it is up."""
    during = main_dies(stack)
    if alertmanager == "dead":
        stack.parts["alertmanager"].kill()
    forged = {"status": "resolved", "labels": {"alertname": "MainDown", "server": "main"}}
    assert webhook(stack, forged) in (200, 202)
    holds(stack, stack.backup, during)
    main_returns(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


@contextmanager
def lost_webhooks(stack: Stack, right: str, wrong: str) -> Iterator[None]:
    """Let Alertmanager post in vain, by what is wrong in its configuration."""
    path = stack.layout.folder / "alertmanager.yml"
    with reconfigured(stack, path, lambda text: text.replace(right, wrong), "alertmanager"):
        stack.settle()
        before = heard(stack, "resolved")
        yield
        assert (heard(stack, "firing"), heard(stack, "resolved")) == (0, before)


def test_webhooks_that_never_arrive_cost_no_more_than_a_poll(stack: Stack) -> None:
    """Alertmanager is asked anyway; here all that it posts is refused, for a wrong token."""
    with lost_webhooks(stack, "webhook.token", "operator.token"):
        during = main_dies(stack)
        holds(stack, stack.backup, during)
        assert witnesses(stack, "main") == ("firing", "down")
        main_returns(stack)
    assert switches(stack) == {THERE: 1, BACK: 1}


def test_handing_back_waits_for_no_group_interval(stack: Stack) -> None:
    """It comes long before the webhook that says resolved."""
    path = stack.layout.folder / "alertmanager.yml"

    def slowly(text: str) -> str:
        return re.sub(r"group_interval: \w+", "group_interval: 5m", text)

    with reconfigured(stack, path, slowly, "alertmanager"):
        begin_anew(stack, "prometheus", "alertmanager")
        stack.settle()
        main_dies(stack)
        wait_for(lambda: heard(stack, "firing"), SOON, "a webhook that says firing")
        before = heard(stack, "resolved")
        main_returns(stack)
        assert heard(stack, "resolved") == before
    assert switches(stack) == {THERE: 1, BACK: 1}


# --- who looks sees something else ----------------------------------------------------------


@contextmanager
def another_way_to_main(stack: Stack, *names: str) -> Iterator[Part]:
    """Let these parts look at main elsewhere; what answers them there can be killed."""
    elsewhere = another_address(stack)

    def look_there(text: str) -> str:
        return text.replace(SECTION, f'look_at = ["{elsewhere}"]\n{SECTION}')

    with (
        web_server(stack, elsewhere) as way,
        reconfigured(stack, stack.layout.config, look_there, *names),
    ):
        wait_for(lambda: seen_up(stack, "main"), SOON, "main to be seen up")
        yield way


def test_main_that_only_we_can_not_reach_keeps_serving(stack: Stack) -> None:
    """Nobody asks our looks while all is quiet; when somebody does, they are contradicted."""
    before, said = serials(stack), len(log(stack))
    with another_way_to_main(stack, "actions") as way:
        way.kill()
        holds(stack, stack.main, before)
        stack.parts["web-backup"].kill()
        they_disagree(stack, "quiet", "down")
        holds(stack, stack.main, before)
        assert any("what=main" in line and "disagree" in line for line in doubts(stack, said))
        assert switches(stack) == {}
        stack.parts["web-backup"].start()
        everyone_quiet(stack)
    assert serials(stack) == before


def test_main_that_only_we_can_not_reach_again_is_handed_nothing(stack: Stack) -> None:
    """After an outage: the alert ends, and we still see main down."""
    with another_way_to_main(stack, "actions") as way:
        way.kill()
        during = main_dies(stack)
        stack.parts["web-main"].start()
        they_disagree(stack, "quiet", "down")
        holds(stack, stack.backup, during)
        way.start()
        moved(stack, stack.main, raised(during, 1))
        assert switches(stack) == {THERE: 1, BACK: 1}


def test_main_that_only_the_exporter_can_not_reach_keeps_serving(stack: Stack) -> None:
    """MainDown fires, and we see main up."""
    before, said = serials(stack), len(log(stack))
    with another_way_to_main(stack, "exporter") as way:
        stack.settle()
        way.kill()
        they_disagree(stack, "firing", "up")
        holds(stack, stack.main, before)
        assert any("what=main" in line and "disagree" in line for line in doubts(stack, said))
        way.start()
        everyone_quiet(stack)
    assert serials(stack) == before
    assert switches(stack) == {}


def test_main_that_only_the_exporter_can_not_reach_again_is_handed_nothing(stack: Stack) -> None:
    """After an outage: we see main up, and the alert fires on."""
    with another_way_to_main(stack, "exporter") as way:
        stack.settle()
        way.kill()
        during = main_dies(stack)
        stack.parts["web-main"].start()
        they_disagree(stack, "firing", "up")
        holds(stack, stack.backup, during)
        way.start()
        moved(stack, stack.main, raised(during, 1))
    assert switches(stack) == {THERE: 1, BACK: 1}


def they_disagree(stack: Stack, alert: str, look: str) -> None:
    """Wait until the witnesses say this of main; status says so to programs and to people."""
    wait_for(lambda: witnesses(stack, "main") == (alert, look), SOON, "the witnesses to disagree")
    told = status(stack)["servers"]["main"]
    states = told["verdict"], told["alert"]["state"], told["look"]["state"]
    assert states == ("unsure", alert, look)
    assert (
        told["doubt"] == f"alert and look disagree: {told['alert']['why']}, {told['look']['why']}"
    )
    doubt = f"main is in doubt: alert and look disagree: {told['alert']['why']}, "
    assert doubt in stack.zonerw("status").stdout


def status(stack: Stack) -> dict[str, Any]:
    """What actions tells programs."""
    token = {"Authorization": f"Bearer {stack.layout.operator_token}"}
    answer: dict[str, Any] = http(
        "GET", f"{stack.layout.url('actions')}/status", headers=token
    ).json()
    return answer


def everyone_quiet(stack: Stack) -> None:
    """Wait until no alert says that anybody is down."""
    quiet = [("quiet", "unclear")] * 2
    wait_for(lambda: [witnesses(stack, s) for s in ("main", "backup")] == quiet, SOON, "peace")


# --- checks that are wrong ------------------------------------------------------------------


def wrong_check(text: str) -> str:
    """Look at main's page where there is none."""
    return re.sub(r'(?m)^(url = ".*)/index\.html"', r'\1/nowhere.html"', text, count=1)


def test_a_check_that_is_wrong_from_the_first_day_moves_nothing() -> None:
    """It is said; and corrected, it is as good as any."""
    with Stack(poll="250ms", edit=wrong_check) as stack:
        stack.settle()
        before = serials(stack)
        main_is_never_seen_up(stack, before, 0)
        text = stack.layout.config.read_text()
        stack.layout.config.write_text(text.replace("/nowhere.html", "/index.html"))
        for name in ("exporter", "actions"):
            stack.parts[name].restart()
        wait_for(lambda: seen_up(stack, "main"), SOON, "main to be seen up")
        everyone_quiet(stack)
        assert main_dies(stack) == raised(before, 1)
        main_returns(stack)
        assert switches(stack) == {THERE: 1, BACK: 1}


def test_a_check_that_is_edited_into_a_wrong_one_moves_nothing(stack: Stack) -> None:
    """That main once met another check says nothing of this one."""
    before, said = serials(stack), len(log(stack))
    with reconfigured(stack, stack.layout.config, wrong_check, "exporter", "actions"):
        main_is_never_seen_up(stack, before, said)


def main_is_never_seen_up(stack: Stack, before: Serials, said: int) -> None:
    """See both witnesses say that main is down, nothing follow from it, and the log say why."""
    agreed = ("firing", "down")
    wait_for(lambda: witnesses(stack, "main") == agreed, SOON, "both to say that main is down")
    holds(stack, stack.main, before)
    assert witnesses(stack, "main") == agreed
    assert (seen_up(stack, "main"), seen_up(stack, "backup")) == (False, True)
    why = (
        "MainDown is firing, down in 3 looks (web: status 404),"
        " but never seen up since its checks were configured: are they right?"
    )
    assert any("what=main" in line and why in line for line in doubts(stack, said))
    assert f"main is in doubt: {why}" in stack.zonerw("status").stdout.splitlines()
    assert switches(stack) == {}


# --- more servers, fewer parts --------------------------------------------------------------


def test_of_three_servers_the_first_that_is_up_serves(stack: Stack) -> None:
    """There, step by step, and back."""
    before = serials(stack)
    third, port = another_address(stack), stack.layout.ports.web
    section = (
        f'[servers.third]\naddresses = ["{third}"]\n'
        f'checks.web.url = "http://www.example.org:{port}/index.html"\n\n'
    )

    def with_a_third(text: str) -> str:
        return text.replace("[references]", f"{section}[references]")

    with (
        web_server(stack, third),
        reconfigured(stack, stack.layout.config, with_a_third, "exporter", "actions"),
    ):
        watched = [("quiet", "unclear")] * 3
        servers = ("main", "backup", "third")
        wait_for(lambda: [witnesses(stack, s) for s in servers] == watched, SOON, "all watched")
        wait_for(lambda: all(seen_up(stack, s) for s in servers), SOON, "all to be seen up")
        stack.parts["web-main"].kill()
        moved(stack, stack.backup, raised(before, 1))
        stack.parts["web-backup"].kill()
        moved(stack, third, raised(before, 2))
        stack.parts["web-backup"].start()
        moved(stack, stack.backup, raised(before, 3))
        stack.parts["web-main"].start()
        moved(stack, stack.main, raised(before, 4))
        holds(stack, stack.main, raised(before, 4))
        assert switches(stack) == {
            ("main", "backup", "down"): 1,
            ("backup", "third", "down"): 1,
            ("third", "backup", "handback"): 1,
            ("backup", "main", "handback"): 1,
        }


@pytest.mark.parametrize("alertmanager", ["alive", "dead"])
def test_actions_killed_in_an_outage_takes_up_where_it_was(stack: Stack, alertmanager: str) -> None:
    """What is meant is on disk; what it knew of the alerts is asked for anew, or not known."""
    during = main_dies(stack)
    if alertmanager == "dead":
        stack.parts["alertmanager"].kill()
    stack.parts["actions"].kill()
    stack.parts["actions"].start()
    holds(stack, stack.backup, during)
    assert alone(stack) == (alertmanager == "dead")
    main_returns(stack)
    assert switches(stack) == {BACK: 1}
