"""How many webhooks are answered, and how soon, beside a bare route that answers them.

    python benchmarks/webhook.py [SECONDS]

The whole system on loopback, at peace. First 200 clients post for SECONDS (default 30) what
Alertmanager repeats and, among that, everything that should not be posted: all of it has to be
answered, with the right status, no serial may move, and the program's memory may not grow. Then,
in turns and five times each, what Alertmanager repeats: to zonerw and to a bare route (bare.py);
the memory may not grow from zonerw's first turn to its last either. Which leak would have been seen
depends on how many were answered, and is told. The clients, a process of their own, share the
processors with all of it. Exit status 1 where something was not as it has to be.
"""

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests

from benchmarks import load
from benchmarks.load import Load
from demo.layout import free_ports
from demo.parts import Part
from demo.stack import Stack, http

_CLIENTS = 200
_SECONDS = 30.0
_TURNS = 5
_TURN_SECONDS = 5.0

_SAMPLE_SECONDS = 0.1
# Of the time: then caches and threads are there.
_WARM = 1 / 3
# The heap is never quite still; in 30 seconds, a hundred bytes a request would be twice that.
_GROWTH_BYTES = 2_000_000


def main() -> None:
    """Measure, and print the tables; the exit status says whether all was as it has to be."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else _SECONDS
    with Stack(progress=_say) as stack:
        stack.settle()
        before = _serials(stack)
        pid = load.process_of(stack.parts["actions"].argv)
        mixed, sizes = _mixed(stack, pid, seconds)
        faults = mixed.wrong(load.mixture(stack.layout.webhook_token))
        with _bare(stack) as port:
            ours, bare, later = _in_turns(stack, pid, port)
        if _serials(stack) != before:
            faults.append(f"the serials have moved from {before} to {_serials(stack)}")
    warm = sizes[round(len(sizes) * _WARM) :]
    faults += [*_grown("all that may be posted", warm), *_grown("what is repeated", later)]
    seen = _GROWTH_BYTES / ((1 - _WARM) * len(mixed.latencies))
    print(_mixed_table(mixed))
    print(f"\nResident memory after {_WARM * seconds:.0f} s: {warm[0] / 1e6:.1f} MB,", end=" ")
    print(f"at the end {warm[-1] / 1e6:.1f} MB; {seen:.0f} bytes a post would have been seen.")
    print(f"\n{_turns_table(ours, bare)}\n")
    seen = _GROWTH_BYTES / sum(len(its.latencies) for its in ours[1:])
    print(f"After the first turn {later[0] / 1e6:.1f} MB,", end=" ")
    print(f"after the last {later[-1] / 1e6:.1f} MB; {seen:.0f} bytes a post would have been seen.")
    for fault in faults:
        _say(fault)
    sys.exit(1 if faults else 0)


def _grown(by: str, sizes: Sequence[int]) -> list[str]:
    """The fault, if the memory has grown; what is large for a moment is no leak."""
    last = min(sizes[-5:])
    if last - sizes[0] <= _GROWTH_BYTES:
        return []
    return [f"the memory has grown from {sizes[0]} to {last} bytes by {by}"]


def _mixed(stack: Stack, pid: int, seconds: float) -> tuple[Load, list[int]]:
    """Everything that may be posted, and zonerw's memory meanwhile."""
    layout = stack.layout
    kinds = load.mixture(layout.webhook_token)
    _say(f"{_CLIENTS} clients for {seconds:g} s")
    with ThreadPoolExecutor() as pool:
        posting = pool.submit(
            load.put, layout.backup, layout.ports.actions, kinds, _CLIENTS, seconds
        )
        sizes = []
        while not posting.done():
            sizes.append(load.memory(pid))
            time.sleep(_SAMPLE_SECONDS)
        return posting.result(), sizes


def _in_turns(stack: Stack, pid: int, port: int) -> tuple[list[Load], list[Load], list[int]]:
    """The same posted to zonerw and to the bare route; zonerw's memory after each turn."""
    layout = stack.layout
    kinds = load.repeats(layout.webhook_token)
    ours: list[Load] = []
    bare: list[Load] = []
    sizes: list[int] = []
    for turn in range(_TURNS):
        for name, where, loads in (
            ("zonerw", layout.ports.actions, ours),
            ("bare", port, bare),
        ):
            loads.append(load.put(layout.backup, where, kinds, _CLIENTS, _TURN_SECONDS))
            if wrong := loads[-1].wrong(kinds):
                raise ValueError(f"{name}: {wrong}")
            _say(f"{turn + 1} of {_TURNS}, {name}: {loads[-1].rate:.0f} answers a second")
        sizes.append(load.memory(pid))
    return ours, bare, sizes


@contextmanager
def _bare(stack: Stack) -> Iterator[int]:
    """The bare route's server; its port, beside zonerw's."""
    port = free_ports(stack.backup).actions

    def ready() -> bool:
        try:
            return http("POST", f"http://{stack.backup}:{port}/webhook").ok
        except requests.RequestException:
            return False

    part = Part(
        name="bare",
        title="bare route",
        argv=(sys.executable, str(Path(__file__).with_name("bare.py")), stack.backup, str(port)),
        log=stack.layout.folder / "bare.log",
        environment=os.environ,
        ready=ready,
    )
    try:
        part.start()
        yield port
    finally:
        part.stop()


def _serials(stack: Stack) -> dict[str, set[int | None]]:
    return {z: {stack.serial_of(name, z) for name in stack.nameservers} for z in stack.zones}


def _mixed_table(mixed: Load) -> str:
    lines = ["| posted | answers, by status |", "|---|---|"]
    for name, counts in sorted(mixed.answers.items()):
        said = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
        lines.append(f"| {name} | {said} |")
    whole = f"{mixed.rate:.0f} a second, 99 % within {mixed.within(0.99) * 1000:.0f} ms"
    return "\n".join([*lines, f"| all | {whole}, the last {mixed.latencies[-1] * 1000:.0f} ms |"])


def _turns_table(ours: Sequence[Load], bare: Sequence[Load]) -> str:
    lines = ["| median of the turns | zonerw | bare | ratio |", "|---|---|---|---|"]
    rows = {
        "answers a second": lambda its: its.rate,
        "half within, ms": lambda its: its.within(0.5) * 1000,
        "99 % within, ms": lambda its: its.within(0.99) * 1000,
    }
    for what, figure in rows.items():
        our, their = (statistics.median(map(figure, loads)) for loads in (ours, bare))
        lines.append(f"| {what} | {our:.0f} | {their:.0f} | {our / their:.2f} |")
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
