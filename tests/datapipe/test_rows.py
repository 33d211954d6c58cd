"""A shard's rows are those of the list, of one type a column, and hold no more memory than they need."""

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datapipe.config import BuildConfig
from datapipe.input_files import find_input_files
from datapipe.plan import InputFile, Piece, plan_shards
from datapipe.rows import read_rows
from datapipe.urls import check_input, open_url_list
from infra.errors import ConfigError


def config(tmp_path: Path, **values: object) -> BuildConfig:
    return BuildConfig.model_validate({"input": str(tmp_path), "output": str(tmp_path / "out"), **values})


def all_rows(settings: BuildConfig) -> list[pa.Table]:
    """The rows of each shard of the list, as a build goes about it."""
    check_input(settings)
    plans = plan_shards(opened(settings), settings.number_sample_per_shard)
    return [read_rows(plan.pieces, settings) for plan in plans]


def opened(settings: BuildConfig) -> list[InputFile]:
    return open_url_list(settings, find_input_files(settings.input))


def write_list(place: Path, **columns: object) -> None:
    """A file of three rows."""
    pq.write_table(pa.table({"url": ["u", "v", "w"], "caption": ["a", "b", "c"], **columns}), place)


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


TEXTS = pa.array(["1", "2", None])
NUMBERS = pa.array([1, None, 3])
KINDS = {
    "null": pa.nulls(3),
    "bool": pa.array([True, False, None]),
    "large int": pa.array([2**60 + 1, -(2**60), None]),
    "uint8": NUMBERS.cast(pa.uint8()),
    "half": NUMBERS.cast(pa.float64()).cast(pa.float16()),
    "float": NUMBERS.cast(pa.float32()),
    "double": NUMBERS.cast(pa.float64()),
    "decimal": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
    "string": TEXTS,
    "large string": TEXTS.cast(pa.large_string()),
    "dictionary": TEXTS.dictionary_encode(),
    "binary": TEXTS.cast(pa.binary()),
    "date": NUMBERS.cast(pa.int32()).cast(pa.date32()),
    "milliseconds": NUMBERS.cast(pa.timestamp("ms")),
    "microseconds": NUMBERS.cast(pa.timestamp("us")),
    "with zone": NUMBERS.cast(pa.timestamp("us", "UTC")),
    "duration": NUMBERS.cast(pa.duration("s")),
    "ints": pa.array([[1], None, [2, 3]]),
    "texts": pa.array([["a"], None, []]),
    "struct": pa.array([{"a": 1}, None, {"a": 2}]),
    "other struct": pa.array([{"b": "x"}, None, {"b": "y"}]),
}


@pytest.mark.parametrize("first", KINDS)
def test_files_whose_types_cannot_meet_are_refused_and_all_others_read(tmp_path: Path, first: str):
    for second in KINDS:
        write_list(tmp_path / "a.parquet", x=KINDS[first])
        write_list(tmp_path / "b.parquet", x=KINDS[second])
        settings = config(tmp_path, number_sample_per_shard=2)
        try:
            shards = all_rows(settings)
        except ConfigError as error:
            assert first != second and "null" not in (first, second)
            assert all(part in error.found for part in ("'x'", "a.parquet", "b.parquet"))
            left_out = config(tmp_path, number_sample_per_shard=2, save_additional_columns=[])
            assert sum(rows.num_rows for rows in all_rows(left_out)) == 6
        else:
            valid = [value for rows in shards for value in rows["x"].is_valid().to_pylist()]
            assert valid == KINDS[first].is_valid().to_pylist() + KINDS[second].is_valid().to_pylist()


@pytest.mark.parametrize(
    ("first", "second"),
    [("large int", "string"), ("bool", "uint8"), ("milliseconds", "with zone"), ("dictionary", "double")],
)
def test_the_refusal_says_what_is_where_and_how_to_leave_it_out(tmp_path: Path, first: str, second: str):
    write_list(tmp_path / "a.parquet", x=KINDS[first], y=NUMBERS)
    write_list(tmp_path / "b.parquet", x=KINDS[second], y=NUMBERS)
    for look in (check_input, opened):
        with pytest.raises(ConfigError, match="'x'") as caught:
            look(config(tmp_path))
        assert caught.value.fix.endswith("build.save_additional_columns to [y].")
    # Files that share no shard are read as ever.
    assert [rows.num_rows for rows in all_rows(config(tmp_path, number_sample_per_shard=3))] == [3, 3]


@pytest.mark.parametrize("second", ["string", "large string", "dictionary"])
def test_a_dictionary_becomes_its_values(tmp_path: Path, second: str):
    write_list(tmp_path / "a.parquet", x=KINDS["dictionary"])
    write_list(tmp_path / "b.parquet", x=KINDS[second])
    shards = all_rows(config(tmp_path, number_sample_per_shard=2))
    assert [value for rows in shards for value in rows["x"].to_pylist()] == ["1", "2", None] * 2
    assert {rows.schema.field("x").type for rows in shards} <= {pa.string(), pa.large_string()}


def test_a_shard_of_a_large_dictionary_has_its_own_values_only(tmp_path: Path):
    texts = [f"http://a.example/{row}" for row in range(50_000)]
    domains = pa.array(texts).dictionary_encode()
    pq.write_table(pa.table({"url": texts, "caption": texts, "domain": domains}), tmp_path / "list.parquet")
    rows = read_rows([Piece(str(tmp_path / "list.parquet"), 20_000, 1000)], config(tmp_path))
    assert rows["domain"].to_pylist() == texts[20_000:21_000]
    assert rows.get_total_buffer_size() < 1.2 * rows.nbytes


LARGE, EXACT = 2**53 + 1, 2**53
YEAR_3000_US = 32_503_680_000_000_000
FRACTIONS = pa.array([0.5, None, 1.5])
NANOSECONDS = NUMBERS.cast(pa.timestamp("ns"))
LOSING = {
    "an id and fractions": (pa.array([LARGE, 5, None]), FRACTIONS),
    "an id and small fractions": (pa.array([-LARGE, 5, None]), FRACTIONS.cast(pa.float32())),
    "an unsigned id and fractions": (pa.array([2**64 - 1, 5, None], pa.uint64()), FRACTIONS),
    "an unsigned id and whole numbers": (pa.array([2**63, 5, None], pa.uint64()), NUMBERS),
    "the year 3000 and nanoseconds": (pa.array([YEAR_3000_US, 5, None], pa.timestamp("us")), NANOSECONDS),
    "long and short times": (pa.array([10**10, 5, None], pa.duration("s")), NUMBERS.cast(pa.duration("ns"))),
    "lists": (pa.array([[LARGE], [], None]), pa.array([[0.5], None, []])),
    "structs": (pa.array([{"a": 5}, None, None]), pa.array([{"a": 0.5}, None, None])),
    "lists of structs": (pa.array([[{"a": 5}], None, None]), pa.array([[{"a": 0.5}], None, None])),
    "maps": (
        pa.array([[("a", 5)], None, None], pa.map_(pa.string(), pa.int64())),
        pa.array([[("a", 0.5)], None, None], pa.map_(pa.string(), pa.float64())),
    ),
    "long decimals": (pa.array([Decimal("0.1234567890123456"), None, None]), FRACTIONS),
}


@pytest.mark.parametrize("case", LOSING)
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_types_of_which_one_would_lose_values_are_refused_before_the_build(tmp_path: Path, case: str, order: str):
    for name, column in zip(order, LOSING[case], strict=True):
        write_list(tmp_path / f"{name}.parquet", x=column, y=NUMBERS)
    for look in (check_input, opened):
        with pytest.raises(ConfigError, match=rf"'x' is .*{order[0]}\.parquet, and .*{order[1]}\.parquet") as caught:
            look(config(tmp_path))
        assert "does not have every value" in caught.value.allowed
        assert caught.value.fix.endswith("build.save_additional_columns to [y].")
    (rows,) = all_rows(config(tmp_path, save_additional_columns=["y"]))
    assert rows.num_rows == 6
    one, two = all_rows(config(tmp_path, number_sample_per_shard=3))
    assert one["x"].to_pylist() + two["x"].to_pylist() == [
        value for file in "ab" for value in LOSING[case][order.index(file)].to_pylist()
    ]


KEEPING = {
    "whole numbers and fractions": (pa.array([EXACT, -EXACT, None]), FRACTIONS, pa.float64()),
    "nothing and fractions": (pa.nulls(3, pa.int64()), FRACTIONS, pa.float64()),
    "short numbers and small fractions": (NUMBERS.cast(pa.int32()), FRACTIONS.cast(pa.float32()), pa.float64()),
    "small unsigned and whole numbers": (pa.array([2**63 - 1, 5, None], pa.uint64()), pa.array([-1, 0, 1]), pa.int64()),
    "this century": (NUMBERS.cast(pa.timestamp("us")), NANOSECONDS, pa.timestamp("ns")),
    "lists": (
        pa.array([[1], [], None], pa.list_(pa.int32())),
        pa.array([[0.5], None, []]),
        pa.list_(pa.field("element", pa.float64())),
    ),
    "short decimals": (pa.array([Decimal("0.25"), None, None]), FRACTIONS, pa.float64()),
}


@pytest.mark.parametrize("case", KEEPING)
def test_types_that_keep_each_value_go_together(tmp_path: Path, case: str):
    *columns, kind = KEEPING[case]
    for name, column in zip("ab", columns, strict=True):
        write_list(tmp_path / f"{name}.parquet", x=column)
    (rows,) = all_rows(config(tmp_path))
    assert rows["x"].type == kind
    assert rows["x"].to_pylist() == [value for column in columns for value in column.to_pylist()]


def test_whole_numbers_of_a_file_without_statistics_may_be_large(tmp_path: Path):
    table = pa.table({"url": ["u"], "caption": ["a"], "x": [1]})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    write_list(tmp_path / "b.parquet", x=FRACTIONS)
    with pytest.raises(ConfigError, match="statistics do not say how large"):
        check_input(config(tmp_path))


@pytest.mark.parametrize(("number", "is_refused"), [(LARGE, True), (EXACT, False)])
def test_whole_numbers_of_a_text_file_are_known(tmp_path: Path, number: int, is_refused: bool):
    write_lines(tmp_path / "a.jsonl", [1, number, None])
    write_list(tmp_path / "b.parquet", x=FRACTIONS)
    if not is_refused:
        (rows,) = all_rows(config(tmp_path))
        assert rows["x"].to_pylist() == [1, number, None, 0.5, None, 1.5]
        return
    for look in (check_input, opened):
        with pytest.raises(ConfigError, match=r"from 1 to 9,007,199,254,740,993"):
            look(config(tmp_path))


def test_a_text_file_without_a_value_takes_the_type_of_those_that_it_meets(tmp_path: Path):
    write_lines(tmp_path / "a.jsonl", [LARGE, 5])
    write_lines(tmp_path / "b.jsonl", [None, None])
    write_lines(tmp_path / "c.jsonl", [0.5, 1.5])
    one, two = all_rows(config(tmp_path, number_sample_per_shard=4))
    assert one["x"].to_pylist() == [LARGE, 5, None, None] and two["x"].to_pylist() == [0.5, 1.5]


def test_urls_and_captions_are_texts_whatever_each_file_has(tmp_path: Path):
    pq.write_table(pa.table({"url": ["u"], "caption": [7]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": pa.array(["v"]).dictionary_encode(), "caption": [True]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"url": ["w"], "caption": pa.nulls(1)}), tmp_path / "c.parquet")
    (rows,) = all_rows(config(tmp_path))
    assert rows.to_pydict() == {"url": ["u", "v", "w"], "caption": ["7", "true", None]}


def write_lines(place: Path, values: list[object]) -> None:
    rows = [{"url": f"{place.name}/{row}", "caption": "c", "x": value} for row, value in enumerate(values)]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("value", "kind"), [(0.5, pa.float64()), (3, pa.int64()), (True, pa.bool_()), ("s", pa.string())]
)
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_column_without_a_value_in_one_file_has_the_type_of_the_others(
    tmp_path: Path, order: str, value: object, kind: pa.DataType
):
    empty, full = order
    write_lines(tmp_path / f"{empty}.jsonl", [None] * 5)
    write_lines(tmp_path / f"{full}.jsonl", [None, value, value])
    shards = all_rows(config(tmp_path, number_sample_per_shard=2))
    assert [rows.schema.field("x").type for rows in shards] == [kind] * 4
    assert [found for rows in shards for found in rows["x"].to_pylist()].count(value) == 2


def test_a_column_without_any_value_is_of_texts(tmp_path: Path):
    write_lines(tmp_path / "a.jsonl", [None])
    write_lines(tmp_path / "b.jsonl", [None])
    (rows,) = all_rows(config(tmp_path))
    assert rows.schema.field("x").type == pa.string() and rows["x"].null_count == 2


def test_texts_and_numbers_of_two_text_files_are_refused(tmp_path: Path):
    write_lines(tmp_path / "a.jsonl", ["UNLIKELY"])
    write_lines(tmp_path / "b.jsonl", [0.5])
    with pytest.raises(ConfigError, match=r"'x' is string in .*a\.jsonl, and double in .*b\.jsonl"):
        check_input(config(tmp_path))
