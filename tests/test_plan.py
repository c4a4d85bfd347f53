"""What Unison's plan says, what it would delete, and when that is too much."""

from collections.abc import Mapping

import pytest

from actions.plan import Loss, Row, Way, parse

HEADER = "local          remote             \n"
ASKED = "\nProceed with propagating updates? [] "

# As Unison 2.52.1 prints it: each kind of line, a conflict with its question and the answer.
SHOWN = (
    HEADER
    + "changed  <-?-> deleted    cur/17.8.h:2,S  [] changed  <-?-> deleted    cur/17.8.h:2,S  \n"
    + "         error            cur/fifo  \npath /a/cur/fifo has unknown file type\n"
    + "         error            new  \nError in scanning directory:\nPermission denied [opendir]\n"
    + "         <---- new dir    .Neu  \n"
    + "new file ---->            cur/17.7.h:2,RS  \n"
    + "deleted  ---->            cur/17.7.h:2,S  \n"
    + "         <---- deleted    cur/17.9.h:2,S  \n"
    + "changed  ---->            subscriptions  \n"
    + "file     ---->            new/a  [] b    \n"
    + "         <-?-- new dir    .Partly  \n"
    + ASKED
)


def gone(path: str, way: Way = "---->") -> Row:
    return Row(path, way, "deleted")


def new(path: str, way: Way = "---->") -> Row:
    return Row(path, way, "new file")


def test_the_plan_is_read_line_by_line() -> None:
    """Which way each path goes, and what happened to it; conflicts and errors go nowhere."""
    assert parse(SHOWN) == (
        Row(".Neu", "<----", "new dir"),
        new("cur/17.7.h:2,RS"),
        gone("cur/17.7.h:2,S"),
        gone("cur/17.9.h:2,S", "<----"),
        Row("subscriptions", "---->", "changed"),
        Row("new/a  [] b  ", "---->", "file"),
        Row(".Partly", "<----", "new dir"),
    )


@pytest.mark.parametrize(
    "line",
    [
        "gone for good ---->       cur/17.1.h:2,S  \n",  # another width
        "deleted  ====>            cur/17.1.h:2,S  \n",  # another arrow
        "deleted  ---->            cur/17.1\n:2,S  \n",  # a name of two lines
        "new link ---->            cur/17.1  \n",  # another change
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_line_that_is_not_understood_is_an_error(line: str, *, first: bool) -> None:
    """Whatever it is, it could delete something: first in the plan, or further down."""
    known = "deleted  ---->            cur/17.2.h:2,S  \n"
    with pytest.raises(ValueError, match=r"cur/17\.1"):
        parse(HEADER + (line + known if first else known + line) + ASKED)


@pytest.mark.parametrize("header", ["", "something else\n", "\n" + HEADER + HEADER])
def test_a_plan_begins_below_the_sides_names(header: str) -> None:
    """Anything else there could be a line of it."""
    with pytest.raises(ValueError, match="'"):
        parse(header + "deleted  ---->            cur/17.2.h:2,S  \n" + ASKED)


def test_no_plan_at_all_is_an_error() -> None:
    """A question without one was never seen: nothing is agreed to."""
    with pytest.raises(ValueError, match="local"):
        parse(HEADER + ASKED)


FULL = {
    "subscriptions": 1,
    "cur/": 90,
    "new/": 10,
    "tmp/": 0,
    ".Sent/": 0,
    ".Sent/cur/": 50,
    ".Sent.2019/": 0,
    ".Sent.2019/cur/": 7,
}


def without(*gone: str) -> dict[str, int]:
    """What is left here."""
    return {name: number for name, number in FULL.items() if not name.startswith(gone)}


# name: (plan, here now, what was known, what would vanish, of how many)
LOSSES: Mapping[str, tuple[list[Row], dict[str, int], dict[str, int] | None, int, int]] = {
    "deleted here": ([gone("cur/1:2,S")], {**FULL, "cur/": 89}, FULL, 1, 158),
    "deleted there": ([gone("cur/1:2,S", "<----")], FULL, FULL, 1, 158),
    "flagged": ([gone("cur/1:2,S"), new("cur/1:2,RS")], FULL, FULL, 0, 158),
    "read": ([gone("new/1"), new("cur/1:2,S")], FULL, FULL, 0, 158),
    "moved": ([gone("cur/1:2,S"), new(".Sent/cur/1:2,S")], FULL, FULL, 0, 158),
    "flagged there, deleted here": (
        [gone("cur/1:2,S"), new("cur/1:2,RS", "<----")],
        {**FULL, "cur/": 89}, FULL, 1, 158,
    ),
    "delivered here": ([new("new/9")], {**FULL, "new/": 11}, FULL, 0, 158),
    "delivered there": ([new("new/9", "<----")], FULL, FULL, 0, 158),
    "a folder gone here": (
        [gone("cur")], without("cur/"), FULL, 90, 158,
    ),
    "a folder gone there": ([gone("cur", "<----")], FULL, FULL, 90, 158),
    "folders within one": (
        [gone(".Sent")], without(".Sent/"), FULL, 50, 158,
    ),
    "an empty folder": ([gone("tmp")], {"subscriptions": 1, "cur/": 90}, FULL, 0, 91),
    "another file": ([gone("subscriptions")], without("subscriptions"), FULL, 1, 158),
    "both ways": (
        [gone("cur/1:2,S"), gone("cur/2:2,S", "<----")], {**FULL, "cur/": 89}, FULL, 2, 158,
    ),
    "a link or file in a folder's place, here": (
        [Row(".Sent", "---->", "new file")],
        {**without(".Sent/"), ".Sent": 1}, FULL, 50, 158,
    ),
    "a file in a folder's place, there": ([Row(".Sent", "<----", "new file")], FULL, FULL, 50, 158),
    "another content": ([Row("cur/1:2,S", "---->", "changed")], FULL, FULL, 1, 158),
    "another content of what is no message": (
        [Row("subscriptions", "---->", "changed")], FULL, FULL, 0, 158,
    ),
    "another time": ([Row("cur/1:2,S", "---->", "props")], FULL, FULL, 0, 158),
    "nothing is known of before": ([gone("cur/1:2,S")], {**FULL, "cur/": 89}, None, 1, 158),
}  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "before", "known", "vanishing", "messages"), LOSSES.values(), ids=LOSSES.keys()
)
def test_what_vanishes_is_counted_by_message(
    plan: list[Row],
    before: dict[str, int],
    known: dict[str, int] | None,
    vanishing: int,
    messages: int,
) -> None:
    """Of what both sides had after the last run; another name of the same message is no loss."""
    loss = Loss.of(plan, before, known)
    assert (loss.vanishing, loss.messages) == (vanishing, messages)


@pytest.mark.parametrize(
    ("vanishing", "messages", "share", "too_much"),
    [
        (100, 2000, 0.05, False),
        (101, 2000, 0.05, True),
        (5, 20, 0.05, False),
        (6, 20, 0.05, True),
        (1, 1, 0.05, False),
        (2, 2, 0.05, True),
        (99, 100, 1.0, False),
        (100, 100, 1.0, True),
        (0, 0, 0.05, False),
    ],
)
def test_how_many_may_vanish(
    vanishing: int, messages: int, share: float, *, too_much: bool
) -> None:
    """A share of them, five at any rate, and never all, but the only one."""
    plan = [gone(f"cur/{n}") for n in range(vanishing)]
    loss = Loss.of(plan, {"cur/": messages - vanishing}, {"cur/": messages})
    assert loss.messages == messages
    assert loss.is_too_much(share) == too_much


def test_all_that_the_other_side_had_is_too_much() -> None:
    """Though a message has just come here, of which it knows nothing."""
    plan = [*(gone(f"cur/{n}", "<----") for n in range(3)), new("new/9")]
    assert Loss.of(plan, {"cur/": 3, "new/": 1}, {"cur/": 3, "new/": 0}).is_too_much(0.05)


def test_it_is_told_where_they_are_gone_from() -> None:
    """That is the side to look at; and which would lose them."""
    here, there = gone("cur/1"), gone("cur/2", "<----")
    full = {"cur/": 10}
    assert Loss.of([here], {"cur/": 9}, full).told("/a", "/b") == (
        "1 of 10 messages of /b, gone from /a"
    )
    assert Loss.of([there], full, full).told("/a", "/b") == "1 of 10 messages of /a, gone from /b"
    assert Loss.of([here, there], {"cur/": 9}, full).told("/a", "/b") == (
        "1 of 10 messages of /b, gone from /a and 1 of /a, gone from /b"
    )


def test_all_mail_is_too_much_though_another_file_is_left() -> None:
    """A list of subscriptions is no mail."""
    plan = [gone(f"cur/{n}") for n in range(4)]
    files = {"subscriptions": 1, "cur/": 4}
    assert Loss.of(plan, {**files, "cur/": 0}, files).is_too_much(0.05)
    assert not Loss.of(plan, {**files, "cur/": 1}, {**files, "cur/": 5}).is_too_much(0.05)


@pytest.mark.parametrize("way", ["---->", "<----"])
def test_a_message_that_was_there_twice_lives_on(way: Way) -> None:
    """It was read while Unison looked: it came by its new name, and now its old one goes."""
    plan = [gone(f"new/{n}", way) for n in range(20)]
    here = {f"{n}": 2 if way == "<----" else 1 for n in range(20)}
    before = {"cur/": 30, "new/": 20 if way == "<----" else 0}
    files = {"cur/": 30, "new/": 20}
    assert Loss.of(plan, before, files, here).vanishing == 0
    once = {name: number - 1 for name, number in here.items()}
    assert Loss.of(plan, before, files, once).vanishing == 20


def test_a_folder_of_which_nothing_is_known_is_too_much() -> None:
    """The record is lost, and a folder gone: nobody knows how many messages were in it."""
    assert Loss.of([gone(".Sent")], FULL, None).is_too_much(1.0)
    assert not Loss.of([gone(".Sent", "<----")], FULL, None).is_too_much(0.5)
    assert Loss.of([gone(".Sent")], FULL, {"cur/": 90}).is_too_much(1.0)  # the record is an old one
    assert not Loss.of([gone("cur/1")], FULL, None).is_too_much(1.0)
