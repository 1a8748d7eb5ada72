"""Times on a wall clock that fit the five fields of a cron expression, found by croniter.

Only `core.cron` imports this module, and only when there is an expression: croniter and what comes
with it take long to import, and most programs have no entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from croniter import CroniterBadDateError, croniter

#: Where a search begins that was not told where; any time would do.
_SOME_TIME = datetime(2000, 1, 1)


class Walls:
    """Finds the times that fit.

    Days are matched as cron does it, which croniter calls a bug.

    Args:
        fields: Minute, hour, day of month, month, day of week.
        years: A search that finds none for so long ends.

    Raises:
        ValueError: They are no such fields; what croniter cannot read breaks it in other ways too.
    """

    def __init__(self, fields: Sequence[str], *, years: int) -> None:
        self._clock = croniter(
            " ".join(fields),
            _SOME_TIME,
            ret_type=datetime,
            implement_cron_bug=True,
            max_years_between_matches=years,
        )

    def after(self, start: datetime) -> Iterator[datetime]:
        """Those later than a naive time, in order, as far as there are any."""
        self._clock.set_current(start)

        try:
            while True:
                yield self._clock.get_next()
        except (CroniterBadDateError, OverflowError):
            return


def check(fields: Sequence[str]) -> None:
    """See that fields are what cron knows.

    Raises:
        ValueError: They are not, or no time ever fits them.
    """
    try:
        croniter.expand(" ".join(fields), strict=True)
        found = next(Walls(fields, years=50).after(_SOME_TIME), None)
    except Exception as error:
        # Some texts break its parser in other ways than it means to.
        raise ValueError(str(error).rstrip(".")) from None

    if found is None:
        raise ValueError("there is no such day")
