"""Views choose rows and say how often each comes; a sample's captions lie in several columns or in lists."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import make_dataset

from infra.errors import ConfigError, InputError
from training.config import DataSource, SamplePart, TrainConfig
from training.data_identity import data_identity, require_same_data
from training.retrieval import sample_refs
from training.sample_reader import SampleReader
from training.samples import Samples, select_training
from training.selection import columns_of, is_held_out, select

ROWS = 20  # of each of the two shards; rows 9 and 19 failed


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(make_dataset(tmp_path / "shapes", shards=2, rows=ROWS))


def write_view(place: Path, columns: dict[str, Any], name: str = "some") -> DataSource:
    (place / "views").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), place / f"views/{name}.parquet")
    return DataSource(path=str(place), view=name)


def chosen(source: DataSource) -> list[str]:
    """Shard and row of each sample, as its key has them."""
    return [f"{int(row[0][:5])}/{int(row[0][5:])}" for _, _, row in columns_of(select(source), ["key"])]


def test_a_view_takes_its_rows_as_often_as_it_says(place: Path):
    view = {"shard": [1, 0, 0, 1], "row": [3, 12, 2, 0], "weight": [3, 0, 1, 1]}
    assert chosen(write_view(place, view)) == ["0/2", "1/0", "1/3", "1/3", "1/3"]


def test_without_weights_each_row_comes_once_and_twice_where_it_is_named_twice(place: Path):
    assert chosen(write_view(place, {"shard": [0, 0, 0], "row": [5, 1, 5]})) == ["0/1", "0/5", "0/5"]


def test_rows_that_failed_give_no_sample(place: Path):
    view = {"shard": [0, 0, 1], "row": [9, 10, 19], "weight": [5, 1, 2]}
    assert chosen(write_view(place, view)) == ["0/10"]


@pytest.mark.parametrize(("shard", "row"), [(0, ROWS), (7, 0)])
def test_a_row_that_the_dataset_has_not_is_named(place: Path, shard: int, row: int):
    with pytest.raises(InputError, match=f"shard {shard}, row {row}, which the dataset has not"):
        chosen(write_view(place, {"shard": [0, shard], "row": [1, row]}))


def test_a_condition_and_the_held_out_share_hold_inside_of_a_view(place: Path):
    source = write_view(place, {"shard": [0] * 8, "row": range(8), "weight": [2] * 8})
    assert chosen(source.model_copy(update={"where": {"color": "red"}})) == ["0/0", "0/0", "0/4", "0/4"]
    parts = [
        source.model_copy(update={"held_out": 0.4, "part": part}) for part in (SamplePart.TRAIN, SamplePart.HELD_OUT)
    ]
    train, held_out = map(chosen, parts)
    assert sorted(train + held_out) == sorted(chosen(source)) and not set(train) & set(held_out)
    assert train and held_out


def test_whole_numbers_of_any_type_will_do(place: Path):
    view = {"shard": pa.array([1.0]), "row": pa.array([2], pa.uint8()), "weight": pa.array([2], pa.int16())}
    assert chosen(write_view(place, view)) == ["1/2", "1/2"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"shard": [0]}, "row"),
        ({"row": [0]}, "shard"),
        ({"shard": [0], "row": [-1]}, "row has missing or negative"),
        ({"shard": [0], "row": [0], "weight": [-2]}, "weight has missing or negative"),
        ({"shard": [0, None], "row": [0, 1]}, "shard has missing or negative"),
        ({"shard": [0], "row": [0], "weight": [0.5]}, "weight holds other things"),
        ({"shard": [0], "row": ["first"]}, "row holds other things"),
        ({"shard": [0], "row": [[1]]}, "row holds other things"),
        ({"shard": [0], "row": pa.array([2**64 - 1], pa.uint64())}, "row holds other things"),
    ],
)
def test_a_file_that_is_no_view_is_refused_with_the_reason(place: Path, columns: dict[str, Any], words: str):
    with pytest.raises(InputError, match=rf"views/some.parquet is no view: .*{words}"):
        select(write_view(place, columns))


def test_a_view_that_is_missing_or_no_parquet_file_is_refused(place: Path):
    with pytest.raises(InputError, match=r"views/other.parquet is no view: it is not there"):
        select(DataSource(path=str(place), view="other"))
    (place / "views").mkdir()
    for content in (b"", b"nonsense", b"PAR1nonsensePAR1"):
        (place / "views/other.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"views/other.parquet is no view"):
            select(DataSource(path=str(place), view="other"))


def test_a_view_without_a_sample_is_refused(place: Path):
    with pytest.raises(ConfigError, match="has no sample"):
        select(write_view(place, {"shard": pa.array([], pa.int64()), "row": pa.array([], pa.int64())}))


def test_a_training_sees_a_views_rows_as_often_as_it_says(place: Path):
    source = write_view(place, {"shard": [0, 1, 1], "row": [4, 4, 6], "weight": [1, 3, 2]})
    samples, order = select_training(TrainConfig(data=source, steps=1))
    _, shards, indices = samples.locate(order.samples_at(np.arange(2 * order.places)))
    found = sorted(zip(shards.tolist(), indices.tolist(), strict=True))
    assert order.places == 6 and found == [(0, 4)] * 2 + [(1, 4)] * 6 + [(1, 6)] * 4


def add_columns(place: Path, columns: dict[str, pa.Array]) -> None:
    """Gives each shard's table these columns too."""
    for shard in range(2):
        path = place / f"{shard:05d}.parquet"
        table = pq.read_table(path)
        for name, values in columns.items():
            table = table.append_column(name, values)
        pq.write_table(table, path)


def lists(of: dict[int, list[str | None] | None]) -> pa.Array:
    return pa.array([of.get(row, [f"list {row}"]) for row in range(ROWS)], pa.list_(pa.string()))


def captions_of(place: Path, number: int, columns: list[str]) -> set[str]:
    """Those that chance can draw for a sample."""
    reader = SampleReader(Samples((select(DataSource(path=str(place), captions=columns)),)))
    return {reader.read(number, chance).caption for chance in np.linspace(0, 0.999, 60)}


def test_each_caption_of_lists_and_columns_is_drawn_and_empty_ones_are_not(place: Path):
    add_columns(place, {"texts": lists({0: ["one", "", None, "two"], 1: None}), "other": pa.array([""] + ["x"] * 19)})
    assert captions_of(place, 0, ["texts"]) == {"one", "two"}
    assert captions_of(place, 0, ["texts", "other", "caption"]) == {"one", "two", "a red square"}
    assert captions_of(place, 1, ["texts", "other", "caption"]) == {"x", "a green square"}


def test_captions_are_drawn_evenly_and_the_same_chance_draws_the_same(place: Path):
    add_columns(place, {"texts": lists({0: ["a", "b", "c", "d"]})})
    reader = SampleReader(Samples((select(DataSource(path=str(place), captions=["texts"])),)))
    drawn = [reader.read(0, chance).caption for chance in (0.0, 0.24, 0.26, 0.5, 0.76, 0.9999999)]
    assert drawn == ["a", "a", "b", "c", "d", "d"]


def test_a_sample_without_any_caption_is_left_out(place: Path):
    add_columns(place, {"texts": lists({0: [], 1: [None, ""], 2: None})})
    assert chosen(DataSource(path=str(place), captions=["texts"]))[:2] == ["0/3", "0/4"]
    assert chosen(DataSource(path=str(place), captions=["texts", "caption"]))[:2] == ["0/0", "0/1"]


def test_a_shard_without_any_caption_is_left_out(place: Path):
    add_columns(place, {"texts": pa.nulls(ROWS)})
    assert len(select(DataSource(path=str(place), captions=["texts", "caption"]))) == 36
    with pytest.raises(ConfigError, match="has no sample"):
        select(DataSource(path=str(place), captions=["texts"]))


def test_evaluation_takes_the_first_caption_that_is_not_empty(place: Path):
    add_columns(place, {"texts": lists({0: ["", "one", "two"], 1: []})})
    refs = sample_refs(select(DataSource(path=str(place), captions=["texts", "caption"])))
    assert [ref.caption for ref in refs[:3]] == ["one", "a green square", "list 2"]


@pytest.mark.parametrize("column", ["width", "numbers"])
def test_a_caption_column_that_holds_no_text_is_refused(place: Path, column: str):
    add_columns(place, {"numbers": pa.array([[1]] * ROWS)})
    with pytest.raises(ConfigError, match=f"captions: .*{column}.* holds"):
        select(DataSource(path=str(place), captions=[column]))


def test_a_key_is_held_out_by_its_hash_for_ever():
    """Golden: another hash would train on what earlier trainings kept for evaluation."""
    keys = [f"{number:09d}" for number in range(24)]
    assert [int(key) for key in keys if is_held_out(key, 0.25)] == [2, 9, 11, 14, 15, 21]
    for small, large in ((0.1, 0.2), (0.2, 0.7)):
        assert {k for k in keys if is_held_out(k, small)} <= {k for k in keys if is_held_out(k, large)}


def test_a_view_that_changes_under_a_training_is_found(place: Path):
    sources = [write_view(place, {"shard": [0], "row": [1]})]
    before = data_identity(sources)
    require_same_data(sources, before)
    write_view(place, {"shard": [0], "row": [2]})
    with pytest.raises(ConfigError, match="was changed while the training went on"):
        require_same_data(sources, before)
    (place / "views" / "some.parquet").unlink()
    assert data_identity(sources) is None
