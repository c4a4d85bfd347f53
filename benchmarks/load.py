"""Many clients that post webhooks at once, in a process of their own, each waiting for its answer.

Owns what is posted, right and wrong, which answer is right, and how the answers are counted. HTTP
is spoken by hand: a client library would take longer for a request than the server does.
"""

import asyncio
import base64
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from actions.auth import MAX_BODY_BYTES

# Alertmanager gives a webhook 10 s.
_ANSWER_SECONDS = 10.0
# For connecting all clients, and for the last answers.
_MORE_SECONDS = 30.0


@dataclass(frozen=True)
class Kind:
    """One thing to post: its bytes, the statuses that are right, how many of all are such."""

    name: str
    request: bytes
    right: Sequence[int]
    share: int


@dataclass(frozen=True)
class Load:
    """What came of it: kind -> status -> answers; what was not answered, with how it ended.

    `seconds` it took, `latencies` are those of all answers, sorted, seconds.
    """

    answers: Mapping[str, Mapping[int, int]]
    unanswered: Mapping[str, int]
    seconds: float
    latencies: Sequence[float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def within(self, share: float) -> float:
        """Seconds within which this share of all was answered."""
        return self.latencies[math.ceil(share * len(self.latencies)) - 1]

    def wrong(self, kinds: Sequence[Kind]) -> list[str]:
        """What should not be, a line for each."""
        right = {kind.name: kind.right for kind in kinds}
        wrong = [
            f"{name}: {count} answers with status {status}, expected {right[name]}"
            for name, counts in self.answers.items()
            for status, count in counts.items()
            if status not in right[name]
        ]
        wrong += [f"{count} not answered: {why}" for why, count in self.unanswered.items()]
        wrong += [f"{kind.name}: never asked" for kind in kinds if kind.name not in self.answers]
        return wrong


def put(address: str, port: int, kinds: Sequence[Kind], clients: int, seconds: float) -> Load:
    """Let so many clients post for so long."""
    task = {
        "address": address,
        "port": port,
        "clients": clients,
        "seconds": seconds,
        "kinds": [
            asdict(kind) | {"request": base64.b64encode(kind.request).decode()} for kind in kinds
        ],
    }
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds + _ANSWER_SECONDS + _MORE_SECONDS,
        check=True,
    )
    said = json.loads(done.stdout)
    answers = {
        name: {int(status): count for status, count in counts.items()}
        for name, counts in said["answers"].items()
    }
    return Load(answers, said["unanswered"], said["seconds"], said["latencies"])


def memory(pid: int) -> int:
    """The resident memory of a process, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kilobytes) * 1024


def process_of(argv: Sequence[str]) -> int:
    """The process with this command line; ValueError if there is not exactly one."""
    line = b"".join(word.encode() + b"\0" for word in argv)
    (pid,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if _read(path) == line
    )
    return pid


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended while we were looking


# --- what is posted -------------------------------------------------------------------------


def repeats(token: str) -> list[Kind]:
    """Alertmanager's messages about main, firing and resolved again and again."""
    return [
        Kind(f"main {status}", _post(_payload("MainDown", status), token), (200, 202), 40)
        for status in ("firing", "resolved")
    ]


def mixture(token: str) -> list[Kind]:
    """Mostly repeats, and among them everything that should not be posted."""
    firing = _payload("MainDown", "firing")
    too_large = MAX_BODY_BYTES + 1
    chunk = f"{too_large:x}".encode() + b"\r\n" + b" " * too_large + b"\r\n0\r\n\r\n"
    chunked = {"Transfer-Encoding": "chunked"}
    return [
        *repeats(token),
        Kind("somebody else's alert", _post(_payload("DiskFull", "firing"), token), (200,), 4),
        Kind("another token", _post(firing, "x" * len(token)), (401,), 5),
        Kind("no JSON", _post(firing[:-1], token), (422,), 3),
        Kind("another payload", _post(b'{"version": "3", "alerts": []}', token), (422,), 2),
        Kind("no such server", _post(firing.replace(b'"main"', b'"mian"'), token), (422,), 2),
        Kind("no HTTP", b"POST /webhook\r\n\r\n", (400,), 1),
        # Only said to be large: it is refused before any of it is sent.
        Kind("too large", _head(token, {"Content-Length": str(too_large)}), (413,), 2),
        Kind("too large, unsaid", _head(token, chunked) + chunk, (413,), 1),
    ]


def _payload(alertname: str, status: str) -> bytes:
    """What Alertmanager 0.25 sends for one alert."""
    labels = {"alertname": alertname, "server": "main", "severity": "page"}
    annotations = {"summary": "main is down", "description": "GET /index.html: connection refused"}
    alert = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": "2026-11-22T09:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-11-22T09:05:00.123Z",
        "generatorURL": "http://backup:9090/graph?g0.expr=zonerw_server_up&g0.tab=1",
        "fingerprint": "4b2e1d0f9a8c7b6a",
    }
    payload = {
        "version": "4",
        "groupKey": '{}/{alertname=~"MainDown|BackupDown"}:{alertname="MainDown"}',
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "actions",
        "groupLabels": {"alertname": alertname},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "http://backup:9093",
        "alerts": [alert],
    }
    return json.dumps(payload).encode()


def _post(body: bytes, token: str) -> bytes:
    return _head(token, {"Content-Length": str(len(body))}) + body


def _head(token: str, more: Mapping[str, str]) -> bytes:
    headers = {
        "Host": "actions",
        "User-Agent": "Alertmanager/0.25.0",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {token}",
        **more,
    }
    lines = ["POST /webhook HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


# --- in the process -------------------------------------------------------------------------


class _Clients:
    def __init__(self, task: Mapping[str, Any]) -> None:
        self._where = task["address"], task["port"]
        self._clients, self._seconds = task["clients"], task["seconds"]
        self._kinds = {its["name"]: base64.b64decode(its["request"]) for its in task["kinds"]}
        order = [its["name"] for its in task["kinds"] for _ in range(its["share"])]
        self._order = random.Random(0).sample(order, len(order))  # noqa: S311 - no secret
        self._answers: dict[str, Counter[int]] = {}
        self._unanswered: Counter[str] = Counter()
        self._latencies: list[float] = []

    async def run(self) -> dict[str, object]:
        began = time.monotonic()
        await asyncio.gather(*(self._client(n, began) for n in range(self._clients)))
        return {
            "answers": self._answers,
            "unanswered": self._unanswered,
            "seconds": time.monotonic() - began,
            "latencies": sorted(self._latencies),
        }

    async def _client(self, number: int, began: float) -> None:
        """Post all kinds over and over, from a place of its own on; on one connection if it may."""
        connection: _Connection | None = None
        for name in islice(cycle(self._order), number % len(self._order), None):
            if time.monotonic() - began > self._seconds:
                break
            asked = time.monotonic()
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    connection = connection or await _Connection.open(*self._where)
                    status, goes_on = await connection.ask(self._kinds[name])
            except (OSError, EOFError, ValueError) as error:  # the timeout is one of them
                self._unanswered[f"{name}: {error!r}"] += 1
                goes_on = False
            else:
                self._latencies.append(time.monotonic() - asked)
                self._answers.setdefault(name, Counter())[status] += 1
            if connection and not goes_on:
                connection.close()
                connection = None
        if connection:
            connection.close()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection(address, port))

    async def ask(self, request: bytes) -> tuple[int, bool]:
        """The status of the answer, and whether the connection may be used again."""
        self._writer.write(request)
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, *lines = head.rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        if "content-length" in headers:
            await self._reader.readexactly(int(headers["content-length"]))
        goes_on = "content-length" in headers and headers.get("connection") != "close"
        return int(status.split()[1]), goes_on

    def close(self) -> None:
        self._writer.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_Clients(json.load(sys.stdin)).run())))
