"""The global time split: which periods train, validate and test a model for an `as_of`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from events.sources import Source


@dataclass(frozen=True)
class Period:
    """Labels in [start, end); features as of `start`."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Split:
    """Train periods before the validation period before the test period, which ends at `as_of`."""

    train: tuple[Period, ...]
    valid: Period
    test: Period
    as_of: datetime

    @property
    def as_ofs(self) -> tuple[datetime, ...]:
        """Every moment features are needed for, oldest first; the last is for serving."""
        return (*(p.start for p in (*self.train, self.valid, self.test)), self.as_of)


def split(source: Source, as_of: datetime) -> Split:
    """`train_periods` periods, then one to validate, then one to test, the last ending at `as_of`.

    >>> from datetime import UTC
    >>> from events.sources import WORLD
    >>> made = split(WORLD, datetime(2026, 2, 5, tzinfo=UTC))
    >>> made.test.start.isoformat(), len(made.train), made.train[0].start.isoformat()
    ('2026-02-04T00:00:00+00:00', 6, '2026-01-28T00:00:00+00:00')
    """
    count = source.train_periods + 2
    starts = [as_of - source.period * (count - i) for i in range(count)]
    *train, valid, test = (Period(start, start + source.period) for start in starts)
    return Split(tuple(train), valid, test, as_of)
