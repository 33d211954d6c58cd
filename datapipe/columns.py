"""What the columns of shards' tables hold: which rows are samples, which types are texts."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datapipe.status import SampleStatus


def is_good(rows: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
    """Whether each row of a shard's table became a sample."""
    return pc.equal(rows["status"], SampleStatus.SUCCESS.value)


def is_text(kind: pa.DataType) -> bool:
    """Whether the values are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def has_text_everywhere(metadata: pq.FileMetaData, column: str) -> bool:
    """Whether the statistics of a Parquet file say that no value of a column of texts is null or empty.

    The empty text is the smallest one. Source: Apache Parquet, parquet.thrift, Statistics and ColumnOrder.
    """
    names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    if column not in names or metadata.schema.column(names.index(column)).logical_type.type != "STRING":
        return False
    groups = (metadata.row_group(group).column(names.index(column)) for group in range(metadata.num_row_groups))
    return all(_is_filled(group.statistics) for group in groups)


def _is_filled(statistics: pq.Statistics | None) -> bool:
    if statistics is None or not (statistics.has_min_max and statistics.has_null_count):
        return False
    return statistics.null_count == 0 and len(statistics.min) > 0


def holds_texts(kind: pa.DataType) -> bool:
    """Whether the values can be captions: texts, lists of texts, or nothing at all."""
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    return is_text(inner) or bool(pa.types.is_null(inner))
