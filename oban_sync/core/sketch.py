"""How long many things took, in few numbers: sketches.

A sketch counts times by bin. Nodes count by the bins of Oban Met: bin b holds times of up to
``MET_GAMMA ** b`` nanoseconds and more than ``MET_GAMMA ** (b - 1)``. What is kept has bins of
twice that, so whatever quantile is asked for, the answer is within 4 % of the true one: a chart is
added up from hundreds of thousands of bins, and costs half as much with half of them. Two sketches
are added by adding their bins: percentiles of a week come out of those of its hours.

In the database a sketch is packed: pairs of how many there are and their bin, two bytes each.
Packed ones are added by putting one behind the other, for a bin may come more than once. A pair,
read as one number, is the larger the later its bin: so quantiles come from sorting numbers, see
`times_of`.
"""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import accumulate

#: How much larger the times of one of Oban Met's bins are than those of the one before.
MET_GAMMA = 1.02 / 0.98

#: What the logarithm of a time is multiplied by to give its bin, of these.
BINS_PER_E = 1 / math.log(MET_GAMMA)

#: How much larger the times of a bin are than those of the one before.
GAMMA = MET_GAMMA**2

#: The last bin that has a time: some ten million years. What somebody else wrote beyond it
#: counts as that.
LAST = 700

#: In a packed sketch, bins from here on stand for this many times each: so counts have four bytes.
_MANY_FROM = 0x8000
_MANY = 0x10000

#: Pairs from here on are of such bins, or of none.
_ODD_PAIRS = (LAST + 1) << 16

#: Which half of a number is the count of a pair.
_COUNT = 0 if sys.byteorder == "little" else 1

#: The most of one pair, and of one bin in few pairs.
_MOST = _MANY - 1

#: How many there are, by bin.
Bins = dict[int, int]


def met_bin_of(nanoseconds: float) -> int:
    """Oban Met's bin of a time; those below a nanosecond count as one."""
    return math.ceil(math.log(nanoseconds) * BINS_PER_E) if nanoseconds > 1 else 0


def bin_of(nanoseconds: float) -> int:
    """The bin of a time."""
    return (met_bin_of(nanoseconds) + 1) // 2


def value_of(number: int) -> float:
    """The time that a bin stands for, in nanoseconds: 4 % from all of its times at the most."""
    return _VALUES[max(0, min(number, LAST))]


#: The times of all bins.
_VALUES = [2 * GAMMA**number / (GAMMA + 1) for number in range(LAST + 1)]


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

        places = numbers[1::2]
        found = [0] * (max(places, default=0) + 1)

        for times, number in zip(numbers[::2], places, strict=True):
            found[number] += times

        for number in range(_MANY_FROM, len(found)):
            found[number - _MANY_FROM] += found[number] * _MANY

        return cls({number: times for number, times in enumerate(found[:_MANY_FROM]) if times})

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

    def quantile(self, share: float) -> float | None:
        """The time, in nanoseconds, below which such a share of all is; None where there are none.

        Of n times in order it is the one at ``share * (n - 1)``, rounded down, give or take 4 %.
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
        """The longest time, in nanoseconds, give or take 4 %; None where there are none."""
        return value_of(max(self.bins)) if self.bins else None


def of_met(bins: Mapping[int, int]) -> Bins:
    """Bins out of those of Oban Met: of two of these one."""
    halved: Bins = {}

    for number, times in bins.items():
        half = (number + 1) // 2
        halved[half] = halved.get(half, 0) + times

    return halved


def merge(bins: Bins, others: Mapping[int, int]) -> None:
    """Add bins to bins."""
    for number, times in others.items():
        bins[number] = bins.get(number, 0) + times


def times_of(data: bytes, *shares: float) -> list[float | None]:
    """The times of some shares, and the longest, in nanoseconds, of packed sketches.

    The same as those of `Sketch.unpacked`, in half the time: a chart has a thousand points, each of
    which comes from hundreds of pairs. So nothing here is done to each of them in Python itself.

    Args:
        data: Packed sketches, one behind the other.
        shares: See `Sketch.quantile`.

    Raises:
        ValueError: These are none.
    """
    given = array("I")
    given.frombytes(data)

    if sys.byteorder == "big":
        given.byteswap()

    pairs = array("I", sorted(given))
    sums = list(accumulate(array("H", pairs.tobytes())[_COUNT::2]))

    if not sums or not sums[-1] or pairs[-1] >= _ODD_PAIRS:
        sketch = Sketch.unpacked(data)

        return [*sketch.quantiles(*shares), sketch.max]

    last = sums[-1] - 1
    places = [bisect_right(sums, int(share * last)) for share in shares]

    return [_VALUES[pairs[place] >> 16] for place in (*places, bisect_left(sums, sums[-1]))]


def packed(bins: Mapping[int, int]) -> bytes:
    """Bins as `Sketch.unpacked` reads them."""
    numbers = array("H")

    for number, times in sorted(bins.items()):
        place = max(0, min(number, LAST))
        many, few = divmod(max(0, times), _MANY)

        while many:
            numbers.extend((min(many, _MOST), place | _MANY_FROM))
            many -= min(many, _MOST)

        if few:
            numbers.extend((few, place))

    if sys.byteorder == "big":
        numbers.byteswap()

    return numbers.tobytes()
