"""The next occurrence against a brute-force oracle that walks minute by minute of real time (A7)."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from propeller.core.schedule import Cron, next_after, parse

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
)
HORIZON_MIN = 4 * 24 * 60


def local_at(at_s, place):
    """The local time of an instant."""
    return datetime.fromtimestamp(at_s, place)


def matches(cron: Cron, local: datetime) -> bool:
    """Whether the fields name that local minute."""
    return local.minute in cron.minutes and local.hour in cron.hours and cron.on(local.date())


def oracle(cron: Cron, place, after_s: float) -> float | None:
    """Walk real minutes: a jump of the local clock fires what it skipped, a repeat does not count."""
    at_s = (int(after_s) // 60 + 1) * 60
    for _ in range(HORIZON_MIN):
        now, before = local_at(at_s, place), local_at(at_s - 60, place)
        naive, naive_before = now.replace(tzinfo=None, fold=0), before.replace(tzinfo=None, fold=0)
        repeated = now.fold == 1
        if matches(cron, now) and (cron.every_hour or not repeated):
            return float(at_s)
        skipped = naive_before + timedelta(minutes=1)
        while not cron.every_hour and skipped < naive:
            if matches(cron, skipped):
                return float(at_s)
            skipped += timedelta(minutes=1)
        at_s += 60
    return None


def field(low: int, high: int) -> st.SearchStrategy[str]:
    """A field's text."""
    number = st.integers(low, high)
    ranges = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    return st.one_of(st.just("*"), number.map(str), ranges, st.integers(1, 30).map(lambda n: f"*/{n}"))


EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), st.just("*"), st.just("*"), field(0, 7)).map(" ".join)
CHANGES = tuple(
    datetime.fromisoformat(day)
    for day in (
        "2026-03-29",
        "2026-10-25",
        "2026-03-08",
        "2026-11-01",
        "2026-10-04",
        "2026-04-05",
        "2026-02-15",
        "2028-02-28",
    )
)


@settings(max_examples=150, deadline=None)
@given(
    EXPRESSIONS,
    st.sampled_from(ZONES),
    st.sampled_from(CHANGES),
    st.integers(-36 * 3600, 36 * 3600),
)
def test_it_agrees_with_walking_minute_by_minute(expression, where, change, offset_s):
    """Around every kind of change of clocks, and a leap day."""
    cron, place = parse(expression), ZoneInfo(where)
    after_s = change.replace(tzinfo=place).timestamp() + offset_s
    expected = oracle(cron, place, after_s)
    found = next_after(cron, place, after_s)
    if expected is None:
        assert found > after_s + (HORIZON_MIN - 2) * 60
    else:
        assert found == expected, (local_at(found, place), local_at(expected, place))


@settings(max_examples=100, deadline=None)
@given(EXPRESSIONS, st.sampled_from(ZONES), st.floats(0, 4e9))
def test_it_is_strictly_later_and_never_passes_one_over(expression, where, after_s):
    """Asking from just before an occurrence gives that occurrence."""
    cron, place = parse(expression), ZoneInfo(where)
    found = next_after(cron, place, after_s)
    assert found > after_s
    assert next_after(cron, place, found - 0.5) == found
