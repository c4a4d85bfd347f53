"""The story: main dies, the zones move, main returns, they are handed back; told as it happens.

Owns what is promised and what is measured. The parts are the stack's, the looking is the watch's.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dns.serial import Serial

from demo.parts import PartError
from demo.shipped import MissingError
from demo.stack import Stack
from demo.watch import Reached, Seen, Watch, since

# What is promised at one-second intervals is far less; this is how long the story waits for it.
_PROMISED_SECONDS = 20.0

_LABELS = {
    "ns1": "primary (the backup's)",
    "ns2": "secondary (main's)",
    "ns3": "secondary (a third party's)",
}


class PromiseBrokenError(Exception):
    """Something that the story promised did not happen: one sentence."""


@dataclass
class _Clock:
    """Prints lines with the seconds since the last act began."""

    began: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def act(self, title: str) -> None:
        with self._lock:
            print(f"\n{title}", flush=True)
            self.began = time.monotonic()

    def tell(self, at: float, who: str, what: str) -> None:
        with self._lock:
            print(f"{at - self.began:7.2f} s  {who:<12}  {what}", flush=True)


def run() -> int:
    """Tell the story; returns the exit status."""
    began = time.monotonic()
    try:
        print("zonerw demo: two servers, three name servers, Prometheus and Alertmanager,")
        print("all on this machine's loopback. Starting them:", flush=True)
        with Stack(progress=lambda line: print(f"  {line}", flush=True)) as stack:
            stack.settle()
            _introduce(stack)
            table = _tell(stack)
    except (MissingError, PartError, PromiseBrokenError, TimeoutError) as error:
        print(f"zonerw demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nzonerw demo: interrupted; everything is stopped.", file=sys.stderr)
        return 130
    print(f"\n{table}")
    print(f"\nAll that was promised happened, in {time.monotonic() - began:.0f} s in all.")
    print("Everything is stopped.")
    return 0


def _introduce(stack: Stack) -> None:
    print(f"\n  main   {stack.main:<12} its web server, and the name server ns2")
    print(f"  backup {stack.backup:<12} its web server, ns1 (the primary), and all that watches")
    print(f"  third  {stack.layout.third:<12} the name server ns3, a third party's")
    print(f"\n  Prometheus  {stack.layout.url('prometheus')}")
    print(f"  zones       {', '.join(stack.zones)}, pointing at main", flush=True)


def _tell(stack: Stack) -> str:
    clock = _Clock()
    with Watch(stack, clock.tell) as watch:
        everywhere = watch.wait(_points_at(stack.main), _PROMISED_SECONDS, stack.nameservers)
        _all_of(stack, everywhere, "pointed at main at first")

        clock.act("Main's web server is killed.")
        stack.parts["web-main"].kill()
        over = _move(stack, watch, stack.backup, clock, "was moved to the backup")

        clock.act("Main's web server is back.")
        stack.parts["web-main"].launch()
        back = _move(stack, watch, stack.main, clock, "was handed back to main")

        clock.act("A person asks for a forced rewrite: POST /rewrite.")
        forced = _force(stack, watch, clock)
    return _table({"kill -> backup": over, "return -> main": back, "forced rewrite": forced})


def _move(
    stack: Stack, watch: Watch, address: str, clock: _Clock, promise: str
) -> Mapping[str, float]:
    """Wait until every zone points there, everywhere, with a serial one higher than before."""
    before = watch.serials()
    reached = watch.wait(
        lambda nameserver, zone, seen: (
            seen.address == address and seen.serial != before[nameserver, zone]
        ),
        _PROMISED_SECONDS,
        stack.nameservers,
    )
    return _seconds(stack, before, reached, clock, promise)


def _force(stack: Stack, watch: Watch, clock: _Clock) -> Mapping[str, float]:
    before = watch.serials()
    answer = stack.post("/rewrite", {"mode": "forced"}, stack.layout.operator_token)
    clock.tell(time.monotonic(), "actions", f"answers {answer.status_code}")
    if not answer.ok:
        raise PromiseBrokenError(f"the forced rewrite was answered {answer.text}")
    reached = watch.wait(
        lambda nameserver, zone, seen: seen.serial != before[nameserver, zone],
        _PROMISED_SECONDS,
        stack.nameservers,
    )
    return _seconds(stack, before, reached, clock, "has the forced rewrite")


def _seconds(
    stack: Stack,
    before: Mapping[tuple[str, str], int | None],
    reached: Reached,
    clock: _Clock,
    promise: str,
) -> Mapping[str, float]:
    """Seconds from the act to each nameserver; every serial has to be one higher than before."""
    _all_of(stack, reached, promise)
    for nameserver, zones in reached.items():
        for zone, seen in zones.items():
            old = before[nameserver, zone]
            if old is None or seen.serial is None or Serial(old) + 1 != Serial(seen.serial):
                raise PromiseBrokenError(
                    f"{zone} went from serial {old} to {seen.serial} at {nameserver};"
                    " expected one higher"
                )
    return {nameserver: at - clock.began for nameserver, at in since(reached).items()}


def _points_at(address: str) -> Callable[[str, str, Seen], bool]:
    return lambda _nameserver, _zone, seen: seen.address == address


def _all_of(stack: Stack, reached: Reached, promise: str) -> None:
    late = [nameserver for nameserver in stack.nameservers if nameserver not in reached]
    if late:
        raise PromiseBrokenError(
            f"within {_PROMISED_SECONDS:g} s, not every zone {promise} at {', '.join(late)};"
            f" the end of actions' log:\n{stack.parts['actions'].tail()}"
        )


def _table(columns: Mapping[str, Mapping[str, float]]) -> str:
    width = max(map(len, _LABELS.values())) + 5
    lines = ["seconds, all zones".ljust(width) + "".join(f"{title:>16}" for title in columns)]
    for nameserver, label in _LABELS.items():
        figures = "".join(f"{column[nameserver]:16.2f}" for column in columns.values())
        lines.append(f"{nameserver}  {label}".ljust(width) + figures)
    return "\n".join(lines)
