"""What is looked at for one scrape, and how it reads as metrics.

Owns the name and labels of every metric that the exporter emits, and the log lines about what
changed. Leaves to `probes` and `soa` how it is looked, and to `web` when and for how long.
What is not known is absent, never 0.
"""

import logging
import platform
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import prometheus_client.registry
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily

from exporter import probes, soa, zonefile
from exporter.config import Address, Config, Nameserver, Server
from exporter.version import version

log = logging.getLogger(__name__)

# What `collect[]` may name. Servers every second, and the others every minute, is a good pair of
# jobs: whoever decides by the servers does not wait for a silent nameserver, or reference.
GROUPS = ("servers", "zones", "references")

_T = TypeVar("_T")
Looked = Mapping[tuple[str, Address], probes.Up | probes.Down]
_Answers = Mapping[str, soa.Answers]

# So much of a scrape's time may be over when one more source is parsed; those left wait for the
# next scrape, for this one's questions must not.
_READING = 0.25


class SourcesError(Exception):
    """Nobody knows which zones there are to ask for."""


class LastSeen:
    """What was seen last, kept from scrape to scrape.

    The states so that the log tells changes only, the sources so that none is parsed twice.
    `servers`: what the last look at all of them came to, in words; empty before the first.
    """

    def __init__(self) -> None:
        self.sources = Sources()
        self.servers = ""
        self._lock = threading.Lock()
        self._states: dict[str, tuple[float, object]] = {}

    def is_news(self, subject: str, state: object, began: float) -> bool:
        """Whether the subject was in another state until now; the state before the first is None.

        Scrapes overlap: a look that began before the last noted one is no news.
        """
        with self._lock:
            last_began, last = self._states.get(subject, (began, None))
            if began < last_began:
                return False
            self._states[subject] = began, state
            return state != last


class Sources:
    """Where each source says to look for the server that its zone points at.

    A source is parsed again only when the file has another time, size or inode.
    """

    def __init__(self) -> None:
        self._parsed: Mapping[Path, tuple[object, zonefile.Pointer | None]] = {}

    def pointers(
        self, paths: Mapping[str, Path], servers: Mapping[str, Server], until: float
    ) -> dict[str, zonefile.Pointer]:
        """By zone; without those that can't be parsed, or not before the time `until`."""
        before = self._parsed
        parsed = {}
        for zone, path in paths.items():
            try:
                status = path.stat()
                version = status.st_mtime_ns, status.st_size, status.st_ino
                known = before.get(path)
                if known and known[0] == version:
                    parsed[path] = known
                elif time.monotonic() < until:
                    parsed[path] = version, _pointer(zone, path.read_bytes(), servers)
            except OSError:
                continue  # it went away, or isn't ours to read
        self._parsed = parsed  # as a whole, for scrapes overlap
        found = {zone: parsed[path][1] for zone, path in paths.items() if path in parsed}
        return {zone: pointer for zone, pointer in found.items() if pointer}


def _pointer(zone: str, content: bytes, servers: Mapping[str, Server]) -> zonefile.Pointer | None:
    try:
        # A zone that follows nobody points elsewhere whoever serves, and rightly so.
        return zonefile.following(zonefile.parse(zone, content, servers))
    except zonefile.SourceRefused:
        return None  # whoever edits it is told by what accepts it


def collect(
    config: Config, last_seen: LastSeen, groups: Collection[str], timeout: float
) -> CollectorRegistry:
    """Look at all that the groups take, side by side within `timeout` seconds.

    The registry given back holds what was seen, for this one scrape. A folder of sources that
    can't be read is an error only where the servers were not asked for: those are known.
    """
    began = time.monotonic()
    servers = config.servers if "servers" in groups else {}
    references = config.references if "references" in groups else {}
    zones: Mapping[str, Path] = {}
    if "zones" in groups:
        try:
            zones = _zones(config, last_seen, began)
        except SourcesError:
            if not servers:
                raise
    with ThreadPoolExecutor(1 + len(servers) + len(references)) as pool:
        asked = pool.submit(_ask, config, last_seen, zones, began + timeout)
        looks = {
            name: pool.submit(probes.look, server, timeout) for name, server in servers.items()
        }
        answers = {
            name: pool.submit(probes.ask_reference, reference, timeout)
            for name, reference in references.items()
        }
        looked = dict(_ended("server", looks))
        answered = dict(_ended("reference", answers))
        served = asked.result()
    for name, its in looked.items():
        _tell(last_seen, began, name, servers[name], its)
    for name, result in answered.items():
        words = "reference down", "reference up again"
        _tell_one(last_seen, began, words, {"reference": name}, result)
    if servers:
        now = datetime.now(UTC)
        last_seen.servers = f"At {now:%H:%M:%S} UTC: {_in_words(servers, looked)}."
    return _registry(
        [
            *(_server_metrics(config, looked) if servers else ()),
            *(_zone_metrics(served, config) if "zones" in groups else ()),
            *(_reference_metrics(answered) if "references" in groups else ()),
            _build(),
        ]
    )


def _ended(kind: str, looks: Mapping[str, Future[_T]]) -> Iterator[tuple[str, _T]]:
    """What each look came to, without those that a fault of our own has ended."""
    for name, look in looks.items():
        try:
            yield name, look.result()
        except Exception:  # whatever it was: the others' looks must count
            log.exception("looking failed", extra={kind: name})


def look_at(
    config: Config, name: str, timeout: float, tell: probes.TellStep
) -> tuple[Looked, CollectorRegistry]:
    """Look at one server, each step told: what was seen, and what a scrape would show of it."""
    looked = probes.look(config.servers[name], timeout, tell=tell)
    return looked, _registry([*_server_metrics(config, {name: looked}), _build()])


def _zones(config: Config, last_seen: LastSeen, began: float) -> Mapping[str, Path]:
    """The zones to ask for: those that the folder has a source of, and where that is."""
    folder = config.zones.sources
    try:
        found = zonefile.find(folder)
    except OSError as error:
        if last_seen.is_news("sources", error.strerror, began):
            log.error(  # noqa: TRY400  the reason says all
                "sources can't be read", extra={"folder": folder, "reason": error.strerror}
            )
        raise SourcesError(f"{folder}: {error.strerror}") from error
    if last_seen.is_news("sources", None, began):
        log.info("sources can be read again", extra={"folder": folder})
    return found.paths


def _ask(
    config: Config, last_seen: LastSeen, zones: Mapping[str, Path], deadline: float
) -> _Answers:
    if not zones:
        return {}
    now = time.monotonic()
    until = now + _READING * (deadline - now)
    pointers = last_seen.sources.pointers(zones, config.servers, until)
    timeout = deadline - time.monotonic()
    return soa.ask_all(config.nameservers, list(zones), pointers, timeout)


def _tell(last_seen: LastSeen, began: float, name: str, server: Server, looked: Looked) -> None:
    """Log each check's change of state, and the server's, its first look included."""
    for (check, address), result in looked.items():
        place = {"server": name, "check": check, "address": str(address)}
        _tell_one(last_seen, began, ("check fails", "check succeeds again"), place, result)
    failed = probes.first_failing(server, looked)
    if not last_seen.is_news(f"server {name}", failed is None, began):
        return
    if failed is None:
        seconds = f"{probes.judge(server, looked).seconds:.3f}"
        log.info("server up", extra={"server": name, "seconds": seconds})
        return
    check, down = failed
    log.warning(
        "server down",
        extra={
            "server": name,
            "check": check,
            "address": str(server.looked_at[0]),
            "reason": down.reason,
            "detail": down.detail,
        },
    )


def _tell_one(
    last_seen: LastSeen,
    began: float,
    words: tuple[str, str],
    place: Mapping[str, str],
    result: probes.Up | probes.Down,
) -> None:
    """Log each new reason for which something fails, and its end; one that is well is no news."""
    fails, is_over = words
    reason = result.reason if isinstance(result, probes.Down) else None
    if not last_seen.is_news(f"{fails} {' '.join(place.values())}", reason, began):
        return
    if isinstance(result, probes.Down):
        why = {"reason": result.reason, "detail": result.detail}
        log.warning(fails, extra={**place, **why})
    else:
        log.info(is_over, extra=place)


def _in_words(servers: Mapping[str, Server], looked: Mapping[str, Looked]) -> str:
    verdicts = {name: probes.judge(servers[name], its) for name, its in looked.items()}
    return ", ".join(
        f"{name} is down ({verdict.reason})"
        if isinstance(verdict, probes.Down)
        else f"{name} is up"
        for name, verdict in verdicts.items()
    )


# --- metrics --------------------------------------------------------------------------------


class _Seen(prometheus_client.registry.Collector):
    """What one scrape saw."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _registry(metrics: Iterable[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Seen(metrics))
    return registry


def _server_metrics(config: Config, looked: Mapping[str, Looked]) -> Iterator[Metric]:
    server_up = GaugeMetricFamily(
        "zonerw_server_up",
        "Whether every check that is required succeeds at the server's first address.",
        labels=["server", "role"],
    )
    labels = ["server", "check", "address"]
    check_up = GaugeMetricFamily(
        "zonerw_check_up", "Whether the check succeeds at this address.", labels=labels
    )
    duration = GaugeMetricFamily(
        "zonerw_check_duration_seconds", "How long the check took, or tried.", labels=labels
    )
    failing = GaugeMetricFamily(
        "zonerw_check_failing", "1 while the check fails, with why.", labels=[*labels, "reason"]
    )
    expiry = GaugeMetricFamily(
        "zonerw_check_tls_expiry_timestamp_seconds",
        "Until when the certificate holds that the check was shown.",
        labels=labels,
    )
    for name, its in looked.items():
        up = isinstance(probes.judge(config.servers[name], its), probes.Up)
        server_up.add_metric([name, "main" if name == config.preferred else "backup"], up)
        for (check, address), result in its.items():
            place = [name, check, str(address)]
            check_up.add_metric(place, isinstance(result, probes.Up))
            duration.add_metric(place, result.seconds)
            if isinstance(result, probes.Down):
                failing.add_metric([*place, result.reason], 1)
            if result.expiry is not None:
                expiry.add_metric(place, result.expiry)
    yield from (server_up, check_up, duration, failing, expiry)


def _reference_metrics(answered: Mapping[str, probes.Up | probes.Down]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "zonerw_reference_up",
        "Whether anything comes back from the reference.",
        labels=["reference"],
    )
    for name, result in answered.items():
        up.add_metric([name], isinstance(result, probes.Up))
    yield up


def _zone_metrics(answers: _Answers, config: Config) -> Iterator[Metric]:
    labels = ["zone", "nameserver"]
    query_up = GaugeMetricFamily(
        "zonerw_zone_query_up",
        "Whether the nameserver answers for the zone, with authority.",
        labels=labels,
    )
    serial = GaugeMetricFamily(
        "zonerw_zone_serial", "The serial that the nameserver serves.", labels=labels
    )
    points_to = GaugeMetricFamily(
        "zonerw_zone_points_to",
        "1 for the server whose address the zone's first marked name has there.",
        labels=[*labels, "server"],
    )
    refresh = GaugeMetricFamily(
        "zonerw_zone_refresh_seconds",
        "After how long a secondary asks by itself for a newer version.",
        labels=labels,
    )
    expire = GaugeMetricFamily(
        "zonerw_zone_expire_seconds",
        "After how long without the primary a secondary gives the zone up.",
        labels=labels,
    )
    info = GaugeMetricFamily(
        "zonerw_nameserver_info",
        "What the nameserver is, and on which of the servers; on none, if that is empty.",
        labels=["nameserver", "role", "server"],
    )
    for name, its in config.nameservers.items():
        role = "primary" if name == config.primary.name else "secondary"
        info.add_metric([name, role, _server_of(its, config)], 1)
    for nameserver, answered in answers.items():
        for zone, answer in answered.serials.items():
            place = [zone, nameserver]
            query_up.add_metric(place, isinstance(answer, soa.Serial))
            if isinstance(answer, soa.Serial):
                serial.add_metric(place, answer.serial)
                refresh.add_metric(place, answer.refresh)
                expire.add_metric(place, answer.expire)
        for zone, addresses in answered.addresses.items():
            for name, server in config.servers.items():
                if not addresses.isdisjoint(server.addresses):
                    points_to.add_metric([zone, nameserver, name], 1)
    yield from (info, query_up, serial, points_to, refresh, expire)


def _server_of(nameserver: Nameserver, config: Config) -> str:
    """The server that a nameserver runs on, by the addresses of both; "" for none."""
    for name, server in config.servers.items():
        if nameserver.address in (*server.addresses, *server.looked_at):
            return name
    return ""


def _build() -> Metric:
    build = GaugeMetricFamily("zonerw_build_info", "What runs here.", labels=["version", "python"])
    build.add_metric([version(), platform.python_version()], 1)
    return build
