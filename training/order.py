"""Turns positions in the training into sample numbers: stateless, in constant memory.

An epoch is a permutation of the samples in three steps, each pure arithmetic on the position:

1. the samples are a ring, cut at a place that depends on the epoch into *blocks* of consecutive samples (one range
   read each); the cut moves so that the short last block is other samples each time;
2. the blocks are permuted;
3. within a *window* of consecutive positions the samples are permuted, so that a batch mixes many blocks.

Positions run on across epochs: batch g is positions [g·B, (g+1)·B), every batch is full and no sample is dropped.
The permutations are Feistel networks with cycle walking (Black and Rogaway 2002, "Ciphers with Arbitrary Finite
Domains"): they cost the same at every position and need no table.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK_SAMPLES = 64  # one range read of one or two MB: past this, object stores read no faster
WINDOW_BLOCKS = 64  # samples of 64 blocks are mixed with each other: 4,096 positions
ROUNDS = 6  # Feistel rounds; four give a good permutation, small domains want some more

Integers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """The order of `samples` samples under `seed`."""

    samples: int
    seed: int
    block_samples: int = BLOCK_SAMPLES
    window_blocks: int = WINDOW_BLOCKS

    def epoch_of(self, positions: Integers) -> Integers:
        """The epoch that each position lies in."""
        return positions // self.samples

    def samples_at(self, positions: Integers) -> Integers:
        """The sample number, 0 to samples − 1, at each position; any positions, also of several epochs."""
        epochs, places = np.divmod(positions, self.samples)
        result = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = self._in_epoch(int(epoch), places[chosen])
        return result

    def _in_epoch(self, epoch: int, places: Integers) -> Integers:
        key = _epoch_key(self.seed, epoch)
        window = self.block_samples * self.window_blocks
        # The window that is permuted around each place; the last one may be shorter.
        starts = places // window * window
        lengths = np.minimum(window, self.samples - starts)
        places = starts + _permute(places - starts, lengths, _mix(key + np.uint64(1)) + starts.astype(np.uint64))
        whole_blocks = self.samples // self.block_samples
        blocks, within = np.divmod(places, self.block_samples)
        is_whole = blocks < whole_blocks
        permuted = blocks.copy()
        count = np.full(int(is_whole.sum()), whole_blocks, dtype=np.int64)
        permuted[is_whole] = _permute(
            blocks[is_whole], count, np.full(count.shape, _mix(key + np.uint64(2)), np.uint64)
        )
        cut = int(_mix(key + np.uint64(3)) % np.uint64(self.samples))
        return (permuted * self.block_samples + within + cut) % self.samples


def batch_positions(number: int, size: int, rank: int = 0, ranks: int = 1) -> Integers:
    """This rank's positions of a global batch, in order; slices differ by one where `ranks` does not divide."""
    first, after = rank * size // ranks, (rank + 1) * size // ranks
    return np.arange(number * size + first, number * size + after, dtype=np.int64)


def _epoch_key(seed: int, epoch: int) -> _Words:
    """A zero-dimensional array, not a scalar: numpy warns when scalars wrap around, and wrapping is meant here."""
    return _mix(_mix(np.asarray(seed % (1 << 64), np.uint64)) + np.asarray(epoch, np.uint64))


def _permute(values: Integers, sizes: Integers, keys: _Words) -> Integers:
    """Permutes each value within [0, size) under its key: values of one size and key are mapped one to one."""
    if not len(values):
        return values
    # The Feistel domain is the smallest even power of two that holds the size; values outside walk on.
    half_bits = (np.ceil(np.log2(np.maximum(sizes, 2).astype(np.float64))).astype(np.int64) + 1) // 2
    result = _feistel(values.astype(np.uint64), half_bits.astype(np.uint64), keys)
    outside = result >= sizes.astype(np.uint64)
    while outside.any():
        result[outside] = _feistel(result[outside], half_bits[outside].astype(np.uint64), keys[outside])
        outside = result >= sizes.astype(np.uint64)
    return result.astype(np.int64)


def _feistel(values: _Words, half_bits: _Words, keys: _Words) -> _Words:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (_mix(right + _mix(keys + np.uint64(number))) & mask)
    return (left << half_bits) | right


def _mix(word: _Words) -> _Words:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every input bit changes every output bit."""
    with np.errstate(over="ignore"):
        word = np.asarray(word, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return word ^ (word >> np.uint64(31))


def digest_of(positions: Integers, samples: Integers) -> int:
    """A 64-bit number for which sample lies at which position; of two sets of positions, the sum of theirs."""
    with np.errstate(over="ignore"):
        words = _mix(_mix(positions.astype(np.uint64)) + samples.astype(np.uint64))
        return int(words.sum(dtype=np.uint64))


def keyed_numbers(seed: int, epochs: Integers, samples: Integers, streams: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) that depend on nothing but (seed, epoch, sample, stream): (samples, streams)."""
    with np.errstate(over="ignore"):
        base = _mix(
            _mix(_mix(np.full(len(samples), seed, np.uint64)) + epochs.astype(np.uint64)) + samples.astype(np.uint64)
        )
        words = _mix(base[:, None] + np.arange(streams, dtype=np.uint64)[None, :] * np.uint64(0xD1342543DE82EF95))
    return (words >> np.uint64(11)).astype(np.float64) / float(1 << 53)
