"""Says what columns of several types become when they are joined, and whether all values stay what they are."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

Extremes = tuple[int, int]
"""The least and the greatest value of a column of whole numbers, or of points in time as counts of its unit."""

EXACT_BITS = {16: 11, 32: 24, 64: 53}  # of whole numbers, by the bits of a float; Source: IEEE 754-2019, table 3.5
EXACT_DIGITS = {16: 3, 32: 6, 64: 15}  # of decimals, which are the same when they are read back
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def common_type(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    """What columns of these types become when they are joined; None when they cannot be."""
    # Tables of one row: `unify_schemas` allows more than can be cast.
    tables = [pa.table({"": pa.nulls(1, kind)}) for kind in dict.fromkeys(kinds)]
    try:
        return pa.concat_tables(tables, promote_options="permissive").schema.field(0).type
    except pa.ArrowException:
        return None


def is_exact(kind: pa.DataType, wanted: pa.DataType, extremes: Extremes | None = None) -> bool:
    """Whether all values of the type stay what they are in the type that it is promoted to.

    extremes: of the values that there are; without, the type may have any that it can.
    """
    if kind.equals(wanted) or pa.types.is_null(kind):
        return True
    if pa.types.is_nested(kind):
        return all(is_exact(*pair) for pair in _inner(kind, wanted))
    if pa.types.is_decimal(kind) and pa.types.is_floating(wanted):
        return bool(kind.precision <= EXACT_DIGITS[wanted.bit_width])
    if not is_counted(kind):
        return True
    least, greatest = extremes or _whole_numbers(kind)
    lowest, highest = _whole_numbers(wanted)
    factor = 1 if pa.types.is_integer(kind) else TICKS[wanted.unit] // TICKS[kind.unit]
    return lowest <= least * factor and greatest * factor <= highest


def is_counted(kind: pa.DataType) -> bool:
    """Whether a column of the type has extremes."""
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind))


def extremes_in(metadata: pq.FileMetaData, columns: pa.Schema) -> dict[str, Extremes]:
    """Those of a Parquet file's columns of 64 bits, where its statistics tell."""
    paths = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    found = {}
    for field in columns:
        if is_counted(field.type) and field.type.bit_width == 64 and paths.count(field.name) == 1:
            extremes = _extremes_at(metadata, paths.index(field.name), field.type)
            if extremes is not None:
                found[field.name] = extremes
    return found


def _extremes_at(metadata: pq.FileMetaData, place: int, kind: pa.DataType) -> Extremes | None:
    values = [0] if metadata.num_row_groups == 0 else list[int]()
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(place)
        statistics = column.statistics
        if statistics is None or column.physical_type != "INT64":
            return None
        if statistics.has_min_max:
            values += (statistics.min_raw, statistics.max_raw)
        elif not statistics.has_null_count or statistics.null_count < column.num_values:
            return None
    if pa.types.is_unsigned_integer(kind):
        values = [value % 2**64 for value in values]  # Parquet has their bits as those of signed ones
    return (min(values), max(values)) if values else (0, 0)


def _inner(kind: pa.DataType, wanted: pa.DataType) -> Iterator[tuple[pa.DataType, pa.DataType]]:
    """The types of what the values hold, each with what it becomes."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from ((field.type, wanted.field(place).type) for place in wanted.get_all_field_indices(field.name))
    elif pa.types.is_map(kind):
        yield from ((kind.key_type, wanted.key_type), (kind.item_type, wanted.item_type))
    else:
        yield kind.value_type, wanted.value_type


def _whole_numbers(kind: pa.DataType) -> Extremes:
    """From where to where the type has every whole number."""
    if pa.types.is_floating(kind):
        return -(2 ** EXACT_BITS[kind.bit_width]), 2 ** EXACT_BITS[kind.bit_width]
    if pa.types.is_decimal(kind):
        greatest = 10 ** (kind.precision - kind.scale) - 1
        return -greatest, greatest
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1
