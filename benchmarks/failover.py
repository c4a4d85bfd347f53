"""How long a switch takes: seconds from main's end to each name server's answer, and back.

    python benchmarks/failover.py [TIMES]

The whole system on loopback, fast profile: main's web server is killed, and brought back, TIMES
times (default 10, at least 10 for figures worth reporting), then silenced (packets vanish) and
resumed as often. Every outage and every return falls on a random moment of the second.
"""

import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable

from demo.stack import Stack, wait_for
from demo.watch import Watch, since

_WITHIN_SECONDS = 60.0

Columns = dict[str, dict[str, list[float]]]  # what happened -> nameserver -> seconds, each time


def main() -> None:
    """Measure, and print medians and maxima."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    columns: Columns = defaultdict(lambda: defaultdict(list))
    with Stack(progress=lambda line: print(line, file=sys.stderr)) as stack:
        stack.settle()
        web = stack.parts["web-main"]
        with Watch(stack) as watch:
            for end, back, outage, recovery in [
                ("killed", "started", web.kill, web.launch),
                ("silent", "resumed", web.silence, web.resume),
            ]:
                for number in range(times):
                    print(f"{end} {number + 1} of {times}", file=sys.stderr)
                    _measure(columns[end], stack, watch, stack.backup, outage)
                    _measure(columns[back], stack, watch, stack.main, recovery)
    print(_table(columns))


def _measure(
    column: dict[str, list[float]],
    stack: Stack,
    watch: Watch,
    address: str,
    act: Callable[[], None],
) -> None:
    """Act at a random moment; note when each nameserver points every zone at the address."""
    if address == stack.backup:
        wait_for(
            lambda: ("MainDown", "main") not in stack.alerts(), _WITHIN_SECONDS, "peace before it"
        )
    time.sleep(random.uniform(1.0, 2.0))  # noqa: S311 - a phase, not a secret
    began = time.monotonic()
    act()
    reached = watch.wait(
        lambda _nameserver, _zone, seen: seen.address == address,
        _WITHIN_SECONDS,
        stack.nameservers,
    )
    for nameserver, at in since(reached).items():
        column[nameserver].append(at - began)
    if len(reached) < len(stack.nameservers):
        raise TimeoutError(f"only {', '.join(reached)} had {address} in {_WITHIN_SECONDS:g} s")


def _table(columns: Columns) -> str:
    lines = ["| seconds, median (maximum) |" + "".join(f" {name} |" for name in columns)]
    lines += ["|---|" + "---|" * len(columns)]
    for nameserver in next(iter(columns.values())):
        cells = (column[nameserver] for column in columns.values())
        figures = (f" {statistics.median(cell):.2f} ({max(cell):.2f}) |" for cell in cells)
        lines.append(f"| {nameserver} |" + "".join(figures))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
