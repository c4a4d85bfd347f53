"""The status as text, for an owner who has forgotten how it works.

Owns these sentences: who serves, why nothing happens where one could think that something should,
and what is not as it should be, with the command that mends it. What is in order is passed over.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Sized
from datetime import UTC, datetime, timedelta

from actions.accept import Standing
from actions.decide import Alert, Look
from actions.status import Document, Pin, UnknownPin, Zone

# So long a run can take where servers and name servers are silent; one that takes longer hangs.
_LONGEST_RUN = timedelta(minutes=1)

# A job that has not run for so many of its intervals is run by nobody.
_OVERDUE = 3

# Where a name server does not serve many zones, these are named.
_NAMED_ZONES = 3

_HALF_A_MINUTE = timedelta(seconds=30)  # "8 hours from now", a moment after 8 hours were said


def tell(its: Document) -> str:
    """Say how everything stands; ends with a newline."""
    parts = (_serving, _servers, _pinned, _troubles, _zones, _sources, _syncs, _switches)
    blocks = ("\n".join(part(its)) for part in parts)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _serving(its: Document) -> Iterator[str]:
    if its.serving is None or its.since is None:
        yield f"who serves is not known: {its.why}"
        return
    serves = "is meant to serve" if any(z.failed for z in its.zones.values()) else "serves"
    yield f"{its.serving} {serves} since {utc(its.since)} ({_span(its.at - its.since)})"
    yield f"decided because {its.why} (by {its.by})"
    if its.servers and its.serving not in its.servers:
        yield f"{its.serving} is no server any more: the next run goes by the published zones"


def _servers(its: Document) -> Iterator[str]:
    if not its.servers:
        yield "nobody was asked who is down"
    for name, server in its.servers.items():
        said = f"{server.alert.why}, {server.look.why}"
        if server.doubt:
            yield f"{name} is in doubt: {server.doubt}"
            continue
        yield (
            f"{name}: {said}"
            if server.verdict == "unsure"
            else f"{name} is {server.verdict}: {said}"
        )
        if not server.seen_up:
            yield (
                f"{name} was never seen up since its checks were configured:"
                " until then it is not taken for down"
            )
    if its.pin:
        return  # it is not the witnesses that decide
    if its.missing and not its.alone:
        yield its.missing
    if its.blind:
        yield f"our own line is down, or just was, so nothing is changed: {its.blind}"
        return
    if its.alone:
        yield "no alert is known of any server: our own looks decide alone"
    if its.serving is not None and its.serving in its.servers and not its.daemon_missing:
        yield from _kept(its, its.serving)


def _kept(its: Document, serving: str) -> Iterator[str]:
    """Why the server that serves goes on doing so, where one could think that it should not."""
    servers, served = its.servers, its.servers[serving]
    before = list(servers)[: list(servers).index(serving)]
    back = [name for name in before if servers[name].verdict == "up"]
    if served.verdict == "down":
        if all(server.look.state != "up" for server in servers.values()):
            yield "nothing is changed: no other server is known to be up"
    elif back and its.handback == "manual":
        yield f'{back[0]} could serve again, but handback is "manual": zonerw pin {back[0]} does it'
    elif not back:
        if served.doubt and not before:
            yield f"nothing is changed until it is clear how it stands with {serving}"
        elif (served.verdict, served.alert.state, served.doubt) == ("unsure", "firing", None):
            yield f"nothing is changed before our own looks say it too of {serving}"
        if before and its.handback == "manual":
            yield f'once {before[0]} is up, zonerw pin {before[0]} hands back: handback is "manual"'
        elif before:
            yield f"the zones are handed back as soon as {' or '.join(before)} is up"


def _pinned(its: Document) -> Iterator[str]:
    match its.pin:
        case UnknownPin():
            yield "whether a server is pinned is not known, so nothing is decided:"
            yield f"{its.pin.unknown}; zonerw unpin, or a new zonerw pin, mends that"
        case Pin():
            left = _span(its.pin.until - its.at + _HALF_A_MINUTE)
            why = f": {its.pin.reason}" if its.pin.reason else ""
            until = f"until {utc(its.pin.until)} ({left} from now)"
            yield f"{its.pin.server} is pinned {until}, by {its.pin.by}{why}"
            yield _held(its.pin.server, its)


def _held(pinned: str, its: Document) -> str:
    """What a pin means as things stand."""
    server = its.servers.get(pinned)
    if its.servers and server is None:
        return f"{pinned} is no server any more, so nothing is decided; zonerw unpin ends that"
    if server and looks_down(server.alert, server.look):
        return f"{pinned} looks down, and is served all the same; zonerw unpin ends that"
    return "whatever the witnesses say, nothing else is served; zonerw unpin ends that"


def _troubles(its: Document) -> Iterator[str]:
    troubles = [f"{trouble.file}: {trouble.why}" for trouble in its.troubles]
    run = its.run
    if run and run.error:
        error = "" if run.error in troubles else f": {run.error}"
        troubles.append(f"the last run came to nothing: nothing moves, be main dead or not{error}")
    if run and run.ended is None:
        troubles.append("no run has ended yet")
    elif run and run.ended and its.at - run.ended > _LONGEST_RUN + timedelta(seconds=run.every):
        ago = _span(its.at - run.ended)
        troubles.append(f"the daemon hangs: its last run ended {ago} ago, at {utc(run.ended)}")
    if troubles:
        yield "trouble:"
        yield from (f"  {trouble}" for trouble in troubles)
    if any(trouble.file.endswith((".json", ".jsonl")) for trouble in its.troubles):
        yield "  a damaged file of the state can be moved away; it is found out anew if possible"


def _zones(its: Document) -> Iterator[str]:
    published = {name: zone for name, zone in its.zones.items() if _is_known(zone)}
    nameservers = {**its.primary, **its.secondaries}
    counted = f"{_count(published, 'zone')} on {_count(nameservers, 'name server')}"
    if not published:
        yield "no zone is known"
        return
    wrong = [*_wrong_zones(published), *_wrong_nameservers(its, published)]
    if not wrong:
        yield f"{counted}, all as they should be (last asked a minute ago at most)"
        return
    yield f"{counted}, not all as they should be:"
    yield from wrong


def _is_known(zone: Zone) -> bool:
    """Whether it is, or should be, published: it is no source that was never accepted."""
    return zone.serial is not None or bool(zone.failed or zone.reason)


def _wrong_zones(zones: Mapping[str, Zone]) -> Iterator[str]:
    for name, zone in zones.items():
        if zone.failed or zone.reason:
            step = f"{zone.failed} failed: " if zone.failed else ""
            yield f"  {name}: {step}{zone.reason}"


def _wrong_nameservers(its: Document, zones: Mapping[str, Zone]) -> Iterator[str]:
    """Say for each name server, and each reason, which zones it does not serve as it should."""
    ended_well = not (its.run and its.run.error)
    unasked = "not asked yet" if ended_well else "not asked, since the last run came to nothing"
    for nameserver, stands in {**its.primary, **its.secondaries}.items():
        reasons = defaultdict(list)
        for name, zone in zones.items():
            if zone.failed and nameserver in its.primary:
                continue  # the zone's own failure says it
            its_stand = stands.get(name)
            if its_stand is None:
                reasons[unasked].append(name)
            elif not its_stand.serves:
                reasons[its_stand.reason].append(name)
        for reason, names in reasons.items():
            yield f"  {nameserver}: {reason}: {_some(names)}"


def _sources(its: Document) -> Iterator[str]:
    standings = [zone.source for zone in its.zones.values()]
    if len(standings) > 1 and all(its == Standing("gone") for its in standings):
        yield "no source is there any more: is their folder mounted? all are served on"
        return
    for name, zone in its.zones.items():
        publish = f"zonerw rewrite --forced {name}"
        match zone.source:
            case Standing("pending", "new"):
                yield f"{name} is new, and not accepted yet: {publish} publishes it"
            case Standing("pending"):
                yield f"{name} was edited since it was accepted: {publish} publishes it"
            case Standing("unchecked", why) if why:
                yield f"{name} was edited since it was accepted, and {why}: {publish} publishes it"
            case Standing("unchecked"):
                yield f"{name} was edited since it was accepted, and is not checked yet"
            case Standing("gone"):
                yield f"the source of {name} is gone; it is served on until {publish} retires it"
            case Standing("broken", why):
                served = "; it is served on as it was accepted" if _is_known(zone) else ""
                yield f"the source of {name} is broken{served}:"
                yield from (f"  {line}" for line in why.splitlines())


def _syncs(its: Document) -> Iterator[str]:
    for name, job in its.sync.items():
        if job.ended is None:
            yield f"{name}: no run has ended yet"
        elif job.outcome == "refused" and job.allowable:
            yield f"{name} is in step but for deletions, refused: {job.reason}"
            yield f"  if that is meant: zonerw sync {name} --allow-deletions"
        elif job.outcome == "refused":
            yield f"{name} is not kept in step, refused: {job.reason}"
        elif job.outcome == "failed":
            yield f"{name} is not in step: {job.reason}"
        else:
            yield f"{name} was in step {_span(its.at - job.ended)} ago"
        if job.succeeded and job.succeeded != job.ended:
            yield f"  it last was {_span(its.at - job.succeeded)} ago, at {utc(job.succeeded)}"
        elif job.ended and its.at - job.ended > _OVERDUE * timedelta(seconds=job.every):
            every = _span(timedelta(seconds=job.every))
            yield f"  nobody has run it since, though it is due every {every}"
        for path, why in job.paths.items():
            yield f"  {path}: {why}"
        if (more := job.skipped + job.failed - len(job.paths)) > 0:
            yield f"  and {more} more"


def _switches(its: Document) -> Iterator[str]:
    if its.switches:
        yield "the last switches:"
    for switch in its.switches:
        way = f"from {switch.before} to {switch.to}" if switch.before else f"to {switch.to}"
        cause = f" ({switch.cause})" if switch.cause else ""
        yield f"  {utc(switch.at)} {way}{cause}, because {switch.why} (by {switch.by})"


# --- words ----------------------------------------------------------------------------------


def utc(time: datetime) -> str:
    """A time as people read it."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def looks_down(alert: Alert, look: Look) -> bool:
    """Whether any witness says that a server is down."""
    return alert.state == "firing" or look.state == "down"


def _span(span: timedelta) -> str:
    """How long, in the largest unit of which it has one."""
    seconds = int(span.total_seconds())
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return _count(range(seconds // length), unit)
    return _count(range(seconds), "second")


def _count(things: Sized, one: str) -> str:
    return f"{len(things)} {one}{'' if len(things) == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    if len(names) <= _NAMED_ZONES + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED_ZONES])} and {len(names) - _NAMED_ZONES} more"
