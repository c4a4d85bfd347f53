"""Asks both witnesses and decides: alerts > attention > looks > decide.

Owns that order, and what counts as "never seen up". Changes nothing: what is put down, and done
about it, is converge's business.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from actions import looks
from actions.decide import Decision, Testimony, decide
from actions.looks import Attention, Seen
from actions.state import Pin
from actions.witness import Alerts
from exporter.config import Config, Server


@dataclass(frozen=True)
class Witnesses:
    """Whom to ask: the alerts, and our own looks at whoever gets attention."""

    alerts: Callable[[], Alerts]
    looks: Callable[[Attention], Seen]


@dataclass(frozen=True)
class Judgement:
    """What the witnesses said, and the decision that follows.

    `testimonies` are in order of preference, `serving` served until then. `blind`: why our looks
    say nothing now; `missing`: why Alertmanager could not be asked; `looking`: looks are under way
    that may soon say more.
    """

    testimonies: Mapping[str, Testimony]
    serving: str
    blind: str | None
    missing: str | None
    looking: bool
    decision: Decision

    @property
    def alone(self) -> bool:
        """Whether no alert is known of anybody: our own looks decide alone."""
        return all(its.alert.state == "unknown" for its in self.testimonies.values())

    @property
    def doubts(self) -> Mapping[str, str]:
        """What keeps us from deciding, or from deciding well: whom or what it is about -> why."""
        doubts = {"alerts": self.missing, "our own line": self.blind}
        doubts |= {server: its.doubt for server, its in self.testimonies.items()}
        return {what: why for what, why in doubts.items() if why is not None}


def judge(
    config: Config, witnesses: Witnesses, serving: str, pin: Pin | None, seen_up: Mapping[str, str]
) -> Judgement:
    """Ask and decide; `serving` serves now, `seen_up`: server -> the mark that it was seen up with.

    A quiet alert does not count as "seen up": after a check was changed for a wrong one, alerts
    are still quiet by the old one for a while.
    """
    alerts = witnesses.alerts()
    known = {s for s, server in config.servers.items() if seen_up.get(s) == mark(server)}
    never_seen = config.servers.keys() - known
    seen = witnesses.looks(looks.attention(alerts.by_server, serving, never_seen))
    testimonies = {
        server: Testimony(alert, seen.looks[server], seen_up=server in known | seen.met)
        for server, alert in alerts.by_server.items()
    }
    decision = decide(
        serving,
        testimonies,
        pinned=pin.server if pin else None,
        blind=seen.blind is not None,
        handback=config.policy.handback,
    )
    if pin and pin.reason:
        decision = replace(decision, why=f"{decision.why}: {pin.reason}")
    return Judgement(testimonies, serving, seen.blind, alerts.missing, seen.looking, decision)


def mark(server: Server) -> str:
    """What a server's "seen up" holds for: where it is looked at, and what is required there."""
    judged_by = server.model_copy(update={"checks": server.required})
    looked_at = judged_by.model_dump(
        mode="json", include={"addresses", "look_at", "checks"}, exclude_defaults=True
    )
    return hashlib.sha256(json.dumps(looked_at, sort_keys=True).encode()).hexdigest()[:16]
