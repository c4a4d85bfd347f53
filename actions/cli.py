"""`zonerw`, the operator's command."""

import logging
import os
import pwd
import sys
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from actions import __main__ as daemon
from actions import accept, auth, looks, notify, sync, text, view
from actions.converge import Forced, Unpin, Word
from actions.decide import Look
from actions.errand import Stop
from actions.looks import Attention, Seen
from actions.metrics import Metrics
from actions.notify import Follower, Serves
from actions.outcome import Outcome
from actions.state import Pin, State, StateError
from actions.wish import PIN_FOR, PinWish, printable, unknown_servers
from actions.witness import Heard
from demo import story
from exporter import __main__ as exporter_main
from exporter import config as configuration
from exporter import log as logs
from exporter.config import Config, UnisonJob

# A secondary that can be reached has the zones well before; one that can't is reported.
_FOLLOW_SECONDS = 10.0
_FOLLOW_UNCHANGED_SECONDS = 2.0


_UNDECIDED = (
    "nothing is decided: too little is known by alerts, and a few looks at once are no evidence;"
    " zonerw actions takes its time for them, zonerw pin moves the zones by your word"
)

cli = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Failover by DNS: the zones point at the backup while main is down.",
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"The configuration; default: $ZONERW_CONFIG, else {configuration.DEFAULT_PATH}.",
    ),
]


@cli.command()
def exporter(
    config: ConfigOption = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Print one scrape, and end.")] = False,
) -> None:
    """Publish health and DNS serials for Prometheus."""
    run = exporter_main.once if once else exporter_main.run
    _exit(lambda: run(configuration.read_or_exit(config)))


@cli.command()
def actions(config: ConfigOption = None) -> None:
    """Run the daemon that moves the zones."""
    _exit(lambda: daemon.run(configuration.read_or_exit(config)))


@cli.command()
def rewrite(
    zones: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ZONE",
            help="With --forced: only these. One whose source is gone is retired by that.",
            show_default=False,
        ),
    ] = None,
    *,
    forced: Annotated[
        bool, typer.Option("--forced", help="Accept the edited sources and publish them anew.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Decide who serves, and rewrite the zones that change."""
    if zones and not forced:
        raise typer.BadParameter("zones can be named with --forced only")
    word = Forced(tuple(zone.lower().rstrip(".") for zone in zones or ())) if forced else None
    _exit(lambda: _converge(configuration.read_or_exit(config), word))


@cli.command()
def pin(
    server: Annotated[str, typer.Argument(metavar="SERVER", show_default=False)],
    *,
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help='Such as "30m" or "1d12h".')
    ] = PIN_FOR,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Shown with the pin.", show_default=False)
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Serve this server, whatever the witnesses say."""
    try:
        wish = PinWish.model_validate({"server": server, "for": duration, "reason": reason})
    except ValidationError as error:
        fault = error.errors()[0]
        why = f"expected {fault['ctx']['error']}" if "ctx" in fault else fault["msg"]
        raise typer.BadParameter(why, param_hint=f"--{fault['loc'][0]}") from error
    _exit(lambda: _pin(configuration.read_or_exit(config), wish))


@cli.command()
def unpin(config: ConfigOption = None) -> None:
    """Leave it to the witnesses again who serves."""
    _exit(lambda: _converge(configuration.read_or_exit(config), Unpin()))


@cli.command()
def status(
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    serving: Annotated[
        bool, typer.Option("--serving", help="Only the name of the server that serves.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Say what it is doing, and why."""
    if json and serving:
        raise typer.BadParameter("expected --json or --serving, not both")
    _exit(
        lambda: (_serving if serving else partial(_status, json=json))(
            configuration.read_or_exit(config)
        )
    )


@cli.command(name="sync")
def keep_in_step(
    job: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    *,
    allow: Annotated[
        bool,
        typer.Option("--allow-deletions", help="Whatever share of the messages that is, once."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Run a job that keeps the servers in step, [sync.NAME]."""
    _exit(lambda: _sync(configuration.read_or_exit(config), job, allow=allow))


@cli.command()
def demo() -> None:
    """Show the main job on loopback, from real parts."""
    _exit(story.run)


def main() -> None:
    """Run the command line; exit status 2 is wrong usage."""
    cli()


def _exit(command: Callable[[], int]) -> NoReturn:
    """Exit with a command's status; 130 when it was interrupted."""
    try:
        raise typer.Exit(command())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _pin(config: Config, wish: PinWish) -> int:
    if error := unknown_servers(config, {wish.server}):
        typer.echo(error, err=True)
        return 2
    return _converge(config, wish.pin(_person(), datetime.now(UTC)))


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


def _status(config: Config, *, json: bool) -> int:
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


def _serving(config: Config) -> int:
    """Say who serves, by what is put down alone."""
    try:
        view.readable(config)
    except StateError as error:
        typer.echo(error, err=True)
        return 2
    try:
        meant = State(config.actions.state).meant()
    except StateError as error:
        typer.echo(error, err=True)
        return 1
    if meant is None:
        typer.echo("nothing is put down yet: no run has ended, or no source was accepted", err=True)
        return 1
    typer.echo(meant.server)
    return 0


def _sync(config: Config, name: str, *, allow: bool) -> int:
    if name not in config.sync:
        known = ", ".join(config.sync) or "none is configured"
        typer.echo(f"{name}: no such job; expected one of [sync.NAME]: {known}", err=True)
        return 2
    if allow and not isinstance(config.sync[name], UnisonJob):
        typer.echo(f"{name}: --allow-deletions is for jobs of Unison's", err=True)
        return 2
    logs.to_stderr(logging.WARNING)
    sync.log.setLevel(logging.CRITICAL)  # what it came to is shown
    jobs = sync.Jobs(config)
    try:
        jobs.prepare()
    except StateError as error:
        typer.echo(error, err=True)
        return 2

    def waits() -> None:
        typer.echo(f"{name}: waiting for a run that another process has begun", err=True)

    try:
        run = jobs.run(name, Stop(), allow=allow, waits=waits)
    except StateError as error:
        typer.echo(error, err=True)
        return 1
    its = run.result
    done = its.outcome == "done"
    typer.echo(f"{name}: {text.ran(run)}", err=not done)
    for path, why in {**its.skipped, **its.failed}.items():
        typer.echo(f"{path}: {why}", err=True)
    if its.allowable:
        typer.echo(f"if that is meant: zonerw sync {name} --allow-deletions", err=True)
    return 0 if done else 1


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
