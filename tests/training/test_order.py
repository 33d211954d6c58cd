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


def test_a_far_position_of_a_huge_dataset_costs_what_the_first_costs():
    order = SampleOrder(5_000_000_000, 7)

    def seconds(start: int) -> float:
        began = time.perf_counter()
        for _ in range(20):
            order.samples_at(np.arange(start, start + 1024))
        return time.perf_counter() - began

    seconds(0)
    # Generous: the machine is noisy. A table of the order would take minutes and 40 GB.
    assert seconds(10**9) < 20 * seconds(0) + 1


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
