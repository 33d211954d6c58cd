"""Finds duplicates: rows with the same value, or with perceptual hashes that differ in few bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

HASH_BITS = 64

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def first_of_each(values: npt.NDArray[np.generic]) -> Mask:
    """Which values are the first of their kind."""
    mask = np.zeros(len(values), dtype=bool)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask


def without_near_duplicates(hashes: Hashes, max_distance: int) -> Mask:
    """Which hashes stay when, in order, each that differs from an earlier one that stays in few bits is left out.

    So no two that stay differ in `max_distance` bits or fewer, and each that is left out does from one that stays.
    Exact: two hashes that differ in at most d bits agree in one of d + 1 pieces of their bits, so each is compared
    with those that stay and agree in a piece. Source: G. S. Manku et al., Detecting Near-Duplicates for Web Crawling,
    2007. Memory: about 32 (d + 1) bytes a hash; time: some 5 µs a hash and piece, plus the comparisons.
    """
    stays = first_of_each(hashes)
    if max_distance == 0:
        return stays
    places = np.flatnonzero(stays)
    distinct = hashes[places]
    shelves = [_Shelf.of(distinct, piece) for piece in _pieces(max_distance + 1)]
    has_company = np.zeros(len(distinct), dtype=bool)
    for shelf in shelves:
        has_company |= shelf.sizes[shelf.group] > 1
    kept = np.ones(len(distinct), dtype=bool)
    for place in np.flatnonzero(has_company).tolist():
        value = distinct[place]
        kept[place] = not any(shelf.has_near(place, value, max_distance) for shelf in shelves)
        if kept[place]:
            for shelf in shelves:
                shelf.put(place, value)
    stays[places] = kept
    return stays


@dataclass(slots=True)
class _Shelf:
    """The hashes that stay, those together that agree in one piece of their bits.

    group: of each hash, the number of those that it agrees with; starts and sizes: of each group, its room in `stored`
    and how many there can be; counts: how many there are.
    """

    group: Integers
    starts: Integers
    sizes: Integers
    counts: Integers
    stored: Hashes

    @classmethod
    def of(cls, hashes: Hashes, piece: np.uint64) -> "_Shelf":
        """An empty one with room for all of the hashes."""
        _, group, sizes = np.unique(hashes & piece, return_inverse=True, return_counts=True)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        return cls(group, starts, sizes, np.zeros(len(sizes), dtype=np.int64), np.empty_like(hashes))

    def has_near(self, place: int, value: np.uint64, max_distance: int) -> bool:
        """Whether one that was put here differs from the hash in few bits."""
        group = self.group[place]
        start, count = self.starts[group], self.counts[group]
        return bool(count) and bool(
            (np.bitwise_count(self.stored[start : start + count] ^ value) <= max_distance).any()
        )

    def put(self, place: int, value: np.uint64) -> None:
        """Keeps the hash for those that come."""
        group = self.group[place]
        self.stored[self.starts[group] + self.counts[group]] = value
        self.counts[group] += 1


def _pieces(count: int) -> Iterator[np.uint64]:
    """Masks that share the bits of a hash evenly among them."""
    edges = [HASH_BITS * number // count for number in range(count + 1)]
    for low, high in pairwise(edges):
        yield np.uint64((1 << high) - (1 << low))
