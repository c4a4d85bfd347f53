"""NSD on a loopback address, for any user, with its files in a folder of its own.

Owns what each benchmark's NSD has, and where programs are found. Zones, keys, transfers and control
are the caller's business.
"""

import os
from pathlib import Path

from actions import nameserver
from demo.parts import Part
from demo.shipped import MissingError
from demo.stack import nameserver_answers

# To read 10,000 zones takes NSD some seconds.
READY_SECONDS = 60.0

_SERVER = """\
server:
    ip-address: {address}@{port}
    server-count: 1
    username: ""
    chroot: ""
    database: ""
    zonesdir: "{zones}"
    pidfile: ""
    logfile: "{own}/log"
    xfrdfile: ""
    zonelistfile: "{own}/zone.list"
    xfrdir: "{own}"
    rrl-ratelimit: 0
"""


def server(address: str, port: int, zones: Path, own: Path) -> str:
    """Its section `server`, to which more can be added."""
    return _SERVER.format(address=address, port=port, zones=zones, own=own)


def nsd(title: str, address: str, port: int, own: Path) -> Part:
    """The program, with `own`/nsd.conf."""
    return Part(
        name=own.name,
        title=title,
        argv=(program("nsd", "nsd"), "-d", "-c", str(own / "nsd.conf")),
        log=own / "output",
        environment=os.environ,
        ready=lambda: nameserver_answers(address, port),
    )


def program(name: str, package: str) -> str:
    """Where it is; MissingError, with the package that has it, if it is nowhere."""
    found = nameserver.find(name)
    if found is None:
        needed = f"not installed: {name}; do: apt-get install --no-install-recommends {package}"
        raise MissingError(needed)
    return found
