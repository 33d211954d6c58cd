"""Scoring in the middle of a training: the model's own features on every rank, and nothing left changed."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Ranks
from small_datasets import make_dataset
from test_engine import FIRST_AND_LAST, MODEL, config, make_engine, make_model, state, steps

from infra.append_log import AppendLog
from infra.errors import ConfigError
from infra.patience import comes_true
from infra.storage import Storage, storage_of
from training.best import Best, write_best
from training.config import DataSource
from training.evaluation_pictures import evaluation_pictures
from training.loader import normalize
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


def runs_of_towers(_group: Any, place: str) -> list[dict[str, int]]:
    """How often each tower was run for 23 pictures, and then for five texts as well."""
    from training.validate import RankEncoder

    engine, runs = make_engine(config(0)), {"image": 0, "text": 0}
    for tower, layer in (("image", engine.module.visual), ("text", engine.module.transformer)):
        layer.register_forward_hook(lambda *_, tower=tower: runs.update({tower: runs[tower] + 1}))
    with RankEncoder(engine, model_traits(MODEL), batch_size=3) as encoder:
        encoder.encode_pictures(select(DataSource(path=place)))
        of_pictures = dict(runs)
        encoder.encode_texts(TEXTS)
    return [of_pictures, runs]


def test_pictures_and_texts_run_their_own_tower_alone(ranks: Ranks, place: str):
    expected = [{"image": 3, "text": 0}, {"image": 3, "text": 1}]
    assert ranks.run(runs_of_towers, [(place,)] * 3) == [expected] * 3


def trained_around_a_validation(_group: Any, stage: int, place: str, validates: bool) -> tuple[list[float], Any]:
    from training.validate import RankEncoder

    settings = config(stage, micro_batch_size=2)
    engine = make_engine(settings)
    losses = [done.loss for done in steps(engine, settings, 0, 2)]
    if validates:
        with RankEncoder(engine, model_traits(settings.model), batch_size=3) as encoder:
            encoder.encode_texts(TEXTS)
            encoder.encode_pictures(select(DataSource(path=place)))
            encoder.encode_texts(TEXTS)
    losses += [done.loss for done in steps(engine, settings, 2, 4)]
    return losses, state(engine)[0]


@pytest.mark.parametrize("stage", FIRST_AND_LAST)
def test_a_training_goes_on_after_a_validation_as_without_it_to_the_bit(ranks: Ranks, place: str, stage: int):
    """At ZeRO-3 DeepSpeed fetches weights ahead by the order of modules that it saw before, and here finds others."""
    plain, around = (ranks.run(trained_around_a_validation, [(stage, place, on)] * 3) for on in (False, True))
    for (losses, masters), (found_losses, found) in zip(plain, around, strict=True):
        assert found_losses == losses and all(torch.equal(found[name], master) for name, master in masters.items())


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_every_rank_has_the_features_that_one_process_finds(ranks: Ranks, place: str, stage: int):
    settings = config(stage)
    traits, model, selection = model_traits(settings.model), make_model(settings).eval(), select(DataSource(path=place))
    (pictures,) = evaluation_pictures(selection, [np.arange(len(selection))], traits)
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


def score_twice(_group: Any, place: str, run: str, use_ema: bool) -> None:
    """Scores before and after a step that destroys the weights, and that their average hardly follows."""
    from training.validate import Validator

    validation = {"retrieval": {"data": place}, "use_ema": use_ema}
    settings = config(1, data=place, validate_every=5, validation=validation, ema_decay=0.999999)
    engine, storage = make_engine(settings), Storage(run)
    with ExitStack() as stack:
        is_first = torch.distributed.get_rank() == 0
        log = stack.enter_context(AppendLog(storage, VALIDATION_FILE)) if is_first else None
        validator = Validator(settings, storage, engine, model_traits(settings.model), log, print)
        validator.validate(5)
        steps(engine, settings, 0, 1, rate=10.0)
        validator.validate(10)


@pytest.mark.parametrize("use_ema", [True, False])
def test_the_average_is_scored_unless_it_is_not_to_be_evaluated(
    ranks: Ranks, place: str, tmp_path: Path, use_ema: bool
):
    ranks.run(score_twice, [(place, str(tmp_path), use_ema)] * 3)
    before, after = (each.scores for each in read_validations(storage_of(tmp_path)))
    assert (before == after) is use_ema


def test_an_unknown_score_to_go_by_is_refused_with_those_there_are(ranks: Ranks, place: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"best_score: got 'accuracy'.\n.*text_to_image_recall@1, "):
        ranks.run(validated, [(place, str(tmp_path), {"best_score": "accuracy"})] * 3)


def judged_by_another_score(_group: Any, place: str, run: str) -> tuple[list[bool], Any]:
    from training.validate import Validator

    settings = config(1, data=place, validate_every=5, validation={"retrieval": {"data": place}})
    validator = Validator(settings, Storage(run), make_engine(settings), model_traits(settings.model), None, print)
    return [validator.validate(10), validator.validate(15)], validator.best


def test_what_another_score_found_best_is_not_compared_with(ranks: Ranks, place: str, tmp_path: Path):
    write_best(storage_of(tmp_path), Best(5, "zero_shot_accuracy", 1.0))
    for are_best, best in ranks.run(judged_by_another_score, [(place, str(tmp_path))] * 3):
        assert are_best == [True, False] and (best.step, best.score) == (10, "text_to_image_recall@1")


def rank_one_fails_within_the_average(_group: Any, stage: int, place: str) -> bool:
    """Whether rank 1, which alone meets an error, is out of the block while the others are in it."""
    engine, is_out = make_engine(config(stage, ema_decay=0.9)), Path(place, "out")
    is_seen = True
    with suppress(ConfigError), engine.averaged():
        if torch.distributed.get_rank() != 1:
            is_seen = comes_true(is_out.exists, 60)
        raise ConfigError("a picture cannot be read", "", "")
    is_out.touch()
    return is_seen


@pytest.mark.parametrize("stage", [1, 3])
def test_an_error_of_one_rank_in_a_validation_comes_out_at_once(ranks: Ranks, tmp_path: Path, stage: int):
    """To put the weights back it would wait for ranks that never come, and the error would never be heard of."""
    assert ranks.run(rank_one_fails_within_the_average, [(stage, str(tmp_path))] * 3) == [True] * 3
