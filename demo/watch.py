"""Watches a running stack: what each nameserver answers, what is alerted, what is logged.

Owns looking and remembering when something was first seen; tells each change as it happens. Makes
nothing happen itself.
"""

import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import requests

from demo.stack import Stack

# The precision of everything measured; asking more often would load the machine that is measured.
_LOOK_SECONDS = 0.02

Reached = Mapping[str, Mapping[str, "Seen"]]  # nameserver -> zone -> what it answers
Tell = Callable[[float, str, str], None]  # monotonic seconds, who, what


@dataclass(frozen=True)
class Seen:
    """What a nameserver answers for a zone, and since when (monotonic seconds)."""

    serial: int | None
    address: str | None
    since: float


class Watch:
    """Looks at everything while its block runs."""

    def __init__(self, stack: Stack, tell: Tell = lambda _at, _who, _what: None) -> None:
        self._stack = stack
        self._tell = tell
        self._ending = threading.Event()
        self._changed = threading.Condition()
        self._seen: dict[tuple[str, str], Seen] = {}
        looks = [self._dns_look(nameserver) for nameserver in stack.nameservers]
        looks += [self._alerts_look()]
        looks += [self._log_look(name, say) for name, say in _SAYINGS.items()]
        self._threads = [threading.Thread(target=self._repeat, args=(look,)) for look in looks]

    def __enter__(self) -> Self:
        """Begin to look."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop looking."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def serials(self) -> dict[tuple[str, str], int | None]:
        """(nameserver, zone) -> the serial it answers with now."""
        with self._changed:
            return {place: seen.serial for place, seen in self._seen.items()}

    def wait(
        self, right: Callable[[str, str, Seen], bool], timeout: float, nameservers: Collection[str]
    ) -> Reached:
        """Wait until all zones are `right(nameserver, zone, seen)` at these nameservers.

        Returns nameserver -> zone -> what was seen; without those that were not right in time.
        """

        def right_at(nameserver: str) -> dict[str, Seen] | None:
            seen = {zone: self._seen.get((nameserver, zone)) for zone in self._stack.zones}
            found = {z: s for z, s in seen.items() if s and right(nameserver, z, s)}
            return found if len(found) == len(seen) else None

        reached: dict[str, dict[str, Seen]] = {}

        def done() -> bool:
            reached.clear()
            reached.update({name: its for name in nameservers if (its := right_at(name))})
            return len(reached) == len(nameservers)

        with self._changed:
            self._changed.wait_for(done, timeout)
        return reached

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._ending.wait(_LOOK_SECONDS):
            look()

    def _dns_look(self, nameserver: str) -> Callable[[], None]:
        def look() -> None:
            for zone in self._stack.zones:
                address = self._stack.address_of(nameserver, zone)
                serial = self._stack.serial_of(nameserver, zone)
                self._note(nameserver, zone, Seen(serial, address, time.monotonic()))

        return look

    def _note(self, nameserver: str, zone: str, seen: Seen) -> None:
        with self._changed:
            before = self._seen.get((nameserver, zone))
            if before and (before.serial, before.address) == (seen.serial, seen.address):
                return
            # The address was asked for first: a switch in between shows half of it. Look again.
            if before and before.serial != seen.serial and before.address == seen.address:
                again = self._stack.address_of(nameserver, zone)
                seen = Seen(seen.serial, again, seen.since)
            self._seen[nameserver, zone] = seen
            self._changed.notify_all()
        if before:
            what = f"{seen.serial}  www.{zone} is at {self._name_of(seen.address)}"
            if seen.address is None:
                what = f"gives no answer for {zone}"
            self._tell(seen.since, nameserver, what)

    def _name_of(self, address: str | None) -> str:
        names = {self._stack.main: "main", self._stack.backup: "backup"}
        return f"{address} ({names.get(address or '', 'nobody')})"

    def _alerts_look(self) -> Callable[[], None]:
        known: set[tuple[str, str]] | None = None

        def look() -> None:
            nonlocal known
            try:
                alerts = {each for each in self._stack.alerts() if each[0] != "ServerWatched"}
            except requests.RequestException:
                return  # silent or gone: the story says so where it matters
            for name, server in alerts - (known if known is not None else alerts):
                self._tell(time.monotonic(), "Alertmanager", f"{name} is firing for {server}")
            for name, server in (known or set()) - alerts:
                self._tell(time.monotonic(), "Alertmanager", f"{name} is over for {server}")
            known = alerts

        return look

    def _log_look(self, part: str, say: Callable[[Mapping[str, str]], str]) -> Callable[[], None]:
        log = self._stack.parts[part].log
        position = log.stat().st_size

        def look() -> None:
            nonlocal position
            with log.open("rb") as file:
                file.seek(position)
                lines = file.read().split(b"\n")
            position += sum(len(line) + 1 for line in lines[:-1])
            for line in lines[:-1]:
                if text := say(_fields(line.decode(errors="replace"))):
                    self._tell(time.monotonic(), part, text)

        return look


def _fields(line: str) -> dict[str, str]:
    """Read a line of logfmt."""
    found = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))', line)
    return {key: quoted or bare for key, quoted, bare in found}


def _exporter_says(line: Mapping[str, str]) -> str:
    match line.get("msg"):
        case "server down":
            return f"{line['server']} is down: {line['check']}, {line['reason']}"
        case "server up":
            return f"{line['server']} is up"
    return ""


def _actions_says(line: Mapping[str, str]) -> str:
    if line.get("msg") == "switch":
        return f"switch from {line['from']} to {line['to']}, because {line['why']}"
    return ""


_SAYINGS: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    "exporter": _exporter_says,
    "actions": _actions_says,
}


def since(reached: Reached) -> dict[str, float]:
    """Since when each nameserver has had all its zones so (monotonic seconds)."""
    return {name: max(seen.since for seen in its.values()) for name, its in reached.items()}
