"""The samples of a training: those of one selection, or of several that are numbered on from one to the next."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from infra.errors import ConfigError
from training.config import MixedSource, TrainConfig
from training.mixture import Mixture, mixture_by_repetition, mixture_by_weight
from training.selection import Integers, Selection, ShareOut, all_here, select


@dataclass(frozen=True)
class Samples:
    """Several selections as one; sample 0 is the first one's first."""

    selections: tuple[Selection, ...]

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _ends(self) -> Integers:
        return np.cumsum([len(selection) for selection in self.selections], dtype=np.int64)

    def sources_of(self, numbers: Integers) -> Integers:
        """Which selection each sample is of."""
        return np.searchsorted(self._ends, numbers, side="right").astype(np.int64)

    def locate(self, numbers: Integers) -> tuple[Integers, Integers, Integers]:
        """The selection, the shard, and the index among the shard's good samples, of each sample number."""
        sources = self.sources_of(numbers)
        shards, indices = np.empty_like(numbers), np.empty_like(numbers)
        for source in np.unique(sources):
            chosen = sources == source
            within = numbers[chosen] - self._start(int(source))
            shards[chosen], indices[chosen] = self.selections[source].locate(within)
        return sources, shards, indices

    def neighbour(self, number: int, steps: int) -> int:
        """The sample that comes `steps` later in the same selection, whose first follows its last."""
        source = int(self.sources_of(np.asarray([number], dtype=np.int64))[0])
        start = self._start(source)
        return start + (number - start + steps) % len(self.selections[source])

    def _start(self, source: int) -> int:
        return int(self._ends[source]) - len(self.selections[source])


def select_training(config: TrainConfig, share_out: ShareOut = all_here) -> tuple[Samples, Mixture]:
    """The samples of a training, and their order. Arguments and errors are those of `select`."""
    sources = config.training_sources()
    samples = Samples(tuple(select(source, share_out) for source in sources))
    return samples, _mixture(config, sources, [len(selection) for selection in samples.selections])


def _mixture(config: TrainConfig, sources: list[MixedSource], counts: list[int]) -> Mixture:
    weights = [source.weight for source in sources if source.weight is not None]
    if not weights:
        return mixture_by_repetition(counts, [source.repeat for source in sources], config.seed)
    if len(weights) < len(sources) or any(source.repeat != 1 for source in sources):
        raise ConfigError(
            f"train.data: {len(weights)} of {len(sources)} datasets have a weight, and some may have repeat.",
            "Either all have a weight (their share of every batch), or none (then repeat says how often each comes).",
            "Give each a weight, or none.",
        )
    return mixture_by_weight(counts, weights, config.seed)
