"""What pictures are normalised with: as the weights want it, wherever they come from and whoever uses them."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from open_clip.pretrained import get_pretrained_cfg
from saved_checkpoints import save_weights
from test_engine import config

from infra.errors import ConfigError
from infra.storage import Storage
from training.checkpoint import CheckpointState
from training.config import SquareMode, TrainConfig
from training.encode import Encoder
from training.model import OPENAI_MEAN, OPENAI_STD, create_model, model_traits
from training.picture_constants import settle_pictures
from training.pictures import model_square
from training.weight_facts import facts_of_weights

OTHERS = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def settled(**values: Any) -> tuple[Any, Any]:
    found = settle_pictures(config(1, **values))
    return found.mean, found.std


@pytest.mark.parametrize(("model", "tag"), open_clip.list_pretrained(), ids="/".join)
def test_every_tag_of_open_clip_gets_the_constants_of_its_weights(model: str, tag: str):
    described = get_pretrained_cfg(model, tag)
    assert settled(model=model, pretrained=tag) == (described["mean"], described["std"])
    assert facts_of_weights(tag, model).has_quick_gelu is described.get("quick_gelu")


@pytest.mark.parametrize(("model", "tag"), open_clip.list_pretrained(), ids="/".join)
def test_every_tag_of_open_clip_gets_the_squares_of_its_weights(model: str, tag: str):
    found = settle_pictures(config(1, model=model, pretrained=tag)).resize_mode
    assert found == get_pretrained_cfg(model, tag)["resize_mode"]


@pytest.mark.parametrize(
    ("file", "content", "mode"),
    [
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"resize_mode": "squash"}}, "squash"),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"resize_mode": "longest"}}, "shortest"),
        ("preprocessor_config.json", {"size": {"height": 224, "width": 224}}, "squash"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 224}, "do_center_crop": True}, "shortest"),
    ],
)
def test_a_hugging_face_folder_says_how_pictures_become_square(
    tmp_path: Path, file: str, content: dict[str, Any], mode: str
):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_text(json.dumps(content))
    assert settle_pictures(config(1, pretrained=str(tmp_path))).resize_mode == mode
    given = config(1, pretrained=str(tmp_path), resize_mode="squash")
    assert settle_pictures(given).resize_mode == "squash"


def test_a_squashed_square_holds_the_whole_picture_and_the_other_its_middle():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :20] = 255  # the outer quarter
    whole = model_square(picture, 40, SquareMode.SQUASH)
    assert whole.shape == (40, 40, 3) and (whole[:, :10] == 255).all() and (whole[:, 10:] == 0).all()
    assert not model_square(picture, 40, SquareMode.SHORTEST).any()


def test_twenty_tags_differ_from_what_the_models_name_says():
    differing = [
        (model, tag)
        for model, tag in open_clip.list_pretrained()
        if settled(model=model, pretrained=tag) != settled(model=model)
    ]
    assert len(differing) == 20 and ("ViT-L-14", "laion2b_s32b_b82k") in differing
    assert settled(model="MobileCLIP-B", pretrained="datacompdr") == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_without_weights_they_are_the_models_own(tmp_path: Path):
    assert settled() == (OPENAI_MEAN, OPENAI_STD)
    assert settled(model="ViT-B-16-SigLIP") == ((0.5,) * 3, (0.5,) * 3)
    assert settled(pretrained=str(tmp_path / "w.pt")) == (OPENAI_MEAN, OPENAI_STD)  # a file says nothing


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"mean": OTHERS[0], "std": OTHERS[1]}}),
        ("preprocessor_config.json", {"image_mean": OTHERS[0], "image_std": OTHERS[1]}),
    ],
)
def test_a_hugging_face_folder_says_its_own(tmp_path: Path, file: str, content: dict[str, Any]):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_text(json.dumps(content))
    assert settled(pretrained=str(tmp_path)) == OTHERS
    # Pictures are the image tower's.
    assert settled(pretrained=str(tmp_path), pretrained_towers="image") == OTHERS
    assert settled(pretrained=str(tmp_path), pretrained_towers="text") == (OPENAI_MEAN, OPENAI_STD)


@pytest.mark.parametrize("mean", [[0.5, 0.5], "dark", [0.1, 0.2, None]])
def test_constants_that_are_none_are_refused(tmp_path: Path, mean: Any):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": {"mean": mean}}))
    with pytest.raises(ConfigError, match="not three numbers"):
        settled(pretrained=str(tmp_path))


def test_what_the_config_says_is_used_and_the_difference_told(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        found = settled(model="MobileCLIP-B", pretrained="datacompdr", mean=OTHERS[0], std=OTHERS[1])
    assert found == OTHERS
    assert "(0.1, 0.2, 0.3) is used; the weights were made with (0.0, 0.0, 0.0)" in caplog.text


def checkpoint_of(folder: Path, settings: TrainConfig) -> Storage:
    state = create_model("diptych-tiny", settings.loss, seed=0).state_dict()
    facts = CheckpointState(3, "diptych-tiny", "clip", 8, 8, 0, settings.model_dump(mode="json", exclude_none=True))
    run = Storage(str(folder))
    return run.at(save_weights(run, facts, state))


def test_a_resumed_training_an_evaluation_and_a_fine_tune_keep_them_without_the_first_weights(tmp_path: Path):
    weights = tmp_path / "weights"
    weights.mkdir()
    described = {"model_cfg": {}, "preprocess_cfg": {"mean": OTHERS[0], "std": OTHERS[1]}}
    (weights / "open_clip_config.json").write_text(json.dumps(described))
    settings = config(1, pretrained=str(weights))
    checkpoint = checkpoint_of(tmp_path / "run", settle_pictures(settings))
    (weights / "open_clip_config.json").unlink()
    resumed = settle_pictures(settings, Storage(str(tmp_path / "run")))
    assert (resumed.mean, resumed.std) == OTHERS
    encoder = Encoder(checkpoint, use_gpu=False, batch_size=2, use_average=False)
    assert (encoder._traits.mean, encoder._traits.std) == OTHERS
    assert settled(pretrained=checkpoint.url) == OTHERS


def test_a_models_traits_are_those_of_its_weights():
    assert model_traits("diptych-tiny", *OTHERS).std == OTHERS[1]
