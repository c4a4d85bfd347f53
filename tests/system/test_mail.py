"""`zonerw sync`, with the real Unison, OpenSSH and git: nobody's mail is lost, or deleted by us."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import free_port
from mail import (
    GONE_SECONDS,
    SYNC_SECONDS,
    Machines,
    Maildir,
    disks,
    ended,
    kill,
    machines,
    program,
    soon,
    zonerw,
)
from observed import SOON, everywhere, log, metrics

from demo.stack import Stack, wait_for

SUMMARY = re.compile(
    r"mail: (\d+) transferred, (\d+) skipped, (\d+) failed, (\d+) deleted in \d+\.\d s\n"
)
REMEDY = "zonerw sync mail --allow-deletions"

Found = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two machines with an sshd between them, for all tests that leave them in step."""
    with machines(tmp_path_factory.mktemp("used") / "mail", free_port("127.0.0.1")) as them:
        for side in (them.here, them.there):
            side.create(".Sent")
        yield them


@pytest.fixture
def them(used: Machines) -> Machines:
    """The same, in step, whatever the test before has come to."""
    if used.here.files() != used.there.files():
        assert used.sync("--allow-deletions").returncode == 0
    return used


def deliver(maildir: Maildir, *, number: int = 1, folder: str = "", size: int = 0) -> list[str]:
    """Deliver so many messages."""
    made = [f"message {next(_count)}" for _ in range(number)]
    for message in made:
        maildir.deliver(message, folder, size)
    return made


_count = itertools.count()


def some(them: Machines, number: int) -> list[str]:
    """So many messages that are in step, and that nobody has read."""
    if len(unread(them.here)) < number:
        deliver(them.here, number=100)
        deliver(them.there, number=100)
        assert done(them.sync()) == (200, 0)
    return unread(them.here)[:number]


def unread(maildir: Maildir) -> list[str]:
    """The messages that nobody has read."""
    return [name for name, paths in maildir.messages().items() if paths[0].parent.name == "new"]


def in_step(them: Machines, messages: Iterable[str]) -> None:
    """Both sides have each of these messages once, alike, and nothing else."""
    assert them.here.copies() == dict.fromkeys(messages, 1)
    assert them.here.files() == them.there.files()


def done(ran: Found) -> tuple[int, int]:
    """How many were transferred and deleted by a run with which nothing was the matter."""
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    its = SUMMARY.fullmatch(ran.stdout)
    assert its, ran.stdout
    assert its[2] == its[3] == "0", ran.stdout
    return int(its[1]), int(its[4])


def failed(ran: Found) -> str:
    """What a run says that came to nothing."""
    assert (ran.returncode, ran.stdout) == (1, ""), ran
    assert ran.stderr.startswith("mail: ")
    assert "Traceback" not in ran.stderr
    return ran.stderr


# --- what people do with mail ---------------------------------------------------------------


def test_mail_that_came_on_either_side_is_on_both(them: Machines) -> None:
    """Each message once; what is not whole yet, in tmp, is left alone; then nothing is to do."""
    before = {*them.here.copies()}
    half = them.here.path / "tmp" / "half"
    half.write_text("Mess")
    made = deliver(them.here, number=5) + deliver(them.there, number=5)
    them.there.create(".Work")
    made += deliver(them.there, folder=".Work")
    assert done(them.sync())[1] == 0
    assert them.there.copies() == them.here.copies() == dict.fromkeys(before | {*made}, 1)
    assert not (them.there.path / "tmp" / "half").exists()
    assert half.read_text() == "Mess"
    assert done(them.sync()) == (0, 0)
    half.unlink()


def test_mail_that_comes_and_is_read_while_a_run_is_under_way(them: Machines) -> None:
    """At once or with the next run; nothing is lost, nothing comes out twice.

    One that is read while Unison looks is found by both names: the old one counts as deleted later.
    """
    old, over = some(them, 40), threading.Event()
    made = {*them.here.copies()}

    def live(maildir: Maildir, to_read: list[str]) -> None:
        while not over.wait(0.004):
            made.update(deliver(maildir))
            if to_read and next(_count) % 20 == 0:  # so few are never too many
                maildir.read(to_read.pop())

    lives = [
        threading.Thread(target=live, args=(them.here, old[:20])),
        threading.Thread(target=live, args=(them.there, old[20:])),
    ]
    for life in lives:
        life.start()
    runs = [them.sync() for _ in range(2)]
    over.set()
    for life in lives:
        life.join()
    assert not any("Traceback" in ran.stderr for ran in runs)
    done(them.sync())
    in_step(them, made)


def test_flags_that_change_on_one_side_change_on_the_other(them: Machines) -> None:
    """A message that is read, flagged, unflagged or moved is renamed, not deleted: all may be."""
    its = some(them, 20)
    made = {*them.here.copies()}
    for message in its:
        them.here.read(message)
    assert done(them.sync())[1] == 0
    in_step(them, made)
    flagged, replied, unread_again, moved, *_ = its
    them.there.flag(flagged, "F")
    them.here.flag(replied, "R")
    them.here.unflag(unread_again, "S")
    them.there.move(moved, ".Sent")
    assert done(them.sync())[1] == 0
    in_step(them, made)
    assert [them.here.flags(message) for message in its[:4]] == ["FS", "RS", "", "S"]
    assert them.here.find(moved).parent == them.here.path / ".Sent" / "cur"


def test_flags_that_change_on_both_sides(them: Machines) -> None:
    """Alike, they are alike; unlike, a message may come out twice, and is not lost."""
    alike, unlike, read_there, read_here = some(them, 4)
    made = {*them.here.copies()}
    for side in (them.here, them.there):
        side.read(alike)
    them.here.read(unlike)
    them.there.flag(unlike, "F")
    them.here.delete(read_there)
    them.there.read(read_there)
    them.there.delete(read_here)
    them.here.flag(read_here, "F")
    assert done(them.sync())[1] == 0
    copies = them.here.copies()
    assert copies.pop(unlike) in (1, 2)
    assert copies == dict.fromkeys(made - {unlike}, 1)
    assert them.here.files() == them.there.files()
    them.here.delete(unlike)
    assert done(them.sync())[1] in (1, 2)
    in_step(them, made - {unlike})


def test_what_is_deleted_is_deleted_there_too_and_kept_aside(them: Machines) -> None:
    """Where it was deleted by us, in the pair's own folder; messages and folders, for a while."""
    deleted_here, deleted_there = some(them, 2)
    sides = ((them.here, deleted_here, ".Old"), (them.there, deleted_there, ".Older"))
    for side, _, folder in sides:
        side.create(folder)
        deliver(side, folder=folder)
    done(them.sync())
    made = {*them.here.copies()}
    lost = [[side.find(message), *files(side.path / folder)] for side, message, folder in sides]
    expected = [
        {str(path.relative_to(side.path)): path.read_bytes() for path in paths}
        for (side, *_), paths in zip(sides, lost, strict=True)
    ]
    for side, message, folder in sides:
        made -= {message, *Maildir(side.path / folder).copies()}
        side.delete(message)
        remove([side.path / folder])
    assert done(them.sync()) == (4, 4)
    in_step(them, made)
    for transferred in (0, 1):  # what looks through it comes before each run
        assert done(them.sync()) == (transferred, 0)
        made.update(deliver(them.here) if not transferred else ())
        for kept, its in zip(them.aside, reversed(expected), strict=True):
            found = {str(path.relative_to(kept)): path for path in files(kept)}
            assert its.items() <= {name: p.read_bytes() for name, p in found.items()}.items()
            assert {found[name].stat().st_mode & 0o777 for name in its} == {0o400}


def files(folder: Path) -> list[Path]:
    """All files in a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_changed_host_name_brings_nothing_back(them: Machines) -> None:
    """Not the machine's, nor what Unison is told by its environment."""
    one, other = some(them, 2)
    made = {*them.here.copies()}
    them.here.delete(one)
    assert done(them.sync(UNISONLOCALHOSTNAME="elsewhere")) == (1, 1)
    them.there.delete(other)
    rename = 'hostname elsewhere && exec "$@"'
    as_root = ("--map-root-user",) if os.getuid() else ()
    words = ("unshare", "--uts", *as_root, "sh", "-c", rename, "sh", *zonerw("sync", "mail"))
    assert done(them.run(*words)) == (1, 1)
    in_step(them, made - {one, other})


def test_what_is_no_message_and_differs_stays_as_it_is(tmp_path: Path) -> None:
    """It is said at each run, and all else is done; names may be as odd as they like."""
    with disks(tmp_path / "mail") as them:
        sides = {
            "here": them.here.path / "subscriptions",
            "there": them.there.path / "subscriptions",
        }
        for side, path in sides.items():
            path.write_text(side)
        odd = [
            ".Proceed with propagating updates? [] ",
            ".deleted  ---->  new dir",
            ".Gr\udcfc\xdfe",
        ]
        for folder in odd:
            them.here.create(folder)
            deliver(them.here, folder=folder)
        ran = them.sync()
        assert ran.returncode == 0
        assert re.match(r"mail: \d+ transferred, 1 skipped, 0 failed, 0 deleted in ", ran.stdout)
        assert ran.stderr == f"{sides['here']}: contents changed on both sides\n"
        assert {side: path.read_text() for side, path in sides.items()} == {s: s for s in sides}
        assert len(them.there.copies()) == len(odd)
        assert them.here.copies() == them.there.copies()
        for path in sides.values():
            path.unlink()
        assert done(them.sync()) == (0, 0)


def test_a_pair_that_is_refused_holds_up_no_other(tmp_path: Path) -> None:
    """Each of several users' mail is looked at by itself."""
    with disks(tmp_path / "mail") as them:
        lost = tmp_path / "lost"
        pairs = [[str(lost), str(tmp_path / "nowhere")], [str(them.here.path), them.root]]
        them.configure(f"[sync.mail]\nunison = {json.dumps(pairs)}\n")
        made = deliver(them.here, number=5)
        assert f"{lost} is missing" in failed(them.sync())
        in_step(them, made)
        for message in made:
            them.here.delete(message)
        assert "if that is meant" in failed(them.sync())
        record = json.loads((them.folder / "state" / "sync" / "mail.json").read_text())
        assert (record["too_many"], record["succeeded"]) == (5, None)  # not all got through


# --- what may not be deleted ----------------------------------------------------------------

EMPTIED: dict[str, Callable[[Path], None]] = {
    "no message is left": lambda root: remove(path for path in root.rglob("*") if path.is_file()),
    "no folder is left": lambda root: remove(root.iterdir()),
    "it is gone": lambda root: remove([root]),
    "cur is gone": lambda root: remove([root / "cur"]),
    "a folder is gone": lambda root: remove([root / ".Sent"]),
}


def remove(paths: Iterable[Path]) -> None:
    """Remove files, and folders with all that is in them."""
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """In step: 10 messages that are new, 20 that were read, and 10 in a folder; 4 may be deleted.

    One for all tests in which nothing may change.
    """
    with machines(tmp_path_factory.mktemp("full") / "mail", free_port("127.0.0.1")) as them:
        them.configure(them.job(max_deletions='"10%"'))
        them.here.create(".Sent")
        for side in (them.here, them.there):
            deliver(side, number=5)
            for message in deliver(side, number=10):
                side.read(message)
        for message in deliver(them.here, number=10, folder=".Sent"):
            them.here.read(message)
        assert done(them.sync())[1] == 0
        assert them.here.files() == them.there.files()
        yield them


@contextmanager
def restored(maildir: Maildir) -> Iterator[None]:
    """Put all of it back at the end of the block."""
    aside = maildir.path.with_name("aside")
    shutil.copytree(maildir.path, aside)
    try:
        yield
    finally:
        shutil.rmtree(maildir.path, ignore_errors=True)
        aside.rename(maildir.path)


@pytest.mark.parametrize(
    ("how", "side", "lost"),
    [
        ("no message is left", "here", 40),
        ("no message is left", "there", 40),
        ("cur is gone", "here", 20),
        ("a folder is gone", "there", 10),
    ],
)
def test_a_side_that_was_emptied_empties_no_other(
    full: Machines, how: str, side: str, lost: int
) -> None:
    """A slip, a disk that is not mounted: it is refused, with what to do if it is meant."""
    with emptied(full, how, side):
        why = failed(full.sync())
    assert why.startswith(f"mail: refused: it would delete {lost} of 40 messages of ")
    assert f"; max_deletions allows {0 if lost == 40 else 5}" in why
    assert why.endswith(f"if that is meant: {REMEDY}\n")


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize("how", ["no folder is left", "it is gone"])
def test_a_side_that_is_no_maildir_any_more_empties_no_other(
    full: Machines, how: str, side: str
) -> None:
    """Most likely it is not mounted, and nobody means that: it is not allowed by any word."""
    with emptied(full, how, side):
        why = failed(full.sync("--allow-deletions"))
    place = str(full.here.path) if side == "here" else full.root
    assert why.startswith(f"mail: refused: {place} is ")


@contextmanager
def emptied(them: Machines, how: str, side: str) -> Iterator[None]:
    """Take away from a side, for a block in which nothing may change on either."""
    its, other = (them.here, them.there) if side == "here" else (them.there, them.here)
    before = other.files()
    with restored(its):
        EMPTIED[how](its.path)
        left = its.files() if its.path.exists() else None
        yield
        assert other.files() == before
        assert (its.files() if its.path.exists() else None) == left


def test_what_is_meant_is_allowed_once(tmp_path: Path) -> None:
    """And the next time it takes a person's word again. Between two disks, too."""
    with disks(tmp_path / "mail") as them:
        made = deliver(them.here, number=20)
        assert done(them.sync()) == (20, 0)
        remove(files(them.here.path))
        assert failed(them.sync()).endswith(f"{REMEDY}\n")
        in_step_there = them.there.copies()
        assert in_step_there == dict.fromkeys(made, 1)
        assert done(them.sync("--allow-deletions"))[1] == 20
        in_step(them, set())
        made = deliver(them.there, number=20)
        assert done(them.sync()) == (20, 0)
        remove(files(them.there.path))
        assert failed(them.sync()).endswith(f"{REMEDY}\n")
        assert them.here.copies() == dict.fromkeys(made, 1)


def test_just_as_many_as_max_deletions(tmp_path: Path) -> None:
    """One more is refused, and all else is done; a few are never too many."""
    with disks(tmp_path / "mail") as them:
        them.configure(them.job(max_deletions='"20%"'))
        made = deliver(them.here, number=40)
        assert done(them.sync()) == (40, 0)
        gone = made[:9]
        kept = gone.pop()
        path = them.here.find(kept)
        text = path.read_bytes()
        for message in (*gone, kept):
            them.here.delete(message)
        made += deliver(them.here)
        them.here.read(made[20])
        assert "it would delete 9 of 40 messages of " in (why := failed(them.sync()))
        assert "; max_deletions allows 8" in why
        assert them.there.copies() == dict.fromkeys(made, 1)
        assert them.there.flags(made[20]) == "S"
        path.write_bytes(text)
        assert done(them.sync())[1] == 8
        in_step(them, {*made} - {*gone})

        them.configure(them.job(max_deletions='"1%"'))
        for message in made[8:13]:
            them.there.delete(message)
        assert done(them.sync())[1] == 5
        for message in made[13:19]:
            them.there.delete(message)
        assert "it would delete 6 of 28 messages of " in (why := failed(them.sync()))
        assert "; max_deletions allows 5" in why


def test_all_of_a_few_are_too_many(tmp_path: Path) -> None:
    """Three messages, and none of them is left: that is an emptied folder."""
    with disks(tmp_path / "mail") as them:
        made = deliver(them.here, number=3)
        assert done(them.sync()) == (3, 0)
        remove(files(them.there.path))
        assert "it would delete 3 of 3 messages of " in failed(them.sync())
        made += deliver(them.there)
        assert "it would delete 3 of " in failed(them.sync())
        assert them.here.copies() == dict.fromkeys(made, 1)


# --- folders that are gone, or something else ------------------------------------------------

BIG = ".Archive"
ODD = ".Gr\udcfc\udcdfe"  # no UTF-8

REFUSED = re.compile(
    r"mail: refused: it would delete (\d+) of (\d+) messages of \S+, gone from \S+;"
    r" max_deletions allows \d+: none was deleted, all else was done\n"
    rf"((?:.+\n)*)if that is meant: {REMEDY}\n"
)


@contextmanager
def filled(folder: Path, name: str = BIG) -> Iterator[Machines]:
    """Two disks in step: 10 messages that are new, and 20 in a folder; five may be deleted."""
    with disks(folder / "mail") as them:
        deliver(them.here, number=10)
        them.there.create(name)
        deliver(them.there, number=20, folder=name)
        assert done(them.sync())[1] == 0
        yield them


def refused(ran: Found) -> tuple[int, int]:
    """How many would have been deleted, and of how many, by a run that did all else."""
    its = REFUSED.fullmatch(failed(ran))
    assert its, ran.stderr
    assert not its[3], ran.stderr
    return int(its[1]), int(its[2])


def in_its_place(path: Path) -> None:
    """Have a file where a folder was."""
    remove([path])
    path.write_text("no folder")


@pytest.mark.parametrize(
    ("name", "how", "side"),
    [
        (BIG, in_its_place, "here"),
        (BIG, in_its_place, "there"),
        (ODD, lambda path: remove([path]), "here"),
        (BIG, lambda path: remove([path / "new"]), "there"),
    ],
    ids=["a file here", "a file there", "it here", "its messages there"],
)
def test_a_folder_that_is_gone_is_refused_until_it_is_back(
    tmp_path: Path, name: str, how: Callable[[Path], None], side: str
) -> None:
    """However often it is tried; and what else there is to do is done each time."""
    with filled(tmp_path, name) as them:
        its, other = (them.here, them.there) if side == "here" else (them.there, them.here)
        saved = tmp_path / "saved"
        shutil.copytree(its.path / name, saved)
        there = {*other.copies()}
        how(its.path / name)
        for run in range(3):
            there.update(deliver(its))
            assert refused(them.sync()) == (20, 30 + run)
            assert other.copies() == dict.fromkeys(there, 1)
        if (its.path / name).is_file():
            (its.path / name).unlink()
        shutil.copytree(saved, its.path / name, dirs_exist_ok=True)
        assert done(them.sync())[1] == 0
        in_step(them, there)


def test_a_folder_that_is_a_link_is_left(tmp_path: Path) -> None:
    """It was moved to another disk: that is said at each run, and all else is done."""
    with filled(tmp_path) as them:
        place, elsewhere = them.here.path / BIG, tmp_path / "elsewhere"
        made = {*them.there.copies()}
        place.rename(elsewhere)
        place.symlink_to(elsewhere)
        for _ in range(2):
            made.update(deliver(them.here))
            ran = them.sync()
            assert (ran.returncode, ran.stderr) == (
                0,
                f"{place}: path {place} is a symbolic link\n",
            )
            assert ran.stdout.startswith("mail: 1 transferred, 1 skipped, 0 failed, 0 deleted in ")
            assert them.there.copies() == dict.fromkeys(made, 1)
        place.unlink()
        elsewhere.rename(place)
        assert done(them.sync())[1] == 0
        in_step(them, made)


def test_a_folder_that_is_not_in_the_record_is_refused(tmp_path: Path) -> None:
    """Nobody knows how many messages were in it: whatever may be deleted, that is too much."""
    with disks(tmp_path / "mail") as them:
        them.configure(them.job(max_deletions='"90%"'))
        deliver(them.here, number=10)
        done(them.sync())
        path = them.state / "sync" / "mail.json"
        from_before = path.read_text()
        them.there.create(BIG)
        deliver(them.there, number=20, folder=BIG)
        done(them.sync())
        of_a_run_that_was_killed = json.dumps(json.loads(path.read_text()) | {"files": {}})
        saved, there = tmp_path / "saved", them.there.files()
        (them.here.path / BIG).rename(saved)
        for record in (from_before, of_a_run_that_was_killed, None):
            if record:
                path.write_text(record)
            else:
                path.unlink()
            for _ in range(2):
                assert "; max_deletions allows 0: " in failed(them.sync())
                assert them.there.files() == there
        saved.rename(them.here.path / BIG)
        assert done(them.sync()) == (0, 0)
        assert them.here.files() == there


def test_what_is_no_mail_is_neither_counted_nor_brought_over(tmp_path: Path) -> None:
    """Were it, then the messages that are gone would be few of many."""
    with filled(tmp_path) as them:
        # What a transfer that was cut off leaves of a folder: it goes on there.
        left = them.here.path / ".unison.cur.0123456789abcdef0123456789abcdef.unison.tmp" / "cur"
        left.mkdir(parents=True)
        for number in range(1000):
            (left / f"{number}:2,S").touch()
            (them.here.path / f"dovecot.index.{number}").touch()
        for side in (them.here, them.there):
            for name in ("dovecot.list.index", "dovecot-uidlist", "dovecot.index.log", "a.lock"):
                (side.path / BIG / name).write_text(f"{side.path}")
        assert done(them.sync()) == (0, 0)
        there = them.there.files()
        remove(path for folder in ("", BIG) for path in (them.here.path / folder / "new").iterdir())
        for _ in range(2):
            assert refused(them.sync()) == (30, 30)
            assert them.there.files() == there


def test_messages_that_get_another_content(tmp_path: Path) -> None:
    """A disk that was full, say: they are lost as if they were deleted; a few are kept aside."""
    with filled(tmp_path) as them:
        paths = sorted((them.there.path / BIG / "new").iterdir())[:6]
        texts = {path.name: path.read_bytes() for path in paths}
        here = them.here.files()
        for path in paths:
            path.write_bytes(b"")
        for _ in range(2):
            assert refused(them.sync()) == (6, 30)
            assert them.here.files() == here
        mended = paths.pop()
        mended.write_bytes(texts.pop(mended.name))
        assert done(them.sync())[1] == 5
        kept = {path.name: path.read_bytes() for path in files(them.aside[0])}
        assert kept == texts
        assert them.here.files() == them.there.files()


def test_what_can_not_be_brought_over_holds_up_nothing(tmp_path: Path) -> None:
    """Each is said, by its name and with its reason, at each run; beside a refusal, too."""
    with filled(tmp_path) as them:
        here = them.here.path
        conflict, pipes = here / "b", [here / "a", here / "c", here / ".New" / "pipe"]

        def of_pipe(path: Path) -> str:
            return f"{path}: path {path} has unknown file type\n"

        def ran(*left: str) -> str:
            made.update(deliver(them.here))
            ran = them.sync()
            assert made <= them.there.copies().keys()
            record = json.loads((them.state / "sync" / "mail.json").read_text())
            assert (record["end"], record["skipped"], record["failed"]) == (1, len(left), 0)
            for line in left:
                assert line in ran.stderr
            return ran.stdout + ran.stderr

        made = set[str]()
        os.mkfifo(pipes[0])
        assert "mail: 1 transferred, 1 skipped, " in ran(of_pipe(pipes[0]))
        for side in (them.here, them.there):
            (side.path / conflict.name).write_text(f"{side.path}")
        os.mkfifo(pipes[1])
        left = [
            f"{conflict}: contents changed on both sides\n",
            of_pipe(pipes[0]),
            of_pipe(pipes[1]),
        ]
        assert "mail: 1 transferred, 3 skipped, " in ran(*left)
        them.here.create(".New")
        made.update(deliver(them.here, number=3, folder=".New"))
        os.mkfifo(pipes[2])
        assert " 4 skipped, 0 failed, 0 deleted in " in ran(*left, f"{here / '.New'}: ")
        assert " 4 skipped, 0 failed, 0 deleted in " in ran(*left, of_pipe(pipes[2]))

        there = them.there.copies()
        remove([here / BIG])
        assert "refused: it would delete 20 of " in ran(*left, of_pipe(pipes[2]))
        made.update(deliver(them.there))
        assert "refused: it would delete 20 of " in ran(*left, of_pipe(pipes[2]))
        assert there.keys() <= them.there.copies().keys()
        assert made <= them.here.copies().keys()


def test_archives_that_do_not_fit_begin_anew(tmp_path: Path) -> None:
    """A machine was set up anew, or from an old copy: what is missing on a side comes back."""
    with filled(tmp_path) as them:
        archives = sorted((them.folder / "backup" / ".unison" / "zonerw").glob("ar*"))
        one, other = archives  # of each side
        old = one.read_bytes()
        made = {*them.here.copies(), *deliver(them.here, number=5)}
        done(them.sync())
        spoilt: Mapping[str, Callable[[], object]] = {
            "from an old copy": lambda: one.write_bytes(old),
            "emptied": lambda: other.write_bytes(b""),
            "cut off": lambda: one.write_bytes(one.read_bytes()[:50]),
            "one is gone": other.unlink,
            "both": lambda: remove(archives),
        }
        for how, spoil in spoilt.items():
            spoil()
            them.here.delete(next(iter(them.here.copies())))
            them.there.delete(next(reversed(them.there.copies())))
            ran = them.sync()
            assert (ran.returncode, ran.stderr) == (0, ""), how
            assert ran.stdout.startswith("mail: 2 transferred, 0 skipped, 0 failed, 0 deleted in ")
            anew = "the two sides' archives do not fit together: begun anew, nothing was deleted\n"
            assert ran.stdout.endswith(anew) == (how != "both"), how
            in_step(them, made)
        assert done(them.sync()) == (0, 0)


def test_archives_that_do_not_fit_and_the_other_side_missing(tmp_path: Path) -> None:
    """A machine was set up anew, but for its mail: a disk that is not mounted is not filled."""
    with filled(tmp_path) as them:
        here = them.here.files()
        for archive in (them.folder / "backup" / ".unison" / "zonerw").glob("ar*"):
            archive.unlink()
        remove([them.there.path])
        for words in ((), ("--allow-deletions",)):
            why = failed(them.sync(*words))
            assert why == f"mail: refused: {them.root} is missing; is it mounted?\n"
            assert not them.there.path.exists()
        assert them.here.files() == here


def test_a_pair_that_hangs_leaves_time_for_the_next(tmp_path: Path) -> None:
    """Each of several users' mail has its part of the time."""
    with disks(tmp_path / "mail") as them:
        ssh = them.folder / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text("#!/bin/sh\ncat >/dev/null; exit\n")
        ssh.chmod(0o755)
        hangs = Maildir(tmp_path / "hangs")
        hangs.create()
        pairs = [[str(hangs.path), "ssh://main//nowhere"], [str(them.here.path), them.root]]
        them.configure(f'[sync.mail]\nunison = {json.dumps(pairs)}\ntimeout = "8s"\n')
        made = deliver(them.here, number=5)
        assert failed(them.sync()).startswith("mail: failed: no end within 4 s")
        in_step(them, made)


# --- what ends in the middle ----------------------------------------------------------------

# Copying these takes a while.
MANY, LARGE = 30, 300_000

# Whom to kill, by what runs where. One of each kind is enough for every day.
RARE = ("zonerw-unison", "ssh", "unison there")
VICTIMS: dict[str, Callable[[Machines, int], list[int]]] = {
    "zonerw": lambda _, zonerw: [zonerw],
    "zonerw-unison": lambda them, _: them.processes("zonerw-unison", "backup"),
    "unison": lambda them, _: them.processes("unison", "backup"),
    "ssh": lambda them, _: them.processes("ssh", "backup"),
    "sshd": lambda them, _: them.sessions()[:1],
    "unison there": lambda them, _: them.processes("unison", "main"),
    "all": lambda them, zonerw: [zonerw, *them.processes()],
}


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        *(
            pytest.param(victim, signal.SIGKILL, marks=[pytest.mark.soak] if victim in RARE else [])
            for victim in VICTIMS
        ),
        ("zonerw", signal.SIGTERM),
    ],
)
def test_killed_in_the_middle(them: Machines, victim: str, number: signal.Signals) -> None:
    """Nothing goes on by itself; run again, all is in step, nothing is there twice, or left."""
    read, deleted = some(them, 2)
    before = {*them.here.copies()} - {deleted}
    made = [deliver(side, number=MANY, size=LARGE) for side in (them.here, them.there)]
    them.here.read(read)
    them.there.delete(deleted)
    run = them.begin()
    soon(lambda: them.here.temporary() or them.there.temporary(), "a first message on its way")
    kill(VICTIMS[victim](them, run.pid), number)
    ran = ended(run)
    assert ran.returncode, ran
    assert "Traceback" not in ran.stderr
    assert them.here.copies() != them.there.copies()
    wait_for(lambda: not them.processes(), GONE_SECONDS, "all the rest of it to end")
    assert not json.loads((them.state / "sync" / "mail.json").read_text())["files"]

    done(them.sync())
    in_step(them, before.union(*made))
    assert not them.here.temporary()
    assert not them.there.temporary()


def test_killed_while_it_holds_unisons_own_lock(them: Machines) -> None:
    """Nobody has to remove it by hand: it is a file beside each archive, and stays."""
    made = {*some(them, 1), *them.here.copies(), *deliver(them.here, number=5)}
    archives = [
        path
        for folder in ("backup/.unison/zonerw", "main/.unison")
        for path in (them.folder / folder).glob("ar*")
    ]
    assert len(archives) == 2
    locks = [path.with_name(f"lk{path.name.removeprefix('ar')}") for path in archives]
    for lock in locks:
        lock.touch()
    assert done(them.sync()) == (5, 0)
    in_step(them, made)
    remove(lock for lock in locks if lock.exists())


def test_the_time_is_up(full: Machines) -> None:
    """It is ended, on both sides, with nothing left behind that would run on."""
    full.configure(full.job(max_deletions='"10%"', timeout='"2s"'))
    full.serve("exec cat >/dev/null\n")
    try:
        began = time.monotonic()
        why = failed(full.sync())
        assert 1.5 < time.monotonic() - began < SYNC_SECONDS / 2
        assert "no end within 2 s" in why
        wait_for(lambda: not full.processes(), GONE_SECONDS, "all of it to end")
    finally:
        full.serve_unison()
        full.configure(full.job(max_deletions='"10%"'))


# --- main can't be reached ------------------------------------------------------------------


@contextmanager
def edited(path: Path, text: str) -> Iterator[None]:
    """Another text in a file, for a block."""
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def main_down(them: Machines) -> Iterator[None]:
    """No sshd there, for a block."""
    them.down()
    try:
        yield
    finally:
        them.up()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("main is down", "Connection refused"),
        ("another host key", "Host key verification failed"),
        ("an unknown host key", "Host key verification failed"),
        ("the key is refused", "Permission denied"),
        ("no unison there", "not found"),
    ],
)
def test_main_can_not_be_reached(full: Machines, how: str, why: str) -> None:
    """It is said why, in one line; nobody is asked, though there is a terminal; nothing changes."""
    folder, before = full.folder, full.here.files()
    stranger = (folder / "strangers_key.pub").read_text()
    place = (folder / "known_hosts").read_text().split()[0]
    with ExitStack() as leaving:
        match how:
            case "main is down":
                leaving.enter_context(main_down(full))
            case "another host key":
                known = f"{place} {stranger}"
                leaving.enter_context(edited(folder / "known_hosts", known))
            case "an unknown host key":
                leaving.enter_context(edited(folder / "known_hosts", ""))
            case "the key is refused":
                leaving.enter_context(edited(folder / "authorized_keys", stranger))
            case _:
                leaving.enter_context(edited(folder / "zonerw-unison-server", "exec no-unison\n"))
        ran, terminal = at_a_terminal(full, *zonerw("sync", "mail"))
    assert terminal == b""
    assert why in failed(ran)
    assert full.here.files() == before


def at_a_terminal(them: Machines, *words: str) -> tuple[Found, bytes]:
    """Run a command at a terminal of its own; what it came to, and what the terminal shows."""
    controller, terminal = os.openpty()
    # setsid makes its standard input the controlling terminal: /dev/tty, where ssh asks.
    with subprocess.Popen(
        [program("setsid"), "--ctty", "--wait", *words],
        env=them.environment,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said, complained = process.communicate(timeout=SYNC_SECONDS)
    os.set_blocking(controller, False)
    try:
        shown = os.read(controller, 10_000)
    except BlockingIOError:
        shown = b""
    finally:
        os.close(controller)
        os.close(terminal)
    return subprocess.CompletedProcess(words, process.returncode, said, complained), shown


# --- two at once ----------------------------------------------------------------------------


def test_two_at_once_are_one_after_the_other(them: Machines) -> None:
    """The second waits for the first, and then does what is left to do."""
    made = {*them.here.copies(), *deliver(them.here, number=MANY, size=LARGE)}
    first = them.begin()
    soon(them.there.temporary, "the first to be under way")
    them.silence()
    try:
        second = them.begin()
        lock = them.state / "sync" / "mail.lock"
        wait_for(lambda: second.pid in waiting_for(lock), SYNC_SECONDS, "the second to wait")
        assert len(them.processes("unison", "backup")) == 1
        made.update(deliver(them.here, number=5))
    finally:
        them.resume()
    assert done(ended(first)) == (MANY, 0)
    ran = ended(second)
    assert ran.stderr == "mail: waiting for a run that another process has begun\n"
    assert ran.stdout.startswith("mail: 5 transferred, 0 skipped, 0 failed, 0 deleted in ")
    in_step(them, made)


def waiting_for(lock: Path) -> set[int]:
    """The processes that wait for a flock."""
    inode = f":{lock.stat().st_ino}"
    rows = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return {int(row[5]) for row in rows if row[1] == "->" and row[6].endswith(inode)}


# --- sites ----------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> None:
    """Run git there, as somebody."""
    who = ("-c", "user.name=alice", "-c", "user.email=alice@example.org")
    words = (program("git"), "-C", str(folder), *who, *words)
    subprocess.run(words, check=True, capture_output=True)


def commit(folder: Path, text: str) -> None:
    """Have a page with this text."""
    (folder / "index.html").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-m", text)


def test_a_site_is_pulled_with_git(tmp_path: Path) -> None:
    """What is new is there; what can't be pulled is told in git's own words."""
    with disks(tmp_path / "mail") as them:
        origin, site = tmp_path / "origin", tmp_path / "site"
        origin.mkdir()
        git(origin, "init")
        commit(origin, "first")
        git(tmp_path, "clone", str(origin), str(site))
        them.configure(f'[sync.site]\ncommand = ["git", "-C", "{site}", "pull", "--ff-only"]\n')
        commit(origin, "second")
        ran = them.sync(job="site")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith("site: ")
        assert (site / "index.html").read_text() == "second"

        commit(origin, "third")
        commit(site, "an edit on the wrong machine")
        ran = them.sync(job="site")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.startswith("site: ")
        assert "Not possible to fast-forward, aborting." in ran.stderr


@pytest.mark.parametrize("how", ["its time is up", "SIGTERM", "SIGINT"])
def test_a_command_that_does_not_end(tmp_path: Path, how: str) -> None:
    """It is ended when its time is up, or when zonerw is, with all that it began."""
    with disks(tmp_path / "mail") as them:
        command = '["sh", "-c", "sleep 600 & sleep 600; echo never"]'
        timeout = "1s" if how == "its time is up" else "10m"
        them.configure(f'[sync.site]\ncommand = {command}\ntimeout = "{timeout}"\n')
        run = them.begin("site")
        wait_for(lambda: len(them.processes("sleep")) == 2, SYNC_SECONDS, "it to run")
        if how != "its time is up":
            run.send_signal(signal.Signals[how])
        ran = ended(run)
        assert ran.returncode
        assert ran.stdout == ""
        if how == "its time is up":
            assert ran.stderr == "site: failed: no end within 1 s\n"
        wait_for(lambda: not them.processes(), GONE_SECONDS, "all of it to end")


# --- the daemon -----------------------------------------------------------------------------

# It goes by its own looks: Prometheus and Alertmanager add nothing here.
PARTS = ("web-main", "web-backup", "ns1", "ns3", "actions")

# From the moment at which the zones are handed back. The timer comes after ten minutes.
AT_ONCE_SECONDS = 10.0


@dataclass(frozen=True)
class Site:
    """A stack whose actions keeps the mail of two machines in step."""

    stack: Stack
    them: Machines

    def metric(self, name: str) -> float | None:
        """A figure of the job."""
        return metrics(self.stack).get(f'zonerw_sync_{name}{{job="mail"}}')

    def of_sync(self) -> list[int]:
        """The processes of a run that is under way, on both machines."""
        names = ("zonerw-unison", "unison", "ssh", "cat")
        return [pid for name in names for pid in self.them.processes(name)]

    @property
    def configured(self) -> dict[str, str]:
        """The daemon's own configuration, for a command."""
        return {"ZONERW_CONFIG": str(self.stack.layout.config)}

    def by_hand(self, *words: str) -> Found:
        """Run `zonerw sync mail` beside the daemon."""
        return self.them.sync(*words, **self.configured)

    def at_rest(self) -> None:
        """Wait until the last run was a success, and none is under way."""
        wait_for(lambda: not self.of_sync() and self.metric("exit_status") == 0, SOON, "a good run")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests here."""
    folder = tmp_path_factory.mktemp("site") / "mail"
    with machines(folder, free_port("127.0.0.1")) as them:
        stack = Stack(parts=PARTS, edit=lambda text: text + them.job(every='"10m"'))
        with pytest.MonkeyPatch.context() as patch:
            for name in ("HOME", "PATH"):
                patch.setenv(name, them.environment[name])
            stack.__enter__()
        with stack_left(stack):
            stack.settle()
            yield Site(stack, them)


@contextmanager
def stack_left(stack: Stack) -> Iterator[None]:
    """Leave a stack that was entered, at the end of the block."""
    try:
        yield
    finally:
        stack.__exit__(None, None, None)


@pytest.fixture
def site(both: Site) -> Iterator[Site]:
    """At peace: main serves, mail is in step; and so again afterwards."""
    both.at_rest()
    yield both
    both.them.serve_unison()
    both.them.up()
    both.stack.parts["web-main"].start()
    both.stack.parts["actions"].start()
    everywhere(both.stack, both.stack.main)
    both.by_hand("--allow-deletions")  # perhaps after the daemon's own
    both.at_rest()


@pytest.mark.parametrize("sshd", ["sshd down too", "web server alone"])
def test_mail_that_came_to_the_backup_is_on_main_after_the_hand_back(site: Site, sshd: str) -> None:
    """At once, not by the timer; and no failure of a run held up the zones meanwhile."""
    stack, them = site.stack, site.them
    runs, failures = site.metric("runs_total"), site.metric("failures_total")
    assert runs is not None
    stack.parts["web-main"].kill()
    if sshd == "sshd down too":
        them.down()
    everywhere(stack, stack.backup)
    wait_for(lambda: site.metric("runs_total") == runs + 1, SOON, "the run that a switch begins")
    fails = sshd == "sshd down too"
    assert site.metric("failures_total") == failures + (1 if fails else 0)
    came = {*deliver(them.here, number=5)}
    if fails:
        them.up()
    stack.parts["web-main"].start()
    everywhere(stack, stack.main)
    wait_for(lambda: came <= them.there.copies().keys(), AT_ONCE_SECONDS, "the mail on main")
    site.at_rest()
    assert them.here.files() == them.there.files()


def test_a_run_that_hangs_delays_no_switch(site: Site) -> None:
    """Neither there nor back; and when actions ends, so does the run."""
    stack, them = site.stack, site.them
    them.serve("export HOME={}; exec cat >/dev/null\n".format(them.folder / "main"))
    stack.parts["web-main"].kill()
    wait_for(lambda: them.processes("cat"), SOON, "the run that a switch begins")
    (hangs,) = them.processes("cat")
    everywhere(stack, stack.backup)
    stack.parts["web-main"].start()
    everywhere(stack, stack.main)
    assert them.processes("cat") == [hangs]
    stack.parts["actions"].stop()
    wait_for(lambda: not site.of_sync(), GONE_SECONDS, "the run to end")


def test_actions_is_killed_during_a_run(site: Site) -> None:
    """The run ends with it; the next one does what is left to do."""
    stack, them = site.stack, site.them
    made = {*them.here.copies(), *deliver(them.here, number=MANY, size=LARGE)}
    stack.parts["actions"].kill()
    stack.parts["actions"].start()
    soon(them.there.temporary, "a first message on its way")
    stack.parts["actions"].kill()
    wait_for(lambda: not site.of_sync(), GONE_SECONDS, "the run to end")
    assert not made <= them.there.copies().keys()
    stack.parts["actions"].start()
    wait_for(lambda: made <= them.there.copies().keys(), SYNC_SECONDS, "all of it there")
    site.at_rest()
    in_step(them, made)


def test_a_run_by_hand_beside_the_daemon(site: Site) -> None:
    """It is counted, and shown, like any other; so is a refusal, until it is allowed."""
    runs, deleted = site.metric("runs_total"), site.metric("deleted_total")
    assert runs is not None
    assert deleted is not None
    deliver(site.them.there, number=20)
    assert done(site.by_hand())[0] == 20
    assert site.metric("runs_total") == runs + 1
    number = len(site.them.here.copies())
    remove(files(site.them.here.path))
    assert failed(site.by_hand()).startswith("mail: refused: ")
    assert site.metric("refused_deletions") == number
    assert site.metric("deleted_total") == deleted
    status = site.them.run(*zonerw("status"), **site.configured).stdout
    assert "mail is in step but for deletions, refused: it would delete" in status
    skipped = site.metric("skipped")
    with main_down(site.them):
        assert failed(site.by_hand()).startswith("mail: failed: ")
    # It did not come so far as to see: what was refused still is.
    assert (site.metric("refused_deletions"), site.metric("skipped")) == (number, skipped)
    told = site.them.run(*zonerw("status", "--json"), **site.configured).stdout
    assert json.loads(told)["sync"]["mail"]["too_many"] == number
    assert done(site.by_hand("--allow-deletions"))[1] == number
    assert site.metric("refused_deletions") == 0
    assert site.metric("deleted_total") == deleted + number


def test_the_daemons_own_words(site: Site) -> None:
    """A line in its log for each run, with figures; and figures that outlive it."""
    before = {name: site.metric(name) for name in ("runs_total", "transferred_total")}
    assert site.metric("interval_seconds") == 600
    deliver(site.them.here, number=2)
    site.stack.parts["actions"].restart()
    wait_for(lambda: site.metric("runs_total") == before["runs_total"] + 1, SOON, "a run")
    assert site.metric("transferred_total") == before["transferred_total"] + 2
    (line,) = [line for line in log(site.stack)[-20:] if 'msg="sync done"' in line][-1:]
    for word in ("job=mail", "transferred=2", "skipped=0", "failed=0", "deleted=0", "seconds="):
        assert word in line
