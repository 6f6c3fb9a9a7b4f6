"""Cron: what each field means, and what happens when clocks change (A7)."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from propeller.core.schedule import next_after, parse, zone
from propeller.errors import BadInput


def fires(expression, after, where="UTC", times=1):
    """The next local times of a schedule after a local time, each with its zone's abbreviation."""
    place = ZoneInfo(where)
    at_s = datetime.fromisoformat(after).replace(tzinfo=place).timestamp()
    found = []
    for _ in range(times):
        at_s = next_after(parse(expression), place, at_s)
        found.append(f"{datetime.fromtimestamp(at_s, place):%Y-%m-%d %H:%M %Z}")
    return found


@pytest.mark.parametrize(
    ("expression", "after", "then"),
    [
        ("* * * * *", "2026-01-01 00:00", "2026-01-01 00:01 UTC"),
        ("*/15 * * * *", "2026-01-01 00:46", "2026-01-01 01:00 UTC"),
        ("5/20 * * * *", "2026-01-01 00:06", "2026-01-01 00:25 UTC"),
        ("0 9-17/4 * * *", "2026-01-01 10:00", "2026-01-01 13:00 UTC"),
        ("0 0 1,15 * *", "2026-01-02 00:00", "2026-01-15 00:00 UTC"),
        ("0 0 * * MON-fri", "2026-01-02 12:00", "2026-01-05 00:00 UTC"),
        ("0 0 * * 7", "2026-01-01 00:00", "2026-01-04 00:00 UTC"),
        ("0 0 * * 5-7", "2026-01-04 00:00", "2026-01-09 00:00 UTC"),
        ("0 0 * jan,Dec *", "2026-01-31 00:00", "2026-12-01 00:00 UTC"),
        ("59 23 31 12 *", "2026-12-31 23:59", "2027-12-31 23:59 UTC"),
    ],
)
def test_every_kind_of_field(expression, after, then):
    """Numbers, ranges, steps, lists and names, upper or lower case."""
    assert fires(expression, after) == [then]


def test_two_restricted_day_fields_are_alternatives():
    """POSIX: the 13th, and every Friday."""
    assert fires("0 0 13 * 5", "2026-01-08 12:00", times=3) == [
        "2026-01-09 00:00 UTC",
        "2026-01-13 00:00 UTC",
        "2026-01-16 00:00 UTC",
    ]


def test_leap_days_wait_for_their_year():
    """29 February, also over the century that has none (A7)."""
    assert fires("0 0 29 2 *", "2026-01-01 00:00", times=2) == [
        "2028-02-29 00:00 UTC",
        "2032-02-29 00:00 UTC",
    ]
    assert fires("0 0 29 2 *", "2096-03-01 00:00") == ["2104-02-29 00:00 UTC"]


def test_a_time_in_a_gap_fires_when_the_gap_ends():
    """02:30 does not exist on the last Sunday of March in Berlin: once, at 03:00 (A7)."""
    assert fires("30 2 * * *", "2026-03-28 12:00", "Europe/Berlin", 2) == [
        "2026-03-29 03:00 CEST",
        "2026-03-30 02:30 CEST",
    ]
    assert fires("*/20 2 * * *", "2026-03-28 12:00", "Europe/Berlin", 2) == [
        "2026-03-29 03:00 CEST",
        "2026-03-30 02:00 CEST",
    ]


def test_a_time_that_comes_twice_fires_the_first_time():
    """02:30 comes twice on the last Sunday of October in Berlin: the summer one counts (A7)."""
    assert fires("30 2 * * *", "2026-10-24 12:00", "Europe/Berlin", 2) == [
        "2026-10-25 02:30 CEST",
        "2026-10-26 02:30 CET",
    ]


def test_an_hourly_schedule_follows_elapsed_time():
    """Every half hour is every half hour, through gap and repetition (A7)."""
    assert fires("*/30 * * * *", "2026-03-29 01:15", "Europe/Berlin", 2) == [
        "2026-03-29 01:30 CET",
        "2026-03-29 03:00 CEST",
    ]
    found = fires("30 * * * *", "2026-10-25 01:00", "Europe/Berlin", 4)
    assert [text[11:] for text in found] == ["01:30 CEST", "02:30 CEST", "02:30 CET", "03:30 CET"]


def test_zones_with_odd_changes():
    """Half an hour on Lord Howe, midnight in Beirut, and a whole day that Samoa never had (A7)."""
    assert fires("15 2 * * *", "2026-10-03 12:00", "Australia/Lord_Howe") == ["2026-10-04 02:30 +11"]
    assert fires("0 0 * * *", "2026-03-28 12:00", "Asia/Beirut") == ["2026-03-29 01:00 EEST"]
    assert fires("0 9 * * *", "2011-12-29 12:00", "Pacific/Apia") == ["2011-12-31 00:00 +14"]


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("60 * * * *", "minute '60' is not between 0 and 59"),
        ("* 24 * * *", "hour '24'"),
        ("* * 0 * *", "day of month '0'"),
        ("* * * 13 *", "month '13'"),
        ("* * * * 8", "day of week '8'"),
        ("* * * * BAD", "day of week 'BAD'"),
        ("5-1 * * * *", "runs backwards"),
        ("*/0 * * * *", "step of 0"),
        ("-1 * * * *", "is no minute"),
        ("1,,2 * * * *", "is no minute"),
        ("\u0661 * * * *", "is no minute"),
        ("0 0 30 2 *", "none of its months has"),
        ("0 0 31 4,6 *", "none of its months has"),
        ("*" * 300, "longer than"),
        (",".join(["1"] * 100) + " * * * *", "more than 64 parts"),
    ],
)
def test_a_wrong_expression_is_refused_by_its_field(expression, says):
    """The message begins as the original's does and says which field."""
    with pytest.raises(BadInput, match="invalid cron expression: ") as caught:
        parse(expression)
    assert says in caught.value.message


def test_zones_are_names_and_nothing_else():
    """No name is UTC; a path, a folder or an unknown name is refused."""
    assert zone("") is UTC
    assert zone("Europe/Paris") == ZoneInfo("Europe/Paris")
    for name in (
        "Mars/Base",
        "../etc/passwd",
        "/etc/localtime",
        "Europe",
        "europe\0",
        "a" * 500,
        "tzdata.zi",
    ):
        with pytest.raises(BadInput, match="time zone"):
            zone(name)


def test_instants_beyond_the_calendar_are_refused():
    """Not a loop, not an overflow."""
    for at_s in (-1.0, 1e18, float("nan"), float("inf")):
        with pytest.raises(BadInput):
            next_after(parse("* * * * *"), UTC, at_s)
