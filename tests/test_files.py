"""Whole files or nothing."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from actions import files


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """The new content stands, and nothing else is left in the folder."""
    path = tmp_path / "zone"
    path.write_bytes(b"old")
    files.put(path, b"new")
    files.sync_folder(tmp_path)
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["zone"]


def test_another_user_can_read_a_published_file_whatever_the_umask(tmp_path: Path) -> None:
    """The name server runs as another user."""
    before = os.umask(0o077)
    try:
        files.put(tmp_path / "zone", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "zone").stat().st_mode & 0o777 == 0o644


def test_the_mtime_is_always_later_than_the_old_ones(tmp_path: Path) -> None:
    """A name server that goes by the mtime reloads, even after the clock was set back."""
    path = tmp_path / "zone"
    path.write_bytes(b"old")
    ahead = path.stat().st_mtime_ns + 10**15
    os.utime(path, ns=(ahead, ahead))
    files.put(path, b"new")
    assert path.stat().st_mtime_ns > ahead


def test_what_a_crash_left_behind_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """A temporary file of a run that was killed is replaced and gone."""
    (tmp_path / ".zone.tmp").write_bytes(b"half")
    files.put(tmp_path / "zone", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["zone"]
    assert (tmp_path / "zone").read_bytes() == b"whole"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """When the rename is impossible, the error says so and the folder is as before."""
    (tmp_path / "zone").mkdir()
    with pytest.raises(IsADirectoryError):
        files.put(tmp_path / "zone", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["zone"]


def test_many_files_hold_up_no_other(tmp_path: Path) -> None:
    """More than are open at once; one that can't be replaced is named, the others are there."""
    names = [f"z{number}" for number in range(450)]
    for name in names[:300]:
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "z7").unlink()
    (tmp_path / "z7").mkdir()
    contents = [(name, name.encode()) for name in names]
    failed = files.put_all(tmp_path, contents, keep={"z1", "z299"})
    assert {name: type(error) for name, error in failed.items()} == {"z7": IsADirectoryError}
    assert all((tmp_path / n).read_bytes() == n.encode() for n in names if n != "z7")
    assert files.keeping(tmp_path) == {"z1", "z299"}
    assert files.kept(tmp_path / "z299") == b"old"
    for name in ("z1", "z299"):
        files.drop(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_the_last_kept_is_the_last_that_stood_there(tmp_path: Path) -> None:
    """One that a killed run kept gives way."""
    for content in (b"one", b"two", b"three"):
        files.put_all(tmp_path, [("zone", content)], keep={"zone"})
    assert files.kept(tmp_path / "zone") == b"two"
    assert files.kept(tmp_path / "other") is None


def test_what_is_left_of_writing_is_swept_away(tmp_path: Path) -> None:
    """Only what is ours: other files of the owner stay."""
    for name in (".zone.tmp", ".other.tmp", "notes.tmp", ".zone.last"):
        (tmp_path / name).touch()
    files.sweep(tmp_path, {"zone"})
    assert {path.name for path in tmp_path.iterdir()} == {".other.tmp", "notes.tmp", ".zone.last"}
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.tmp", ".zone.last"}


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """What it leads to is nothing of ours."""
    (tmp_path / "else").write_text("somebody's")
    (tmp_path / ".zone.tmp").symlink_to("else")
    with pytest.raises(OSError, match="symbolic links"):
        files.put(tmp_path / "zone", b"new")
    assert (tmp_path / "else").read_text() == "somebody's"


def test_what_was_kept_goes_back_without_room(tmp_path: Path) -> None:
    """Later than what it takes the place of, whatever the clock says: name servers go by that."""
    path = tmp_path / "zone"
    path.write_text("old")
    files.put_all(tmp_path, [("zone", b"new")], keep={"zone"})
    ahead = time.time_ns() + 3_600_000_000_000
    os.utime(path, ns=(ahead, ahead))
    files.put_back(str(path))
    assert (path.read_text(), files.kept(path)) == ("old", b"old")
    assert path.stat().st_mtime_ns > ahead
    assert sorted(p.name for p in tmp_path.iterdir()) == [".zone.last", "zone"]


@pytest.mark.parametrize("there", ["nothing", "the same"])
def test_what_was_kept_is_never_written_into(tmp_path: Path, there: str) -> None:
    """Whatever stands in its place, if anything does: it is the only good copy."""
    path = tmp_path / "zone"
    path.write_text("old")
    os.link(path, tmp_path / ".zone.last")
    if there == "nothing":
        path.unlink()
    with suppress(FileNotFoundError):
        files.put_back(str(path))
    assert not (tmp_path / ".zone.tmp").exists()
    assert files.kept(path) == b"old"


def test_a_spare_file_is_written_anew(tmp_path: Path) -> None:
    """The same inode, and what it held before is gone."""
    path = tmp_path / "zone"
    files.put(path, b"a long first content")
    files.put_all(tmp_path, [("zone", b"second")], keep={"zone"})
    first = (tmp_path / ".zone.last").stat().st_ino
    files.drop(path, spare=True)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [".zone.spare", "zone"]
    files.put_all(tmp_path, [("zone", b"third")], keep={"zone"})
    assert path.read_bytes() == b"third"
    assert path.stat().st_ino == first
    assert files.kept(path) == b"second"
    files.drop(path, spare=True)
    files.drop(path, spare=True)
    files.clear(path)
    assert [p.name for p in tmp_path.iterdir()] == ["zone"]


def test_a_spare_that_has_another_name_is_left_alone(tmp_path: Path) -> None:
    """It may be a backup's, or the very file that is read now."""
    path = tmp_path / "zone"
    for content in (b"first", b"second"):
        files.put_all(tmp_path, [("zone", content)], keep={"zone"})
    os.link(tmp_path / ".zone.last", tmp_path / "backup")
    files.drop(path, spare=True)
    files.put(path, b"third")
    assert (tmp_path / "backup").read_bytes() == b"first"
    os.link(path, tmp_path / ".zone.last")  # as by a run that was killed before the rename
    files.drop(path, spare=True)
    with path.open("rb") as reader:
        files.put_all(tmp_path, [("zone", b"fourth")], keep={"zone"})
        assert reader.read() == b"third"
    assert path.read_bytes() == b"fourth"
    assert files.kept(path) == b"third"
    files.drop(path, spare=True)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"zone", ".zone.spare", "backup"}
