"""What a person does and asks by hand: `zonerw rewrite`, `pin`, `unpin` and `status`.

Owns one run without the daemon, with what it shows, and the status with or without one. Returns
exit statuses. The words of the command line are cli's.
"""

import logging
import os
import pwd
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial

import typer

from actions import __main__ as daemon
from actions import accept, auth, looks, notify, text, view
from actions.converge import Forced, Unpin, Word
from actions.decide import Look
from actions.looks import Attention, Seen
from actions.metrics import Metrics
from actions.notify import Follower, Serves
from actions.outcome import Outcome
from actions.state import Pin, StateError
from actions.wish import PinWish, printable, unknown_servers
from actions.witness import Heard
from exporter import log as logs
from exporter.config import Config

# A secondary that can be reached has the zones well before; one that can't is reported.
_FOLLOW_SECONDS = 10.0
_FOLLOW_UNCHANGED_SECONDS = 2.0

_UNDECIDED = (
    "nothing is decided: too little is known by alerts, and a few looks at once are no evidence;"
    " zonerw actions takes its time for them, zonerw pin moves the zones by your word"
)


def rewrite(config: Config, zones: Collection[str], *, forced: bool) -> int:
    """Converge; forced: accept the sources of these zones, or of all."""
    word = Forced(tuple(zone.lower().rstrip(".") for zone in zones)) if forced else None
    return _converge(config, word)


def pin(config: Config, wish: PinWish) -> int:
    """Set a pin, in the name of whoever gives the command."""
    if error := unknown_servers(config, {wish.server}):
        typer.echo(error, err=True)
        return 2
    return _converge(config, wish.pin(_person(), datetime.now(UTC)))


def unpin(config: Config) -> int:
    """Take the pin away."""
    return _converge(config, Unpin())


def status(config: Config, *, json: bool) -> int:
    """Say how everything stands, as the daemon knows it or, without it, as it looks now."""
    try:
        said = view.from_daemon(config, auth.read_operator_token(config.actions))
        if isinstance(said, str):
            witnesses = daemon.witnesses(config, partial(looks.at_once, config), Heard())
            said = view.by_itself(config, witnesses, said)
    except (auth.TokenFileError, StateError) as error:
        typer.echo(error, err=True)
        return 2
    if json:
        typer.echo(said.model_dump_json(by_alias=True, indent=1))
        return 0
    if said.daemon_missing:
        typer.echo(f"{said.daemon_missing}; what follows was seen without it,", err=True)
        typer.echo("and until it runs, only zonerw rewrite and zonerw pin move a zone", err=True)
    typer.echo(text.tell(said), nl=False)
    return 0


def _person() -> str:
    """Who gives the command: also behind sudo, su and runuser, as far as that can be told."""
    if behind := os.environ.get("SUDO_USER"):
        return printable(behind)
    try:
        return os.getlogin()
    except OSError:  # no terminal, as in cron
        pass
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def _converge(config: Config, word: Word | None) -> int:
    """Converge once, by a person's word or without, as the daemon does."""
    logs.to_stderr(logging.WARNING)
    notify.log.setLevel(logging.ERROR)  # what each secondary came to is shown at the end
    accept.log.setLevel(logging.INFO)  # thousands of sources take minutes to check
    metrics = Metrics(config)
    try:
        converger, followers = daemon.wire(config, metrics, partial(_looks, config, word), Heard())
    except (notify.KeyFileError, StateError) as error:
        typer.echo(error, err=True)
        return 2
    try:
        outcome = converger.run("request", word)
    except StateError as error:
        typer.echo(error, err=True)
        return 1
    changed = any(its.written for its in outcome.zones.values())
    _follow(followers, _FOLLOW_SECONDS if changed else _FOLLOW_UNCHANGED_SECONDS)
    undecided = outcome.judgement.looking and word is None
    wrong = outcome.failed or outcome.refused or undecided
    if isinstance(word, Unpin):
        typer.echo("nothing is pinned")
    if changed or word or wrong or sys.stdout.isatty():
        _show(outcome, followers, word.zones if isinstance(word, Forced) else ())
    if undecided:
        typer.echo(_UNDECIDED, err=True)
    if isinstance(word, Pin):
        _warn_if_down(config, word, outcome)
    return 1 if wrong else 0


def _looks(config: Config, word: Word | None, attended: Attention) -> Seen:
    """What a burst of looks comes to, where it may decide anything.

    A pin decides without. Where an alert should be known and is not, three looks within a second
    are no evidence: that is left to the daemon, which takes its time.
    """
    if isinstance(word, Pin):
        return looks.at_once(config, Attention((), eager=False))
    if config.alertmanager and attended.alerts and not attended.eager:
        unclear = Look("unclear", "not looked at: alone, that takes longer than one command")
        return Seen(dict.fromkeys(config.servers, unclear), None, frozenset(), looking=True)
    return looks.at_once(config, attended)


def _warn_if_down(config: Config, pin: Pin, outcome: Outcome) -> None:
    alert = outcome.judgement.testimonies[pin.server].alert
    look = looks.at_once(config, Attention((pin.server,), eager=False)).looks[pin.server]
    if text.looks_down(alert, look):
        typer.echo(f"{pin.server} is pinned, but looks down: {alert.why}, {look.why}", err=True)


def _follow(followers: list[Follower], seconds: float) -> None:
    until = time.monotonic() + seconds
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.wait(until)
        follower.end()
    notify.stop(followers)


def _show(outcome: Outcome, followers: list[Follower], named: Collection[str]) -> None:
    """Say what became of the named zones, or of all, and at the end what is wrong anywhere."""
    meant, pin = outcome.meant, outcome.pin
    if pin:
        typer.echo(f"{pin.server} is pinned until {text.utc(pin.until)}")
    since = text.utc(meant.since)
    typer.echo(f"serving {meant.server} since {since}, decided because {meant.why}")
    stand = {follower.name: follower.seen() for follower in followers}
    for name, its in sorted(outcome.zones.items()):
        if named and name not in named:
            continue
        if its.serial is not None:
            typer.echo(f"{name} {its.serial} {'published' if its.written else 'unchanged'}")
        for nameserver, zones in stand.items():
            seen = zones.get(name)
            if isinstance(seen, Serves):
                typer.echo(f"  {nameserver} serves it")
            elif seen is not None:
                at = "" if seen.serial is None else f", it is at {seen.serial}"
                typer.echo(f"  {nameserver} not yet{at}: {seen.reason}")
            elif its.serial is not None:
                typer.echo(f"  {nameserver} not asked: the primary does not serve it")
    for name, its in sorted(outcome.zones.items()):
        if its.reason:
            what = {None: "", "accept": "refused: "}.get(its.failed, f"{its.failed} failed: ")
            typer.echo(f"{name}: {what}{its.reason}", err=True)
    for what, why in outcome.judgement.doubts.items():
        typer.echo(f"{what}: {why}", err=True)
