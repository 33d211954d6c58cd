"""A view has the rows that fulfil the conditions, are no duplicates and are among the best; told step by step."""

import io
import re
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_datasets import make_dataset, write_annotation

from datapipe.annotation import annotation_file, annotation_folder, is_annotated
from datapipe.comparable import as_ranks
from datapipe.curate import check_curation, curate, used_columns
from datapipe.curate_config import CurateConfig
from datapipe.dataset import Dataset
from datapipe.verify import verify
from datapipe.view_file import count_rows, read_curation
from infra.errors import ConfigError, CorruptData, OutputError
from infra.progress import Progress

ROWS, SHARDS = 20, 2  # of each shard rows 9 and 19 failed
GOOD = [(shard, row) for shard in range(SHARDS) for row in range(ROWS) if row % 10 != 9]

View = list[tuple[int, int]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(make_dataset(tmp_path_factory.mktemp("curate") / "shapes", shards=SHARDS, rows=ROWS))


def put(dataset: Dataset, name: str, values: dict[tuple[int, int], Any], kind: pa.DataType) -> None:
    """An annotation with these values by shard and row."""
    by_shard = [[values.get((shard, row)) for row in range(ROWS)] for shard in range(SHARDS)]
    write_annotation(dataset, name, by_shard, kind)


def view_of(dataset: Dataset, **settings: Any) -> tuple[View, list[int]]:
    """The rows of the view, and how many each step left."""
    config = CurateConfig(data=dataset.storage.url, view="some", **settings)
    with Progress(StringIO()) as progress:
        curation = curate(config, progress)
    assert read_curation(dataset.storage, "some") == curation
    table = pq.read_table(io.BytesIO(dataset.storage.read_bytes("views/some.parquet")))
    rows = list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert len(rows) == curation.samples
    return rows, [step.left for step in curation.steps]


def test_without_conditions_all_samples_are_in_it(dataset: Dataset):
    assert view_of(dataset) == (GOOD, [])


def test_conditions_on_own_columns_and_annotations_are_all_fulfilled(dataset: Dataset):
    put(dataset, "score", {place: place[1] / 10 for place in GOOD if place != (0, 4)}, pa.float32())
    reds = [(shard, row) for shard, row in GOOD if (shard * ROWS + row) % 4 == 0]
    rows, left = view_of(dataset, where={"color": "red", "score": {"min": 0.4, "max": 1.2}, "width": 64})
    assert rows == [(shard, row) for shard, row in reds if 4 <= row <= 12 and (shard, row) != (0, 4)]
    assert left == [len(reds), len(rows), len(rows)]


def test_of_alike_rows_the_first_stays_or_the_preferred_one(dataset: Dataset):
    put(dataset, "phash", {place: 7 if place[1] < 3 else 1 << place[1] for place in GOOD[1:]}, pa.uint64())
    put(dataset, "score", {place: float(place[0] * 100 + place[1]) for place in GOOD}, pa.float64())
    # The first one has no hash: there is nothing that it is alike in.
    first = [(0, 0), (0, 1), *((0, row) for row in range(3, ROWS) if row % 10 != 9)]
    assert view_of(dataset, deduplicate={})[0] == first
    best = [(0, 0), (1, 2), *((1, row) for row in range(3, ROWS) if row % 10 != 9)]
    assert view_of(dataset, deduplicate={"prefer": "score"})[0] == best


def test_hashes_within_some_bits_are_alike(dataset: Dataset):
    put(dataset, "phash", {(0, 0): 0b1111, (0, 1): 0b0111, (0, 2): 0b0001, (1, 0): 1 << 40}, pa.uint64())
    without = [place for place in GOOD if place not in [(0, 0), (0, 1), (0, 2), (1, 0)]]

    def hashed(distance: int) -> View:
        return [place for place in view_of(dataset, deduplicate={"max_distance": distance})[0] if place not in without]

    assert hashed(0) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert hashed(1) == [(0, 0), (0, 2), (1, 0)]
    assert hashed(3) == [(0, 0), (1, 0)]
    assert hashed(5) == [(0, 0)]


def test_rows_with_the_same_text_are_alike(dataset: Dataset):
    rows, left = view_of(dataset, deduplicate={"column": "caption"})
    assert len(rows) == 16 == left[0]  # four colours of four shapes


@given(share=st.floats(0.01, 1), scores=st.lists(st.integers(0, 5), min_size=len(GOOD), max_size=len(GOOD)))
def test_the_best_share_is_kept_and_of_equals_the_first(dataset: Dataset, share: float, scores: list[int]):
    put(dataset, "score", dict(zip(GOOD, scores, strict=True)), pa.int64())
    rows, _ = view_of(dataset, top={"column": "score", "share": share})
    ranked = sorted(range(len(GOOD)), key=lambda place: -scores[place])
    wanted = -int(-share * len(GOOD) // 1)
    assert rows == sorted(GOOD[place] for place in ranked[:wanted])


def test_the_share_is_of_what_is_left_and_rows_without_a_value_are_out(dataset: Dataset):
    put(dataset, "score", {(0, row): float("nan") if row == 0 else float(row) for row in range(9)}, pa.float64())
    rows, left = view_of(dataset, where={"color": "red"}, top={"column": "score", "share": 0.5})
    assert rows == [(0, 8)] and left[1] == 1  # of rows 0, 4 and 8 of shard 0 one has no number


def test_the_same_settings_give_the_same_bytes(dataset: Dataset):
    view_of(dataset, deduplicate={"column": "caption"})
    once = dataset.storage.read_bytes("views/some.parquet")
    view_of(dataset, deduplicate={"column": "caption"})
    assert dataset.storage.read_bytes("views/some.parquet") == once


def test_an_annotation_of_other_shards_is_not_used(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "one", shards=SHARDS, rows=ROWS))
    other = Dataset.open(make_dataset(tmp_path / "two", shards=SHARDS, rows=ROWS, broken=frozenset({3})))
    put(dataset, "score", dict.fromkeys(GOOD, 1.0), pa.float64())
    for entry in dataset.storage.list_files("columns", recursive=True):
        other.storage.write_bytes(entry.path, dataset.storage.read_bytes(entry.path))
    with pytest.raises(CorruptData, match="for shard 0 are not of the shard that is there"):
        view_of(other, where={"score": {"min": 0}})
    assert "columns/score/00000.parquet has values of another shard than is there" in map(
        str, verify(other.storage.url).problems
    )
    other.storage.write_bytes("columns/score/annotation.json", b"{")
    with pytest.raises(ConfigError, match="no annotation 'score'"):
        view_of(other, where={"score": {"min": 0}})


def add_columns(dataset: Dataset, shard: int, columns: dict[str, pa.Array]) -> None:
    """Writes the shard's table anew with more columns; its marker does not vouch for it any more."""
    table = dataset.read_rows(shard)
    for name, values in columns.items():
        table = table.append_column(name, values)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    dataset.storage.write_bytes(f"{shard:05d}.parquet", sink.getvalue())


def test_columns_of_every_kind_are_compared(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    numbers = pa.array([(1 << 60) + row for row in range(ROWS)], pa.int64())
    add_columns(
        dataset,
        0,
        {
            "row": numbers,
            "split": pa.array(["train", "test"] * (ROWS // 2)),
            "tags": pa.array([["a"], ["a", "b"]] * (ROWS // 2)),
            "price": pa.array([row / 4 for row in range(ROWS)]),
            "extra": pa.array([1] * ROWS),
        },
    )
    add_columns(dataset, 1, {"row": numbers, "split": pa.nulls(ROWS), "tags": pa.nulls(ROWS), "price": pa.nulls(ROWS)})
    even = [(0, row) for row in range(0, ROWS, 2)]
    assert view_of(dataset, where={"split": "train"})[0] == even
    assert view_of(dataset, where={"row": {"min": 0}})[0] == GOOD
    assert view_of(dataset, where={"row": (1 << 60) + 3})[0] == [(0, 3), (1, 3)]
    assert view_of(dataset, where={"price": 0.25})[0] == [(0, 1)]
    assert view_of(dataset, where={"extra": 1})[0] == [place for place in GOOD if place[0] == 0]
    assert view_of(dataset, deduplicate={"column": "tags"})[0] == [(0, 0), (0, 1), *(p for p in GOOD if p[0] == 1)]
    assert view_of(dataset, deduplicate={"column": "split", "prefer": "row"})[0][:2] == [(0, 17), (0, 18)]
    assert view_of(dataset, top={"column": "row", "share": 1.0})[0] == GOOD


def caption_of(place: tuple[int, int]) -> int:
    """Sixteen captions come in turn."""
    return (place[0] * ROWS + place[1]) % 16


def test_numbers_of_every_kind_fulfil_conditions(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=1, rows=ROWS))
    good = [place for place in GOOD if place[0] == 0]
    numbers = pa.array(range(ROWS), pa.int64())
    columns = {
        "price": pa.array(map(Decimal, range(ROWS)), pa.decimal128(10, 2)),
        "id": pa.array([(1 << 63) + row for row in range(ROWS)], pa.uint64()),
        "coded": numbers.dictionary_encode(),
        "half": pa.array(np.arange(ROWS, dtype=np.float16) / np.float16(10)),
    }
    add_columns(dataset, 0, columns)
    assert view_of(dataset, where={"price": 5})[0] == [(0, 5)]
    assert view_of(dataset, where={"price": {"min": 17}})[0] == good[-2:]
    assert view_of(dataset, where={"id": (1 << 63) + 3})[0] == [(0, 3)]
    assert view_of(dataset, where={"coded": 3})[0] == [(0, 3)]
    assert view_of(dataset, where={"coded": {"max": 1}})[0] == good[:2]
    assert view_of(dataset, where={"half": 0.3})[0] == [(0, 3)]
    assert view_of(dataset, where={"half": {"min": 0.1, "max": 0.3}})[0] == good[1:4]
    for column, wrong in (("price", 0.001), ("price", "cheap"), ("id", -1), ("coded", "one")):
        with pytest.raises(ConfigError, match=f"curate.where.{column}: got {wrong!r}"):
            view_of(dataset, where={column: wrong})


LARGE = 1 << 53  # from here on floating point leaves whole numbers out


@pytest.mark.parametrize("kind", [pa.float64(), pa.uint64(), pa.decimal128(20), pa.dictionary(pa.int32(), pa.int64())])
def test_numbers_are_ordered_whatever_type_each_shard_has(tmp_path: Path, kind: pa.DataType):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    add_columns(dataset, 0, {"n": pa.array([LARGE + 1 + row for row in range(ROWS)], pa.int64())})
    other = [LARGE + 2 * row for row in range(ROWS)]
    plain = pa.array(map(Decimal, other), kind) if pa.types.is_decimal(kind) else pa.array(other)
    add_columns(
        dataset, 1, {"n": plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind, safe=False)}
    )
    values = {place: LARGE + (1 + place[1] if place[0] == 0 else 2 * place[1]) for place in GOOD}
    for count in (1, 12, 25):
        ranked = sorted(GOOD, key=lambda place: -values[place])[:count]
        assert view_of(dataset, top={"column": "n", "share": count / len(GOOD)})[0] == sorted(ranked)
    last = {caption_of(place): place for place in sorted(GOOD, key=lambda place: (values[place], [-x for x in place]))}
    assert view_of(dataset, deduplicate={"column": "caption", "prefer": "n"})[0] == sorted(last.values())


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.float64(), pa.float16(), pa.decimal128(9, 2)])
def test_equal_numbers_are_alike_whatever_type_each_shard_has(tmp_path: Path, kind: pa.DataType):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    add_columns(dataset, 0, {"n": pa.array(range(ROWS), pa.uint64())})
    of_kind = Decimal if pa.types.is_decimal(kind) else np.float16 if pa.types.is_float16(kind) else int
    add_columns(dataset, 1, {"n": pa.array(map(of_kind, [-1, *range(1, ROWS)]), kind)})
    assert view_of(dataset, deduplicate={"column": "n"})[0] == [*(place for place in GOOD if place[0] == 0), (1, 0)]


def test_rows_without_a_number_are_like_none(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=1, rows=ROWS))
    add_columns(dataset, 0, {"n": pa.array([1.0] * 3 + [float("nan")] * (ROWS - 3))})
    assert view_of(dataset, deduplicate={"column": "n"})[0] == [
        (0, 0),
        *((0, row) for row in range(3, ROWS) if row % 10 != 9),
    ]


def test_a_shard_where_a_column_has_no_numbers_is_named(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    add_columns(dataset, 0, {"n": pa.array(range(ROWS), pa.uint64())})
    add_columns(dataset, 1, {"n": pa.array(["one"] * ROWS)})
    for settings in ({"top": {"column": "n", "share": 0.5}}, {"deduplicate": {"column": "url", "prefer": "n"}}):
        with pytest.raises(ConfigError, match="The column holds string in shard 1; rows are ordered by numbers"):
            view_of(dataset, **settings)
    with pytest.raises(ConfigError, match="got 2 for the column n, of string"):
        view_of(dataset, deduplicate={"column": "n", "max_distance": 2})


@given(
    st.lists(st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, (1 << 64) - 1)), min_size=1, max_size=9)
)
def test_ranks_are_ordered_as_the_numbers_are(numbers: list[int]):
    pairs = []
    for number in numbers:
        high, low = as_ranks(pa.chunked_array([pa.array([number], pa.int64() if number < 1 << 63 else pa.uint64())]))
        pairs.append((high[0], low[0]))
    assert sorted(range(len(numbers)), key=numbers.__getitem__) == sorted(range(len(numbers)), key=pairs.__getitem__)


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_a_column_may_be_in_the_later_shards_only(tmp_path: Path, output_format: str):
    place = make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS, output_format=output_format)
    table = tmp_path / "shapes" / "00001.parquet"
    pq.write_table(pq.read_table(table).append_column("extra", pa.array(range(ROWS))), table)
    dataset = Dataset.open(place)
    assert view_of(dataset, where={"extra": {"max": 2}})[0] == [(1, 0), (1, 1), (1, 2)]
    assert view_of(dataset, top={"column": "extra", "share": 0.5})[0][0] == (1, 9 + 1)
    assert view_of(dataset, deduplicate={"column": "extra"})[0] == GOOD


def test_what_has_no_order_is_refused_before_rows_are_read(dataset: Dataset):
    for settings in (
        {"top": {"column": "caption", "share": 0.5}},
        {"deduplicate": {"column": "url", "prefer": "caption"}},
        {"deduplicate": {"column": "caption", "max_distance": 1}},
    ):
        with pytest.raises(ConfigError, match="string"):
            check_curation(CurateConfig(data=dataset.storage.url, view="some", **settings))


def test_a_dataset_that_cannot_be_written_is_told_before_rows_are_read(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    (tmp_path / "shapes" / "views").write_text("in the way")
    config = CurateConfig(data=dataset.storage.url, view="some")
    with pytest.raises(OutputError, match="cannot be written"):
        check_curation(config)
    shown = StringIO()
    with pytest.raises(OutputError, match="cannot be written"), Progress(shown) as progress:
        curate(config, progress)
    assert "curate" not in shown.getvalue()


def test_a_damaged_shard_is_named(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    dataset.storage.delete("00001.parquet")
    with pytest.raises(CorruptData, match=r"00001\.parquet cannot be read"):
        view_of(dataset)


def test_a_view_with_a_broken_footer_is_none(dataset: Dataset):
    dataset.storage.write_bytes("views/broken.parquet", b"PAR1" + b"\xff" * 40 + b"\x20\0\0\0PAR1")
    assert read_curation(dataset.storage, "broken") is None and count_rows(dataset.storage, "broken") is None


def test_an_annotation_whose_folder_was_renamed_is_damaged(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    put(dataset, "a", dict.fromkeys(GOOD, 1.0), pa.float64())
    assert is_annotated(dataset.storage, "a", {})
    (tmp_path / "shapes" / "columns" / "a").rename(tmp_path / "shapes" / "columns" / "b")
    with pytest.raises(CorruptData, match=r"not as annotation\.json vouches for"):
        view_of(dataset, where={"b": 1.0})
    assert not is_annotated(dataset.storage, "b", {})


def test_an_annotation_of_another_format_is_none(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    put(dataset, "a", dict.fromkeys(GOOD, 1.0), pa.float64())
    marker = tmp_path / "shapes" / "columns" / "a" / "annotation.json"
    marker.write_text(marker.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ConfigError, match="no annotation 'a'"):
        view_of(dataset, where={"a": 1.0})


def test_a_dataset_without_rows_has_no_view(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=0, rows=[]))
    with pytest.raises(ConfigError, match="none is left"):
        view_of(dataset)


@pytest.mark.parametrize("share", [0.07, 0.14, 0.55])
def test_a_share_is_meant_as_it_is_written(tmp_path: Path, share: float):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=1, rows=112))
    assert dataset.manifest.samples == 101
    rows, _ = view_of(dataset, top={"column": "width", "share": share})
    assert len(rows) == {0.07: 8, 0.14: 15, 0.55: 56}[share]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"where": {"beauty": {"min": 1}}}, "no column and no annotation 'beauty'"),
        ({"where": {"caption": {"min": 1}}}, r"curate\.where\.caption: got \{'min': 1.0\}"),
        ({"where": {"width": "wide"}}, r"curate\.where\.width: got 'wide'"),
        ({"where": {"width": 65}}, r"none is left \(width = 65: 0\)"),
        ({"where": {"width": 1 << 65}}, r"curate\.where\.width: got 36893488147419103232"),
        ({"top": {"column": "caption", "share": 0.5}}, r"curate\.top\.column: got caption"),
        ({"deduplicate": {"column": "caption", "max_distance": 1}}, "Bits are counted between perceptual hashes"),
        ({"deduplicate": {"column": "url", "prefer": "caption"}}, r"curate\.deduplicate\.prefer: got caption"),
    ],
)
def test_what_cannot_be_is_told(dataset: Dataset, settings: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as told:
        view_of(dataset, **settings)
    assert re.search(words, str(told.value))


def test_a_damaged_annotation_is_not_used(dataset: Dataset):
    put(dataset, "score", dict.fromkeys(GOOD, 1.0), pa.float64())
    annotation_folder(dataset.storage, "score").write_bytes(annotation_file(1), b"something else")
    with pytest.raises(CorruptData, match="Remove that file"):
        view_of(dataset, where={"score": {"min": 0}})


@pytest.mark.parametrize("wrong", [{}, {"min": 3, "max": 2}, {"min": float("nan")}])
def test_a_range_has_an_end_and_the_smaller_first(wrong: dict[str, float]):
    with pytest.raises(ValidationError):
        CurateConfig(data="d", view="v", where={"width": wrong})


def test_a_view_stays_in_its_folder(tmp_path: Path):
    with pytest.raises(ValidationError):
        CurateConfig(data=str(tmp_path), view="../other")


def test_used_columns_are_named_once():
    config = CurateConfig(
        data="d",
        view="v",
        where={"score": {"min": 1}},
        deduplicate={"prefer": "score"},
        top={"column": "score", "share": 0.5},
    )
    assert used_columns(config) == ["score", "phash"]


def test_a_list_with_a_column_phash_does_not_stand_in_the_way_of_ours(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS))
    for shard in range(SHARDS):
        table = dataset.read_rows(shard)
        names = ["phash" if name == "color" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), tmp_path / "shapes" / f"{shard:05d}.parquet")
    assert view_of(dataset, deduplicate={})[1] == [4]  # the list's own: four colours
    with pytest.raises(ConfigError, match="of string") as caught:
        view_of(dataset, deduplicate={"max_distance": 2})
    assert "annotate.phash=true" in caught.value.fix
    put(dataset, "phash", {place: 1 << place[1] for place in GOOD}, pa.uint64())
    assert view_of(dataset, deduplicate={"max_distance": 1})[1] == [18]
