"""What is refused before a training is started."""

from itertools import pairwise
from typing import Any

import pytest
from test_engine import config

from infra.errors import ConfigError
from training.launch import check_training
from training.plan import plan_training
from training.step import micro_batch_count, split_micro_batches


def check(**values: Any) -> None:
    check_training(config(1, **values), dataset_is_ready=False)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"workers": 5, "micro_batch_size": 1}, "do not divide"),
        ({"workers": [1, 5], "micro_batch_size": 1}, r"of 5 workers some have 2 and others 3 pairs .* in 3 pieces"),
        ({"workers": [4, 8], "micro_batch_size": 1}, r"of 5 workers"),
        ({"workers": [1, 13]}, "for 13 workers"),
    ],
)
def test_micro_batches_that_some_number_of_workers_cannot_fill_are_refused(values: dict[str, Any], found: str):
    with pytest.raises(ConfigError, match=found):
        check(**values)


@pytest.mark.parametrize(
    ("name", "is_given"),
    [
        ("text_to_image_recall@5", True),
        ("zero_shot: cat", True),
        ("zero_shot_accuracy", True),
        ("recall@1", False),
        ("text_to_image_recall@2", False),
        ("zero_shot: dog", False),
    ],
)
def test_the_score_that_decides_is_one_that_the_validation_gives(name: str, is_given: bool):
    zero_shot = {"label_col": "color", "classes": ["cat"]}
    values = {"held_out": 0.2, "validate_every": 2, "validation": {"retrieval": {}, "zero_shot": zero_shot}}
    if is_given:
        check(**values, best_score=name)
        return
    with pytest.raises(ConfigError, match=rf"train.best_score: got '{name}'"):
        check(**values, best_score=name)


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize("workers", [[1, 3], [2, 6], [1, 12]])
def test_no_worker_of_an_accepted_range_has_an_empty_micro_batch(workers: list[int], size: int):
    import torch

    try:
        check(workers=workers, micro_batch_size=size)
    except ConfigError:
        return
    for ranks in range(workers[0], workers[1] + 1):
        bounds = [rank * 12 // ranks for rank in range(ranks + 1)]
        pieces = micro_batch_count(-(-12 // ranks), size)
        for first, after in pairwise(bounds):
            rows = torch.zeros(after - first, 1)
            assert all(len(each.images) for each in split_micro_batches(rows, rows, pieces))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"warmup_steps": 5}, "got 5 and 0; the training has 4 steps"),
        ({"warmup_steps": 2, "cooldown_steps": 3, "schedule": "rsqrt"}, "got 2 and 3; the training has 4 steps"),
    ],
)
def test_a_rise_and_a_fall_that_are_longer_than_the_training_are_refused(values: dict[str, Any], found: str):
    with pytest.raises(ConfigError, match=found):
        plan_training(config(1, **values), None)


def test_a_rise_and_a_fall_that_fill_the_training_are_accepted():
    assert plan_training(config(1, warmup_steps=2, cooldown_steps=2, schedule="constant"), None).warmup == 2
    # The cosine has no cooldown.
    assert plan_training(config(1, warmup_steps=4, cooldown_steps=9), None).steps == 4


@pytest.mark.parametrize("key", ["lr", "initial_logit_bias", "weight_decay", "grad_clip_norm", "divergence_factor"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_refused(key: str, value: float):
    with pytest.raises(ValueError, match=key):
        config(1, **{key: value})
