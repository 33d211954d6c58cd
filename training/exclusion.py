"""Finds the keys of `train.exclude` that no dataset of a training has, which are likely mistyped."""

from collections.abc import Sequence

from datapipe.dataset import shard_name
from training.samples import Samples


def unknown_keys(samples: Samples, exclude: Sequence[str]) -> tuple[str, ...]:
    """The keys that are of no row, in their order. Reads the keys of the shards alone that they begin with."""
    known: set[str] = set()
    for selection in samples.selections:
        for shard in selection.shards:
            if any(key.startswith(shard_name(shard)) for key in exclude):
                known.update(selection.dataset.read_rows(shard, ["key"])["key"].to_pylist())
    return tuple(key for key in exclude if key not in known)
