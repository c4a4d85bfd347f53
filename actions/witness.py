"""Who says that a server is down: the alerts active in Alertmanager, or our own looks.

Owns the asking. What follows from the words is decide's business.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import requests
import urllib3.exceptions
from pydantic import BaseModel, TypeAdapter, ValidationError

from actions.decide import Word
from exporter import probes
from exporter.config import Config, Policy, Server

# The alerts of prometheus/rules.yml that say that a server is down, by its label `server`.
DOWN_ALERTS = ("MainDown", "BackupDown")

# Alertmanager runs beside us; a webhook has to be answered within 7 s.
_ALERTMANAGER_SECONDS = 2.0
# Thousands of alerts; more is not what was asked for.
_ALERTMANAGER_BYTES = 16 * 2**20

_LOOK_SECONDS = 5.0
_BETWEEN_LOOKS_SECONDS = 0.25


@dataclass(frozen=True)
class Evidence:
    """What the witnesses say, a word for each server as far as it was asked for.

    `missing` says why the witness could not be asked; every word is then unknown.
    """

    words: Mapping[str, Word]
    missing: str | None = None


def ask(config: Config) -> Evidence:
    """Ask Alertmanager where one is configured, else look ourselves."""
    if config.alertmanager is None:
        return Evidence(_looks(config.servers, config.policy))
    try:
        firing = _firing(config.alertmanager.url)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValidationError) as error:
        missing = f"Alertmanager can't be asked: {_reason(error)}"
        return Evidence(dict.fromkeys(config.servers, Word(None, missing)), missing)
    return Evidence(
        {
            server: Word(True, f"{firing[server]} is firing")
            if server in firing
            else Word(False, "no alert says that it is down")
            for server in config.servers
        }
    )


class _Alert(BaseModel):
    labels: dict[str, str]


_ALERTS = TypeAdapter(list[_Alert])


def _firing(url: str) -> dict[str, str]:
    """Server -> the alert that says it is down.

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
                "filter": f'alertname=~"{"|".join(DOWN_ALERTS)}"',
            },
            timeout=_ALERTMANAGER_SECONDS,
            allow_redirects=False,
            stream=True,
        )
        if answer.status_code != requests.codes.ok:
            raise requests.HTTPError(f"status {answer.status_code}")
        alerts = _ALERTS.validate_json(_body(answer, time.monotonic() + _ALERTMANAGER_SECONDS))
    return {
        alert.labels["server"]: alert.labels["alertname"]
        for alert in alerts
        if alert.labels.get("alertname") in DOWN_ALERTS and "server" in alert.labels
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


def _looks(servers: Mapping[str, Server], policy: Policy) -> dict[str, Word]:
    """Look at the servers in their order, as far as the first that is not down."""
    words: dict[str, Word] = {}
    for name, server in servers.items():
        words[name] = _look(server, policy.looks)
        if not words[name].down:
            break
    return words


def _look(server: Server, looks: int) -> Word:
    """Look `looks` times; only looks that all agree say anything."""
    first = _one_look(server)
    for _ in range(looks - 1):
        time.sleep(_BETWEEN_LOOKS_SECONDS)
        next_ = _one_look(server)
        if isinstance(next_, probes.Down) != isinstance(first, probes.Down):
            return Word(None, f"{looks} looks do not agree")
    if isinstance(first, probes.Down):
        return Word(True, f"down in {looks} looks ({first.reason})")
    return Word(False, f"up in {looks} looks")


def _one_look(server: Server) -> probes.Up | probes.Down:
    return probes.judge(server, probes.look(server, _LOOK_SECONDS))
