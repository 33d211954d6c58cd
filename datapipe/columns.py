"""What the columns of shards' tables hold: which rows are samples, which types are texts."""

import pyarrow as pa
import pyarrow.compute as pc

from datapipe.status import SampleStatus


def is_good(rows: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
    """Whether each row of a shard's table became a sample."""
    return pc.equal(rows["status"], SampleStatus.SUCCESS.value)


def is_text(kind: pa.DataType) -> bool:
    """Whether the values are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def holds_texts(kind: pa.DataType) -> bool:
    """Whether the values can be captions: texts, lists of texts, or nothing at all."""
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    return is_text(inner) or bool(pa.types.is_null(inner))
