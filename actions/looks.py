"""Our own looks at the servers, and at the references that tell a dead server from a dead line.

Owns whom to look at and how often, what so many looks come to, and *blind*. How one look is done is
the business of exporter.probes, what follows from it decide's.

A look is *down* or *up* after `looks` of a kind in a row, else *unclear*. With references
configured, and none of them answering, we are blind: looks say nothing, what they said is
forgotten, and the looks of the first `looks` rounds after it are too.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from actions.decide import Alert, AlertState, Look
from exporter import probes
from exporter.config import Config, Reference, Server

log = logging.getLogger(__name__)

_QUICK_SECONDS = 0.25

# Quick looks that stay unclear for so long become slow ones: it is a line of few kilobytes.
_BURSTS = 8

# A silent server costs this once, not once for each look: those of a burst overlap.
_LONGEST_SECONDS = 5.0
_SHORTEST_SECONDS = 1.0


@dataclass(frozen=True)
class Round:
    """One look at each of some servers and, at the same time, at each reference.

    Who could not be looked at is absent.
    """

    servers: Mapping[str, probes.Up | probes.Down]
    references: Mapping[str, probes.Up | probes.Down]


@dataclass(frozen=True)
class Attention:
    """Whom to look at, by these alerts; `eager`: quickly, until the looks are clear.

    Looks say something beside the alerts that they were taken with: with other ones, all begins
    anew.
    """

    servers: tuple[str, ...]
    eager: bool
    alerts: tuple[AlertState, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What the looks come to: each server's, why we are blind (None: we are not).

    `met`: servers whose checks a look found met; `looking`: quick looks are under way.
    """

    looks: Mapping[str, Look]
    blind: str | None
    met: frozenset[str]
    looking: bool


def attention(alerts: Mapping[str, Alert], serving: str, never_seen: Collection[str]) -> Attention:
    """Whom to look at, by the alerts of all servers in order of preference.

    While all is quiet and the preferred server is served, only who was never seen up. Quickly where
    an alert is known of the server that serves and of each that is preferred to it: it is a second
    witness. Where it is not, three looks within a second are no evidence.
    """
    states = tuple(alert.state for alert in alerts.values())
    order = tuple(alerts)
    if set(states) == {"quiet"} and serving == order[0]:
        return Attention(tuple(server for server in order if server in never_seen), eager=False)
    eager = "unknown" not in states[: order.index(serving) + 1]
    return Attention(order, eager, states)


class Memory:
    """What the last looks at each server were, as far as they say anything."""

    def __init__(self, looks: int) -> None:
        self._needed = looks
        self._last: dict[str, deque[probes.Up | probes.Down]] = {}
        self._met: set[str] = set()
        self._rounds_to_go = 0  # before we are no longer blind
        self._blind = ""

    def note(self, seen: Round) -> None:
        """Add a round's looks to those before it."""
        if seen.references and not _some_up(seen.references):
            self._rounds_to_go = self._needed
            self._blind = f"no reference answers ({_reasons(seen.references)})"
            self._last.clear()
        elif self._rounds_to_go:
            self._rounds_to_go -= 1
            self._blind = "references answer again, but only since a moment ago"
        else:
            for server, result in seen.servers.items():
                self._last.setdefault(server, deque(maxlen=self._needed)).append(result)
                if isinstance(result, probes.Up):
                    self._met.add(server)

    def forget(self, *, blindness: bool) -> None:
        """Forget the looks; that we are blind too, or not."""
        self._last.clear()
        if blindness:
            self._rounds_to_go = 0

    def seen(self, attended: Attention, servers: Collection[str]) -> Seen:
        """What it comes to, for all servers."""
        looks = {
            server: self._look(server)
            if server in attended.servers
            else Look("unclear", "not looked at while all is quiet")
            for server in servers
        }
        blind = self._blind if self._rounds_to_go else None
        return Seen(looks, blind, frozenset(self._met), looking=False)

    def _look(self, server: str) -> Look:
        last = self._last.get(server, deque())
        if self._rounds_to_go:
            return Look("unclear", "looks say nothing while our own line is down")
        ups = sum(isinstance(result, probes.Up) for result in last)
        if len(last) < self._needed:
            return Look("unclear", f"{len(last)} of {self._needed} looks so far")
        if ups == len(last):
            return Look("up", f"up in {len(last)} looks")
        if ups == 0:
            return Look("down", f"down in {len(last)} looks ({_reason(last[-1])})")
        return Look("unclear", f"up in {ups} of {len(last)} looks")


def take(config: Config, servers: Sequence[str], count: int) -> list[Round]:
    """Take rounds that begin 250 ms apart; the last one ends two deadlines of a look later at most.

    Only what judges a server is looked at: its first address, by the checks that are required.
    """
    looked_at = {name: config.servers[name].judged for name in servers}
    timeout = min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, config.policy.every))

    def one(number: int) -> Round:
        time.sleep(number * _QUICK_SECONDS)
        with ThreadPoolExecutor(len(looked_at) + 1) as pool:
            asked = pool.submit(_ask_references, config, timeout)
            results = {name: pool.submit(_look, name, s, timeout) for name, s in looked_at.items()}
        looked = {name: result.result() for name, result in results.items()}
        servers = {name: result for name, result in looked.items() if result}
        references = asked.result()
        if _some_up(references) and any(isinstance(its, probes.Down) for its in servers.values()):
            # Our own line may have been cut in the middle of that look.
            references = _ask_references(config, timeout)
        return Round(servers, references)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def at_once(config: Config, attended: Attention) -> Seen:
    """Take as many looks as say something, now; without a thread, for a program that runs once."""
    memory = Memory(config.policy.looks)
    if attended.servers:
        for seen in take(config, attended.servers, config.policy.looks):
            memory.note(seen)
    return memory.seen(Attention(attended.servers, eager=False), config.servers)


class Looker:
    """Looks from a thread of its own, and says `changed` when what the looks come to is another."""

    def __init__(self, config: Config, changed: Callable[[], object]) -> None:
        self._config = config
        self._changed = changed
        self._news = threading.Condition()
        self._memory = Memory(config.policy.looks)
        self._attended = Attention((), eager=False)
        self._fresh = False  # who is attended to has changed since the last look began
        self._bursts = 0  # since anything has changed
        self._told: object = None  # the gist of what `attend` said last
        self._began = 0.0  # the last looks, monotonic
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)

    def start(self) -> None:
        """Begin to look, as soon as somebody is attended to."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further look; one that is under way is left to end with the program."""
        with self._news:
            self._stopping = True
            self._news.notify_all()

    def attend(self, attended: Attention) -> Seen:
        """Say whom to look at from now on; returns what is known by now, without waiting."""
        with self._news:
            if attended != self._attended:
                self._memory.forget(blindness=not attended.servers)
                self._attended, self._fresh, self._bursts = attended, True, 0
                self._news.notify_all()
            seen = self._seen()
            self._told = _gist(seen)
            return seen

    def _seen(self) -> Seen:
        seen = self._memory.seen(self._attended, self._config.servers)
        unclear = any(seen.looks[server].state == "unclear" for server in self._attended.servers)
        hurry = self._fresh or (unclear and self._bursts < _BURSTS)
        return replace(seen, looking=self._attended.eager and hurry)

    def _run(self) -> None:
        while (due := self._next()) is not None:
            try:
                self._look(*due)
            except Exception:  # whatever it was: without looks nothing is ever decided
                if not self._stopping:
                    log.exception("looking failed")

    def _next(self) -> tuple[Attention, int] | None:
        """Wait until somebody is to be looked at (again); whom, and how often. None at the end."""
        with self._news:
            policy = self._config.policy
            pause = policy.looks * _QUICK_SECONDS if self._seen().looking else policy.every
            left = max(0.0, self._began + pause - time.monotonic())
            self._news.wait_for(lambda: self._fresh or self._stopping, left)
            self._news.wait_for(lambda: self._attended.servers or self._stopping)
            if self._stopping:
                return None
            quick = self._seen().looking
            self._bursts += quick
            self._fresh = False
            self._began = time.monotonic()
            return self._attended, policy.looks if quick else 1

    def _look(self, attended: Attention, count: int) -> None:
        rounds = take(self._config, attended.servers, count)
        with self._news:
            for seen in rounds:
                if attended is self._attended:
                    self._memory.note(seen)
                elif self._attended.servers:
                    # Taken with other alerts, it says nothing now but of our own line.
                    self._memory.note(replace(seen, servers={}))
            gist = _gist(self._seen())
            changed, self._told = gist != self._told, gist
            if changed:
                self._bursts = 0
        if changed:
            self._changed()


def _gist(seen: Seen) -> object:
    return {s: look.state for s, look in seen.looks.items()}, seen.blind is None, seen.met


def _look(name: str, server: Server, timeout: float) -> probes.Up | probes.Down | None:
    """None where it could not be looked: a fault of our own is no look, and no vote."""
    try:
        return probes.judge(server, probes.look(server, timeout))
    except Exception:  # whatever it was: the others' looks must count
        log.exception("looking failed", extra={"server": name})
        return None


def _ask_reference(name: str, reference: Reference, timeout: float) -> probes.Up | probes.Down:
    try:
        return probes.ask_reference(reference, timeout)
    except Exception as error:  # likewise
        log.exception("looking failed", extra={"reference": name})
        return probes.Down("error", str(error), timeout)


def _ask_references(config: Config, timeout: float) -> Mapping[str, probes.Up | probes.Down]:
    """Ask all of them at once, until one answers: nobody waits for one that is dead."""
    answers: dict[str, probes.Up | probes.Down] = {}
    pool = ThreadPoolExecutor(len(config.references) or 1)
    asked = {
        pool.submit(_ask_reference, name, reference, timeout): name
        for name, reference in config.references.items()
    }
    for answered in as_completed(asked):
        answers[asked[answered]] = answered.result()
        if _some_up(answers):
            break
    pool.shutdown(wait=False)
    # Not in the order in which they answered: a line that stays dead is told of once.
    return {name: answers[name] for name in config.references if name in answers}


def _some_up(results: Mapping[str, probes.Up | probes.Down]) -> bool:
    return any(isinstance(result, probes.Up) for result in results.values())


def _reasons(results: Mapping[str, probes.Up | probes.Down]) -> str:
    return ", ".join(f"{name}: {_reason(result)}" for name, result in results.items())


def _reason(result: probes.Up | probes.Down) -> str:
    return result.reason if isinstance(result, probes.Down) else "up"
