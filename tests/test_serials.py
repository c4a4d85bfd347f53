"""The next serial: YYYYMMDDSS where that is higher, else one more; never lower, never stuck."""

import datetime

import pytest
from dns.serial import Serial
from hypothesis import given, settings
from hypothesis import strategies as st

from actions.zone import next_serial

TODAY = datetime.date(2025, 11, 22)
# A clock that no serial can tell, and that is not believed: the serials alone decide.
NO_DATE = datetime.date(9999, 1, 1)

profile = settings(derandomize=True, deadline=None, max_examples=500)


# --- RFC 1982 -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "sums", "greater"),
    [
        (2, [(0, 1, 1), (1, 1, 2), (2, 1, 3), (3, 1, 0)], [(1, 0), (2, 1), (3, 2), (0, 3)]),
        (
            8,
            [(255, 1, 0), (100, 100, 200), (200, 100, 44)],
            [
                *[(1, 0), (44, 0), (100, 0), (100, 44), (200, 100), (255, 200)],
                *[(0, 255), (100, 255), (0, 200), (44, 200)],
            ],
        ),
    ],
)
def test_rfc_1982_section_5(
    bits: int, sums: list[tuple[int, int, int]], greater: list[tuple[int, int]]
) -> None:
    """The RFC's own examples, as they stand and, in our 32 bits, as what the next serial is."""
    for one, other, total in sums:
        assert Serial(one, bits) + other == Serial(total, bits)
    unit = 2 ** (32 - bits)
    for high, low in greater:
        assert Serial(high, bits) > Serial(low, bits)
        assert not Serial(low, bits) > Serial(high, bits)
        for ours in ([high * unit, low * unit], [low * unit, high * unit]):
            assert next_serial(NO_DATE, ours, {}).serial == high * unit + 1


def test_rfc_1982_serials_half_a_circle_apart() -> None:
    """Which is greater is undefined: neither is, and the one given first is kept."""
    assert not Serial(0) > Serial(2**31)
    assert not Serial(2**31) > Serial(0)
    assert next_serial(NO_DATE, [7, 7 + 2**31], {}).serial == 8
    assert next_serial(NO_DATE, [7 + 2**31, 7], {}).serial == 8 + 2**31


def test_at_the_end_of_the_circle_0_is_passed_over() -> None:
    """After 4294967295 comes 1; where today's first is ahead of that, it is taken at once."""
    assert next_serial(NO_DATE, [2**32 - 2], {}).serial == 2**32 - 1
    assert next_serial(NO_DATE, [2**32 - 1], {}).serial == 1
    assert next_serial(datetime.date(2200, 1, 1), [2**32 - 1], {}).serial == 1
    assert next_serial(TODAY, [2**32 - 1], {}).serial == 2025112200


# --- dates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("today", "ours", "expected"),
    [
        pytest.param("2025-11-22", [], 2025112200, id="the first ever is today's first"),
        pytest.param("2025-11-22", [2025112107], 2025112200, id="the first of a day"),
        pytest.param("2025-11-22", [2025112200], 2025112201, id="the second of a day"),
        pytest.param("2025-11-22", [2025112204, 2025112207, 7], 2025112208, id="after the highest"),
        pytest.param("2025-11-22", [2025112299], 2025112300, id="past 99: into tomorrow's"),
        pytest.param("2025-11-23", [2025112300], 2025112301, id="tomorrow goes on from there"),
        pytest.param("2025-12-31", [2025123199], 2025123200, id="past 99 at the end of a month"),
        pytest.param("2026-01-01", [2025123245], 2026010100, id="and a new year overtakes it"),
        pytest.param("2025-11-23", [2025112299], 2025112300, id="across midnight"),
        pytest.param("2025-11-21", [2025112203], 2025112204, id="the clock was set back a day"),
        pytest.param("1970-01-01", [2025112203], 2025112204, id="the clock was lost"),
        pytest.param("2025-11-22", [3000000000], 3000000001, id="a serial ahead of all dates"),
        pytest.param("2025-11-22", [4000000000], 4000000001, id="and another"),
        pytest.param("2025-11-22", [1], 2025112200, id="a serial that counts"),
        pytest.param("2025-11-22", [0], 2025112200, id="a serial of 0"),
        pytest.param("2025-11-22", [1700000000], 2025112200, id="seconds since 1970"),
    ],
)
def test_the_next_serial(today: str, ours: list[int], expected: int) -> None:
    """Today's first, or one more than the highest, whichever is larger; nothing to doubt."""
    answer = next_serial(datetime.date.fromisoformat(today), ours, {})
    assert (answer.serial, answer.doubts) == (expected, ())


@pytest.mark.parametrize("last", [2025112299, 2025129999, 2025999999, 2026000000])
def test_a_serial_carried_past_99_still_reads_as_a_date(last: int) -> None:
    """Day 32, month 13 and day 0 are of their year all the same: a clock far ahead is doubted."""
    clock = datetime.date(2037, 1, 1)
    answer = next_serial(clock, [last], {})
    assert answer.serial == last + 1
    assert answer.doubts == (f"the clock says 2037-01-01, the last serial is {last}: not believed",)


def test_a_clock_ten_years_ahead_is_believed_and_a_day_more_is_not() -> None:
    """A zone may rest for years; a clock that jumped would use up the serials until it is true."""
    assert next_serial(datetime.date(2035, 11, 22), [2025112200], {}).serial == 2035112200
    answer = next_serial(datetime.date(2035, 11, 23), [2025112200], {})
    assert answer.serial == 2025112201
    assert len(answer.doubts) == 1


def test_the_clock_is_doubted_by_the_last_serial_seen_anywhere() -> None:
    """With our own serials lost, a secondary's still tells what the time was about."""
    answer = next_serial(datetime.date(2099, 1, 1), [], {"ns2": 2025112203})
    assert answer.serial == 2025112204
    assert len(answer.doubts) == 1


def test_a_year_that_fits_into_no_serial_is_not_believed() -> None:
    """Whether or not the last serial reads as a date."""
    assert next_serial(NO_DATE, [], {}).serial == 1
    answer = next_serial(NO_DATE, [5], {})
    assert answer.serial == 6
    assert answer.doubts == ("the clock says 9999-01-01, the last serial is 5: not believed",)


# --- nameservers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "seen", "expected"),
    [
        pytest.param([2025112203], {"ns1": 2025112203, "ns2": 2025112202}, 2025112204, id="behind"),
        pytest.param([2025112203], {"ns2": 2025112205}, 2025112206, id="one is ahead of us"),
        pytest.param(
            [2025112203], {"ns1": 2025112207, "ns2": 2025112205}, 2025112208, id="two are"
        ),
        pytest.param([2025112203], {"ns2": 2026112203}, 2026112204, id="as far as is believed"),
        pytest.param([2025112203], {"ns2": 5}, 2025112204, id="one has a much lower one"),
        pytest.param([], {"ns2": 2025112205}, 2025112206, id="we have lost ours"),
        pytest.param([], {"ns2": 2024010107}, 2025112200, id="we have lost ours, long ago"),
        pytest.param([], {"ns2": 2026112200}, 2026112201, id="as far ahead of today"),
    ],
)
def test_a_nameservers_serial_lifts_ours(
    ours: list[int], seen: dict[str, int], expected: int
) -> None:
    """A secondary takes only what is higher than its own: restored disks, lost state."""
    answer = next_serial(TODAY, ours, seen)
    assert (answer.serial, answer.doubts) == (expected, ())


@pytest.mark.parametrize(
    ("ours", "seen", "ahead_of", "expected"),
    [
        pytest.param([2025112203], 2026112204, 2025112203, 2025112204, id="more than a year"),
        pytest.param([2025112203], 4000000000, 2025112203, 2025112204, id="ahead of all dates"),
        pytest.param([2025112203], 4172595851, 2025112203, 2025112204, id="half a circle away"),
        pytest.param([], 2026112201, 2025112200, 2025112200, id="of today, without ours"),
    ],
)
def test_a_nameserver_far_ahead_is_not_believed(
    ours: list[int], seen: int, ahead_of: int, expected: int
) -> None:
    """One broken or foreign server must not use up the serials of all; it is said instead."""
    answer = next_serial(TODAY, ours, {"ns1": 2025112100, "ns2": seen})
    assert answer.serial == expected
    assert answer.doubts == (
        f"ns2 has serial {seen}, more than 1000000 ahead of {ahead_of}: not believed",
    )


# --- whatever comes -------------------------------------------------------------------------

serials = st.integers(0, 2**32 - 1) | st.integers(2_000_000_000, 2_060_000_000)
# So far behind the highest that it is lower still than the one after it.
lags = st.lists(st.integers(0, 2**31 - 3) | st.integers(0, 300), max_size=3)


@profile
@given(today=st.dates(), highest=serials, behind=lags, at_nameservers=lags)
def test_the_next_serial_is_higher_than_every_one_before(
    today: datetime.date, highest: int, behind: list[int], at_nameservers: list[int]
) -> None:
    """In RFC 1982 arithmetic, whatever the clock says; and it is never 0."""
    ours = [(highest - lag) % 2**32 for lag in behind] + [highest]
    seen = {f"ns{lag}": (highest - lag) % 2**32 for lag in at_nameservers}
    serial = next_serial(today, ours, seen).serial
    assert 0 < serial < 2**32
    assert all(Serial(serial) > Serial(one) for one in [*ours, *seen.values()])


# Around today's first serial, all within a half circle: RFC 1982 has an order among them.
distances = st.integers(-(2**29), 2**29) | st.integers(-300, 300)


@profile
@given(
    today=st.dates(datetime.date(1990, 1, 1), datetime.date(4200, 1, 1)),
    ours=st.lists(distances, max_size=1),
    seen=distances,
)
def test_a_nameserver_is_believed_or_has_no_say(
    today: datetime.date, ours: list[int], seen: int
) -> None:
    """Either the next serial is higher than the nameserver's, or it is as without it."""
    first_today = ((today.year * 100 + today.month) * 100 + today.day) * 100
    ours = [(first_today + distance) % 2**32 for distance in ours]
    seen = (first_today + seen) % 2**32
    answer = next_serial(today, ours, {"ns2": seen})
    alone = next_serial(today, ours, {})
    if any("ns2" in doubt for doubt in answer.doubts):
        assert answer.serial == alone.serial
    else:
        assert Serial(answer.serial) > Serial(seen)
        assert Serial(answer.serial) >= Serial(alone.serial) or not ours


@profile
@given(clock=st.lists(st.dates(), min_size=2, max_size=30), first=serials)
def test_serials_go_on_whatever_the_clock_does(clock: list[datetime.date], first: int) -> None:
    """Each is higher than the one before it, with a clock that jumps to and fro."""
    last = first
    for today in clock:
        serial = next_serial(today, [last], {}).serial
        assert Serial(serial) > Serial(last)
        last = serial


def test_a_busy_day_is_never_stuck() -> None:
    """Three hundred rewrites in a day are three hundred serials, and the days after catch up."""
    last = 0
    for _ in range(300):
        serial = next_serial(TODAY, [last], {}).serial
        assert Serial(serial) > Serial(last)
        last = serial
    assert last == 2025112499
    assert next_serial(TODAY + datetime.timedelta(days=3), [last], {}).serial == 2025112500
