"""Makes of one shard's values what rows of all shards are compared by, whatever type each shard has them in."""

import hashlib
import json
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datapipe.conditions import as_numbers, plain

KEY_BYTES = 16
WHOLE = 2.0**64


def as_ranks(values: pa.ChunkedArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int16]] | None:
    """Pairs that are ordered as the numbers are: the nearest float, and what a whole number is more than that.

    Minus infinity where there is no finite number; None for other things than numbers. Both: (rows,).
    """
    numbers = as_numbers(values)
    if numbers is None:
        return None
    if not pa.types.is_integer(numbers.type):
        found = numbers.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
        return np.where(np.isfinite(found), found, -np.inf), np.zeros(len(found), dtype=np.int16)
    whole = pc.fill_null(numbers, 0).to_numpy()
    wide = whole.astype(np.uint64 if whole.dtype == np.uint64 else np.int64)
    nearest = wide.astype(np.float64)
    is_there = pc.is_valid(numbers).to_numpy(zero_copy_only=False).astype(bool)
    return np.where(is_there, nearest, -np.inf), (wide.view(np.uint64) - _modulo(nearest)).view(np.int64).astype(
        np.int16
    )


def as_keys(values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The same for equal values, null for none: whole numbers from 0 on as they are, all else by a hash."""
    values = plain(values)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    if pa.types.is_null(values.type):
        return values
    if pa.types.is_integer(values.type) and (pc.min(values).as_py() or 0) >= 0:
        return values.cast(pa.uint64())
    return hashed(values)


def hashed(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A hash of each value, null for none. Two of a billion different ones meet with a chance of 10⁻²¹."""
    return pa.array(map(_hash_of, values), pa.binary(KEY_BYTES))


def in_one_kind(tables: Sequence[pa.Table], column: str) -> list[pa.Table]:
    """The tables with the column's keys as numbers in all of them, or as hashes where some are hashes."""
    if not any(column in table.column_names and pa.types.is_fixed_size_binary(table[column].type) for table in tables):
        return list(tables)
    return [_with_hashes(table, column) for table in tables]


def _with_hashes(table: pa.Table, column: str) -> pa.Table:
    if column not in table.column_names or not pa.types.is_uint64(table[column].type):
        return table
    return table.set_column(table.column_names.index(column), column, hashed(table[column]))


def _modulo(nearest: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Whole floats of −2^63 to 2^64, modulo 2^64."""
    negative = np.where(nearest < 0, nearest, 0).astype(np.int64).view(np.uint64)
    positive = np.where((nearest >= 0) & (nearest < WHOLE), nearest, 0).astype(np.uint64)
    return np.asarray(negative + positive, dtype=np.uint64)


def _hash_of(value: pa.Scalar) -> bytes | None:
    if not value.is_valid:
        return None
    found = value.as_py()
    if isinstance(found, float | Decimal) and found == found // 1:
        found = int(found)  # the same number may be of another type in another shard
    text = found if isinstance(found, str) else json.dumps(found, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
