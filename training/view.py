"""Reads a view: which rows of a dataset are meant, and how often each."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.dataset import Dataset
from datapipe.view_file import view_path
from infra.errors import InputError

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """Rows of a dataset, sorted by shard, each so many times."""

    shards: Integers
    rows: Integers
    weights: Integers

    def times(self, shard: int, rows: int) -> Integers:
        """How often each input row of a shard comes, (rows,)."""
        first, after = np.searchsorted(self.shards, [shard, shard + 1])
        times = np.zeros(rows, dtype=np.int64)
        np.add.at(times, self.rows[first:after], self.weights[first:after])
        return times


def read_view(dataset: Dataset, name: str) -> View:
    """The view `views/NAME.parquet`: columns shard and row (of the input), and maybe weight, a whole number.

    Raises InputError when there is none, or when it is no view.
    """
    path = view_path(name)
    try:
        with dataset.storage.open_input(path) as stream:
            table = pq.ParquetFile(stream).read()
        shards, rows = _whole(table, "shard"), _whole(table, "row")
        weights = _whole(table, "weight") if "weight" in table.column_names else np.ones(len(rows), np.int64)
    except FileNotFoundError as error:
        raise _bad(dataset, path, "it is not there") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _bad(dataset, path, str(error)) from error
    _require_rows(dataset, path, shards, rows)
    order = np.argsort(shards, kind="stable")
    return View(shards[order], rows[order], weights[order])


def _require_rows(dataset: Dataset, path: str, shards: Integers, rows: Integers) -> None:
    counts = np.asarray([*dataset.manifest.shard_rows, 0], dtype=np.int64)
    outside = np.flatnonzero(rows >= counts[np.minimum(shards, len(counts) - 1)])
    if len(outside):
        shard, row = int(shards[outside[0]]), int(rows[outside[0]])
        raise _bad(dataset, path, f"it has shard {shard}, row {row}, which the dataset has not")


def _whole(table: pa.Table, column: str) -> Integers:
    """The column as whole numbers, none of them negative."""
    try:
        values = table[column].cast(pa.int64()).to_numpy()  # refuses to cut what is behind a point
    except pa.ArrowException as error:
        raise ValueError(f"the column {column} holds other things than whole numbers ({error})") from error
    if table[column].null_count or (len(values) and values.min() < 0):
        raise ValueError(f"the column {column} has missing or negative numbers")
    return np.asarray(values, dtype=np.int64)


def _bad(dataset: Dataset, path: str, problem: str) -> InputError:
    return InputError(
        f"{dataset.storage.url}/{path} is no view: {problem}.",
        "A view is a Parquet file with the whole-numbered columns shard and row, and maybe weight (how often).",
        "Name another view, or write that file.",
    )
