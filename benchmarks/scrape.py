"""How long a scrape takes, and what it costs, beside a blackbox exporter that looks at the same.

    python benchmarks/scrape.py [ZONES]

In turns, Debian's prometheus-blackbox-exporter and zonerw look at 2 web servers with 2 checks each,
then at ZONES zones (default 1000) on 3 name servers, all real. The other looks at one target for a
request; it is asked for all of them at once, as Prometheus asks, which lets no target wait for
another. Of the zones zonerw asks for the SOAs, and for the addresses that tell where each points;
*SOAs alone* is zonerw without the latter, and does what the other does.

Then one of the three name servers is silent, and the other is asked for all in the same moment: a
target that is silent keeps a request waiting.

Medians of REPEATS turns (environment, default 9; 3 with one silent). The client shares the
processors with all of it, and so do name servers and web servers; what it takes is told. An answer
that is not as it has to be ends the benchmark.
"""

import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from benchmarks.fetch import Client
from benchmarks.load import process_of
from benchmarks.targets import PAGES, Targets, targets
from demo.parts import Part, ended_as_interrupted, start, stop
from demo.shipped import MissingError

_ZONES = 1000
_REPEATS = 9
_SILENT_REPEATS = 3
# A scrape of four pages is soon over: a turn is many of them.
_SCRAPES_A_TURN = 20
# The first may not have parsed all sources.
_WARM = 3

# A scrape's usual timeout, as Prometheus tells it: either looks for 5 s at the most then.
_TIMEOUT = 10.0
# With so many at once the other exporter was quickest, of 2 to 3,000.
_CONNECTIONS = 100

_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Scrape:
    """Seconds from the first request to the last answer, and the client's processor seconds."""

    seconds: float
    client: float


@dataclass(frozen=True)
class Silent:
    """Scrapes with a silent name server: seconds of each, the most descriptors, threads, bytes."""

    seconds: Sequence[float]
    descriptors: int
    threads: int
    peak: int


@dataclass
class Contender:
    """One who looks, and the pages to ask for.

    `right`: a line that is there for each good look, which there are `looks` of. `used`: processor
    seconds of all its `scrapes`.
    """

    part: Part
    where: tuple[str, int]
    paths: Sequence[str]
    right: re.Pattern[str]
    looks: int
    first: float = 0.0
    scrapes: list[Scrape] = field(default_factory=list)
    used: float = 0.0
    silent: Silent | None = None

    @property
    def title(self) -> str:
        """Its name in a table."""
        return self.part.title

    @property
    def pid(self) -> int:
        """Its process."""
        return process_of(self.part.argv)

    @property
    def peak(self) -> int:
        """The most memory that it had, bytes."""
        return _status(self.pid, "VmHWM") * 1024

    def begin(self, client: Client) -> None:
        """Let it read what it reads only once; ValueError if its answers don't get right."""
        self.first = self.scrape(client)[0].seconds
        for _ in range(_WARM):
            if self.scrape(client)[1] == self.looks:
                return
        self._blame(self.scrape(client)[1], self.looks)

    def turn(self, client: Client, times: int) -> None:
        """Scrape so many times; ValueError if not all of it is there."""
        before = _used(self.pid)
        for _ in range(times):
            scrape, found = self.scrape(client)
            self._blame(found, self.looks)
            self.scrapes.append(scrape)
        self.used += _used(self.pid) - before

    def meet_silence(self, times: int, looks: int) -> None:
        """Scrape, with a connection for each target, while so many looks are good."""
        seconds = []
        most = {"descriptors": 0, "threads": 0}
        with Client(*self.where, len(self.paths)) as client, _sampled(self.pid, most):
            for _ in range(times):
                scrape, found = self.scrape(client)
                self._blame(found, looks)
                seconds.append(scrape.seconds)
        self.silent = Silent(seconds, **most, peak=self.peak)

    def scrape(self, client: Client) -> tuple[Scrape, int]:
        """Ask for all; how many looks were good is seen afterwards."""
        began, used = time.monotonic(), time.process_time()
        answers = client.get(self.paths, _TIMEOUT)
        scrape = Scrape(time.monotonic() - began, time.process_time() - used)
        return scrape, sum(len(self.right.findall(answer.text())) for answer in answers)

    def _blame(self, found: int, looks: int) -> None:
        if found != looks:
            raise ValueError(f"{self.title}: {found} good looks, expected {looks}")


def main() -> None:
    """Measure, and print the tables."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else _ZONES
    repeats = int(os.environ.get("REPEATS", _REPEATS))
    with ExitStack() as leaving:
        leaving.enter_context(ended_as_interrupted())
        folder = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="zonerw-")))
        try:
            its, parts = leaving.enter_context(targets(folder, number))
        except MissingError as error:
            sys.exit(str(error))
        pages = _for_pages(its)
        with _running(pages) as peaks_of_pages:
            _in_turns(pages, repeats, _SCRAPES_A_TURN)
            print(_table(f"{pages[0].looks} pages", pages, peaks_of_pages()), flush=True)
        zones = _for_zones(its)
        with _running(zones) as peaks_of_zones:
            _in_turns(zones, repeats, 1)
            peaks = peaks_of_zones()
            parts["ns3"].silence()
            for contender in zones:
                contender.meet_silence(_SILENT_REPEATS, contender.looks * 2 // 3)
                _say(f"one silent, {contender.title}: {contender.silent}")
            parts["ns3"].resume()
            print(f"\n{_table(f'{zones[0].looks} SOAs', zones, peaks)}")
    their, our = (_median(pages[n]) + _median(zones[n]) for n in (0, 1))
    print(f"\nBoth together: {our * 1000:.0f} ms, {our / their:.2f} times {pages[0].title}'s.")


def _for_pages(its: Targets) -> list[Contender]:
    urls = [f"http://{its.servers[s]}:{its.ports.web}/{p}.html" for s in its.servers for p in PAGES]
    blackbox, zonerw, _ = its.exporters
    return [
        Contender(
            its.blackbox_for_pages("blackbox", blackbox),
            (blackbox, its.ports.exporter),
            [f"/probe?module=page&target={quote(url, safe='')}" for url in urls],
            _SUCCESS,
            len(urls),
        ),
        Contender(
            its.zonerw("zonerw", zonerw),
            (zonerw, its.ports.exporter),
            ["/metrics?collect[]=servers"],
            _CHECK_UP,
            len(urls),
        ),
    ]


def _for_zones(its: Targets) -> list[Contender]:
    asked = [
        f"/probe?module={zone}&target={address}:{its.ports.dns}"
        for zone in its.zones
        for address in its.nameservers.values()
    ]
    blackbox, zonerw, alone = its.exporters
    page = ["/metrics?collect[]=zones"]
    return [
        Contender(
            its.blackbox_for_zones("blackbox", blackbox),
            (blackbox, its.ports.exporter),
            asked,
            _SUCCESS,
            len(asked),
        ),
        Contender(
            its.zonerw("zonerw", zonerw),
            (zonerw, its.ports.exporter),
            page,
            _SOA_AND_POINTER,
            2 * len(asked),
        ),
        Contender(
            its.zonerw("zonerw, SOAs alone", alone, pointers=False),
            (alone, its.ports.exporter),
            page,
            _SOA_AND_POINTER,
            len(asked),
        ),
    ]


_SUCCESS = re.compile(r"^probe_success 1$", re.MULTILINE)
_CHECK_UP = re.compile(r"^zonerw_check_up\{.*\} 1\.0$", re.MULTILINE)
_SOA_AND_POINTER = re.compile(r"^zonerw_zone_(?:query_up|points_to)\{.*\} 1\.0$", re.MULTILINE)


@contextmanager
def _running(contenders: Sequence[Contender]) -> Iterator[Callable[[], list[int]]]:
    """They run while the block does; what is called tells the most memory of each so far."""
    parts = [contender.part for contender in contenders]
    try:
        start(parts)
        yield lambda: [contender.peak for contender in contenders]
    finally:
        stop(parts)


def _in_turns(contenders: Sequence[Contender], repeats: int, scrapes: int) -> None:
    with ExitStack() as leaving:
        clients = [
            leaving.enter_context(Client(*contender.where, _CONNECTIONS))
            for contender in contenders
        ]
        for contender, client in zip(contenders, clients, strict=True):
            contender.begin(client)
        for turn in range(1, repeats + 1):
            for contender, client in zip(contenders, clients, strict=True):
                contender.turn(client, scrapes)
                took = statistics.median(its.seconds for its in contender.scrapes[-scrapes:])
                _say(f"{turn} of {repeats}, {contender.title}: {took:.4f} s")


@contextmanager
def _sampled(pid: int, most: dict[str, int]) -> Iterator[None]:
    """Note the most descriptors and threads that the process has while the block runs."""
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            most["descriptors"] = max(most["descriptors"], descriptors)
            most["threads"] = max(most["threads"], _status(pid, "Threads"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        over.set()
        sampler.join()


def _used(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # proc(5): user and system time
    return ticks / os.sysconf("SC_CLK_TCK")


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return int(value)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- tables ---------------------------------------------------------------------------------


def _table(what: str, contenders: Sequence[Contender], peaks: Sequence[int]) -> str:
    """A column for each, and one for each ratio to the first."""
    rows: Mapping[str, tuple[list[float], str]] = {
        "a scrape, ms": ([_median(its) * 1000 for its in contenders], ".1f"),
        "processor ms of it, own": (
            [its.used / len(its.scrapes) * 1000 for its in contenders],
            ".1f",
        ),
        "processor ms of it, the client's": ([_client(its) * 1000 for its in contenders], ".1f"),
        "a new process's first scrape, ms": ([its.first * 1000 for its in contenders], ".1f"),
        "peak memory, MB": ([peak / 1e6 for peak in peaks], ".1f"),
    }
    silent = [its.silent for its in contenders if its.silent]
    if silent:
        rows |= {
            "one name server silent, s": ([statistics.median(s.seconds) for s in silent], ".2f"),
            "descriptors then": ([s.descriptors for s in silent], ".0f"),
            "threads then": ([s.threads for s in silent], ".0f"),
            "peak memory then, MB": ([s.peak / 1e6 for s in silent], ".1f"),
        }
    names = [its.title for its in contenders]
    head = [what, *names, *(f"{name} / {names[0]}" for name in names[1:])]
    lines = [head, ["---"] * len(head)]
    for row, (figures, form) in rows.items():
        ratios = [f"{its / figures[0]:.2g}" for its in figures[1:]]
        lines.append([row, *(format(its, form) for its in figures), *ratios])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _median(contender: Contender) -> float:
    return statistics.median(scrape.seconds for scrape in contender.scrapes)


def _client(contender: Contender) -> float:
    return statistics.median(scrape.client for scrape in contender.scrapes)


if __name__ == "__main__":
    main()
