"""`python -m actions`, the daemon: reads the files it needs, wires the parts, serves."""

import argparse
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from actions import auth, notify, sync, view, witness
from actions.accept import Watch
from actions.app import Parts, create_app
from actions.converge import Around, Converger, Word
from actions.judge import Witnesses
from actions.looks import Attention, Looker, Seen
from actions.metrics import Metrics, Trigger
from actions.notify import Follower, Wanted
from actions.outcome import Outcome
from actions.publish import Serials
from actions.state import State, StateError
from actions.witness import Heard
from actions.worker import Worker
from exporter import config as configuration
from exporter import log as logs
from exporter.config import Config

log = logging.getLogger(__name__)

_GRACE_SECONDS = 2  # for answers under way when we are told to stop
_FILES = 65_536  # at most, connections among them

# Followers read the answers of thousands of zones while others are written: between two system
# calls, who writes must not wait 5 ms for the interpreter, as is usual.
_TURN_SECONDS = 0.0005


def wire(
    config: Config, metrics: Metrics, looks: Callable[[Attention], Seen], heard: Heard
) -> tuple[Converger, list[Follower]]:
    """Make a follower for each secondary, and the converger, ready to run, that they go by.

    `looks` says what our own looks come to, `heard` what webhooks said.

    KeyFileError and StateError say which file can't be used.
    """
    observer = metrics.observer()
    followers = [
        Follower(
            name, secondary, notify.read_key(secondary.tsig) if secondary.tsig else None, observer
        )
        for name, secondary in config.secondaries.items()
    ]
    converger = Converger(config, metrics, _around(followers, witnesses(config, looks, heard)))
    converger.prepare()
    return converger, followers


def keeping(
    converger: Converger, followers: Collection[Follower]
) -> Callable[[Trigger, Word | None], Outcome]:
    """What runs the converger, and has the followers let go of zones that have been retired."""

    def converge(trigger: Trigger, word: Word | None) -> Outcome:
        outcome = converger.run(trigger, word)
        kept = {n for n, its in outcome.zones.items() if its.serial or its.failed}
        for follower in followers:
            follower.keep(kept)
        return outcome

    return converge


def telling(
    converge: Callable[[Trigger, Word | None], Outcome], switched: Callable[[], None]
) -> Callable[[Trigger, Word | None], Outcome]:
    """What converges, and tells of a switch, also of one by another process."""
    served: list[str] = []

    def run(trigger: Trigger, word: Word | None) -> Outcome:
        outcome = converge(trigger, word)
        if served and served[-1] != outcome.meant.server:
            switched()
        served[:] = [outcome.meant.server]
        return outcome

    return run


def witnesses(config: Config, looks: Callable[[Attention], Seen], heard: Heard) -> Witnesses:
    """Whom to ask who is down."""
    return Witnesses(lambda: witness.alerts(config, heard), looks)


def _around(followers: Sequence[Follower], asked: Witnesses) -> Around:
    """Connect converge to the witnesses and to the followers: what they know, and are told."""

    def secondaries(zones: Collection[str]) -> Serials:
        with ThreadPoolExecutor(len(followers) or 1) as pool:
            serials = pool.map(lambda follower: follower.serials(zones), followers)
            return dict(zip((follower.name for follower in followers), serials, strict=True))

    def stuck() -> Collection[str]:
        return {zone for follower in followers for zone in follower.stuck()}

    def served(zones: Mapping[str, Wanted]) -> None:
        for follower in followers:
            follower.want(zones)

    return Around(secondaries, stuck, served, asked)


def run(config: Config) -> int:
    """Serve until told to stop; returns the exit status."""
    logs.to_stderr()
    _raise_file_limit()
    sys.setswitchinterval(_TURN_SECONDS)
    metrics = Metrics(config)
    heard = Heard()
    looker = Looker(config, lambda: worker.wake("look"))
    try:
        tokens = auth.read_tokens(config.actions)
        converger, followers = wire(config, metrics, looker.attend, heard)
    except (auth.TokenFileError, notify.KeyFileError, StateError) as error:
        log.error("can't start", extra={"reason": str(error)})  # noqa: TRY400 - no traceback
        return 2

    watch = Watch(config, State(config.actions.state))
    metrics.show_sources(watch.look)
    alertmanager, policy = config.alertmanager, config.policy
    every = alertmanager.poll if alertmanager else policy.every
    jobs = sync.Schedule(config)
    metrics.show_syncs(lambda: sync.show(config))
    worker = Worker(telling(keeping(converger, followers), jobs.wake), every)
    listening = _listen(config)
    if listening is None:
        return 1
    for follower in followers:
        follower.start()
    worker.start()
    looker.start()
    jobs.start()
    parts = Parts(
        config,
        metrics,
        worker,
        followers,
        heard,
        status=lambda: view.by_daemon(config, watch, converger.latest, followers),
    )
    app = create_app(parts, tokens)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    # uvicorn ends in good order and then raises the signal again, for whoever handled it before.
    signal.signal(signal.SIGTERM, _end)
    log.info("listening", extra={"address": str(config.actions.listen)})
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        return 130
    finally:
        looker.stop()
        worker.stop()
        jobs.stop()
        notify.stop(followers)
    return 0


def _raise_file_limit() -> None:
    """Who opens a thousand connections keeps no run from opening a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _FILES)), hard))


def _listen(config: Config) -> socket.socket | None:
    where = config.actions.listen
    try:
        return socket.create_server((where.host, where.port), family=where.family, backlog=2048)
    except OSError as error:
        log.error("can't listen", extra={"address": str(where), "reason": error.strerror})  # noqa: TRY400
        return None


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def main() -> NoReturn:
    """Run with the command line's configuration."""
    parser = argparse.ArgumentParser(prog="python -m actions", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE")
    sys.exit(run(configuration.read_or_exit(parser.parse_args().config)))


if __name__ == "__main__":
    main()
