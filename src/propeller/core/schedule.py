"""When a schedule fires: five-field cron in a time zone. Pure: the instant to look from is an argument.

A field is `*`, a number, a name (`JAN`, `MON`), a range `a-b`, any of those with a step `/n`, or a list of
them with commas; Sunday is 0 and 7. Day of month and day of week are alternatives when both restrict (POSIX),
and a field that names all of its values restricts nothing. There are no seconds and no `@daily`.

Zones with daylight saving skip and repeat local time. What happens then is fixed here, as in Debian's cron:

    schedule            local time that does not exist           local time that comes twice
    restricts hours     once, at the instant the gap ends        once, the first time
    every hour          not at all: it follows elapsed time      both times

`29 2` (29 February) waits for the next leap year. A day of month that no chosen month has is refused.
It must not know tasks, and reads nothing but the machine's tables of time zones.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from propeller.errors import BadInput

_ZONE = re.compile(r"[A-Za-z0-9+_-]{1,32}(/[A-Za-z0-9+_-]{1,32}){0,2}")
_TERM = re.compile(r"(\*|([A-Za-z0-9]{1,9})(?:-([A-Za-z0-9]{1,9}))?)(?:/([0-9]{1,4}))?")
_TERMS_MAX = 64
_CHARS_MAX = 256
_YEAR_MAX = 9000
"""Instants after it are refused: calendar arithmetic ends soon after."""
_LEAP_GAP_YEARS = 9
"""A 29 February is never farther away (1896 to 1904, 2096 to 2104)."""
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: at for at, name in enumerate(_MONTH_NAMES, 1)}
_WEEKDAYS = {name: at for at, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: dict[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _WEEKDAYS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A parsed schedule; each field is the ascending tuple of values it allows (Sunday is 0)."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]

    @property
    def every_hour(self) -> bool:
        """Whether it follows elapsed time instead of the clock on the wall."""
        return len(self.hours) == 24  # noqa: PLR2004 - the hours of a day

    def on(self, day: date) -> bool:
        """Whether it fires at some time of that local day."""
        if day.month not in self.months:
            return False
        by_day = day.day in self.days
        by_weekday = day.isoweekday() % 7 in self.weekdays
        any_day = len(self.days) == 31  # noqa: PLR2004 - every day of a month
        any_weekday = len(self.weekdays) == 7  # noqa: PLR2004 - every day of a week
        return (by_day and by_weekday) if any_day or any_weekday else (by_day or by_weekday)


def parse(expression: str) -> Cron:
    """The schedule that `expression` means; raises `BadInput` naming the field that is wrong."""
    if len(expression) > _CHARS_MAX:
        raise _wrong(f"it is longer than {_CHARS_MAX} characters")
    texts = expression.split()
    if len(texts) != len(_FIELDS):
        raise _wrong(
            f"{expression!r} has {len(texts)} fields; give minute, hour, day of month, month, day of week"
        )
    minutes, hours, days, months, weekdays = (
        _values(text, field) for text, field in zip(texts, _FIELDS, strict=True)
    )
    weekdays = frozenset(day % 7 for day in weekdays)
    restricted_weekdays = len(weekdays) < 7  # noqa: PLR2004 - every day of a week
    if not restricted_weekdays and all(min(days) > _DAYS_IN_MONTH[month - 1] for month in months):
        raise _wrong(f"{expression!r} names a day that none of its months has")
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=tuple(sorted(days)),
        months=tuple(sorted(months)),
        weekdays=tuple(sorted(weekdays)),
    )


def zone(name: str) -> tzinfo:
    """The IANA zone of that name, UTC for none; raises `BadInput` for a name that is no zone."""
    if not name:
        return UTC
    if _ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (LookupError, ValueError, OSError):
            pass  # no such file, a folder, or a file that is no zone: all the same mistake
    raise BadInput(
        f"timezone {name[:64]!r} is no IANA time zone, as Europe/Paris is one", code="bad_timezone"
    )


def next_after(cron: Cron, where: tzinfo, after_s: float) -> float:
    """The first instant strictly after `after_s` at which it fires; both are Unix seconds.

    Raises `BadInput` for an instant beyond the calendar.
    """
    if not 0 <= after_s < datetime(_YEAR_MAX, 1, 1, tzinfo=UTC).timestamp():
        raise BadInput(f"no schedule can be followed from {after_s:g} s after 1970")
    start = datetime.fromtimestamp(after_s, where).date() - timedelta(days=1)
    best: float | None = None
    for day in _days(cron, start):
        if best is not None and _instants(datetime.combine(day, time()), where)[0] > best:
            break
        found = _first_on(cron, day, where, after_s)
        if found is not None and (best is None or found < best):
            best = found
        elif best is not None:
            break
    if best is None:
        raise BadInput("the schedule never fires", code="bad_schedule")
    return best


def _days(cron: Cron, start: date) -> Iterator[date]:
    day = start
    while day.year <= start.year + _LEAP_GAP_YEARS:
        if day.month not in cron.months:
            day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            continue
        if cron.on(day):
            yield day
        day += timedelta(days=1)


def _first_on(cron: Cron, day: date, where: tzinfo, after_s: float) -> float | None:
    """The earliest firing of that local day after `after_s`."""
    best: float | None = None
    for hour in cron.hours:
        local = datetime.combine(day, time(hour))
        if best is not None and _instants(local, where)[0] > best:
            break
        if max(_instants(local.replace(minute=59), where)) <= after_s:
            continue
        for minute in cron.minutes:
            at_s = _fires(local.replace(minute=minute), where, after_s, twice=cron.every_hour)
            if at_s is not None and (best is None or at_s < best):
                best = at_s
    return best


def _instants(local: datetime, where: tzinfo) -> tuple[float, float]:
    """The two instants that a local time can mean, the earlier first; one and the same on most days."""
    first = local.replace(tzinfo=where, fold=0).timestamp()
    second = local.replace(tzinfo=where, fold=1).timestamp()
    return min(first, second), max(first, second)


def _fires(local: datetime, where: tzinfo, after_s: float, *, twice: bool) -> float | None:
    """The first instant after `after_s` at which that local time counts, if there is one."""
    early, late = _instants(local, where)
    if early == late:
        return early if early > after_s else None
    if datetime.fromtimestamp(early, where).replace(tzinfo=None, fold=0) != local:
        if twice:
            return None
        end = _gap_end(early, late, where)
        return end if end > after_s else None
    for at_s in (early, late) if twice else (early,):
        if at_s > after_s:
            return at_s
    return None


def _gap_end(before_s: float, after_s: float, where: tzinfo) -> float:
    """The instant between two at which the zone's offset changes."""
    low, high = int(before_s), int(after_s)
    offset = datetime.fromtimestamp(low, where).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, where).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return float(high)


def _values(text: str, field: _Field) -> frozenset[int]:
    terms = text.split(",")
    if len(terms) > _TERMS_MAX:
        raise _wrong(f"{field.name} has more than {_TERMS_MAX} parts")
    return frozenset(value for term in terms for value in _term(term, field))


def _term(term: str, field: _Field) -> range:
    match = _TERM.fullmatch(term)
    if match is None:
        raise _wrong(f"{term[:32]!r} is no {field.name}")
    whole, first, last, step_text = match.groups()
    step = int(step_text) if step_text else 1
    if step < 1:
        raise _wrong(f"{field.name} {term!r} has a step of 0")
    if whole == "*":
        return range(field.low, field.high + 1, step)
    low = _number(first, field)
    high = _number(last, field) if last else (field.high if step_text else low)
    if high < low:
        raise _wrong(f"{field.name} {term!r} runs backwards")
    return range(low, high + 1, step)


def _number(text: str, field: _Field) -> int:
    value = field.names.get(text.lower())
    if value is None and text.isascii() and text.isdecimal():
        value = int(text)
    if value is None or not field.low <= value <= field.high:
        raise _wrong(f"{field.name} {text!r} is not between {field.low} and {field.high}")
    return value


def _wrong(why: str) -> BadInput:
    return BadInput(f"invalid cron expression: {why}", code="bad_schedule")
