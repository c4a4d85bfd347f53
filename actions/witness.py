"""What the alerts say of each server: asked of Alertmanager, or heard by webhook where it is gone.

Owns the asking, and what counts as evidence of health. Our own looks are looks' business, what
follows from both decide's.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import requests
import urllib3.exceptions
from pydantic import BaseModel, TypeAdapter, ValidationError

from actions import payload
from actions.decide import Alert
from exporter.config import Config

# The alerts of prometheus/rules.yml that say that a server is down, by its label `server`...
DOWN_ALERTS = ("MainDown", "BackupDown")
# ...and the one that fires as long as there are fresh looks at it. Only beside this does the
# absence of the others say anything.
WATCHED_ALERT = "ServerWatched"

# Alertmanager runs beside us; a webhook has to be answered within 7 s.
_ALERTMANAGER_SECONDS = 2.0
# Thousands of alerts; more is not what was asked for.
_ALERTMANAGER_BYTES = 16 * 2**20

# So long an alert heard by webhook counts where Alertmanager can't be asked.
_HEARD_SECONDS = 60.0


@dataclass(frozen=True)
class Alerts:
    """What is known of each server, in order of preference.

    `missing` says why Alertmanager could not be asked; None where it was, or none is configured.
    """

    by_server: Mapping[str, Alert]
    missing: str | None = None


class Heard:
    """The down alerts that webhooks told of, for the time when Alertmanager can't be asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._firing: dict[tuple[str, str], float] = {}  # (server, alert's name) -> when, monotonic

    def note(self, alerts: Iterable[payload.Alert]) -> None:
        """Take in the down alerts of a webhook, one by one: the group's own status misleads."""
        with self._lock:
            for alert in alerts:
                place = alert.labels.get("server", ""), alert.labels.get("alertname", "")
                if alert.status == "firing":
                    self._firing[place] = time.monotonic()
                else:
                    self._firing.pop(place, None)

    def firing(self) -> dict[str, str]:
        """Server -> the alert that was heard of it within the last minute."""
        oldest = time.monotonic() - _HEARD_SECONDS
        with self._lock:
            self._firing = {place: at for place, at in self._firing.items() if at > oldest}
            return dict(self._firing.keys())


def alerts(config: Config, heard: Heard) -> Alerts:
    """Ask Alertmanager where one is configured; without it, nothing is known by alerts."""
    if config.alertmanager is None:
        return Alerts(dict.fromkeys(config.servers, Alert("unknown", "no alerts are asked for")))
    try:
        active = _active(config.alertmanager.url)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValidationError) as error:
        missing = f"Alertmanager can't be asked: {_reason(error)}"
        by_webhook = heard.firing()
        return Alerts(
            {
                server: Alert("firing", f"a webhook said that {by_webhook[server]} is firing")
                if server in by_webhook
                else Alert("unknown", missing)
                for server in config.servers
            },
            missing,
        )
    firing = {server: name for server, name in active if name in DOWN_ALERTS}
    watched = {server for server, name in active if name == WATCHED_ALERT}
    return Alerts({server: _said(server, firing, watched) for server in config.servers})


def _said(server: str, firing: Mapping[str, str], watched: set[str]) -> Alert:
    if server in firing:
        return Alert("firing", f"{firing[server]} is firing")
    if server in watched:
        return Alert("quiet", "no alert says that it is down")
    return Alert(
        "unknown", "no alert says that it is watched (is the exporter dead, or Prometheus?)"
    )


class _Alert(BaseModel):
    labels: dict[str, str]


_ALERTS = TypeAdapter(list[_Alert])


def _active(url: str) -> set[tuple[str, str]]:
    """Server and name of each alert of ours.

    Silenced and inhibited alerts count: a silence mutes mail, it is no evidence.
    """
    with requests.Session() as session:
        session.trust_env = False  # a proxy for the web is none for Alertmanager
        answer = session.get(
            f"{url.rstrip('/')}/api/v2/alerts",
            params={
                "active": "true",
                "silenced": "true",
                "inhibited": "true",
                "filter": f'alertname=~"{"|".join((*DOWN_ALERTS, WATCHED_ALERT))}"',
            },
            timeout=_ALERTMANAGER_SECONDS,
            allow_redirects=False,
            stream=True,
        )
        if answer.status_code != requests.codes.ok:
            raise requests.HTTPError(f"status {answer.status_code}")
        found = _ALERTS.validate_json(_body(answer, time.monotonic() + _ALERTMANAGER_SECONDS))
    labels = [alert.labels for alert in found]
    return {
        (its["server"], its["alertname"]) for its in labels if {"server", "alertname"} <= its.keys()
    }


def _body(answer: requests.Response, deadline: float) -> bytes:
    """Read the body by the deadline: a timeout of requests begins anew with every byte."""
    body = bytearray()
    while piece := answer.raw.read1(2**16, decode_content=True):
        body += piece
        if time.monotonic() > deadline:
            raise requests.Timeout
        if len(body) > _ALERTMANAGER_BYTES:
            raise requests.HTTPError(f"its answer is over {_ALERTMANAGER_BYTES} bytes")
    return bytes(body)


def _reason(
    error: requests.RequestException | urllib3.exceptions.HTTPError | ValidationError,
) -> str:
    if isinstance(error, ValidationError):
        return "its answer is not a list of alerts"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"no answer within {_ALERTMANAGER_SECONDS:g} s"
    if isinstance(error, requests.ConnectionError):
        return "connection failed"
    return str(error)
