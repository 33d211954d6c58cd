"""Zero-shot classification: what a config may ask for, and which samples count."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from small_datasets import make_dataset

from infra.errors import ConfigError
from training.config import DataSource, RetrievalConfig, ZeroShotConfig
from training.selection import Selection, select
from training.zero_shot import only_labelled, score_zero_shot


@pytest.mark.parametrize(
    ("templates", "found"),
    [(["a photo of a {c}."], r"got 'a photo of a \{c\}.'; want \{\} where"), ([], "at least 1")],
)
def test_templates_without_a_place_for_the_name_are_refused(templates: list[str], found: str):
    with pytest.raises(ValueError, match=found):
        ZeroShotConfig(label_col="color", templates=templates)


@pytest.mark.parametrize("classes", [[], {}])
def test_no_class_at_all_is_refused(classes: Any):
    with pytest.raises(ValueError, match="at least 1"):
        ZeroShotConfig(label_col="color", classes=classes)


@pytest.mark.parametrize("ks", [[], [0]])
def test_a_recall_is_at_one_or_more(ks: list[int]):
    with pytest.raises(ValueError, match=r"at least 1|greater than or equal to 1"):
        RetrievalConfig(k=ks)


class ByFirstLetter:
    """Gives every picture the features of the text "red"."""

    def encode_pictures(self, selection: Selection) -> torch.Tensor:
        return self.encode_texts(["red"] * len(selection))

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([torch.eye(26)[ord(text[0]) - ord("a")] for text in texts])


def dataset_with_kinds(folder: Path, kinds: Sequence[object]) -> Selection:
    """Samples whose column `kind` is as given."""
    place = make_dataset(folder, shards=2, rows=len(kinds) // 2)
    for shard in range(2):
        file = folder / f"{shard:05d}.parquet"
        own = kinds[shard * len(kinds) // 2 :][: len(kinds) // 2]
        pq.write_table(pq.read_table(file).append_column("kind", [own]), file)
    return select(DataSource(path=place))


@pytest.mark.parametrize("empty", [None, "", " \t"])
def test_samples_without_a_label_are_left_out_and_told(tmp_path: Path, empty: str | None):
    config = ZeroShotConfig(label_col="kind", templates=["{}"])
    selection = dataset_with_kinds(tmp_path / "shapes", ["red", empty, "blue", None, empty, "red"])
    told: list[str] = []
    labelled = only_labelled(config, selection, told.append)
    assert told == ["zero_shot leaves out 3 of 6 samples, whose kind is empty"]
    assert [chosen.tolist() for chosen in labelled.indices] == [[0, 2], [2]]
    scores = {score.name: score for score in score_zero_shot(config, labelled, ByFirstLetter())}
    assert scores["zero_shot_accuracy"].value == 2 / 3 and scores["zero_shot_accuracy"].samples == 3
    assert set(scores) == {"zero_shot_accuracy", "zero_shot_mean_per_class", "zero_shot: blue", "zero_shot: red"}


def test_a_number_is_a_label_and_not_a_number_is_none(tmp_path: Path):
    selection = dataset_with_kinds(tmp_path / "shapes", [0.0, math.nan, 1.0, 2.0])
    labelled = only_labelled(ZeroShotConfig(label_col="kind"), selection, print)
    assert [list(chosen) for chosen in labelled.indices] == [[0], [0, 1]]


def test_nothing_is_told_where_all_have_a_label_and_none_with_one_is_refused(tmp_path: Path):
    config = ZeroShotConfig(label_col="kind")
    told: list[str] = []
    full = dataset_with_kinds(tmp_path / "full", ["red", "blue"])
    assert len(only_labelled(config, full, told.append)) == len(full) and not told
    with pytest.raises(ConfigError, match="none of 2 samples has a label in the column kind"):
        only_labelled(config, dataset_with_kinds(tmp_path / "empty", [None, None]), told.append)
