"""How long many things took, in few numbers: sketches, as those of Oban Met.

A sketch counts times by bin. Bin b holds those of up to ``GAMMA ** b`` nanoseconds and more than
``GAMMA ** (b - 1)``, so whatever quantile is asked for, the answer is within 2 % of the true one.
Two sketches are added by adding their bins: percentiles of a week come out of those of its hours.

In the database a sketch is packed: pairs of a bin and how many there are, two bytes each. Packed
ones are added by putting one behind the other, for a bin may come more than once.
"""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

#: How much larger the times of a bin are than those of the one before.
GAMMA = 1.02 / 0.98

#: What the logarithm of a time is multiplied by to give its bin.
BINS_PER_E = 1 / math.log(GAMMA)

#: The last bin that has a time: some ten million years. What somebody else wrote beyond it
#: counts as that.
LAST = 1_400

#: In a packed sketch, bins from here on stand for this many times each: so counts have four bytes.
_MANY_FROM = 0x8000
_MANY = 0x10000

#: The most of one pair, and of one bin in few pairs.
_MOST = _MANY - 1

#: How many there are, by bin.
Bins = dict[int, int]


def bin_of(nanoseconds: float) -> int:
    """The bin of a time; those below a nanosecond count as one."""
    return math.ceil(math.log(nanoseconds) * BINS_PER_E) if nanoseconds > 1 else 0


def value_of(number: int) -> float:
    """The time that a bin stands for, in nanoseconds: 2 % from all of its times at the most."""
    return 2 * GAMMA ** max(0, min(number, LAST)) / (GAMMA + 1)


class Sketch:
    """How many times there are in each bin.

    Attributes:
        bins: How many, by bin; a bin without any is not in it.
    """

    __slots__ = ("bins",)

    def __init__(self, bins: Mapping[int, int] | None = None) -> None:
        self.bins: Bins = {} if bins is None else dict(bins)

    @classmethod
    def unpacked(cls, data: bytes) -> Sketch:
        """The sketch of packed ones, one behind the other.

        Raises:
            ValueError: These are none.
        """
        numbers = array("H")
        numbers.frombytes(data)

        if len(numbers) % 2:
            raise ValueError(f"{len(data)} bytes are no sketch")

        if sys.byteorder == "big":
            numbers.byteswap()

        bins: Bins = {}
        get = bins.get

        # All of what is slow about a chart is this loop.
        for number, times in zip(numbers[::2], numbers[1::2], strict=True):
            bins[number] = get(number, 0) + times

        for number in [number for number in bins if number >= _MANY_FROM]:
            bins[number - _MANY_FROM] = get(number - _MANY_FROM, 0) + bins.pop(number) * _MANY

        return cls(bins)

    def __repr__(self) -> str:
        return f"<Sketch of {self.size} times>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self.bins == other.bins

    __hash__ = None  # type: ignore[assignment]

    @property
    def size(self) -> int:
        """How many times there are."""
        return sum(self.bins.values())

    def add(self, nanoseconds: float, times: int = 1) -> None:
        """Count a time."""
        number = bin_of(nanoseconds)
        self.bins[number] = self.bins.get(number, 0) + times

    def merge(self, other: Sketch) -> None:
        """Count all that another one counted."""
        merge(self.bins, other.bins)

    def quantile(self, share: float) -> float | None:
        """The time, in nanoseconds, below which such a share of all is; None where there are none.

        Of n times in order it is the one at ``share * (n - 1)``, rounded down, give or take 2 %.
        """
        return self.quantiles(share)[0]

    def quantiles(self, *shares: float) -> list[float | None]:
        """The times of several shares; see `quantile`."""
        numbers = sorted(self.bins)
        sums = list(accumulate(map(self.bins.__getitem__, numbers)))

        if not sums or sums[-1] <= 0:
            return [None] * len(shares)

        return [
            value_of(numbers[bisect_right(sums, math.floor(share * (sums[-1] - 1)))])
            for share in shares
        ]

    @property
    def max(self) -> float | None:
        """The longest time, in nanoseconds, give or take 2 %; None where there are none."""
        return value_of(max(self.bins)) if self.bins else None


def merge(bins: Bins, others: Mapping[int, int]) -> None:
    """Add bins to bins."""
    for number, times in others.items():
        bins[number] = bins.get(number, 0) + times


def packed(bins: Mapping[int, int]) -> bytes:
    """Bins as `Sketch.unpacked` reads them."""
    numbers = array("H")

    for number, times in sorted(bins.items()):
        place = max(0, min(number, LAST))
        many, few = divmod(max(0, times), _MANY)

        while many:
            numbers.extend((place | _MANY_FROM, min(many, _MOST)))
            many -= min(many, _MOST)

        if few:
            numbers.extend((place, few))

    if sys.byteorder == "big":
        numbers.byteswap()

    return numbers.tobytes()
