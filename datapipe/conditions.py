"""Conditions on a column: a value that it must have, or a range."""

import pyarrow as pa
import pyarrow.compute as pc

from datapipe.curate_config import Range
from infra.errors import ConfigError


def fulfils(values: pa.ChunkedArray, wanted: Range | str | int | bool, column: str) -> pa.ChunkedArray:
    """Whether each value is the wanted one, or a number within the range; null where there is none.

    Limits are rounded as the column's numbers are. Raises ConfigError for a value that the column cannot have.
    """
    try:
        if not isinstance(wanted, Range):
            return pc.equal(values, pa.scalar(wanted).cast(values.type))
        numbers = values if pa.types.is_floating(values.type) else values.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        shown = wanted.model_dump(exclude_none=True) if isinstance(wanted, Range) else wanted
        raise ConfigError(
            f"curate.where.{column}: got {shown!r}.",
            f"The column holds {values.type}.",
            "Write a value of that type; min and max are for numbers.",
        ) from error
    is_in = pc.is_finite(numbers)
    if wanted.min is not None:
        is_in = pc.and_(is_in, pc.greater_equal(numbers, _limit(wanted.min, numbers.type)))
    if wanted.max is not None:
        is_in = pc.and_(is_in, pc.less_equal(numbers, _limit(wanted.max, numbers.type)))
    return is_in


def condition_name(column: str, wanted: Range | str | int | bool) -> str:
    """The condition in words: `0.28 ≤ clip_score`."""
    if not isinstance(wanted, Range):
        return f"{column} = {wanted}"
    low = f"{wanted.min:g} ≤ " if wanted.min is not None else ""
    high = f" ≤ {wanted.max:g}" if wanted.max is not None else ""
    return f"{low}{column}{high}"


def _limit(value: float, kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(value, pa.float64()).cast(kind, safe=False)
