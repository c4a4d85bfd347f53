"""How long it takes to keep two Maildirs in step over ssh, beside the bare Unison that does it.

    python benchmarks/sync.py [MESSAGES]

MESSAGES (default 10,000) of 4 KB, over an sshd on loopback, for each contender two Maildirs and an
sshd of its own, all in turns on the same machine:

- *unison*: bare, in batch mode, with the options that zonerw gives it;
- *daemon*: a job's run as `zonerw actions` does it, in a process that is already there;
- *zonerw sync*: the command, as by hand or from cron.

First all messages are on one side, FIRSTS times anew (environment, default 3); then, REPEATS times
each (default 9), 5 new ones come on either side; and nothing is new. Medians in seconds of the time
until it has ended, and what zonerw has on top in milliseconds. Exit status 1 where the Maildirs are
not alike afterwards, or the daemon's run with few messages, or none, takes more than 150 ms on top.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from actions import sync, unison
from actions.errand import Stop
from demo.layout import free_ports
from demo.parts import ended_as_interrupted
from demo.shipped import MissingError
from exporter import config as configuration
from tests.system.mail import ADDRESS, Machines, machines, program

_MESSAGES = 10_000
_SIZE = 4096
_NEW = 5
_FIRSTS = 3
_REPEATS = 9
_AIM_SECONDS = 0.150
_WITHIN_SECONDS = 600.0

FIRST, NEW, NOTHING = "first run", f"{2 * _NEW} new ones", "nothing to do"

Run = Callable[[Machines], None]
Figures = Mapping[str, Mapping[str, Sequence[float]]]  # row -> contender -> seconds


def main() -> None:
    """Measure, and print the table; the exit status says whether all was as it has to be."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else _MESSAGES
    firsts = int(os.environ.get("FIRSTS", _FIRSTS))
    repeats = int(os.environ.get("REPEATS", _REPEATS))
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with ended_as_interrupted():
        for turn in range(firsts):
            with _contenders(number) as contenders:
                for title, (them, run) in contenders.items():
                    _time(figures[FIRST][title], f"{FIRST}, {title}", them, run)
                for _ in range(repeats if turn == firsts - 1 else 0):
                    _turn(contenders, figures)
    print(_table(number, figures))
    late = [line for row in (NEW, NOTHING) for line in _late(row, figures[row])]
    for line in late:
        _say(line)
    sys.exit(1 if late else 0)


def _turn(
    contenders: Mapping[str, tuple[Machines, Run]], figures: Mapping[str, Mapping[str, list[float]]]
) -> None:
    for title, (them, run) in contenders.items():
        _deliver(them, _NEW)
        _time(figures[NEW][title], f"{NEW}, {title}", them, run)
        _time(figures[NOTHING][title], f"{NOTHING}, {title}", them, run)


def _time(seconds: list[float], what: str, them: Machines, run: Run) -> None:
    began = time.monotonic()
    run(them)
    seconds.append(time.monotonic() - began)
    _say(f"{what}: {seconds[-1]:.3f} s")
    if _names(them.here.path) != _names(them.there.path):
        sys.exit(f"{what}: the Maildirs are not alike")


@contextmanager
def _contenders(number: int) -> Iterator[dict[str, tuple[Machines, Run]]]:
    """Each with its own two machines; main has all messages, and the backup none."""
    runs: dict[str, Run] = {"unison": _bare, "daemon": _daemon, "zonerw sync": _by_hand}
    with ExitStack() as leaving:
        folder = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="zonerw-")))
        contenders = {}
        for title, run in runs.items():
            port = free_ports(ADDRESS).web
            own = folder / title.replace(" ", "-")
            try:
                them = leaving.enter_context(machines(own, port))
            except MissingError as error:
                sys.exit(str(error))
            for n in range(number):
                them.there.deliver(f"old {n}", size=_SIZE)
            contenders[title] = them, run
        yield contenders


def _deliver(them: Machines, number: int) -> None:
    for side in (them.here, them.there):
        for n in range(number):
            side.deliver(f"new {n}", size=_SIZE)


def _names(maildir: Path) -> set[Path]:
    return {path.relative_to(maildir) for path in maildir.glob("*/*")}


# --- contenders -----------------------------------------------------------------------------


def _bare(them: Machines) -> None:
    words = (program("unison"), str(them.here.path), them.root, "-batch", *unison._OPTIONS)
    _run(them, *words, "-sshargs", unison._SSH, "-servercmd", unison._SERVER)


def _by_hand(them: Machines) -> None:
    _run(them, str(Path(sys.executable).with_name("zonerw")), "sync", "mail")


def _environment(them: Machines) -> dict[str, str]:
    """That of the machine here; Python's modules are compiled once, as where they are installed."""
    environment = them.environment | {"PYTHONPYCACHEPREFIX": str(them.folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _run(them: Machines, *words: str) -> None:
    done = subprocess.run(
        words,
        env=_environment(them) | {"UNISONLOCALHOSTNAME": "local"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_WITHIN_SECONDS,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{words[0]}: exit status {done.returncode}: {done.stderr[-500:]}")


def _daemon(them: Machines) -> None:
    """What a job's thread does; what it runs has this process's environment."""
    before = dict(os.environ)
    os.environ.update(_environment(them))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        jobs = sync.Jobs(configuration.read(them.config))
        jobs.prepare()
        result = jobs.run("mail", Stop()).result
    finally:
        os.environ.clear()
        os.environ.update(before)
    if result.outcome != "done":
        sys.exit(f"daemon: {result.outcome}: {result.reason}")


# --- tables ---------------------------------------------------------------------------------


def _table(number: int, figures: Figures) -> str:
    titles = list(figures[FIRST])
    ours = titles[1:]
    head = [f"{number} messages, s", *titles, *(f"{title} on top, ms" for title in ours)]
    lines = [head, ["---"] * len(head)]
    for row, columns in figures.items():
        cells = [f"{statistics.median(columns[title]):.3f}" for title in titles]
        lines.append([row, *cells, *(f"{_on_top(columns, title) * 1000:.0f}" for title in ours)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _late(row: str, columns: Mapping[str, Sequence[float]]) -> list[str]:
    over = _on_top(columns, "daemon")
    return [f"{row}: the daemon takes {over * 1000:.0f} ms on top"] if over > _AIM_SECONDS else []


def _on_top(columns: Mapping[str, Sequence[float]], title: str) -> float:
    """What a contender has on top of the first, in seconds; both were measured side by side."""
    return statistics.median(columns[title]) - statistics.median(columns["unison"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
