"""The sample order: permutations without tables, the same whoever asks and from wherever."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.order import BLOCK_SAMPLES, WINDOW_BLOCKS, SampleOrder, batch_positions, keyed_numbers

sizes = st.integers(1, 20_000)
seeds = st.integers(0, 2**63)


@given(samples=sizes, seed=seeds, epoch=st.integers(0, 1000))
def test_every_epoch_is_a_permutation(samples: int, seed: int, epoch: int):
    positions = np.arange(epoch * samples, (epoch + 1) * samples)
    seen = SampleOrder(samples, seed).samples_at(positions)
    assert np.array_equal(np.sort(seen), np.arange(samples))


@given(samples=sizes, seed=seeds, batch=st.integers(1, 500), number=st.integers(0, 300), ranks=st.integers(1, 17))
def test_the_ranks_share_a_batch_whatever_their_number(samples: int, seed: int, batch: int, number: int, ranks: int):
    order = SampleOrder(samples, seed)
    whole = order.samples_at(batch_positions(number, batch))
    parts = [order.samples_at(batch_positions(number, batch, rank, ranks)) for rank in range(ranks)]
    assert np.array_equal(np.concatenate(parts), whole) and len(whole) == batch
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(samples=st.integers(100, 20_000), seed=seeds)
def test_two_epochs_and_two_seeds_differ(samples: int, seed: int):
    order = SampleOrder(samples, seed)
    first, second = np.arange(samples), np.arange(samples, 2 * samples)
    assert not np.array_equal(order.samples_at(first), order.samples_at(second))
    assert not np.array_equal(order.samples_at(first), SampleOrder(samples, seed + 1).samples_at(first))


@pytest.mark.parametrize("far", [10**9, 4_999_990_000, 10**12])
def test_a_far_position_of_a_huge_dataset_costs_about_what_the_first_costs(far: int):
    order = SampleOrder(5_000_000_000, 7)

    def least_seconds(start: int) -> float:
        """Of several tries, since other programs can only add to the time."""
        seconds = []
        for _ in range(9):
            began = time.perf_counter()
            order.samples_at(np.arange(start, start + 1024))
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    # Generous: a table of the order would take a minute and 40 GB.
    assert least_seconds(far) < 5 * least_seconds(0)


def distances_of_neighbours(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How far apart in an epoch the samples n and n + 1 come: of one block, and of two."""
    order = SampleOrder(samples, seed)
    seen = order.samples_at(np.arange(samples))
    places = np.empty(samples, np.int64)
    places[seen] = np.arange(samples)
    distances = np.abs(np.diff(places))
    # Blocks begin where the epoch's ring is cut.
    edges = [e for e in range(BLOCK_SAMPLES) if distances[e::BLOCK_SAMPLES].max() > BLOCK_SAMPLES * WINDOW_BLOCKS]
    assert len(edges) == 1
    is_edge = np.arange(samples - 1) % BLOCK_SAMPLES == edges[0]
    return distances[~is_edge], distances[is_edge]


def test_neighbours_of_a_shard_are_spread_as_a_true_shuffle_of_their_window_spreads_them():
    """Two places of n drawn at random are (n + 1) / 3 apart on average: of a window for samples that are read together,
    of the whole epoch for samples of two blocks."""
    window, samples = BLOCK_SAMPLES * WINDOW_BLOCKS, 60 * BLOCK_SAMPLES * WINDOW_BLOCKS
    together, apart = distances_of_neighbours(samples, 11)
    assert together.mean() == pytest.approx((window + 1) / 3, rel=0.02) and together.max() < window
    assert apart.mean() == pytest.approx(samples / 3, rel=0.05)
    # And no more often side by side, or in one batch, than chance brings them.
    for batch in (2, 256):
        expected = sum(2 * (window - d) / window / (window - 1) for d in range(1, batch))
        assert (together < batch).mean() == pytest.approx(expected, rel=0.1)


def test_a_batch_mixes_blocks_about_as_a_true_shuffle_does():
    samples, batch = 100 * BLOCK_SAMPLES * WINDOW_BLOCKS, 512
    drawn = SampleOrder(samples, 3).samples_at(np.arange(batch)) // BLOCK_SAMPLES
    # A window has 64 blocks; 512 draws from it touch nearly all, about evenly.
    counts = np.unique(drawn, return_counts=True)[1]
    assert len(counts) >= WINDOW_BLOCKS - 4
    assert counts.max() <= 4 * batch / WINDOW_BLOCKS


def test_the_short_last_block_is_other_samples_in_each_epoch():
    samples = 10 * BLOCK_SAMPLES * WINDOW_BLOCKS + 17
    order = SampleOrder(samples, 0)
    tails = [set(order.samples_at(np.arange((e + 1) * samples - 17, (e + 1) * samples)).tolist()) for e in range(6)]
    assert len(set.union(*tails)) > 17


@pytest.mark.parametrize("streams", [1, 3])
def test_keyed_numbers_are_uniform_and_depend_on_their_key_alone(streams: int):
    samples = np.arange(20_000)
    epochs = np.zeros_like(samples)
    numbers = keyed_numbers(1, epochs, samples, streams)
    assert numbers.shape == (20_000, streams) and numbers.min() >= 0 and numbers.max() < 1
    assert np.allclose(numbers.mean(axis=0), 0.5, atol=0.01)
    assert np.array_equal(numbers[100:200], keyed_numbers(1, epochs[100:200], samples[100:200], streams))
    assert not np.array_equal(numbers, keyed_numbers(2, epochs, samples, streams))
