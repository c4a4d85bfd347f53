"""The status as a document, and as text for its owner."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from witnesses import of

from actions import decide, state, text
from actions.accept import SLOW, Standing
from actions.judge import Judgement
from actions.notify import Behind, Serves
from actions.outcome import Outcome, ZoneOutcome
from actions.records import SyncRecord
from actions.state import Meant, StateError
from actions.status import Answer, Document, Files, Moment, Run, Trouble, answer, document
from exporter import config as configuration
from exporter.config import UnisonJob

CONFIG = configuration.read(Path("examples/zonerw.toml"))
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
SINCE = NOW - timedelta(days=2)
MEANT = Meant(
    server="main", since=SINCE, why="main: up", by="timer", before="backup", cause="handback"
)
PIN = state.Pin(server="main", until=NOW + timedelta(hours=21), reason="a new disk", by="alice")
DAMAGED = StateError(Path("/s/pin.json"), "is damaged:\n  not JSON")
ZONES = {
    "example.net": ZoneOutcome(2026112200),
    "example.org": ZoneOutcome(2026112203, written=True),
}
ALL = {name: Serves(its.serial or 0) for name, its in ZONES.items()}
ACCEPTED = dict.fromkeys(ZONES, Standing("accepted"))
FILES = Files(
    meant=MEANT,
    pin=None,
    seen={},
    history=(MEANT,),
    accepted=dict.fromkeys(ZONES, b""),
    sources=ACCEPTED,
    sync={},
    troubles=(),
)


def judged(testimonies: Mapping[str, decide.Testimony], **known: str | None) -> Judgement:
    """What the witnesses said; `blind`, `missing`."""
    return Judgement(
        testimonies,
        serving="main",
        blind=known.get("blind"),
        missing=known.get("missing"),
        looking=False,
        decision=decide.Decision("main", None, ""),
    )


QUIET = judged(of(main="quiet up", backup="quiet unclear"))
MOMENT = Moment(
    at=NOW,
    daemon_missing=None,
    run=Run(ended=NOW, every=5.0, error=None),
    judgement=QUIET,
    zones=ZONES,
    primary=ALL,
    secondaries={"ns2": ALL, "ns3": ALL},
)


def told(
    files: Files = FILES,
    moment: Moment = MOMENT,
    *,
    handback: Literal["auto", "manual"] = "auto",
) -> str:
    """The text, as a client of the daemon makes it from JSON."""
    config = replace(CONFIG, policy=CONFIG.policy.model_copy(update={"handback": handback}))
    sent = document(config, files, moment).model_dump_json(by_alias=True)
    return text.tell(Document.model_validate_json(sent))


def test_all_is_well() -> None:
    """One look: who serves since when and why, what the witnesses say, that nothing is wrong."""
    assert told() == (
        """\
main serves since 2026-11-20 10:00:00 UTC (2 days)
decided because main: up (by timer)

main is up: alert quiet, look up
backup: alert quiet, look unclear

2 zones on 3 name servers, all as they should be (last asked a minute ago at most)

the last switches:
  2026-11-20 10:00:00 UTC from backup to main (handback), because main: up (by timer)
"""
    )


def test_nothing_is_well() -> None:
    """What is wrong is said, each thing once, with the command that mends it."""
    edited = {
        "broken.example": Standing("broken", "/z/broken.example.base:3: no\n/z/…:4: nor this"),
        "example.net": Standing("pending", "edited"),
        "example.org": Standing("gone"),
        "new.example": Standing("pending", "new"),
    }
    files = replace(
        FILES,
        pin=replace_pin(server="backup"),
        sources=edited,
        history=(),
        troubles=(Trouble(file="/s/history.jsonl", why="is damaged: not JSON"),),
    )
    failed = ZoneOutcome(2026112204, failed="verify", reason="ns1 answers SERVFAIL")
    late = {
        "example.net": Behind(2026112199, "serves an older serial"),
        "example.org": Behind(None, "timeout"),
    }
    moment = replace(
        MOMENT,
        judgement=judged(of(main="firing up", backup="firing down")),
        zones={**ZONES, "example.org": failed},
        primary={**ALL, "example.org": Behind(None, failed.reason)},
        secondaries={"ns2": late, "ns3": dict.fromkeys(ZONES, Behind(None, "timeout"))},
        run=Run(ended=NOW - timedelta(minutes=10), every=5.0, error=None),
    )
    assert told(files, moment) == (
        """\
main is meant to serve since 2026-11-20 10:00:00 UTC (2 days)
decided because main: up (by timer)

main is in doubt: alert and look disagree: alert firing, look up
backup is down: alert firing, look down

backup is pinned until 2026-11-23 07:00:00 UTC (21 hours from now), by alice: a new disk
backup looks down, and is served all the same; zonerw unpin ends that

trouble:
  /s/history.jsonl: is damaged: not JSON
  the daemon hangs: its last run ended 10 minutes ago, at 2026-11-22 09:50:00 UTC
  a damaged file of the state can be moved away; it is found out anew if possible

2 zones on 3 name servers, not all as they should be:
  example.org: verify failed: ns1 answers SERVFAIL
  ns2: serves an older serial: example.net
  ns2: timeout: example.org
  ns3: timeout: example.net, example.org

the source of broken.example is broken:
  /z/broken.example.base:3: no
  /z/…:4: nor this
example.net was edited since it was accepted: zonerw rewrite --forced example.net publishes it
the source of example.org is gone; it is served on until zonerw rewrite --forced example.org retires it
new.example is new, and not accepted yet: zonerw rewrite --forced new.example publishes it
"""  # noqa: E501 - a line of a person's terminal
    )


def replace_pin(**changes: object) -> state.Pin:
    """The pin, changed."""
    return PIN.model_copy(update=changes)


def by(server: str) -> Files:
    """Files that say that this server serves."""
    return replace(FILES, meant=MEANT.model_copy(update={"server": server}))


@pytest.mark.parametrize(
    ("files", "judgement", "handback", "said"),
    [
        pytest.param(
            FILES, judged(of(main="firing up", backup="quiet up")), "auto",
            "main is in doubt: alert and look disagree: alert firing, look up\n"
            "backup is up: alert quiet, look up\n"
            "nothing is changed until it is clear how it stands with main\n",
            id="the witnesses disagree",
        ),
        pytest.param(
            FILES, judged(of(main="quiet up", backup="quiet down")), "auto",
            "main is up: alert quiet, look up\n"
            "backup is in doubt: alert and look disagree: alert quiet, look down\n\n",
            id="they disagree about another",
        ),
        pytest.param(
            FILES, judged(of(main="firing unclear", backup="quiet up")), "auto",
            "main: alert firing, look unclear\nbackup is up: alert quiet, look up\n"
            "nothing is changed before our own looks say it too of main\n",
            id="looks are not clear yet",
        ),
        pytest.param(
            FILES, judged(of(main="firing down", backup="firing down")), "auto",
            "backup is down: alert firing, look down\n"
            "nothing is changed: no other server is known to be up\n",
            id="nowhere to go",
        ),
        pytest.param(
            FILES, judged(of(main="firing down", backup="firing up")), "auto",
            "backup is in doubt: alert and look disagree: alert firing, look up\n\n",
            id="somewhere to go, in doubt: the next run does it",
        ),
        pytest.param(
            FILES, judged(of(main="firing unclear", backup="unknown unclear"),
                          blind="no reference answers (quad9: timeout)"), "auto",
            "our own line is down, or just was, so nothing is changed:"
            " no reference answers (quad9: timeout)\n\n",
            id="blind",
        ),
        pytest.param(
            FILES, judged(of(main="unknown up", backup="unknown up"), missing="no Alertmanager"),
            "auto",
            "backup is up: alert unknown, look up\n"
            "no alert is known of any server: our own looks decide alone\n\n",
            id="alone",
        ),
        pytest.param(
            FILES, judged(of(main="firing up", backup="unknown up"), missing="Alertmanager: gone"),
            "auto",
            "Alertmanager: gone\nnothing is changed until it is clear how it stands with main\n",
            id="Alertmanager is gone, a webhook was heard",
        ),
        pytest.param(
            by("backup"), judged(of(main="quiet up", backup="quiet up")), "manual",
            'main could serve again, but handback is "manual": zonerw pin main does it\n',
            id="handed back by hand, and it could be",
        ),
        pytest.param(
            by("backup"), judged(of(main="firing down", backup="quiet up")), "manual",
            'once main is up, zonerw pin main hands back: handback is "manual"\n',
            id="handed back by hand, and it can't be yet",
        ),
        pytest.param(
            by("backup"), judged(of(main="firing down", backup="quiet up")), "auto",
            "the zones are handed back as soon as main is up\n",
            id="handed back by itself",
        ),
        pytest.param(
            by("gone"), QUIET, "auto",
            "gone is no server any more: the next run goes by the published zones\n",
            id="the one that serves is no server any more",
        ),
        pytest.param(
            FILES, None, "auto", "nobody was asked who is down\n", id="no judgement",
        ),
        pytest.param(
            replace(FILES, pin=PIN), judged(of(main="quiet up", backup="quiet up")), "auto",
            "main is pinned until 2026-11-23 07:00:00 UTC (21 hours from now),"
            " by alice: a new disk\n"
            "whatever the witnesses say, nothing else is served; zonerw unpin ends that\n",
            id="pinned",
        ),
        pytest.param(
            replace(FILES, pin=replace_pin(server="gone", reason="")), QUIET, "auto",
            "by alice\ngone is no server any more, so nothing is decided; zonerw unpin ends that\n",
            id="what is pinned is no server any more",
        ),
        pytest.param(
            replace(FILES, pin=DAMAGED), QUIET, "auto",
            "whether a server is pinned is not known, so nothing is decided:\n"
            "/s/pin.json: is damaged: not JSON; zonerw unpin, or a new zonerw pin, mends that\n",
            id="the pin is damaged",
        ),
        pytest.param(
            replace(FILES, meant=StateError(Path("/s/meant.json"), "is damaged: not JSON")), QUIET,
            "auto", "who serves is not known: /s/meant.json: is damaged: not JSON\n",
            id="what is meant is damaged",
        ),
        pytest.param(
            replace(FILES, meant=None), QUIET, "auto",
            "who serves is not known: nothing is put down yet\n", id="before the first run",
        ),
    ],
)  # fmt: skip
def test_why_nothing_happens(
    files: Files, judgement: Judgement | None, handback: Literal["auto", "manual"], said: str
) -> None:
    """Whatever keeps things as they are is said in words."""
    assert said in told(files, replace(MOMENT, judgement=judgement), handback=handback)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("firing down", ("main is in doubt: alert firing, look down, but never seen up since its"
                        " checks were configured: are they right?\n")),
        ("quiet unclear", ("main was never seen up since its checks were configured:"
                          " until then it is not taken for down\n")),
    ],
)  # fmt: skip
def test_a_server_never_seen_up_is_said(words: str, said: str) -> None:
    """Its check is wrong, or nobody has looked yet."""
    alert, look = words.split()
    known = of(main=f"{alert} {look}", backup="quiet up")
    never = {"main": replace(known["main"], seen_up=False), "backup": known["backup"]}
    assert said in told(moment=replace(MOMENT, judgement=judged(never)))


def test_the_pin_speaks_for_the_witnesses() -> None:
    """While it holds, what they would keep us from is nobody's question."""
    moment = replace(MOMENT, judgement=judged(of(main="firing up", backup="quiet up"), blind="b"))
    said = told(replace(FILES, pin=PIN), moment)
    assert "nothing is changed" not in said
    assert "main looks down, and is served all the same; zonerw unpin ends that\n" in said
    assert "nothing is changed" in told(replace(FILES, pin=None), moment)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Run(ended=None, every=5.0, error=None), "trouble:\n  no run has ended yet\n"),
        (Run(ended=NOW, every=5.0, error="/s/lock: no"),
         "  the last run came to nothing: nothing moves, be main dead or not: /s/lock: no\n"),
        (Run(ended=NOW - timedelta(seconds=64), every=5.0, error=None), None),
        (Run(ended=NOW - timedelta(seconds=66), every=5.0, error=None),
         "the daemon hangs: its last run ended 1 minute ago, at 2026-11-22 09:58:54 UTC\n"),
        (Run(ended=NOW - timedelta(seconds=66), every=3600.0, error=None), None),
    ],
)  # fmt: skip
def test_how_the_last_run_ended(run: Run, said: str | None) -> None:
    """That it failed as a whole, or that none has ended for too long, is trouble."""
    text_ = told(moment=replace(MOMENT, run=run))
    assert "trouble" not in text_ if said is None else said in text_


def test_a_damaged_file_that_failed_the_run_is_named_once() -> None:
    """Among the troubles; the run that failed refers to it."""
    trouble = Trouble(file="/s/serials.json", why="is damaged: not JSON")
    run = Run(ended=NOW, every=5.0, error="/s/serials.json: is damaged: not JSON")
    said = told(replace(FILES, troubles=(trouble,)), replace(MOMENT, run=run))
    assert (
        "trouble:\n  /s/serials.json: is damaged: not JSON\n"
        "  the last run came to nothing: nothing moves, be main dead or not\n"
        "  a damaged file of the state can be moved away; it is found out anew if possible\n\n"
    ) in said


def test_why_the_primary_was_not_asked() -> None:
    """Not where the zone's own failure says so; else by the run that came to nothing, if it did."""
    failed = ZoneOutcome(2026112204, failed="write", reason="/p/example.org: Permission denied")
    moment = replace(MOMENT, zones={**ZONES, "example.org": failed}, primary={})
    assert "  ns1: not asked yet: example.net\n" in told(moment=moment)
    error = Run(ended=NOW, every=5.0, error="/s/lock: no")
    said = told(moment=replace(MOMENT, primary={}, run=error))
    reason = "not asked, since the last run came to nothing"
    assert f"  ns1: {reason}: example.net, example.org\n" in said


def test_sources_that_are_all_gone_are_no_reason_to_retire_them() -> None:
    """Their folder is not mounted, most likely; it is said once."""
    gone = replace(FILES, sources=dict.fromkeys(ZONES, Standing("gone")))
    said = told(gone)
    assert "no source is there any more: is their folder mounted? all are served on\n" in said
    assert "--forced" not in said


@pytest.mark.parametrize(
    ("source", "outcome", "said"),
    [
        (Standing("accepted"), ZoneOutcome(reason="is not published yet"),
         "not all as they should be:\n  example.net: is not published yet\n"),
        (Standing("broken", "no"), replace(ZONES["example.net"], failed="accept", reason="no"),
         ("at most)\n\nthe source of example.net is broken;"
         " it is served on as it was accepted:\n  no\n")),
        (Standing("gone"), replace(ZONES["example.net"], reason="is gone; served on"),
         "at most)\n\nthe source of example.net is gone;"),
        (SLOW, ZONES["example.net"],
         ("\n\nexample.net was edited since it was accepted, and its check takes long:"
          " zonerw rewrite --forced example.net publishes it\n")),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_zone_is_said_once(
    source: Standing, outcome: ZoneOutcome, said: str
) -> None:
    """What is wrong with its source only, no name server has to do with."""
    files = replace(FILES, sources={**ACCEPTED, "example.net": source})
    assert said in told(files, replace(MOMENT, zones={**ZONES, "example.net": outcome}))


def test_many_zones_are_counted() -> None:
    """A dead name server of a hundred zones takes one line."""
    names = [f"z{number:02}.example" for number in range(100)]
    zones = dict.fromkeys(names, ZoneOutcome(1))
    dead = dict.fromkeys(names, Behind(None, "timeout"))
    files = replace(FILES, accepted=dict.fromkeys(names, b""), sources={})
    fine = dict.fromkeys(names, Serves(1))
    moment = replace(MOMENT, zones=zones, primary=fine, secondaries={"ns2": dead})
    assert (
        "100 zones on 2 name servers, not all as they should be:\n"
        "  ns2: timeout: z00.example, z01.example, z02.example and 97 more\n\n"
    ) in told(files, moment)


def test_what_nobody_asked_for_is_not_called_right() -> None:
    """A zone that the primary does not serve is not asked for at the secondaries."""
    moment = replace(MOMENT, secondaries={"ns2": {"example.net": Serves(2026112200)}})
    assert "  ns2: not asked yet: example.org\n" in told(moment=moment)


def test_without_zones() -> None:
    """None accepted, or none that could be read: the troubles say which."""
    files = replace(FILES, accepted={}, sources={"new.example": Standing("pending", "new")})
    said = told(files, replace(MOMENT, zones={}))
    assert "\n\nno zone is known\n\nnew.example is new, and not accepted yet: " in said


def test_the_last_ten_switches_come_newest_first() -> None:
    """More of them are in the file."""
    history = [MEANT.model_copy(update={"since": SINCE + timedelta(hours=n)}) for n in range(12)]
    its = document(CONFIG, replace(FILES, history=history), MOMENT)
    assert [switch.at for switch in its.switches] == [m.since for m in reversed(history[2:])]


def sync_of(**its: object) -> str:
    """What is said of a job that ended a minute ago, but for what is told."""
    record = SyncRecord.model_validate(
        {
            "since": SINCE,
            "ended": NOW - timedelta(minutes=1),
            "succeeded": NOW - timedelta(minutes=1),
            "outcome": "done",
            "reason": "",
            "seconds": 0.4,
            "end": 0,
            "skipped": 0,
            "failed": 0,
            "paths": {},
            "too_many": 0,
            "allowable": False,
            "runs_total": 2,
            "failures_total": 1,
            "transferred_total": 3,
            "deleted_total": 4,
            "files": {},
            **its,
        }
    )
    config = replace(CONFIG, sync={"mail": UnisonJob(unison=["/a", "/b"], every="10m")})
    its_document = document(config, replace(FILES, sync={"mail": record}), MOMENT)
    sent = Document.model_validate_json(its_document.model_dump_json(by_alias=True))
    _, _, rest = text.tell(sent).partition("(last asked a minute ago at most)\n\n")
    return rest.partition("\n\nthe last switches")[0]


LONG_AGO = NOW - timedelta(hours=2)


@pytest.mark.parametrize(
    ("its", "said"),
    [
        ({}, "mail was in step 1 minute ago"),
        (
            {"outcome": "failed", "reason": "no route", "succeeded": LONG_AGO},
            "mail is not in step: no route\n  it last was 2 hours ago, at 2026-11-22 08:00:00 UTC",
        ),
        ({"outcome": "failed", "reason": "no", "succeeded": None}, "mail is not in step: no"),
        (
            {"outcome": "refused", "reason": "it would", "allowable": True},
            (
                "mail is in step but for deletions, refused: it would\n"
                "  if that is meant: zonerw sync mail --allow-deletions"
            ),
        ),
        (
            {"outcome": "refused", "reason": "/a is empty", "succeeded": None},
            "mail is not kept in step, refused: /a is empty",
        ),
        (
            {"skipped": 3, "paths": {"/a/cur/1": "conflicting updates"}},
            "mail was in step 1 minute ago\n  /a/cur/1: conflicting updates\n  and 2 more",
        ),
        (
            {"ended": LONG_AGO, "succeeded": LONG_AGO},
            (
                "mail was in step 2 hours ago\n"
                "  nobody has run it since, though it is due every 10 minutes"
            ),
        ),
    ],
)
def test_how_a_job_stands_that_keeps_the_servers_in_step(its: dict[str, object], said: str) -> None:
    """When it last did, why it does not, what was left, and the command that mends it."""
    assert sync_of(**its) == said


def test_a_job_before_its_first_run() -> None:
    """It is known of, at least."""
    config = replace(CONFIG, sync={"mail": UnisonJob(unison=["/a", "/b"], every="10m")})
    assert "\n\nmail: no run has ended yet\n\n" in text.tell(document(config, FILES, MOMENT))


def test_what_other_programs_read() -> None:
    """The names in the JSON; what is not known is null."""
    files = replace(FILES, pin=PIN, troubles=(Trouble(file="/s/seen.json", why="no"),))
    behind = {"example.net": Behind(2026112199, "serves an older serial")}
    moment = replace(
        MOMENT, zones={"example.net": ZONES["example.net"]}, primary={}, secondaries={"ns2": behind}
    )
    assert document(CONFIG, files, moment).model_dump(mode="json", by_alias=True) == {
        "at": "2026-11-22T10:00:00+00:00",
        "daemon_missing": None,
        "run": {"ended": "2026-11-22T10:00:00+00:00", "every": 5.0, "error": None},
        "serving": "main",
        "since": "2026-11-20T10:00:00+00:00",
        "why": "main: up",
        "by": "timer",
        "pin": {
            "server": "main",
            "until": "2026-11-23T07:00:00+00:00",
            "reason": "a new disk",
            "by": "alice",
        },
        "blind": None,
        "alone": False,
        "missing": None,
        "servers": {
            "main": {
                "verdict": "up",
                "alert": {"state": "quiet", "why": "alert quiet"},
                "look": {"state": "up", "why": "look up"},
                "seen_up": True,
                "doubt": None,
            },
            "backup": {
                "verdict": "unsure",
                "alert": {"state": "quiet", "why": "alert quiet"},
                "look": {"state": "unclear", "why": "look unclear"},
                "seen_up": True,
                "doubt": None,
            },
        },
        "handback": "auto",
        "zones": {
            "example.net": {
                "serial": 2026112200,
                "failed": None,
                "reason": "",
                "source": {"state": "accepted", "why": ""},
            },
            "example.org": {
                "serial": None,
                "failed": None,
                "reason": "",
                "source": {"state": "accepted", "why": ""},
            },
        },
        "primary": {"ns1": {}},
        "secondaries": {
            "ns2": {
                "example.net": {
                    "serial": 2026112199,
                    "serves": False,
                    "reason": "serves an older serial",
                }
            }
        },
        "switches": [
            {
                "at": "2026-11-20T10:00:00+00:00",
                "from": "backup",
                "to": "main",
                "cause": "handback",
                "why": "main: up",
                "by": "timer",
            }
        ],
        "sync": {},
        "troubles": [{"file": "/s/seen.json", "why": "no"}],
    }


def test_a_pin_that_cannot_be_read_is_never_none() -> None:
    """A program that asks whether there is one finds something else than null."""
    its = document(CONFIG, replace(FILES, pin=DAMAGED), MOMENT).model_dump(mode="json")
    assert its["pin"] == {"unknown": "/s/pin.json: is damaged: not JSON"}


def test_an_answer_uses_the_same_names() -> None:
    """Of what both say; a run's answer also says what it did."""
    both = Answer.model_fields.keys() & Document.model_fields.keys()
    outcome = Outcome(MEANT, PIN, QUIET, switched_from="backup", zones=ZONES)
    said = answer(outcome, MOMENT.secondaries).model_dump(mode="json")
    its = document(CONFIG, replace(FILES, pin=PIN), MOMENT).model_dump(mode="json")
    assert {name: said[name] for name in both - {"zones"}} == {
        name: its[name] for name in both - {"zones"}
    }
    assert said["switched_from"] == "backup"
    assert said["zones"]["example.org"] == {
        "serial": 2026112203, "written": True, "failed": None, "reason": "",
    }  # fmt: skip
