"""Scoring in the middle of a training: the model's own features on every rank, and nothing left changed."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Ranks
from small_datasets import make_dataset
from test_engine import config, make_engine, make_model, steps

from infra.append_log import AppendLog
from infra.errors import ConfigError
from infra.storage import Storage, storage_of
from training.best import Best
from training.config import DataSource
from training.loader import evaluation_pictures, normalize
from training.model import Tokenizer, model_traits
from training.records import VALIDATION_FILE, read_validations
from training.selection import select

TEXTS = ["a red square", "a blue bar", "", "a frame", "a yellow column"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_dataset(tmp_path_factory.mktemp("data") / "shapes", shards=1, rows=25)


def features(_group: Any, stage: int, place: str) -> tuple[torch.Tensor, torch.Tensor]:
    from training.validate import RankEncoder

    settings = config(stage)
    engine = make_engine(settings)
    with RankEncoder(engine, model_traits(settings.model), batch_size=3) as encoder:
        return encoder.encode_pictures(select(DataSource(path=place))), encoder.encode_texts(TEXTS)


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_every_rank_has_the_features_that_one_process_finds(ranks: Ranks, place: str, stage: int):
    settings = config(stage)
    traits, model, selection = model_traits(settings.model), make_model(settings).eval(), select(DataSource(path=place))
    pictures = evaluation_pictures(selection, np.arange(len(selection)), traits)
    with torch.no_grad():
        images = model.encode_image(normalize(pictures, traits, torch.float32), normalize=True)
        texts = model.encode_text(Tokenizer(settings.model)(TEXTS), normalize=True)
    for of_images, of_texts in ranks.run(features, [(stage, place)] * 3):
        torch.testing.assert_close(of_images, images, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_texts, texts, rtol=1e-4, atol=1e-5)


def modes_around(_group: Any) -> tuple[list[bool], list[bool], list[bool]]:
    from training.validate import RankEncoder

    engine = make_engine(config(1, model="diptych-tiny-resnet", lock={"image": True}))
    modules = list(engine.module.modules())
    before = [module.training for module in modules]
    with RankEncoder(engine, model_traits("diptych-tiny-resnet"), batch_size=3):
        inside = [module.training for module in modules]
    return before, inside, [module.training for module in modules]


def test_what_was_in_training_is_again_and_locked_batch_normalisation_is_not(ranks: Ranks):
    for before, inside, after in ranks.run(modes_around, [()] * 3):
        assert not any(inside) and after == before and any(before) and not all(before)


def validated(_group: Any, place: str, run: str, values: dict[str, Any]) -> tuple[list[bool], list[bool], Any]:
    from training.validate import Validator

    settings = config(1, data=place, validate_every=5, validation={"retrieval": {"data": place}}, **values)
    engine, traits, storage = make_engine(settings), model_traits(settings.model), Storage(run)
    with ExitStack() as stack:
        is_first = torch.distributed.get_rank() == 0
        log = stack.enter_context(AppendLog(storage, VALIDATION_FILE)) if is_first else None
        validator = Validator(settings, storage, engine, traits, log, print)
        due = [validator.is_due(step) for step in range(4, 11)]
        best = [validator.validate(5)]
        steps(engine, settings, 0, 1, rate=10.0)  # destroys the weights
        best.append(validator.validate(10))
    return due, best, validator.best


def test_scores_are_recorded_once_and_the_best_step_is_remembered(ranks: Ranks, place: str, tmp_path: Path):
    results = ranks.run(validated, [(place, str(tmp_path), {"best_score": "text_to_image_recall@10"})] * 3)
    found = read_validations(storage_of(tmp_path))
    assert [each.step for each in found] == [5, 10] and all(len(each.scores) == 6 for each in found)
    values = [next(s.value for s in each.scores if s.name == "text_to_image_recall@10") for each in found]
    is_better = values[1] > values[0]
    best = Best(10 if is_better else 5, "text_to_image_recall@10", max(values))
    assert all(result == ([False, True, *[False] * 4, True], [True, is_better], best) for result in results)


def test_an_unknown_score_to_go_by_is_refused_with_those_there_are(ranks: Ranks, place: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"best_score: got 'accuracy'.\n.*text_to_image_recall@1, "):
        ranks.run(validated, [(place, str(tmp_path), {"best_score": "accuracy"})] * 3)
