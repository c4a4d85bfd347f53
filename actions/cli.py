"""`zonerw`, the operator's command.

Owns the words of the command line, and what `sync` and `status --serving` do. Cron and scripts call
these two, so they load little; what another command needs is loaded when it is given.
"""

# ruff: noqa: PLC0415

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from actions import sync
from actions.errand import Stop
from actions.state import State, StateError
from actions.wish import PIN_FOR, PinWish
from exporter import config as configuration
from exporter import log as logs
from exporter.config import Config, UnisonJob

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
    from exporter import __main__ as program

    run = program.once if once else program.run
    _exit(lambda: run(configuration.read_or_exit(config)))


@cli.command()
def actions(config: ConfigOption = None) -> None:
    """Run the daemon that moves the zones."""
    from actions import __main__ as daemon

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
    from actions import byhand

    _exit(lambda: byhand.rewrite(configuration.read_or_exit(config), zones or (), forced=forced))


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
    from actions import byhand

    _exit(lambda: byhand.pin(configuration.read_or_exit(config), wish))


@cli.command()
def unpin(config: ConfigOption = None) -> None:
    """Leave it to the witnesses again who serves."""
    from actions import byhand

    _exit(lambda: byhand.unpin(configuration.read_or_exit(config)))


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
    if serving:
        _exit(lambda: _serving(configuration.read_or_exit(config)))
    from actions import byhand

    _exit(lambda: byhand.status(configuration.read_or_exit(config), json=json))


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
    from demo import story

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


def _serving(config: Config) -> int:
    """Say who serves, by what is put down alone."""
    state = State(config.actions.state)
    try:
        state.readable()
    except StateError as error:
        typer.echo(error, err=True)
        return 2
    try:
        meant = state.meant()
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

    stop = Stop()
    try:
        with _told_by_signals(stop) as signals:
            run = jobs.run(name, stop, allow=allow, waits=waits)
    except StateError as error:
        typer.echo(error, err=True)
        return 1
    if signals:
        return 128 + signals[0]
    its = run.result
    done = its.outcome == "done"
    typer.echo(f"{name}: {_ran(run)}", err=not done)
    for path, why in {**its.skipped, **its.failed}.items():
        typer.echo(f"{path}: {why}", err=True)
    if its.allowable:
        typer.echo(f"if that is meant: zonerw sync {name} --allow-deletions", err=True)
    return 0 if done else 1


@contextmanager
def _told_by_signals(stop: Stop) -> Iterator[list[int]]:
    """End what was begun in good order; where nothing was, end at once. Says which have come."""
    came = list[int]()

    def end(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        stop.tell()
        if not stop.ends_something:
            sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ran(run: sync.Run) -> str:
    """Say what a run of a job came to."""
    its = run.result
    if its.outcome != "done":
        return f"{its.outcome}: {its.reason}"
    moved = "done"
    if run.counts:
        left = f"{len(its.skipped)} skipped, {len(its.failed)} failed"
        moved = f"{its.transferred} transferred, {left}, {its.deleted} deleted"
    note = f"; {its.reason}" if its.reason else ""
    return f"{moved} in {run.seconds:.1f} s{note}"
