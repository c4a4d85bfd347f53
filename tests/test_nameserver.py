"""The primary's own programs: scripts in their place, and each kind's real checker."""

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from actions import nameserver
from actions.nameserver import ReloadError
from exporter.config import Primary
from exporter.kinds import KINDS
from exporter.zonefile import Fault, SourceRefused

ZONE = """\
$TTL 60
@ SOA ns1 owner 1 3600 600 864000 60
@ NS ns1
ns1 A 192.0.2.1
"""  # what a test adds begins in line 5

each_kind = pytest.mark.parametrize("kind", KINDS)


def primary(tmp_path: Path, script: str) -> Primary:
    """A primary whose programs are this shell script."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Primary.model_validate(
        {
            "kind": "nsd",
            "address": "127.0.0.1",
            "control": [str(program), "-c", "nsd.conf"],
            "checker": [str(program)],
        }
    )


def test_the_program_adds_the_verb(tmp_path: Path) -> None:
    """The configured command comes first, with its options; each kind has its own word."""
    says = primary(tmp_path, f'echo "$@" >> {tmp_path}/said')
    for kind in KINDS:
        nameserver.reload(says.model_copy(update={"kind": kind}))
    assert (tmp_path / "said").read_text().splitlines() == [
        "-c nsd.conf reload",
        "-c nsd.conf reload",
        "-c nsd.conf zone-reload",
    ]


def test_a_lasting_failure_reads_the_same_each_time(tmp_path: Path) -> None:
    """NSD's programs put time and process before their words."""
    line = "[2026-11-22 09:33:44.881] nsd-control[433]: error: connect: No such file"
    with pytest.raises(ReloadError) as raised:
        nameserver.reload(primary(tmp_path, f"echo '{line}' >&2; exit 1"))
    program = tmp_path / "program"
    assert str(raised.value) == f"{program} -c nsd.conf reload: error: connect: No such file"


def test_a_failure_without_words(tmp_path: Path) -> None:
    """Then the exit status has to do."""
    with pytest.raises(ReloadError, match="exit status 3"):
        nameserver.reload(primary(tmp_path, "exit 3"))


def test_a_hung_program_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that hangs must not hang us."""
    monkeypatch.setattr(nameserver, "_RELOAD_SECONDS", 0.2)
    monkeypatch.setattr(nameserver, "_CHECK_SECONDS", 0.2)
    hung = primary(tmp_path, "exec sleep 60")
    with pytest.raises(ReloadError, match=r"program: no end within 0\.2 s"):
        nameserver.reload(hung)
    with pytest.raises(SourceRefused, match=r"not checked: .*program: no end within 0\.2 s"):
        nameserver.check(hung, "example.org", b"")


def test_a_program_that_may_not_be_killed_is_left_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sudo may not, by whoever called it: nobody waits for its end."""
    left = list[subprocess.Popen[bytes]]()

    def kill(process: subprocess.Popen[bytes]) -> None:
        left.append(process)
        raise PermissionError

    monkeypatch.setattr(nameserver, "_RELOAD_SECONDS", 0.1)
    monkeypatch.setattr(subprocess.Popen, "kill", kill)
    hung = primary(tmp_path, "exec sleep 600")
    began = time.monotonic()
    try:
        with pytest.raises(ReloadError, match=r"no end within 0\.1 s$"):
            nameserver.reload(hung)
        assert time.monotonic() - began < 60
    finally:
        for process in left:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def test_a_missing_program_is_named() -> None:
    """It is not installed, or the configuration has a typo."""
    missing = Primary.model_validate(
        {"kind": "nsd", "address": "127.0.0.1", "control": ["nsd-controll"], "checker": ["nsdx"]}
    )
    with pytest.raises(ReloadError, match="nsd-controll: no such program"):
        nameserver.reload(missing)
    with pytest.raises(SourceRefused, match="not checked: nsdx: no such program"):
        nameserver.check(missing, "example.org", b"")


def test_a_complaint_is_placed(tmp_path: Path) -> None:
    """Its line is the source's line; neither the program's stamp nor a file's name is there."""
    complains = primary(tmp_path, 'echo "[now] program[1]: error: $2:7: bad data"; exit 1')
    assert complaints(complains, "zone") == [Fault(7, "program: bad data")]


def test_the_checker_gets_the_zone_and_no_file(tmp_path: Path) -> None:
    """A run that is killed in the middle of it leaves nothing behind."""
    reads = primary(tmp_path, f'echo "$@" > {tmp_path}/said; cat "$2" > {tmp_path}/read')
    zone = ZONE * 2000  # more than a pipe holds
    nameserver.check(reads, "example.org", zone.encode())
    assert (tmp_path / "said").read_text() == "example.org /dev/stdin\n"
    assert (tmp_path / "read").read_text() == zone


def test_a_checker_need_not_read_it(tmp_path: Path) -> None:
    """`true` is one, for an owner who wants none."""
    nameserver.check(primary(tmp_path, "exit 0"), "example.org", ZONE.encode() * 2000)


# --- the real checkers ------------------------------------------------------------------------


def of_kind(kind: str) -> Primary:
    return Primary.model_validate({"kind": kind, "address": "127.0.0.1"})


def complaints(its: Primary, zone: str) -> list[Fault]:
    """What the checker says of a zone that it refuses."""
    with pytest.raises(SourceRefused) as raised:
        nameserver.check(its, "example.org", zone.encode())
    return list(raised.value.faults)


@each_kind
def test_a_good_zone_passes(kind: str) -> None:
    """Nothing is said of it."""
    nameserver.check(of_kind(kind), "example.org", ZONE.encode())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nsd", ["nsd-checkzone: invalid IPv4 address '1.2.3'",
                 "nsd-checkzone: invalid IPv6 address '1'"]),
        ("bind", ["named-checkzone: near '1.2.3': bad dotted quad",
                  "named-checkzone: near '1': bad IPv6 address"]),
        ("knot", ["kzonecheck: invalid IPv4 address", "kzonecheck: invalid IPv6 address"]),
    ],
)  # fmt: skip
def test_each_kind_names_every_faulty_line(kind: str, said: list[str]) -> None:
    """The lines are the zone's; what the checker adds about its own doings is left out."""
    zone = ZONE + "foo A 1.2.3\nmail A 192.0.2.2\nbar AAAA 1\n"
    assert complaints(of_kind(kind), zone) == [Fault(5, said[0]), Fault(7, said[1])]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bind", "named-checkzone: zone example.org/IN: has no NS records"),
        ("knot", "kzonecheck: [example.org.] missing NS at the zone apex"),
    ],
)
def test_a_complaint_about_the_whole_zone_has_no_line(kind: str, said: str) -> None:
    """NSD's checker lets this one pass."""
    zone = ZONE.replace("@ NS ns1\n", "")
    assert complaints(of_kind(kind), zone) == [Fault(0, said)]


def test_binds_checker_is_as_strict_as_named() -> None:
    """Left to itself, it only warns of a name that named refuses the whole zone for."""
    (fault,) = complaints(of_kind("bind"), ZONE + "a_b A 192.0.2.2\n")
    assert fault.text == "named-checkzone: a_b.example.org: bad owner name (check-names)"


def test_binds_checker_asks_no_resolver() -> None:
    """Left to itself, it looks names in other zones up; in an outage that would take its time."""
    its = of_kind("bind")
    aloud = its.model_copy(
        update={"checker": ("sh", "-c", '"$@"; exit 1', "its words", *its.checker)}
    )
    said = complaints(aloud, ZONE + "@ MX 10 mx.invalid.\n")
    assert [fault.text for fault in said] == [
        "sh: zone example.org/IN: loaded serial 1",
        "sh: OK",
    ]


def test_a_failure_in_noise_alone_is_told_by_its_status(tmp_path: Path) -> None:
    """What is left out must not leave nothing."""
    silent = primary(tmp_path, 'echo "zone example.org file /dev/stdin has 2 errors"; exit 1')
    assert complaints(silent, ZONE) == [Fault(0, "program: exit status 1")]
