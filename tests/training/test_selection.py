"""Which samples a config means."""

from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import make_dataset

from datapipe.dataset import Dataset
from infra.errors import ConfigError, CorruptData, InputError
from training.config import DataSource, SamplePart
from training.selection import Selection, columns_of, in_least_memory, is_held_out, select


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_dataset(tmp_path_factory.mktemp("data") / "shapes")


def keys(source: DataSource) -> list[str]:
    return [row[0] for _, _, row in columns_of(select(source), ["key"])]


def test_all_good_samples_are_taken_and_failed_rows_are_not(dataset: str):
    selection = select(DataSource(path=dataset))
    assert len(selection) == 3 * 64 - 19
    shards, indices = selection.locate(np.arange(len(selection)))
    assert [(s, i) for s, i, _ in columns_of(selection, ["key"])] == list(zip(shards, indices, strict=True))


@given(
    st.lists(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=1)))),
    st.booleans(),
)
def test_samples_lie_where_a_plain_list_of_all_has_them(shards: list[tuple[int, list[int]]], takes_all: bool):
    """Rows may come several times, as in a view."""
    chosen = [list(range(samples)) if takes_all else sorted(rows) for samples, rows in shards]
    plain = [(3 * shard, row) for shard, rows in enumerate(chosen) for row in rows]
    kept = tuple(in_least_memory(np.asarray(rows), samples) for rows, (samples, _) in zip(chosen, shards, strict=True))
    selection = Selection(cast(Dataset, None), tuple(range(0, 3 * len(shards), 3)), kept)
    numbers = np.random.default_rng(0).permutation(len(plain))
    found = selection.locate(numbers)
    assert len(selection) == len(plain) and all(each.dtype == np.int64 for each in found)
    assert list(zip(*(each.tolist() for each in found), strict=True)) == [plain[number] for number in numbers]


@pytest.mark.parametrize("samples", [1, 255, 256, 65_535, 65_536, 70_000])
def test_a_sample_takes_the_bytes_that_its_number_needs_and_a_whole_shard_none(samples: int):
    every = np.arange(samples)
    assert in_least_memory(every, samples) == range(samples)
    some = in_least_memory(every[-1:].repeat(2), samples)
    assert some.tolist() == [samples - 1] * 2
    assert some.itemsize == (1 if samples < 256 else 2 if samples < 65_536 else 4)


def test_keys_are_read_only_where_they_part_the_samples(tmp_path: Path):
    place = make_dataset(tmp_path / "shapes", shards=1, rows=10)
    file = tmp_path / "shapes" / "00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["key"]), file)
    assert len(select(DataSource(path=place))) == 9
    with pytest.raises(CorruptData, match="has no column key"):
        select(DataSource(path=place, held_out=0.3, part=SamplePart.TRAIN))


def test_a_condition_takes_the_samples_that_fulfil_it(dataset: str):
    selection = select(DataSource(path=dataset, where={"color": "red"}))
    captions = [row[0] for _, _, row in columns_of(selection, ["caption"])]
    assert captions and all(caption.startswith("a red ") for caption in captions)


def test_train_and_held_out_part_the_samples(dataset: str):
    parts = {part: keys(DataSource(path=dataset, held_out=0.3, part=part)) for part in SamplePart}
    assert set(parts[SamplePart.TRAIN]) | set(parts[SamplePart.HELD_OUT]) == set(parts[SamplePart.ALL])
    assert not set(parts[SamplePart.TRAIN]) & set(parts[SamplePart.HELD_OUT])
    assert 0.15 < len(parts[SamplePart.HELD_OUT]) / len(parts[SamplePart.ALL]) < 0.45


def test_a_key_is_held_out_for_ever():
    assert [is_held_out(f"{n:09d}", 0.2) for n in range(8)] == [is_held_out(f"{n:09d}", 0.2) for n in range(8)]
    share = sum(is_held_out(f"{n:09d}", 0.2) for n in range(20_000)) / 20_000
    assert share == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("where", "words"),
    [({"colour": "red"}, "no column 'colour'"), ({"color": "pink"}, "no sample"), ({"width": "x"}, "got 'x'")],
)
def test_a_wrong_condition_is_explained(dataset: str, where: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=words):
        select(DataSource(path=dataset, where=where))


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_a_column_may_be_in_a_part_of_the_shards_only(tmp_path: Path, output_format: str):
    place = make_dataset(tmp_path / "shapes", shards=2, rows=10, output_format=output_format)
    file = tmp_path / "shapes" / "00001.parquet"
    table = pq.read_table(file).append_column("title", [[None, *(f"title {row}" for row in range(1, 10))]])
    pq.write_table(table.append_column("split", [["train", "test"] * 5]), file)
    titled = select(DataSource(path=place, captions=["title"]))
    assert titled.shards == (1,) and list(titled.indices[0]) == [1, 2, 3, 4, 5, 6, 7, 8]
    chosen = select(DataSource(path=place, where={"split": "test"}))
    assert chosen.shards == (1,) and list(chosen.indices[0]) == [1, 3, 5, 7]
    both = select(DataSource(path=place, captions=["caption", "title"]))
    titles = [row[0] for _, _, row in columns_of(both, ["title"])]
    assert titles == [None] * 10 + [f"title {row}" for row in range(1, 9)]
    with pytest.raises(ConfigError, match="no column 'tags'"):
        select(DataSource(path=place, captions=["title", "tags"]))


def test_a_damaged_shard_is_named(tmp_path: Path):
    place = make_dataset(tmp_path / "shapes", shards=2, rows=10)
    (tmp_path / "shapes" / "00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptData, match=r"00001\.parquet cannot be read"):
        select(DataSource(path=place))


def test_a_place_without_a_dataset_is_explained(tmp_path: Path):
    with pytest.raises(InputError, match="no finished dataset"):
        select(DataSource(path=str(tmp_path)))
