"""CLIP scores are the cosine that open_clip finds for the very pictures and captions; null where there is no pair."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from saved_checkpoints import save_weights
from small_datasets import make_dataset

from datapipe.dataset import Dataset
from infra.errors import ConfigError
from infra.storage import Storage, storage_of
from training.annotate_config import AnnotateConfig, ClipScoreConfig
from training.annotators import annotators_of, check_annotation
from training.checkpoint import CheckpointState
from training.clip_score import ClipScore, Device
from training.config import LossName
from training.export import export_model
from training.model import create_model
from training.pictures import center_square, decode_picture

MODEL, ROWS = "diptych-tiny", 20
MEAN, STD = 0.4, 0.3
DEVICE = Device(use_gpu=False, threads=2, batch_size=7)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    run = storage_of(tmp_path_factory.mktemp("scorer") / "run")
    state = CheckpointState(
        step=4,
        model=MODEL,
        loss="clip",
        batch_size=32,
        samples=100,
        seed=0,
        settings={"mean": [0.4] * 3, "std": [0.3] * 3},
    )
    return run.at(save_weights(run, state, create_model(MODEL, LossName.CLIP, seed=5).state_dict()))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(make_dataset(tmp_path / "shapes", shards=1, rows=ROWS, broken=frozenset({3})))


def scores(dataset: Dataset, **settings: Any) -> list[float | None]:
    annotator = ClipScore(ClipScoreConfig(**settings), "clip_score", DEVICE)
    with dataset.open_shard(0, ["key", *annotator.columns]) as reader:
        found: list[float | None] = annotator.values(reader).to_pylist()
    return found


def by_open_clip(dataset: Dataset, folder: Path) -> list[float | None]:
    """From the exported model, one pair after the other."""
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    found: list[float | None] = []
    with dataset.open_shard(0, ["caption"]) as reader, torch.inference_mode():
        for index, caption in enumerate(reader.samples["caption"].to_pylist()):
            picture = decode_picture(reader.image(index))
            if picture is None:
                found.append(None)
                continue
            pixels = torch.from_numpy(center_square(picture, model.visual.image_size[0])).permute(2, 0, 1)
            of_image = model.encode_image(((pixels / 255 - MEAN) / STD)[None], normalize=True)
            of_text = model.encode_text(tokenize([caption]), normalize=True)
            found.append(float(of_image @ of_text.T))
    return found


def test_they_are_the_cosine_that_open_clip_finds(dataset: Dataset, checkpoint: Storage, tmp_path: Path):
    export_model(checkpoint, storage_of(tmp_path / "export"), "scorer", use_average=True)
    ours, theirs = scores(dataset, pretrained=checkpoint.url), by_open_clip(dataset, tmp_path / "export")
    assert [value is None for value in ours] == [value is None for value in theirs] and ours.count(None) == 1
    pairs = np.asarray([pair for pair in zip(ours, theirs, strict=True) if None not in pair])
    assert len(np.unique(pairs[:, 0])) > 10
    np.testing.assert_allclose(pairs[:, 0], pairs[:, 1], atol=1e-6)


def test_weights_from_a_file_or_folder_score_as_the_checkpoint(dataset: Dataset, checkpoint: Storage, tmp_path: Path):
    export_model(checkpoint, storage_of(tmp_path / "export"), "scorer", use_average=True)
    of_folder = scores(dataset, pretrained=f"{tmp_path}/export", model=MODEL)
    assert of_folder == scores(dataset, pretrained=checkpoint.url)


def test_without_a_caption_there_is_none(tmp_path: Path, checkpoint: Storage):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=1, rows=ROWS))
    whole = scores(dataset, pretrained=checkpoint.url)
    annotator = ClipScore(ClipScoreConfig(pretrained=checkpoint.url), "clip_score", DEVICE)
    with dataset.open_shard(0, ["key", "caption"]) as reader:
        captions = reader.samples["caption"].to_pylist()
        without = [None, "", *captions[2:]]
        place = reader.samples.schema.get_field_index("caption")
        reader.samples = reader.samples.set_column(place, "caption", [without])
        found = annotator.values(reader).to_pylist()
    assert found[:2] == [None, None] and found[2:] == pytest.approx(whole[2:], abs=1e-6)


def test_settings_tell_weights_apart_by_content_and_not_by_place(checkpoint: Storage, tmp_path: Path):
    def settings(place: str) -> dict[str, Any]:
        return annotators_of(AnnotateConfig(data="d", clip_scores={"s": {"pretrained": place, "model": MODEL}}))[
            "s"
        ].settings

    weights = Path(checkpoint.url)
    for copy in ("copy", "other"):
        (tmp_path / copy).mkdir()
        for file in weights.iterdir():
            (tmp_path / copy / file.name).write_bytes(file.read_bytes())
    assert settings(f"{tmp_path}/copy") == settings(checkpoint.url)
    (tmp_path / "w.safetensors").write_bytes(b"one")
    (tmp_path / "v.safetensors").write_bytes(b"one")
    one = settings(f"{tmp_path}/w.safetensors")
    assert one == settings(f"{tmp_path}/v.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"two")
    assert settings(f"{tmp_path}/w.safetensors") != one


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pretrained": "./nothing.safetensors", "model": MODEL}, "annotate.clip_scores.s.pretrained"),
        ({"pretrained": "./nothing.safetensors"}, "annotate.clip_scores.s.model is missing"),
        ({"pretrained": "bogus", "model": "ViT-B-32"}, "annotate.clip_scores.s.pretrained: got 'bogus'"),
        ({"pretrained": "openai", "model": "ViT-B-23"}, "annotate.clip_scores.s.model: got 'ViT-B-23'"),
    ],
)
def test_what_is_wrong_is_told_under_its_own_key(settings: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=words):
        check_annotation(AnnotateConfig(data="d", clip_scores={"s": settings}), dataset_is_ready=False)


def test_a_checkpoint_scores_with_its_own_model(checkpoint: Storage):
    with pytest.raises(ConfigError, match=r"s\.model: got ViT-B-32; .* is a checkpoint of diptych-tiny"):
        annotators_of(AnnotateConfig(data="d", clip_scores={"s": {"pretrained": checkpoint.url, "model": "ViT-B-32"}}))


def test_a_name_that_the_dataset_has_is_refused(dataset: Dataset, checkpoint: Storage):
    for settings, words in [
        ({"caption": {"pretrained": checkpoint.url}}, "has a column 'caption' already"),
        ({"s": {"pretrained": checkpoint.url, "caption_col": "text"}}, r"s\.caption_col: got 'text'"),
        ({"s": {"pretrained": checkpoint.url, "caption_col": "width"}}, r"s\.caption_col: got 'width', of int32"),
    ]:
        with pytest.raises(ConfigError, match=words):
            check_annotation(AnnotateConfig(data=dataset.storage.url, clip_scores=settings), dataset_is_ready=True)


@pytest.mark.parametrize("name", ["phash", "key", "shard", "a b", "1st", "../up"])
def test_names_of_columns_are_plain(name: str):
    with pytest.raises(ValueError, match="letters, digits"):
        AnnotateConfig(data="d", clip_scores={name: {"pretrained": "openai", "model": MODEL}})


def test_an_empty_section_is_refused():
    with pytest.raises(ValueError, match="neither phash nor clip_scores"):
        AnnotateConfig(data="d")
