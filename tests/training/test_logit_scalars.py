"""The scale and the bias: clamped, averaged over ranks and clipped with the towers, at every ZeRO stage."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import Ranks
from test_engine import BATCH, FIRST_AND_LAST, SIDE, STAGES, config, make_engine, make_model, state, steps

LOG_OF_100 = torch.tensor(math.log(100.0)).item()  # in fp32


def pushed_up(_group: Any, stage: int, precision: str):
    """ln(scale) and the scales that were used, when every gradient says that the scale should rise."""
    settings = config(stage, precision=precision, initial_logit_scale=99.9)
    engine = make_engine(settings)
    engine.scalars._values["logit_scale"].register_hook(lambda gradient: -gradient.abs() - 1)
    used = [done.logit_scale for done in steps(engine, settings, 0, 3, rate=1e-2)]
    return state(engine)[0]["logit_scale"].item(), used


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_scale_that_would_rise_past_one_hundred_stays_at_it(ranks: Ranks, stage: int, precision: str):
    for value, used in ranks.run(pushed_up, [(stage, precision)] * 3):
        assert value == LOG_OF_100
        assert used == pytest.approx([99.9, 100.0, 100.0], rel=1e-6)


def first_moments(_group: Any, stage: int, loss: str, limit: float | None, micro_batch_size: int | None):
    """Adam's first moment of each scalar after a step: (1 − beta1) times the gradient that it was given."""
    settings = config(stage, loss, grad_clip_norm=limit, micro_batch_size=micro_batch_size)
    engine = make_engine(settings)
    steps(engine, settings, 0, 1)
    moments = state(engine)[1]
    return {name: moments[name]["exp_avg"].item() for name in moments if name.startswith("logit_")}


def gradients_of_one_process(loss: str) -> tuple[dict[str, float], float]:
    """Of the scalars over the whole batch, and the norm of the towers'."""
    model = make_model(config(0, loss))
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=chance, dtype=torch.uint8)
    tokens = torch.randint(1, 49000, (BATCH, 20), generator=chance)
    of_images, of_texts, scale, *bias = model((images.float() / 255 - 0.5) / 0.25, tokens)
    logits = scale * of_images @ of_texts.T
    if loss == "siglip":
        (-F.logsigmoid((2 * torch.eye(BATCH) - 1) * (logits + bias[0])).sum() / BATCH).backward()
    else:
        labels = torch.arange(BATCH)
        ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    named = dict(model.named_parameters())
    scalars = {name: named[name].grad.item() for name in named if name.startswith("logit_")}
    squares = [float(value.grad.norm() ** 2) for name, value in named.items() if name not in scalars]
    return scalars, sum(squares) ** 0.5


@pytest.mark.parametrize("micro_batch_size", [pytest.param(None, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("stage", FIRST_AND_LAST)
def test_the_scalars_get_the_gradient_of_one_process_clipped_as_the_towers_is(
    ranks: Ranks, stage: int, loss: str, micro_batch_size: int | None
):
    gradients, norm = gradients_of_one_process(loss)
    assert len(gradients) == (2 if loss == "siglip" else 1)
    for limit, factor in ((None, 1.0), (2 * norm, 1.0), (norm / 100, 0.01)):
        results = ranks.run(first_moments, [(stage, loss, limit, micro_batch_size)] * 3)
        assert results[0] == results[1] == results[2]
        beta1 = config(stage).beta1
        expected = {name: (1 - beta1) * factor * gradient for name, gradient in gradients.items()}
        assert results[0] == pytest.approx(expected, rel=1e-3)
