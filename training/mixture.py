"""Mixes the sample orders of several datasets into one: stateless, and even in every batch.

An epoch of the mixture has a fixed number of places for each dataset, dealt out as evenly as whole numbers allow: among
its first p places a dataset of share w has p·w rounded down, so that every batch has the same mixture to within one
sample. Each dataset goes through its own order at its own speed: its own epochs run on, whatever the others do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.order import Integers, SampleOrder


@dataclass(frozen=True, slots=True)
class Share:
    """A dataset's part of the mixture: its samples, and the places that it has in an epoch of the mixture."""

    samples: int
    places: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """The order of the samples of several datasets, which are numbered on from one dataset to the next."""

    shares: tuple[Share, ...]
    seed: int

    @property
    def places(self) -> int:
        """Positions of an epoch."""
        return sum(share.places for share in self.shares)

    def samples_at(self, positions: Integers) -> Integers:
        """The sample number at each position."""
        return self.draw(positions)[0]

    def draw(self, positions: Integers) -> tuple[Integers, Integers]:
        """The sample number at each position, and the epoch of its own dataset that it is drawn in."""
        sources, places = self._deal(positions)
        numbers, epochs = np.empty_like(positions), np.empty_like(positions)
        start = 0
        for source, share in enumerate(self.shares):
            chosen = sources == source
            if chosen.any():
                order = SampleOrder(share.samples, self.seed + source)
                numbers[chosen] = start + order.samples_at(places[chosen])
                epochs[chosen] = order.epoch_of(places[chosen])
            start += share.samples
        return numbers, epochs

    def _deal(self, positions: Integers) -> tuple[Integers, Integers]:
        """For each position the dataset whose turn it is, and how many of its own positions came before."""
        if len(self.shares) == 1:
            return np.zeros_like(positions), positions
        epochs, rest = np.divmod(positions, self.places)
        sources, places = np.full_like(positions, len(self.shares) - 1), rest.copy()
        undecided, total = np.ones(len(positions), dtype=bool), self.places
        for source, share in enumerate(self.shares[:-1]):
            # What is left over is dealt out among the datasets that follow.
            before = _rounded_down(places, share.places, total)
            mine = undecided & (_rounded_down(places + 1, share.places, total) > before)
            sources[mine], undecided = source, undecided & ~mine
            places = np.where(mine, before, np.where(undecided, places - before, places))
            total -= share.places
        own = np.asarray([share.places for share in self.shares], dtype=np.int64)
        return sources, epochs * own[sources] + places


def one_dataset(samples: int, seed: int) -> Mixture:
    """The order of a single dataset."""
    return Mixture((Share(samples, samples),), seed)


def mixture_by_repetition(samples: Sequence[int], repeats: Sequence[float], seed: int) -> Mixture:
    """Each dataset so many times in an epoch of the mixture, 0.5 for half of it."""
    shares = [Share(count, max(1, round(count * repeat))) for count, repeat in zip(samples, repeats, strict=True)]
    return Mixture(tuple(shares), seed)


def mixture_by_weight(samples: Sequence[int], weights: Sequence[float], seed: int) -> Mixture:
    """Each dataset with its weight's share of every batch; an epoch has as many places as there are samples."""
    total, length = math.fsum(weights), sum(samples)
    shares = [
        Share(count, max(1, round(length * weight / total))) for count, weight in zip(samples, weights, strict=True)
    ]
    return Mixture(tuple(shares), seed)


def _rounded_down(places: Integers, share: int, total: int) -> Integers:
    """places · share // total, exact also where the product has more than 64 bits."""
    if len(places) and int(places.max()) * share < 1 << 63:
        return places * share // total
    return np.asarray([int(place) * share // total for place in places], dtype=np.int64)
