"""Many jobs in pieces that one statement takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")

#: Jobs stored or changed by one statement ...
MOST_JOBS = 5_000

#: ... or by each of several that are sent while the next one's jobs are made ready ...
MOST_AHEAD = 2_000

#: ... and characters of JSON, whatever their number: PostgreSQL's own limit is 256 MB.
MOST_CHARACTERS = 16_000_000


def batches_of(
    items: Iterable[Item], characters: Callable[[Item], int], *, ahead: bool = False
) -> Iterator[list[Item]]:
    """Items in their order, as many together as one statement takes.

    Args:
        items: Read batch by batch.
        characters: How long one is.
        ahead: Whether the next batch is made ready while PostgreSQL works on one.
    """
    most = MOST_AHEAD if ahead else MOST_JOBS
    batch: list[Item] = []
    total = 0

    for item in items:
        size = characters(item)

        if batch and (len(batch) >= most or total + size > MOST_CHARACTERS):
            yield batch

            batch, total = [], 0

        batch.append(item)
        total += size

    if batch:
        yield batch


def parts_of(ids: Iterable[int]) -> Iterator[str]:
    """The ids in order, each once, as arrays that statements take."""
    ordered = sorted(set(ids))

    for start in range(0, len(ordered), MOST_JOBS):
        yield f"{{{','.join(map(str, ordered[start : start + MOST_JOBS]))}}}"


class Ahead(Generic[Item]):
    """An iterator whose next item can be made before it is asked for."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._next: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return self._next.pop() if self._next else next(self._items)

    def look(self) -> None:
        """Make the next item now, if there is one; raises what making it raises."""
        if not self._next:
            self._next.extend(islice(self._items, 1))
