"""The primary's own programs. What they make of real zones is seen in the system tests."""

import stat
from pathlib import Path

import pytest

from actions import nameserver
from actions.nameserver import ReloadError
from exporter.config import Primary
from exporter.zonefile import SourceRefused


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
    """The configured command comes first, with its options."""
    nameserver.reload(primary(tmp_path, f'echo "$@" > {tmp_path}/said'))
    assert (tmp_path / "said").read_text() == "-c nsd.conf reload\n"


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
    """Its line is the source's line, and the temporary file's name is not the owner's business."""
    complains = primary(tmp_path, 'echo "[now] program[1]: error: $2:7: bad data"; exit 1')
    with pytest.raises(SourceRefused) as raised:
        nameserver.check(complains, "example.org", b"zone")
    (fault,) = raised.value.faults
    assert (fault.line, fault.text) == (7, "program: bad data")
