"""Near-duplicates are found exactly: what stays and what goes is what comparing all pairs says."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapipe.dedup import first_of_each, without_near_duplicates

Hashes = npt.NDArray[np.uint64]


def greedy(hashes: list[int], max_distance: int) -> list[bool]:
    """By comparing each hash with all that stay."""
    kept: list[int] = []
    stays = []
    for value in hashes:
        stays.append(all((value ^ other).bit_count() > max_distance for other in kept))
        if stays[-1]:
            kept.append(value)
    return stays


@st.composite
def crowded(draw: st.DrawFn) -> list[int]:
    """Hashes near a few centres, so that many are within a few bits of each other."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=6)
    chosen = draw(st.lists(st.tuples(st.sampled_from(centres), flips), max_size=60))
    return [centre ^ sum(1 << bit for bit in set(bits)) for centre, bits in chosen]


@given(hashes=crowded(), max_distance=st.integers(0, 6))
def test_what_stays_is_what_comparing_all_pairs_leaves(hashes: list[int], max_distance: int):
    found = without_near_duplicates(np.asarray(hashes, dtype=np.uint64), max_distance)
    assert found.tolist() == greedy(hashes, max_distance)


@pytest.mark.parametrize("max_distance", [1, 4, 6])
def test_many_alike_and_many_different_ones_take_little_memory(max_distance: int):
    rng = np.random.default_rng(3)
    different = rng.integers(0, 1 << 63, 20_000, dtype=np.uint64)
    alike = np.full(20_000, different[0])
    stays = without_near_duplicates(np.concatenate([different, alike]), max_distance)
    assert stays[:20_000].sum() >= 19_990 and not stays[20_000:].any()


def test_the_first_of_each_value_stays():
    assert first_of_each(np.asarray([3, 1, 3, 2, 1])).tolist() == [True, True, False, True, False]
    assert first_of_each(np.asarray([], dtype=np.int64)).tolist() == []


def test_a_crowd_of_different_hashes_near_each_other_takes_no_square_of_memory():
    rng = np.random.default_rng(5)
    flips = np.asarray([sum(1 << int(bit) for bit in set(rng.integers(0, 64, 3))) for _ in range(20_000)], np.uint64)
    crowd = np.uint64(0x0123456789ABCDEF) ^ flips
    tracemalloc.start()
    stays = without_near_duplicates(crowd, 6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All are within 6 bits of each other.
    assert stays.sum() == 1 and stays[0]
    assert peak < 20_000 * 1_000
