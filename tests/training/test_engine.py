"""DeepSpeed on CPU: every ZeRO stage trains alike, resumes to the bit and needs no compiler."""

import math
from typing import Any

import pytest
import torch
from ranks import Ranks

from training.config import LossName, TrainConfig

STAGES = (0, 1, 2, 3)
BATCH = 12


def config(stage: int, loss: str = "clip", **values: Any) -> TrainConfig:
    return TrainConfig(data="unused", steps=4, model="diptych-tiny", zero_stage=stage, loss=LossName(loss), **values)


def make_engine(settings: TrainConfig, parameters: Any = None):
    from training.engine import Engine, initialize_deepspeed
    from training.model import create_model

    initialize_deepspeed(use_gpu=False)
    model = create_model(settings.model, settings.loss, seed=3, initial_scale=settings.initial_logit_scale)
    if parameters:
        model.load_state_dict(parameters, strict=False)
    ranks = torch.distributed.get_world_size()
    return Engine(model, settings, ranks=ranks, batch_of_rank=BATCH // ranks)


def steps(engine: Any, settings: TrainConfig, first: int, last: int) -> list[float]:
    from training.loop import global_loss

    ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    losses = []
    for step in range(first, last):
        chance = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 3, 48, 48, generator=chance).to(engine.dtype)
        tokens = torch.randint(1, 49000, (BATCH, 20), generator=chance)
        mine = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        loss = global_loss(settings.loss, engine.forward(images[mine], tokens[mine]))
        losses.append(loss.item())
        engine.step(loss, 1e-3)
    return losses


def state(engine: Any):
    masters, moments = {}, {}
    for name, master, both in engine.gather():
        masters[name] = master.clone()
        moments[name] = {key: value.clone() for key, value in both.items()}
    return masters, moments


def train_and_resume(_group: Any, stage: int, loss: str, precision: str = "fp32"):
    """Four steps at once, and two steps, a new engine, two more: losses and final masters of both."""
    settings = config(stage, loss, precision=precision)
    engine = make_engine(settings)
    losses = steps(engine, settings, 0, 2)
    parameters, moments = state(engine)
    losses += steps(engine, settings, 2, 4)
    resumed = make_engine(settings, parameters)
    resumed.restore(parameters, moments, 2)
    later = steps(resumed, settings, 2, 4)
    same = all(torch.equal(a, b) for a, b in zip(state(engine)[0].values(), state(resumed)[0].values(), strict=True))
    return losses, later, same


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_training_is_the_undisturbed_one_to_the_bit(ranks: Ranks, stage: int):
    for losses, later, same in ranks.run(train_and_resume, [(stage, "clip")] * 3):
        assert later == losses[2:] and same
        assert losses[-1] != losses[0]


@pytest.mark.parametrize("stage", STAGES[1:])
def test_bf16_resumes_to_the_bit_from_its_fp32_masters(ranks: Ranks, stage: int):
    for losses, later, same in ranks.run(train_and_resume, [(stage, "clip", "bf16")] * 3):
        assert later == losses[2:] and same


def test_siglip_trains_and_resumes_too(ranks: Ranks):
    losses, later, same = ranks.run(train_and_resume, [(1, "siglip")] * 3)[0]
    assert later == losses[2:] and same


def test_every_stage_takes_the_same_steps(ranks: Ranks):
    losses = [ranks.run(train_and_resume, [(stage, "clip")] * 3)[0][0] for stage in STAGES]
    for other in losses[1:]:
        # The stages add up gradients in another order: rounding, grown over four steps.
        assert other == pytest.approx(losses[0], rel=1e-5)


def scale_after_a_step(_group: Any, stage: int):
    settings = config(stage, initial_logit_scale=100.0)
    engine = make_engine(settings)
    steps(engine, settings, 0, 3)
    return state(engine)[0]["logit_scale"].item()


@pytest.mark.parametrize("stage", STAGES)
def test_the_scale_never_passes_one_hundred(ranks: Ranks, stage: int):
    for value in ranks.run(scale_after_a_step, [(stage,)] * 3):
        assert 0 <= value <= math.log(100) + 1e-6
