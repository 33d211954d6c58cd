"""A shard's rows are those of the list, of one type a column, and hold no more memory than they need."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig
from datapipe.plan import Piece
from datapipe.rows import read_rows


def config(tmp_path: Path, **values: object) -> BuildConfig:
    return BuildConfig.model_validate({"input": "", "output": str(tmp_path / "out"), **values})


def test_a_shard_keeps_its_own_rows_in_memory_and_not_their_row_group(tmp_path: Path):
    place, count = tmp_path / "list.parquet", 100_000
    texts = [f"http://a.example/{row}" for row in range(count)]
    pq.write_table(pa.table({"url": texts, "caption": texts, "score": range(count)}), place, row_group_size=count)
    before = pa.total_allocated_bytes()
    rows = read_rows([Piece(str(place), 55_555, 1000)], config(tmp_path))
    assert rows["score"].to_pylist() == list(range(55_555, 56_555))
    assert rows.get_total_buffer_size() < 1.2 * rows.nbytes
    assert pa.total_allocated_bytes() - before < 2 * rows.nbytes


def test_what_is_no_utf8_is_replaced_in_its_own_value_only(tmp_path: Path):
    values = [b"http://a.example/\xff\xfe.jpg", None, "größer".encode(), b"", b"\xc3"]
    texts = pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())
    lists = pa.ListArray.from_arrays(
        pa.array([0, 2, 2, 3, 4, 5]), texts, mask=pa.array([False, False, True, False, False])
    )
    columns = {"url": texts, "caption": texts, "large": texts.cast(pa.large_string()), "titles": lists}
    columns["view"] = texts.cast(pa.string_view())
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    rows = read_rows([Piece(str(tmp_path / "list.parquet"), 0, len(values))], config(tmp_path))
    wanted = ["http://a.example/\ufffd\ufffd.jpg", None, "größer", "", "\ufffd"]
    assert all(rows[name].to_pylist() == wanted for name in ("url", "caption", "large", "view"))
    assert rows["titles"].to_pylist() == [wanted[:2], [], None, [""], ["\ufffd"]]
    assert rows.schema.field("large").type == pa.large_string()
