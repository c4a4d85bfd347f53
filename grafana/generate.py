"""The dashboards: `python grafana/generate.py` writes grafana/dashboards/*.json.

Owns what is asked of Prometheus, and what is said of it; panels.py owns how that becomes a panel.
The JSON is committed: nobody needs this but who changes a dashboard.

An exporter elsewhere gives each of its series once more, and actions that is asked under another
name too: hence an aggregation around every metric. A server is down when everyone who looks says
so: hence its max.
"""

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.models import units
from panels import (
    BAD,
    GOOD,
    NEUTRAL,
    PLAIN,
    WARNING,
    Column,
    Mark,
    Panel,
    Words,
    lines,
    made,
    matrix,
    name,
    rows,
    states,
    value,
)

FOLDER = Path(__file__).parent / "dashboards"

_DAY = 24 * 3600

_UP: Words = {"0": ("down", BAD), "1": ("up", GOOD)}
_NO_ACTIONS = "Not known: zonerw actions can't be asked."
_NO_EXPORTER = "Not known: the exporter can't be asked."

# --- what is asked more than once, or takes some thought --------------------------------------

_MEANT = "max by (server) (zonerw_intended_server)"
_SINCE = "max by (server) (zonerw_intended_since_timestamp_seconds) * 1000"
_ASKED = "max by (zone, nameserver) (zonerw_zone_query_up)"
_SERVED = "max by (zone, nameserver) (zonerw_zone_serial)"
_PUBLISHED = "max by (zone) (zonerw_zone_published_serial)"
_POINTS_TO = "max by (zone, nameserver, server) (zonerw_zone_points_to)"

_ELSEWHERE = f"{_POINTS_TO} * on (server) group_left () ({_MEANT} == bool 0)"

# 1 for the server that is preferred, 2 for another one, 3 while the exporter does not tell which of
# them it is, 0 for none.
_SERVING = f"""\
{_MEANT} == 1 and on (server) zonerw_server_up{{role="main"}}
or 2 * ({_MEANT} == 1 and on (server) zonerw_server_up{{role="backup"}})
or 3 * ({_MEANT} == 1)
or on () label_replace(vector(0), "server", "not known", "", "")"""

_RISEN = """\
timestamp(
        sum by (from, to, cause) (increase(zonerw_switches_total[$__rate_interval])) > 0
      )"""

# Counters tell how often, and not when: the last cause is the one that rose last. Within minutes of
# a whole day a switch and the next one rise at the same time: so one to a server that is not meant
# is not the last. What rose after the last whole interval has risen now.
_LAST_SWITCH = f"""\
label_join(
  label_join(
    topk(1,
      ({_RISEN}
      or max_over_time({_RISEN}[$__range:$__interval]))
      unless on (to) label_replace({_MEANT} == 0, "to", "$1", "server", "(.*)")
    ),
    "why", " to ", "from", "to"
  ),
  "why", ": ", "why", "cause"
)
or on () label_replace(vector(0), "why", "none in the time shown", "", "")"""

# 1 behind what is published, 2 as published, 3 ahead of it, 4 no answer.
_STANDING = f"""\
sgn({_SERVED} - on (zone) group_left () {_PUBLISHED}) + 2
or ({_ASKED} == 0) + 4"""

# A nameserver's role, and the server that it runs on.
_NAMESERVERS = f"""\
({_ASKED} >= bool 0) * on (nameserver) group_left (role, host)
label_replace(
  label_replace(
    max by (nameserver, role, server) (zonerw_nameserver_info),
    "host", "$1", "server", "(.+)"
  ),
  "host", "a third party", "server", ""
)"""

# 1 where that is the server that is meant.
_VISITORS = f"""\
label_replace({_POINTS_TO}, "visitors", "$1", "server", "(.*)")
* on (server) group_left () {_MEANT}"""

_ALERTS = """\
max by (alertname, severity, alertstate, about) (
  label_join(
    ALERTS{alertname!="ServerWatched"}, "about", " ",
    "server", "check", "address", "zone", "nameserver", "reference", "step", "instance", "job"
  )
)"""

# One that fails has 0, and why: one of the reasons, where exporters tell several.
_CHECKS = """\
0 * max by (server, check, address, reason) (
  topk by (server, check, address) (1, zonerw_check_failing)
)
and on (server, check, address) max by (server, check, address) (zonerw_check_up) == 0
or on (server, check, address) max by (server, check, address) (zonerw_check_up)"""

# Kept for an hour, as its alert does: a check that fails shows none.
_CERTIFICATES = """\
min by (server, check, address)
(last_over_time(zonerw_check_tls_expiry_timestamp_seconds[1h])) - time()"""

# 1 well, 2 not well, 3 it can't tell.
_WITNESSES = """\
max by (server, witness) (
  zonerw_witness{state=~"quiet|up"}
  or 2 * zonerw_witness{state=~"firing|down"}
  or 3 * zonerw_witness{state=~"unknown|unclear"}
)"""

# 0 as accepted, 1 waits for a person's word, 2 broken.
_SOURCES = """\
max by (zone) (zonerw_zone_source_pending)
  + on (zone) (min by (zone) (zonerw_zone_source_valid) == bool 0)
or max by (zone) (zonerw_zone_source_pending)"""

_INTERVAL = "max by (job) (zonerw_sync_interval_seconds)"
_SUCCESS = "max by (job) (zonerw_sync_last_success_timestamp_seconds)"
_FIRST_RUN = "max by (job) (zonerw_sync_since_timestamp_seconds)"
_SKIPPED = "max by (job) (zonerw_sync_skipped)"
_FAILED = "max by (job) (zonerw_sync_failed)"
_REFUSED = "max by (job) (zonerw_sync_refused_deletions)"

# What is worst of a sync job: 3 refused, 2 no success for three intervals, 1 files are left, 0 none
# of these; as the alerts have it, but at once.
_SYNC = f"""\
({_REFUSED} > bool 0) * 3 > 0
or (time() - ({_SUCCESS} or {_FIRST_RUN}) > bool 3 * {_INTERVAL}) * 2 > 0
or ({_SKIPPED} + {_FAILED} > bool 0) > 0
or {_INTERVAL} * 0"""

_IN_STEP: Words = {
    "0": ("in step", GOOD),
    "1": ("leaves files", WARNING),
    "2": ("stale", BAD),
    "3": ("refused", BAD),
}


def _a_minute(metric: str, *labels: str) -> str:
    """How often a minute, by these labels."""
    return f"60 * sum by ({', '.join(labels)}) (rate({metric}[$__rate_interval]))"


def _known(number: str) -> str:
    """Return a sum, or -1 for none: a panel of several has no word for one that is missing."""
    return f"{number} or vector(-1)"


def _durations(metric: str, label: str) -> list[Column]:
    """How long things took since actions was started: they are too rare to be shown over time."""
    buckets = f"sum by (le, {label}) ({metric}_bucket)"
    total, number = (f"sum by ({label}) ({metric}_{part})" for part in ("sum", "count"))
    never: Words = {"nan": ("never yet", NEUTRAL)}
    return [
        Column(number, "times"),
        Column(f"{total} / {number}", "on average", units.Seconds, never),
        Column(f"histogram_quantile(0.5, {buckets})", "half", units.Seconds, never),
        Column(f"histogram_quantile(0.95, {buckets})", "95 of 100", units.Seconds, never),
    ]


_DURATIONS = {
    "times": "times",
    "on average": "on average",
    "half": "half within",
    "95 of 100": "95 of 100 within",
}

# --- who serves, since when, and why ----------------------------------------------------------


def overview() -> list[Panel]:
    """Who serves, since when, and why; whether every nameserver has followed."""
    return [
        name(
            "Serving",
            (6, 5),
            "The server that the zones are meant to point at. Green: the one that you prefer. "
            "Orange: another one stands in for it. Blue: the exporter can't be asked which of them "
            "it is. Red: zonerw actions can't be asked.",
            {"{{server}}": _SERVING},
            {"0": BAD, "1": GOOD, "2": WARNING, "3": NEUTRAL},
        ),
        value(
            "Since",
            (6, 5),
            "When zonerw decided for this server, and how long ago that is.",
            {"at": f"max({_SINCE})", "that is": f"max({_SINCE})"},
            unit=units.DatetimeISO,
            unit_of={"that is": units.DateTimeFromNow},
        ),
        name(
            "Last switch",
            (7, 5),
            "From which server to which, in the time shown, and why. down: the one that served "
            "was down. handback: a preferred one was up again. pin: a person said so. `zonerw "
            "status` prints the whole reason.",
            {"{{why}}": _LAST_SWITCH},
            {},
        ),
        value(
            "Pinned until",
            (5, 5),
            "A pin is a person's word: until then zonerw serves the pinned server, whoever is "
            "down. `zonerw unpin` ends it.",
            {"until": "max(zonerw_pin_expiry_timestamp_seconds) * 1000 or max(zonerw_pinned)"},
            unit=units.DatetimeISO,
            words={"0": ("no pin", GOOD)},
            steps=((None, WARNING),),
        ),
        *_at_a_glance(),
        *_servers(),
        *_nameservers(),
        _mail_and_sites(),
    ]


def _at_a_glance() -> list[Panel]:
    return [
        value(
            "Who decides",
            (6, 5),
            "zonerw leaves a server when its alert and zonerw's own looks agree. Looks alone: no "
            "alert is known, since Prometheus, the exporter or Alertmanager does not do its work.",
            {"who decides": "max(zonerw_alone)"},
            words={"0": ("alerts and looks", GOOD), "1": ("looks alone", WARNING)},
        ),
        value(
            "Own line",
            (4, 5),
            "Cut: no reference answers, so that it is the backup's own line that is down. Nothing "
            "is switched while it is. The word for it is blind.",
            {"own line": "max(zonerw_blind)"},
            words={"0": ("works", GOOD), "1": ("cut", BAD)},
        ),
        value(
            "Zones at nameservers that are not right",
            (14, 5),
            "Of all zones at all nameservers, how many have another serial than the published "
            "one, get no answer, or send visitors to a server that is not meant. They are asked "
            "once a minute: after a switch it takes that long until they are seen to be right.",
            {
                "other serial": _known(
                    f"sum({_SERVED} != bool on (zone) group_left () {_PUBLISHED})"
                ),
                "no answer": _known(f"sum({_ASKED} == bool 0)"),
                "other server": _known(f"sum({_ELSEWHERE})"),
            },
            words={"-1": ("not known", NEUTRAL), "0": ("none", GOOD)},
            steps=((None, BAD),),
        ),
    ]


def _servers() -> list[Panel]:
    said: Words = {
        "quiet": ("quiet", GOOD),
        "up": ("up", GOOD),
        "firing": ("firing", BAD),
        "down": ("down", BAD),
        "unknown": ("unknown", NEUTRAL),
        "unclear": ("unclear", NEUTRAL),
    }
    return [
        states(
            "Servers",
            (24, 7),
            "Whether each server met its required checks, and where the zones were meant to "
            "point. A gap: nobody looked. Vertical lines are switches.",
            {
                "{{server}}": "max by (server) (zonerw_server_up)",
                "zones: {{server}}": f"{_MEANT} + 2",
            },
            {**_UP, "2": ("-", "transparent"), "3": ("serving", NEUTRAL)},
        ),
        rows(
            "Alerts",
            (14, 8),
            "What Prometheus finds wrong: firing, or pending until it has lasted. RUNBOOK.md has "
            "a chapter for each. ServerWatched, which fires while all is well, is left out.",
            [Column(_ALERTS)],
            {"alertname": "alert", "about": "about", "alertstate": "state", "severity": "severity"},
            nothing="No alert.",
            words_of={"state": {"firing": ("firing", BAD), "pending": ("pending", WARNING)}},
        ),
        matrix(
            "What the witnesses say",
            (10, 8),
            "Of each server: its alert (firing, quiet or unknown), and zonerw's own looks (down, "
            "up or unclear). While all is quiet and the preferred server serves, zonerw looks at "
            "nobody: then unclear is all right.",
            "max by (server, witness, state) (zonerw_witness) == 1",
            ("server", "witness", "state"),
            nothing=_NO_ACTIONS,
            words=said,
        ),
    ]


def _nameservers() -> list[Panel]:
    return [
        rows(
            "Serials",
            (24, 10),
            "Each zone at each nameserver: the serial that zonerw has published, the one that the "
            "nameserver serves, and to which server it sends visitors. Asked once a minute: right "
            "after a switch they seem behind for as long.",
            [
                Column(f"({_ASKED} >= bool 0) * on (zone) group_left () {_PUBLISHED}", "published"),
                Column(_SERVED, "served"),
                Column(
                    _STANDING,
                    "standing",
                    words={
                        "1": ("behind", BAD),
                        "2": ("as published", GOOD),
                        "3": ("ahead", WARNING),
                        "4": ("no answer", BAD),
                    },
                ),
                Column(_NAMESERVERS),
                Column(
                    _VISITORS,
                    "as meant",
                    words={"0": ("not as meant", BAD), "1": ("as meant", GOOD)},
                ),
            ],
            {
                "zone": "zone",
                "nameserver": "nameserver",
                "role": "role",
                "host": "runs at",
                "published": "published",
                "served": "served",
                "standing": "standing",
                "visitors": "visitors go to",
                "as meant": "as meant",
            },
            nothing="Not known: neither the exporter nor zonerw actions can be asked.",
            least="zone",
        ),
        rows(
            "Time to propagate",
            (14, 8),
            "How long each secondary took to serve a new version of a zone, once the primary "
            "served it; since zonerw actions was started.",
            _durations("zonerw_propagation_seconds", "nameserver"),
            {"nameserver": "nameserver", **_DURATIONS},
            nothing="No secondary is configured, or zonerw actions can't be asked.",
        ),
        rows(
            "Switches",
            (10, 8),
            "How often zonerw decided for another server since zonerw actions was started, and "
            "why.",
            [Column("max by (from, to, cause) (zonerw_switches_total)", "times")],
            {"from": "from", "to": "to", "cause": "cause", "times": "times"},
            nothing="There is one server only, or zonerw actions can't be asked.",
            most="times",
        ),
    ]


def _mail_and_sites() -> Panel:
    left = ((None, PLAIN), (1, WARNING))
    return rows(
        "Mail and sites",
        (24, 7),
        "What is kept in step between the servers, job by job, and what its last run came to. "
        "Stale: no success for three intervals. Refused: so many messages would have been deleted. "
        "`zonerw sync JOB` runs one at once, and says what is wrong.",
        [
            Column(_SYNC, "standing", words=_IN_STEP),
            Column(
                f"{_SUCCESS} * 1000 or {_INTERVAL} * 0",
                "succeeded",
                units.DateTimeFromNow,
                words={"0": ("never yet", WARNING)},
            ),
            Column(_INTERVAL, "every", units.Seconds),
            Column("max by (job) (zonerw_sync_duration_seconds)", "took", units.Seconds),
            Column("max by (job) (zonerw_sync_exit_status)", "exit"),
            Column(_SKIPPED, "skipped", steps=left),
            Column(_FAILED, "failed", steps=left),
            Column(_REFUSED, "refused", steps=((None, PLAIN), (1, BAD))),
        ],
        {
            "job": "job",
            "standing": "standing",
            "succeeded": "last success",
            "every": "runs every",
            "took": "last run took",
            "exit": "exit status",
            "skipped": "files skipped",
            "failed": "files failed",
            "refused": "deletions refused",
        },
        nothing="No job is configured, or zonerw actions can't be asked.",
        most="standing",
    )


# --- what each look found ---------------------------------------------------------------------


def looks() -> list[Panel]:
    """What each look at the servers, at the references and at the nameservers found."""
    return [
        rows(
            "Checks",
            (13, 8),
            "Each check at each address of each server, now, and why it fails: it does when "
            "everyone who looks says so, and the reason is one of theirs. A server is down when a "
            "required check fails at its first address; the others are shown and alerted on.",
            [Column(_CHECKS, "state", words=_UP)],
            {
                "server": "server",
                "check": "check",
                "address": "address",
                "state": "state",
                "reason": "reason",
            },
            nothing=_NO_EXPORTER,
            least="state",
        ),
        rows(
            "Certificates",
            (11, 8),
            "For how long the certificate is good that each check with TLS was shown last.",
            [
                Column(
                    _CERTIFICATES,
                    "good for",
                    units.Seconds,
                    steps=((None, BAD), (7 * _DAY, WARNING), (14 * _DAY, GOOD)),
                )
            ],
            {"server": "server", "check": "check", "address": "address", "good for": "good for"},
            nothing="No check has TLS, or none has succeeded for an hour.",
            least="good for",
        ),
        *_checks_over_time(),
        *_evidence(),
    ]


def _checks_over_time() -> list[Panel]:
    each = "{{server}} {{check}} {{address}}"
    return [
        states(
            "Checks over time",
            (24, 8),
            "Whether each check succeeded. A gap: nobody looked.",
            {each: "max by (server, check, address) (zonerw_check_up)"},
            _UP,
        ),
        lines(
            "How long checks took",
            (24, 8),
            "Until the check succeeded, or was given up: 5 s at most. When this grows, a server "
            "or a line is busy, before it is down.",
            {each: "max by (server, check, address) (zonerw_check_duration_seconds)"},
            units.Seconds,
        ),
    ]


def _evidence() -> list[Panel]:
    return [
        states(
            "What the witnesses said",
            (24, 7),
            "What zonerw goes by: of each server its alert, and zonerw's own looks. It leaves a "
            "server when both say that it is not well. It looks only while there is something to "
            "decide.",
            {"{{server}}: {{witness}}": _WITNESSES},
            {"1": ("well", GOOD), "2": ("not well", BAD), "3": ("can't tell", NEUTRAL)},
        ),
        states(
            "Servers, by who looked",
            (12, 7),
            "Whether each server met its required checks, as each exporter saw it. Where two "
            "differ, the way from one of them to the server is broken, and nothing is switched.",
            {"{{server}} from {{instance}}": "max by (server, instance) (zonerw_server_up)"},
            _UP,
        ),
        states(
            "References",
            (12, 7),
            "Others on the net, which nearly always answer. When none does, it is our own line "
            "that is down, and nothing is switched.",
            {
                "{{reference}}": "max by (reference) (zonerw_reference_up)",
                "own line": "3 - max(zonerw_blind)",
            },
            {**_UP, "2": ("cut", BAD), "3": ("works", GOOD)},
        ),
        value(
            "Ever seen up",
            (8, 7),
            "Whether each server has met its checks at least once since they were configured. "
            "Until it has, they are taken to be wrong: zonerw neither leaves that server nor goes "
            "to it.",
            {"{{server}}": "min by (server) (zonerw_server_seen_up)"},
            words={"0": ("never", BAD), "1": ("yes", GOOD)},
        ),
        lines(
            "Zones that each nameserver answers for",
            (16, 7),
            "Of all zones that it is asked for, with authority. 100 % is right.",
            {"{{nameserver}}": f"avg by (nameserver) ({_ASKED})"},
            units.PercentUnit,
        ),
    ]


# --- zonerw's own parts -----------------------------------------------------------------------


def machine_room() -> list[Panel]:
    """How zonerw's own parts do: scrapes, runs, steps, messages that come and go, sources, jobs."""
    ours = '{job=~"zonerw-.*"}'
    return [
        states(
            "Scrapes",
            (12, 7),
            "Whether Prometheus got an answer from each part of zonerw, for what it asked.",
            {"{{job}} {{instance}}": f"max by (job, instance) (up{ours})"},
            _UP,
        ),
        lines(
            "How long scrapes took",
            (12, 7),
            "The exporter looks when it is asked: a silent server, or nameserver, makes it take "
            "as long as a look may take.",
            {"{{job}} {{instance}}": f"max by (job, instance) (scrape_duration_seconds{ours})"},
            units.Seconds,
        ),
        states(
            "Alertmanager",
            (12, 5),
            "Whether zonerw could ask Alertmanager which alerts are active.",
            {"Alertmanager": "max(zonerw_alertmanager_up)"},
            _UP,
        ),
        value(
            "Alertmanager's last answer",
            (6, 5),
            "How long ago that was. zonerw asks every few seconds.",
            {"ago": "time() - max(zonerw_alertmanager_last_answer_timestamp_seconds)"},
            unit=units.Seconds,
            steps=((None, GOOD), (60, WARNING), (120, BAD)),
            decimals=0,
        ),
        name(
            "Version",
            (6, 5),
            "Of zonerw's exporter; several, while one of them is not up to date.",
            {"{{version}}": "max by (version) (zonerw_build_info)"},
            {"1": PLAIN},
        ),
        *_runs(),
        *_zones(),
        *_sync_jobs(),
    ]


def _runs() -> list[Panel]:
    return [
        lines(
            "Runs by what made them",
            (12, 7),
            "zonerw decides again and again: at its start, by a timer every few seconds, by a "
            "webhook of Alertmanager's, by a look of its own that found something else, and when "
            "a person asks. Most runs change nothing.",
            {"{{trigger}}": _a_minute("zonerw_converges_total", "trigger")},
            units.CountsPerMinute,
        ),
        lines(
            "Runs that failed, by step",
            (12, 7),
            "Nothing but zeros is right. `zonerw status` says which zone or file it is, and why.",
            {"{{step}}": _a_minute("zonerw_converge_failures_total", "step")},
            units.CountsPerMinute,
        ),
        lines(
            "Alerts received by webhook",
            (12, 7),
            "What Alertmanager told zonerw. That only wakes it up: it asks back before it "
            "believes.",
            {
                "{{alertname}} {{status}}": _a_minute(
                    "zonerw_webhook_alerts_total", "alertname", "status"
                )
            },
            units.CountsPerMinute,
        ),
        lines(
            "NOTIFYs",
            (12, 7),
            "How often each secondary was told that there is news, and how often it did not "
            "answer that well. One that lags is told again and again.",
            {
                "{{nameserver}}": _a_minute("zonerw_notifies_total", "nameserver"),
                "{{nameserver}} in vain": _a_minute("zonerw_notify_failures_total", "nameserver"),
            },
            units.CountsPerMinute,
        ),
        rows(
            "Steps",
            (24, 7),
            "How long each step of a run took since zonerw actions was started. What does not "
            "change anything takes none of them.",
            _durations("zonerw_step_duration_seconds", "step"),
            {"step": "step", **_DURATIONS},
            nothing="Nothing was changed since zonerw actions was started, or it can't be asked.",
        ),
    ]


def _zones() -> list[Panel]:
    return [
        rows(
            "Sources",
            (9, 8),
            "Whether each zone's source, ZONE.base, is as it was accepted. One that was edited "
            "waits for your word: `zonerw rewrite --forced ZONE`. The 50 that need you most.",
            [
                Column(
                    f"topk(50, {_SOURCES})",
                    "source",
                    words={
                        "0": ("as accepted", GOOD),
                        "1": ("waits for your word", WARNING),
                        "2": ("broken", BAD),
                    },
                )
            ],
            {"zone": "zone", "source": "source"},
            nothing="Not known: zonerw actions can't be asked, or can't read the sources.",
            most="source",
        ),
        rows(
            "Serials left today",
            (6, 8),
            "A serial is the date and two digits. When today's are used up, it goes on with "
            "tomorrow's. The 50 zones with the fewest.",
            [
                Column(
                    "bottomk(50, min by (zone) (zonerw_zone_serials_left))",
                    "left",
                    steps=((None, WARNING), (10, GOOD)),
                )
            ],
            {"zone": "zone", "left": "left"},
            nothing=_NO_ACTIONS,
            least="left",
        ),
        rows(
            "Without the primary",
            (9, 8),
            "After how long a secondary asks by itself for news, and after how long without an "
            "answer it gives the zone up: refresh and expire of its SOA. The 50 zones given up "
            "first.",
            [
                Column("min by (zone) (zonerw_zone_refresh_seconds)", "asks", units.Seconds),
                Column(
                    "bottomk(50, min by (zone) (zonerw_zone_expire_seconds))",
                    "gives up",
                    units.Seconds,
                ),
            ],
            {"zone": "zone", "asks": "asks after", "gives up": "gives up after"},
            nothing="Not known: no nameserver answers, or the exporter can't be asked.",
            least="gives up after",
        ),
    ]


def _sync_jobs() -> list[Panel]:
    return [
        states(
            "Mail and sites over time",
            (12, 7),
            "Whether each job keeps its two sides in step. Stale: no success for three intervals. "
            "Refused: too many messages would have been deleted.",
            {"{{job}}": _SYNC},
            _IN_STEP,
        ),
        lines(
            "How long mail and sites took",
            (12, 7),
            "The last run of each job, whatever came of it. One that hangs is ended at its "
            "timeout, 10 minutes if zonerw.toml says nothing else.",
            {"{{job}}": "max by (job) (zonerw_sync_duration_seconds)"},
            units.Seconds,
        ),
        lines(
            "Runs of mail and sites",
            (8, 7),
            "How often each job was run: at its interval, at once on a switch, and soon again "
            "after a failure. A run that was refused is a failure too.",
            {
                "{{job}}": _a_minute("zonerw_sync_runs_total", "job"),
                "{{job}} failed": _a_minute("zonerw_sync_failures_total", "job"),
            },
            units.CountsPerMinute,
        ),
        lines(
            "What mail and sites changed",
            (8, 7),
            "How many files and folders each job has changed on either side, flags and deletions "
            "included; and how many messages it has deleted.",
            {
                "{{job}}": _a_minute("zonerw_sync_transferred_total", "job"),
                "{{job}} deleted": _a_minute("zonerw_sync_deleted_total", "job"),
            },
            units.CountsPerMinute,
        ),
        lines(
            "Left as they are",
            (8, 7),
            "Files that the last run of each job skipped, which a person has to decide about, or "
            "failed to bring over; and messages that it would have deleted, which was refused. "
            "Nothing but zeros is right.",
            {
                "{{job}} skipped": _SKIPPED,
                "{{job}} failed": _FAILED,
                "{{job}} refused": _REFUSED,
            },
            units.NoUnit,
        ),
    ]


# --- writing ----------------------------------------------------------------------------------


def dashboards() -> Mapping[str, str]:
    """File name -> what is in it."""
    titles = {
        "overview": ("zonerw: overview", "now-24h", overview),
        "looks": ("zonerw: looks", "now-6h", looks),
        "machine-room": ("zonerw: machine room", "now-6h", machine_room),
    }
    marks = [
        Mark("Switch", _SINCE, "{{server}} serves from here on", NEUTRAL, at_value=True),
        Mark("Pinned", "max(zonerw_pinned) == 1", "by a person's word", WARNING, at_value=False),
    ]
    return {
        f"zonerw-{key}.json": made(
            uid=f"zonerw-{key}",
            title=title,
            description=show.__doc__ or "",
            since=since,
            marks=marks,
            panels=show(),
        )
        for key, (title, since, show) in titles.items()
    }


if __name__ == "__main__":
    for file_name, text in dashboards().items():
        (FOLDER / file_name).write_text(text)
