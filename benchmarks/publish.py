"""How long it takes to move all zones to another server, beside a bare loop that does it.

    python benchmarks/publish.py [ZONES...]

For each number of zones (default 1 100 1000 10000), side by side, each with an NSD primary and a
secondary of its own, all zones of 1.2 KB are moved from main to the backup, and back, in turns:

- *floor*: a bare loop writes what was rendered beforehand over the old files (open, write, fsync,
  close, one after the other), then one `nsd-control reload`; NSD sends its NOTIFYs itself;
- *script*: a shell script of the kind that people use: for each zone `sed` over the base file, and
  `nsd-control reload ZONE`; NSD sends its NOTIFYs itself;
- *zonerw*: the real code, by a pin; it sends the NOTIFYs.

Each REPEATS times (environment, default 5; the script once where it takes minutes, and not at all
where it would take longer), and the medians: seconds from the decision until the primary, and the
secondary, answer for every zone with the new serial. All of it shares this machine's processors. A
floor or script that is not there in 20 minutes (*inf*) is not tried again. Exit status 1 where
zonerw did not do it in that time, with one reload, one serial for each zone, and without a failure.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype

from actions.zone import next_serial
from benchmarks.pair import Pair, pair
from benchmarks.program import Idle, Program, Ran, Used
from benchmarks.served import questions, since
from demo import shipped
from demo.parts import ended_as_interrupted

_ZONES = (1, 100, 1000, 10000)
_REPEATS = 5
# For so many zones the script takes minutes: once is enough; for more it is left out.
_SCRIPT_ONCE = 1000

# Then it is taken for never.
_WITHIN_SECONDS = 1200.0
_FIRST_SERIAL = 1

_ADDRESSES = {"main": ("192.0.2.1", "2001:db8::1"), "backup": ("198.51.100.7", "")}

_SCRIPT = """\
#!/bin/sh
# rewrite SERIAL ADDRESS ADDRESS6: a server without ADDRESS6 has no AAAA records.
if [ -n "$3" ]; then six="/AAAA/s/@IP@/$3/"; else six='/AAAA.*@IP@/d'; fi
for base in {sources}/*.base; do
    zone=$(basename "$base" .base)
    sed -e "s/@serial number@/$1/" -e "s/@IP:main@/{main}/" -e "s/@IP:backup@/{backup}/" \\
        -e "$six" -e "s/@IP@/$2/" "$base" >"{published}/$zone"
    {control} reload "$zone"
done
"""

_CONFIG = """\
[servers.main]
addresses = ["192.0.2.1", "2001:db8::1"]
[servers.backup]
addresses = ["198.51.100.7"]
[zones]
sources = "{sources}"
published = "{pair.published}"
[primary]
kind = "nsd"
address = "{pair.primary}"
port = {pair.port}
control = ["{pair.control}"]
[secondaries.ns2]
address = "{pair.secondary}"
port = {pair.port}
tsig = {{ name = "transfer", algorithm = "hmac-sha256", secret_file = "{pair.key}" }}
[actions]
state = "{folder}/state"
"""


@dataclass(frozen=True)
class Times:
    """Seconds from the decision until primary and secondary had every zone, of each move.

    Infinite where they had not, in time.
    """

    primary: list[float] = field(default_factory=list)
    secondary: list[float] = field(default_factory=list)

    @property
    def late(self) -> bool:
        """Whether a move was not seen to its end."""
        return math.inf in (*self.primary, *self.secondary)


@dataclass
class Notes:
    """What else is told of zonerw.

    `first` accepted and published all, `again` was the next program's start, `runs` the moves, with
    what was `used` until they were followed; the peaks are the two programs' most memory in bytes.
    """

    first: Ran
    first_peak: int
    again: Ran
    runs: list[Ran] = field(default_factory=list)
    used: list[Used] = field(default_factory=list)
    reloads: list[int] = field(default_factory=list)
    idle: Idle | None = None
    peak: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """All of one number of zones; `text`: the bytes of their base files."""

    zones: int
    text: int
    times: Mapping[str, Times]
    notes: Notes


class Ground:
    """One number of zones, in a folder: their base files, and where all contenders start from."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.zones = [f"zone-{zone:05d}.example" for zone in range(number)]
        self.asked = questions(self.zones)
        self.sources = folder / "sources"
        self.sources.mkdir()
        self._example = (shipped.folder() / "examples/zones/example.org.base").read_text()
        for zone in self.zones:
            (self.sources / f"{zone}.base").write_text(self._example.replace("example.org", zone))

    @property
    def text(self) -> int:
        """Bytes of all base files."""
        return sum(path.stat().st_size for path in self.sources.iterdir())

    @contextmanager
    def pair(self, name: str, *, notifies: bool) -> Iterator[Pair]:
        """Two name servers for these zones, not running yet."""
        with pair(self.folder / name, self.zones, notifies=notifies) as its:
            yield its

    def rendered(self, serial: int, server: str) -> dict[str, bytes]:
        """Each zone's text while a server serves, rendered by hand."""
        four, six = _ADDRESSES[server]
        lines = self._example.replace("@serial number@", str(serial)).splitlines(keepends=True)
        text = "".join(line for line in lines if six or "AAAA  @IP@" not in line)
        text = text.replace("AAAA  @IP@", f"AAAA  {six}").replace("@IP@", four)
        for name, addresses in _ADDRESSES.items():
            text = text.replace(f"@IP:{name}@", addresses[0])
        return {zone: text.replace("example.org", zone).encode() for zone in self.zones}

    def put(self, its: Pair, texts: Mapping[str, bytes]) -> None:
        """Write texts over what is there, each to the disk."""
        for zone, text in texts.items():
            descriptor = os.open(its.published / zone, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, text)
            os.fsync(descriptor)
            os.close(descriptor)

    def served(self, its: Pair, serial: int, server: str) -> Mapping[str, float]:
        """When each of the pair had every zone (monotonic), and where it should be; or infinity."""
        where = {name: (getattr(its, name), its.port) for name in ("primary", "secondary")}
        reached = since(where, self.asked, serial, _WITHIN_SECONDS)
        for zone in (self.zones[0], self.zones[-1]):
            question = dns.message.make_query(f"www.{zone}", dns.rdatatype.A)
            for address, port in (where[name] for name in reached):
                answer = dns.query.udp(question, address, timeout=1, port=port).answer
                found = [rdata.to_text() for rrset in answer for rdata in rrset]
                if found != [_ADDRESSES[server][0]]:
                    raise ValueError(f"{zone} at {address} is at {found}, not at {server}")
        return {name: reached.get(name, math.inf) for name in where}


class Contender(ABC):
    """One way to move all zones; at first they are at main, with `serial`."""

    serial = _FIRST_SERIAL

    def __init__(self, ground: Ground, its: Pair) -> None:
        self.ground = ground
        self.pair = its

    def move(self, server: str, times: Times) -> None:
        """Move all zones to a server, and note how long it took."""
        self.serial = self.next()
        began = self.begin(server)
        reached = self.ground.served(self.pair, self.serial, server)
        self.end(reached)
        times.primary.append(reached["primary"] - began)
        times.secondary.append(reached["secondary"] - began)

    def next(self) -> int:
        """The serial of the next move."""
        return self.serial + 1

    @abstractmethod
    def begin(self, server: str) -> float:
        """Decide; returns when that was (monotonic seconds)."""

    @abstractmethod
    def end(self, reached: Mapping[str, float]) -> None:
        """See it through, now that everything is served, or was not in time."""


class Floor(Contender):
    """A bare loop."""

    def begin(self, server: str) -> float:
        """Write and reload; the texts are there beforehand."""
        texts = self.ground.rendered(self.serial, server)
        began = time.monotonic()
        self.ground.put(self.pair, texts)
        subprocess.run([self.pair.control, "reload"], stdout=subprocess.DEVNULL, check=True)
        return began

    def end(self, reached: Mapping[str, float]) -> None:
        """Nothing is left to do."""


class Script(Contender):
    """A shell script."""

    def begin(self, server: str) -> float:
        """Start it."""
        script = self.ground.folder / "rewrite"
        main, backup = (four for four, _ in _ADDRESSES.values())
        text = _SCRIPT.format(
            sources=self.ground.sources,
            published=self.pair.published,
            control=self.pair.control,
            main=main,
            backup=backup,
        )
        script.write_text(text)
        script.chmod(0o700)
        words = [str(self.serial), *_ADDRESSES[server]]
        began = time.monotonic()
        self._process = subprocess.Popen([script, *words], stdout=subprocess.DEVNULL)
        return began

    def end(self, reached: Mapping[str, float]) -> None:  # noqa: ARG002
        """It ended well."""
        if self._process.wait():
            raise ChildProcessError(f"the script ended with status {self._process.returncode}")


class Zonerw(Contender):
    """The real code."""

    def __init__(self, ground: Ground, its: Pair, leaving: ExitStack) -> None:
        """Publish all for the first time, and start a new program, which is the one measured."""
        super().__init__(ground, its)
        self._config = ground.folder / "zonerw.toml"
        text = _CONFIG.format(sources=ground.sources, folder=ground.folder, pair=its)
        self._config.write_text(text)
        with self._start() as program:
            program.tell("start")
            first = program.ran()
            (self.serial,) = first.serials
            _in_time("zonerw", ground.served(its, self.serial, "main"))
            program.followed()
            first_peak = program.peak()
        self.program = leaving.enter_context(self._start())
        self.program.tell("start")
        self.notes = Notes(first, first_peak, self.program.ran())
        self._blame("first", first, len(ground.zones))
        self._blame("again", self.notes.again, 0)

    def next(self) -> int:
        """Also at midnight, when the day's first serial comes next."""
        return next_serial(datetime.now(UTC).date(), [self.serial], {}).serial

    def begin(self, server: str) -> float:
        """Pin the server."""
        self._calls = self.pair.calls
        began = time.monotonic()
        self.program.tell("serve", server)
        return began

    def end(self, reached: Mapping[str, float]) -> None:
        """Note what came of it; TimeoutError if it is not over."""
        _in_time("zonerw", reached)
        ran = self.program.ran()
        self.notes.used.append(self.program.followed())
        self.notes.runs.append(ran)
        self.notes.reloads.append(self.pair.calls - self._calls)
        self._blame("move", ran, len(self.ground.zones))
        if self.notes.reloads[-1] != 1:
            self.notes.faults.append(f"move: {self.notes.reloads[-1]} reloads")

    def rest(self) -> None:
        """Have nothing to do for a minute."""
        self.notes.idle = self.program.idle()
        self.notes.peak = self.program.peak()

    def _blame(self, what: str, ran: Ran, written: int) -> None:
        """Note what should not be: a serial too many would not have been waited for."""
        if (ran.written, ran.failed) != (written, 0):
            self.notes.faults.append(
                f"{what}: {ran.written} of {written} written, {ran.failed} failed: {ran.failures}"
            )

    def _start(self) -> Program:
        return Program(self._config, self.ground.folder / "zonerw.log")


def main() -> None:
    """Measure, and print the tables; the exit status says whether zonerw did as it should."""
    numbers = [int(word) for word in sys.argv[1:]] or list(_ZONES)
    repeats = int(os.environ.get("REPEATS", _REPEATS))
    # Memory is compared with that of one zone.
    measured, faults = list[Figures](), list[str]()
    for number in sorted({1, *numbers}):
        try:
            measured.append(_figures(number, repeats))
        except (TimeoutError, ChildProcessError) as error:
            faults.append(f"{number} zones, {error}")
            break  # more zones would end no sooner
        faults += [f"{number} zones, {fault}" for fault in measured[-1].notes.faults]
    if measured:
        print(f"{_times_table(measured)}\n\n{_notes_table(measured)}")
    for fault in faults:
        _say(fault)
    sys.exit(1 if faults else 0)


def _figures(number: int, repeats: int) -> Figures:
    with ExitStack() as leaving:
        leaving.enter_context(ended_as_interrupted())
        folder = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="zonerw-")))
        ground = Ground(folder, number)
        texts = ground.rendered(_FIRST_SERIAL, _server(0))
        pairs = {}
        for name in ("floor", "script", "zonerw"):
            pairs[name] = leaving.enter_context(ground.pair(name, notifies=name != "zonerw"))
            if name != "zonerw":
                ground.put(pairs[name], texts)
            leaving.enter_context(pairs[name].running())
        for name in ("floor", "script"):
            _in_time(name, ground.served(pairs[name], _FIRST_SERIAL, _server(0)))
        zonerw = Zonerw(ground, pairs["zonerw"], leaving)
        contenders = {
            "floor": Floor(ground, pairs["floor"]),
            "script": Script(ground, pairs["script"]),
            "zonerw": zonerw,
        }
        times = {name: Times() for name in contenders}
        for turn in range(1, repeats + 1):
            for name, contender in contenders.items():
                its = times[name]
                is_long = name == "script" and number >= _SCRIPT_ONCE
                if its.late or (is_long and (turn > 1 or number > _SCRIPT_ONCE)):
                    continue
                contender.move(_server(turn), its)
                took = f"{its.primary[-1]:.3f} s, secondary {its.secondary[-1]:.3f} s"
                _say(f"{number} zones, {turn} of {repeats}, {name}: {took}")
        zonerw.rest()
        return Figures(number, ground.text, times, zonerw.notes)


def _in_time(who: str, reached: Mapping[str, float]) -> None:
    """TimeoutError where a nameserver never had every zone."""
    if late := [name for name, at in reached.items() if at == math.inf]:
        which = " and ".join(late)
        raise TimeoutError(f"{who}: not every zone within {_WITHIN_SECONDS:g} s on its {which}")


def _server(turn: int) -> str:
    """To and fro: who serves after so many moves."""
    return list(_ADDRESSES)[turn % 2]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- tables ---------------------------------------------------------------------------------


def _times_table(measured: Sequence[Figures]) -> str:
    names = list(measured[0].times)
    others = names[1:]
    head = ["zones, served by", *(f"{n}, s" for n in names), *(f"{n} / floor" for n in others)]
    rows = []
    for figures in measured:
        for nameserver in ("primary", "secondary"):
            medians = {
                name: _median(getattr(its, nameserver)) for name, its in figures.times.items()
            }
            seconds = ["" if math.isnan(its) else f"{its:.3f}" for its in medians.values()]
            floor = medians[names[0]]
            ratios = [_ratio(medians[name], floor) for name in others]
            rows.append([f"{figures.zones}, {nameserver}", *seconds, *ratios])
    return _table(head, rows)


def _notes_table(measured: Sequence[Figures]) -> str:
    least = measured[0].notes
    rows: dict[str, list[str]] = {}
    for figures in measured:
        notes = figures.notes
        assert notes.idle  # noqa: S101 - for the type checker
        moves = statistics.median
        cells = {
            "a move: the run, s": f"{moves(ran.seconds for ran in notes.runs):.3f}",
            "processor seconds of it": f"{moves(map(_sum, (r.used for r in notes.runs))):.3f}",
            "processor seconds until the secondary has all": f"{moves(map(_sum, notes.used)):.3f}",
            "reloads": _range(notes.reloads),
            "peak memory over one zone's, MB": f"{(notes.peak - least.peak) / 1e6:.1f}",
            "as a multiple of the text": f"{(notes.peak - least.peak) / figures.text:.1f}",
            "bytes a zone, its text included": f"{(notes.peak - least.peak) / figures.zones:.0f}",
            "first start: all accepted and published, s": f"{notes.first.seconds:.2f}",
            "processor seconds of it, own": f"{notes.first.used.own:.2f}",
            "processor seconds of it, the checker's": f"{notes.first.used.programs:.2f}",
            "peak memory of it over one zone's, MB": (
                f"{(notes.first_peak - least.first_peak) / 1e6:.1f}"
            ),
            "next start: nothing to do, s": f"{notes.again.seconds:.3f}",
            "processor ms of the timer's run": f"{notes.idle.tick * 1000:.1f}",
            "of the minute's run, at all zones": f"{notes.idle.look * 1000:.1f}",
            "of the whole minute": f"{notes.idle.minute * 1000:.1f}",
        }
        for what, cell in cells.items():
            rows.setdefault(what, [what]).append(cell)
    return _table(["zonerw", *(f"{figures.zones} zones" for figures in measured)], rows.values())


def _median(seconds: Sequence[float]) -> float:
    if not seconds:
        return math.nan
    return math.inf if math.inf in seconds else statistics.median(seconds)


def _ratio(seconds: float, floor: float) -> str:
    return f"{seconds / floor:.2f}" if math.isfinite(floor) and not math.isnan(seconds) else ""


def _sum(used: Used) -> float:
    return used.own + used.programs


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
