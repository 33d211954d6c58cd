"""Finds duplicates: rows with the same value, or with perceptual hashes that differ in few bits."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

HASH_BITS = 64
COMPARED_AT_ONCE = 1 << 22  # pairs: 32 MB of differing bits

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
    Exact: two hashes that differ in at most d bits agree in one of d + 1 pieces of their bits, so only hashes that
    agree in a piece are compared. Source: G. S. Manku et al., Detecting Near-Duplicates for Web Crawling, 2007.
    """
    stays = first_of_each(hashes)
    if max_distance == 0:
        return stays
    places = np.flatnonzero(stays)
    distinct = hashes[places]
    later, earlier = _near_pairs(distinct, max_distance)
    kept = np.ones(len(distinct), dtype=bool)
    # In the order of the later one, what it hangs on is decided already.
    for late, early in zip(later.tolist(), earlier.tolist(), strict=True):
        if kept[early]:
            kept[late] = False
    stays[places] = kept
    return stays


def _near_pairs(distinct: Hashes, max_distance: int) -> tuple[Integers, Integers]:
    """All pairs of distinct hashes within the distance: (later, earlier), in the order of the later ones."""
    found = [pair for piece in _pieces(max_distance + 1) for pair in _pairs_that_agree(distinct, piece, max_distance)]
    if not found:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


def _pieces(count: int) -> Iterator[np.uint64]:
    """Masks that share the bits of a hash evenly among them."""
    edges = [HASH_BITS * number // count for number in range(count + 1)]
    for low, high in pairwise(edges):
        yield np.uint64((1 << high) - (1 << low))


def _pairs_that_agree(distinct: Hashes, piece: np.uint64, max_distance: int) -> Iterator[Integers]:
    """Of the hashes that agree in the piece, the pairs (2, n) within the distance: later above, earlier below."""
    values = distinct & piece
    order = np.argsort(values, kind="stable")
    edges = np.flatnonzero(np.diff(values[order])) + 1
    for group in np.split(order, edges):
        if len(group) < 2:
            continue
        rows_at_once = max(1, COMPARED_AT_ONCE // len(group))
        for start in range(0, len(group), rows_at_once):
            part = group[start : start + rows_at_once]
            near = np.bitwise_count(distinct[part][:, None] ^ distinct[group][None, :]) <= max_distance
            late, early = np.nonzero(near)
            is_pair = group[early] < part[late]
            yield np.stack([part[late[is_pair]], group[early[is_pair]]]).astype(np.int64)
