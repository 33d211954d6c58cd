"""Conditions on a column: a value that it must have, or a range."""

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
        return _is_within(numbers, wanted)
    try:
        return pc.equal(values, pa.scalar(wanted).cast(values.type, safe=not pa.types.is_floating(values.type)))
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise _not_of_its_type(values, wanted, key) from error


def as_numbers(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The values, if they are numbers; all null where the type is; None for others."""
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


def _is_within(numbers: pa.ChunkedArray, wanted: Range) -> pa.ChunkedArray:
    # Whole numbers are compared as such numbers only up to 2^53, past which limits are rounded.
    kind = numbers.type if pa.types.is_floating(numbers.type) else pa.float64()
    values = numbers.cast(kind, safe=False)
    is_in = pc.is_finite(values)
    if wanted.min is not None:
        is_in = pc.and_(is_in, pc.greater_equal(values, pa.scalar(wanted.min, pa.float64()).cast(kind, safe=False)))
    if wanted.max is not None:
        is_in = pc.and_(is_in, pc.less_equal(values, pa.scalar(wanted.max, pa.float64()).cast(kind, safe=False)))
    return is_in


def _not_of_its_type(values: pa.ChunkedArray, wanted: object, key: str) -> ConfigError:
    return ConfigError(
        f"{key}: got {wanted!r}.",
        f"The column holds {values.type}.",
        "Write a value of that type; min and max are for numbers.",
    )
