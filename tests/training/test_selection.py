"""Which samples a config means."""

from pathlib import Path

import numpy as np
import pytest
from small_datasets import make_dataset

from infra.errors import ConfigError, InputError
from training.config import DataSource, SamplePart
from training.selection import columns_of, is_held_out, select


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


def test_a_place_without_a_dataset_is_explained(tmp_path: Path):
    with pytest.raises(InputError, match="no finished dataset"):
        select(DataSource(path=str(tmp_path)))
