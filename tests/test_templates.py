"""The accepted sources in memory: read anew where they have changed, and only there."""

import os
from pathlib import Path

import pytest
from zones import HEAD, SERVERS

from actions.state import State, StateError
from actions.templates import Templates
from actions.zone import values
from exporter import zonefile
from exporter.config import Server

SOURCE = f"{HEAD}www A @IP@\n".encode()


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state folder with two accepted sources."""
    state = State(tmp_path / "state")
    state.prepare()
    state.accept({"example.net": SOURCE, "example.org": SOURCE}.items())
    return state


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which zones were parsed."""
    zones: list[str] = []
    parse = zonefile.parse

    def noted(zone: str, content: bytes, servers: dict[str, Server]) -> zonefile.Source:
        zones.append(zone)
        return parse(zone, content, servers)

    monkeypatch.setattr(zonefile, "parse", noted)
    return zones


def test_what_has_not_changed_is_not_read_again(state: State, parsed: list[str]) -> None:
    """A new content is, though it has the same size."""
    templates = Templates(state, SERVERS)
    templates.read()
    assert parsed == ["example.net", "example.org"]
    templates.read()
    state.accept({"example.net": SOURCE, "example.org": SOURCE.replace(b"www", b"ftp")}.items())
    its = templates.read().accepted
    assert parsed == ["example.net", "example.org", "example.org"]
    assert b"\nftp A 192.0.2.1\n" in its["example.org"].render(values(SERVERS, "main"), 7)
    assert b"\nwww A 198.51.100.7\n" in its["example.net"].render(values(SERVERS, "backup"), 7)


def test_what_was_changed_meanwhile_is_not_filled_in(state: State, tmp_path: Path) -> None:
    """Its gaps would be elsewhere; all the more where nothing but the content tells."""
    templates = Templates(state, SERVERS)
    accepted = templates.read().accepted["example.org"]
    path = tmp_path / "state" / "accepted" / "example.org.base"
    status = path.stat()
    path.write_bytes(SOURCE.replace(b"www A @IP@\n", b"w   A @IP@\n"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StateError, match=f"^{path}: was changed while it was used$"):
        accepted.render(values(SERVERS, "main"), 7)
    accepted = templates.read().accepted["example.org"]
    assert b"\nw   A 192.0.2.1\n" in accepted.render(values(SERVERS, "main"), 7)


def test_a_source_may_be_elsewhere(state: State, tmp_path: Path) -> None:
    """A person has put a link in its place."""
    path = tmp_path / "state" / "accepted" / "example.org.base"
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    accepted = Templates(state, SERVERS).read().accepted["example.org"]
    assert b"\nwww A 192.0.2.1\n" in accepted.render(values(SERVERS, "main"), 7)


def test_a_retired_zone_is_gone(state: State) -> None:
    """There is nothing to publish of it."""
    templates = Templates(state, SERVERS)
    templates.read()
    state.retire("example.org")
    assert set(templates.read().accepted) == {"example.net"}


def test_one_that_no_longer_fits_is_said(state: State) -> None:
    """The servers are others than when it was accepted; the zones that fit go on."""
    state.accept({"example.org": SOURCE + b"six AAAA @IP6@\n"}.items())
    only_ipv4 = {"main": Server(addresses=("192.0.2.1",))}
    reading = Templates(state, only_ipv4).read()
    assert set(reading.accepted) == {"example.net"}
    assert "which has no IPv6 address" in reading.refused["example.org"]


def test_one_that_cannot_be_read_is_read_once_it_can(state: State, tmp_path: Path) -> None:
    """It hides no other."""
    path = tmp_path / "state" / "accepted" / "example.org.base"
    path.unlink()
    path.mkdir()
    templates = Templates(state, SERVERS)
    reading = templates.read()
    assert set(reading.accepted) == {"example.net"}
    assert reading.refused == {"example.org": f"{path}: can't be read: Is a directory"}
    path.rmdir()
    path.write_bytes(SOURCE)
    assert set(templates.read().accepted) == {"example.net", "example.org"}


def test_one_that_is_lost_is_said(state: State, tmp_path: Path) -> None:
    """It was published, and nobody has retired it: a switch would pass it over."""
    state.record({"example.net": 7, "example.org": 7})
    state.retire("example.net")
    assert Templates(state, SERVERS).read().refused == {}
    (tmp_path / "state" / "accepted" / "example.org.base").unlink()
    assert Templates(state, SERVERS).read().refused == {
        "example.org": "its accepted source is gone; zonerw rewrite --forced example.org accepts"
        " it anew"
    }
