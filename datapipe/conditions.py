"""Conditions on a column: a value that it must have, or a range."""

from decimal import Decimal, InvalidOperation

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datapipe.curate_config import Range, Wanted
from infra.errors import ConfigError


def fulfils(values: pa.ChunkedArray, wanted: Wanted, key: str) -> pa.ChunkedArray:
    """Whether each value is the wanted one, or a finite number within the range; null where there is none.

    A number that is wanted is rounded as the column's are. key: where the config has it, e.g. `curate.where.score`.
    Raises ConfigError for a value that the column cannot have.
    """
    if pa.types.is_null(values.type):
        return pa.chunked_array([pa.nulls(len(values), pa.bool_())])
    if isinstance(wanted, Range):
        numbers = as_numbers(values)
        if numbers is None:
            raise _not_of_its_type(values, wanted.model_dump(exclude_none=True), key)
        return _is_within(numbers, wanted, plain_kind(values.type))
    try:
        return pc.equal(plain(values), _as_kind(wanted, plain_kind(values.type)))
    except (pa.ArrowException, OverflowError, TypeError, InvalidOperation) as error:
        raise _not_of_its_type(values, wanted, key) from error


def plain_kind(kind: pa.DataType) -> pa.DataType:
    """What the values are, whether or not they are dictionary-encoded."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values as Arrow can compare them: dictionaries decoded, half precision as single."""
    decoded = values.cast(plain_kind(values.type))
    return decoded.cast(pa.float32()) if pa.types.is_float16(decoded.type) else decoded


def is_number(kind: pa.DataType) -> bool:
    """Whether `as_numbers` takes values of that type."""
    return as_numbers(pa.chunked_array([], kind)) is not None


def as_numbers(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The values, if they are numbers; all null where the type is; None for others."""
    values = plain(values)
    kind = values.type
    if pa.types.is_null(kind):
        return values.cast(pa.float64())
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False)
    return values if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None


def condition_name(column: str, wanted: Wanted) -> str:
    """The condition in words: `0.28 ≤ clip_score`."""
    if not isinstance(wanted, Range):
        return f"{column} = {wanted}"
    low = f"{wanted.min:g} ≤ " if wanted.min is not None else ""
    high = f" ≤ {wanted.max:g}" if wanted.max is not None else ""
    return f"{low}{column}{high}"


def _as_kind(wanted: str | int | float | bool, kind: pa.DataType) -> pa.Scalar:
    """The value as one of the column's: of a number in floating point the nearest; else exactly, or not at all."""
    if pa.types.is_float16(kind) and not isinstance(wanted, str):
        with np.errstate(over="ignore"):
            return pa.scalar(np.float16(wanted), pa.float16()).cast(pa.float32())
    if pa.types.is_decimal(kind):
        return pa.scalar(Decimal(str(wanted)), kind)
    if pa.types.is_integer(kind) and isinstance(wanted, int):
        return pa.scalar(int(wanted), kind)
    return pa.scalar(wanted).cast(kind, safe=not pa.types.is_floating(kind))


def _is_within(numbers: pa.ChunkedArray, wanted: Range, kind: pa.DataType) -> pa.ChunkedArray:
    # Whole numbers are compared as such numbers only up to 2^53, past which limits are rounded.
    kind = kind if pa.types.is_floating(kind) else pa.float64()
    values = numbers if pa.types.is_floating(numbers.type) else numbers.cast(kind, safe=False)
    is_in = pc.is_finite(values)
    if wanted.min is not None:
        is_in = pc.and_(is_in, pc.greater_equal(values, _as_kind(wanted.min, kind)))
    if wanted.max is not None:
        is_in = pc.and_(is_in, pc.less_equal(values, _as_kind(wanted.max, kind)))
    return is_in


def _not_of_its_type(values: pa.ChunkedArray, wanted: object, key: str) -> ConfigError:
    return ConfigError(
        f"{key}: got {wanted!r}.",
        f"The column holds {values.type}.",
        "Write a value of that type; min and max are for numbers.",
    )
