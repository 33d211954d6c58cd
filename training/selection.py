"""Finds the samples of a dataset that a config means, and where each of them lies."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datapipe.columns import holds_texts, is_good, is_text
from datapipe.conditions import fulfils
from datapipe.dataset import Dataset
from infra.errors import ConfigError, InputError
from training.config import DataSource, SamplePart
from training.view import View, read_view

SHARDS_AT_ONCE = 8  # their tables come from storage that answers slowly

Integers = npt.NDArray[np.int64]
# Rows in increasing order: a range where none is left out, which takes no memory, else the smallest unsigned numbers.
Rows = range | npt.NDArray[np.unsignedinteger[Any]]
HASH_RANGE = float(1 << 64)
# Has the work done for each of some shards, all here or by ranks that share it out.
ShareOut = Callable[[Sequence[int], Callable[[Sequence[int]], list[Rows]]], list[Rows]]


@dataclass(frozen=True)
class Selection:
    """Some of a dataset's samples, numbered from 0 in the dataset's order.

    `indices[k]` are the chosen samples of shard `shards[k]`, as indices among its good samples; `captions` are the
    columns that their captions lie in.
    """

    dataset: Dataset
    shards: tuple[int, ...]
    indices: tuple[Rows, ...]
    captions: tuple[str, ...] = ("caption",)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.shards else 0

    @cached_property
    def _ends(self) -> Integers:
        """The number of samples up to and with each shard."""
        return np.cumsum([len(chosen) for chosen in self.indices], dtype=np.int64)

    def locate(self, numbers: Integers) -> tuple[Integers, Integers]:
        """The shard and the index in it of each sample number."""
        slots = np.searchsorted(self._ends, numbers, side="right")
        within = [number - self._ends[slot] for slot, number in zip(slots, numbers, strict=True)]
        # Counted from the shard's end, so negative.
        index = [self.indices[slot][place] for slot, place in zip(slots, within, strict=True)]
        return np.asarray(self.shards, dtype=np.int64)[slots], np.asarray(index, dtype=np.int64)

    def where(self, mask: npt.NDArray[np.bool_]) -> "Selection":
        """The samples whose number is true in the mask."""
        parts = np.split(mask, self._ends[:-1])
        kept = [
            chosen if part.all() else np.asarray(chosen, dtype=np.min_scalar_type(chosen[-1]))[part]
            for chosen, part in zip(self.indices, parts, strict=True)
        ]
        filled = [(shard, chosen) for shard, chosen in zip(self.shards, kept, strict=True) if len(chosen)]
        shards, indices = tuple(shard for shard, _ in filled), tuple(chosen for _, chosen in filled)
        return Selection(self.dataset, shards, indices, self.captions)


def all_here(shards: Sequence[int], work: Callable[[Sequence[int]], list[Rows]]) -> list[Rows]:
    """Nobody shares the work."""
    return work(shards)


def select(source: DataSource, share_out: ShareOut = all_here) -> Selection:
    """The samples that `source` means; those without a caption are left out.

    share_out: `agreement.shared_out` for the ranks of a training, which then call it at once.
    Raises InputError for a place without a dataset, ConfigError for unknown columns and an empty selection.
    """
    dataset = Dataset.open(source.path)
    view = None if source.view is None else read_view(dataset, source.view)
    _require_columns(dataset, source)
    filled = [shard for shard, samples in enumerate(dataset.manifest.shard_samples) if samples]

    def select_in(shards: Sequence[int]) -> list[Rows]:
        with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
            return list(threads.map(lambda shard: _select_in_shard(dataset, shard, source, view), shards))

    found = share_out(filled, select_in)
    shards = [shard for shard, chosen in zip(filled, found, strict=True) if len(chosen)]
    if not shards:
        raise ConfigError(
            f"{dataset.storage.url} has no sample for {source.model_dump(exclude_defaults=True)}.",
            f"Of its {dataset.manifest.rows:,} rows {dataset.manifest.samples:,} are samples; "
            "those with a caption that fulfil the condition are taken.",
            "Correct the condition, or look at the dataset with `diptych inspect`.",
        )
    indices = tuple(chosen for chosen in found if len(chosen))
    return Selection(dataset, tuple(shards), indices, tuple(source.captions))


def columns_of(selection: Selection, names: list[str]) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Shard, index and the named columns' values of each sample, in the selection's order.

    Raises ConfigError for a column that the dataset doesn't have.
    """
    _require_names(selection.dataset, names)
    for shard, indices in zip(selection.shards, selection.indices, strict=True):
        with selection.dataset.open_shard(shard, names) as reader:
            chosen = reader.samples.select(names).take(pa.array(indices)).to_pydict()
        values = zip(*(chosen[name] for name in names), strict=True)
        yield from ((shard, int(index), row) for index, row in zip(indices, values, strict=True))


def is_held_out(key: str, share: float) -> bool:
    """Whether the sample is among the held-out share: by the SHA-256 of its key, the same for ever."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * HASH_RANGE


def in_least_memory(chosen: Integers, samples: int) -> Rows:
    """The chosen ones of a shard's samples, in increasing order, as they are kept for all shards of a dataset."""
    if len(chosen) == samples and np.array_equal(chosen, np.arange(samples)):
        return range(samples)
    return chosen.astype(np.min_scalar_type(samples))


def _select_in_shard(dataset: Dataset, shard: int, source: DataSource, view: View | None) -> Rows:
    parts = source.part is not SamplePart.ALL and source.held_out > 0
    keys = ["key"] if parts else []  # each is told from all others, so that they take the most room of all
    rows, have_texts = dataset.read_rows_to_choose(shard, [*keys, "status", *source.where], source.captions)
    is_sample = is_good(rows)
    good = rows.filter(is_sample)
    if have_texts:
        chosen = pa.chunked_array([np.ones(len(good), dtype=bool)])
    else:
        chosen = functools.reduce(pc.or_, [_has_text(good[column], column) for column in source.captions])
    for column, value in source.where.items():
        chosen = pc.and_(chosen, pc.fill_null(fulfils(good[column], value, f"data.where.{column}"), False))
    mask = chosen.to_numpy(zero_copy_only=False).astype(bool)
    if parts:
        held_out = np.asarray([is_held_out(key, source.held_out) for key in good["key"].to_pylist()], dtype=bool)
        mask &= held_out if source.part is SamplePart.HELD_OUT else ~held_out
    if view is None:
        return in_least_memory(np.flatnonzero(mask), len(mask))
    times = view.times(shard, len(rows))[is_sample.to_numpy(zero_copy_only=False).astype(bool)]
    return in_least_memory(np.repeat(np.arange(len(mask)), np.where(mask, times, 0)), len(mask))


def _has_text(values: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    """Whether there is a caption; a list has one when its first text is not empty or another one is not."""
    kind = values.type
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.array([False] * len(values))])
    if is_text(kind):
        return pc.greater(pc.utf8_length(pc.fill_null(values, "")), 0)
    if holds_texts(kind):
        return pa.chunked_array([[any(texts or []) for texts in values.to_pylist()]], type=pa.bool_())
    raise ConfigError(
        f"data.captions: the column {column} holds {kind}.",
        "Captions are texts, or lists of texts.",
        "Name another column.",
    )


def _require_columns(dataset: Dataset, source: DataSource) -> None:
    if not any(dataset.manifest.shard_samples):
        return
    if source.captions == ["caption"] and not dataset.find_columns(["caption"]):
        raise InputError(
            f"{dataset.storage.url} was built without captions.",
            "Training and evaluation need pairs of picture and caption.",
            "Build it again with build.caption_col.",
        )
    _require_names(dataset, [*source.where, *source.captions])


def _require_names(dataset: Dataset, names: list[str]) -> None:
    """Raises ConfigError for a column that no shard has."""
    found = dataset.find_columns(names)
    for name in names:
        if name not in found:
            raise ConfigError(
                f"{dataset.storage.url} has no column {name!r}.",
                f"Its columns are {', '.join(dataset.column_names(0))}.",
                "Name one of them.",
            )
