"""DeepSpeed on CPU: every ZeRO stage trains alike, resumes to the bit and needs no compiler."""

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from ranks import Ranks
from torch import nn

from training.config import LossName, TrainConfig
from training.engine import takes_one_pass
from training.model import model_traits

STAGES = (0, 1, 2, 3)
# For tests that start several engines: the stages between are the slow suite's.
FIRST_AND_LAST = (0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2)), 3)
BATCH = 12
MODEL = "diptych-nano"
SIDE = model_traits(MODEL).image_size
# DeepSpeed would keep whole, at ZeRO 3, what has fewer than 100,000 values: nearly all of a small model.
PARTITIONS_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 1000}}


def config(stage: int, loss: str = "clip", **values: Any) -> TrainConfig:
    settings: dict[str, Any] = {"data": "unused", "steps": 4, "model": MODEL, "global_batch_size": BATCH}
    if stage == 3:
        settings["deepspeed"] = PARTITIONS_ALL
    return TrainConfig(**settings | {"zero_stage": stage, "loss": LossName(loss)} | values)


def make_model(settings: TrainConfig) -> nn.Module:
    from training.model import model_to_train

    return model_to_train(settings)


def make_engine(settings: TrainConfig, model: nn.Module | None = None) -> Any:
    from training.engine import Engine, initialize_deepspeed
    from training.step import micro_batch_count

    initialize_deepspeed(use_gpu=False)
    ranks = torch.distributed.get_world_size()
    count = micro_batch_count(-(-BATCH // ranks), settings.micro_batch_size)
    return Engine(model or make_model(settings), settings, ranks=ranks, micro_batches=count)


def steps(engine: Any, settings: TrainConfig, first: int, last: int, rate: float = 1e-3) -> list[Any]:
    from training.bad_steps import BadStepJudge, BadStepRule
    from training.model import ModelTraits
    from training.step import StepPlace, micro_batch_count, split_micro_batches, train_step

    ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    traits = ModelTraits("any", SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    mine = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    judge = BadStepJudge(BadStepRule(settings.on_bad_step, settings.divergence_factor, settings.max_bad_steps))
    results = []
    for step in range(first, last):
        chance = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=chance, dtype=torch.uint8)[mine]
        tokens = torch.randint(1, 49000, (BATCH, 20), generator=chance)[mine]
        parts = split_micro_batches(images, tokens, micro_batch_count(len(images), settings.micro_batch_size))
        results.append(train_step(engine, settings.loss, traits, parts, rate, StepPlace(0, step, rank), judge))
    return results


@pytest.mark.parametrize(
    ("device", "offload", "fused"), [("cpu", False, True), ("cuda", True, True), ("cuda", False, None)]
)
def test_adam_in_the_nodes_memory_takes_one_pass(device: str, offload: bool, fused: bool | None):
    assert takes_one_pass(torch.device(device), config(1, optimizer_offload=offload)) is fused


def state(engine: Any):
    masters, moments = {}, {}
    for name, master, both in engine.gather():
        masters[name] = master.clone()
        moments[name] = {key: value.clone() for key, value in both.items()}
    return masters, moments


def resumed(settings: TrainConfig, engine: Any, step: int) -> Any:
    """A new engine with what the other one's checkpoint would hold."""
    masters, moments = state(engine)
    model = make_model(settings)
    model.load_state_dict(masters | {name: buffer.clone() for name, buffer in engine.buffers().items()}, strict=False)
    new = make_engine(settings, model)
    new.restore(masters, moments, step)
    return new


def same_state(one: Any, other: Any) -> bool:
    return all(
        torch.equal(left[name], right[name]) for left, right in [(state(one)[0], state(other)[0])] for name in left
    ) and all(torch.equal(buffer, other.buffers()[name]) for name, buffer in one.buffers().items())


def train_and_resume(_group: Any, stage: int, loss: str, values: dict[str, Any]):
    """Four steps at once, and two steps, a new engine, two more: losses and whether all ends the same."""
    settings = config(stage, loss, **values)
    engine = make_engine(settings)
    losses = [done.loss for done in steps(engine, settings, 0, 2)]
    later_engine = resumed(settings, engine, 2)
    losses += [done.loss for done in steps(engine, settings, 2, 4)]
    later = [done.loss for done in steps(later_engine, settings, 2, 4)]
    return losses, later, same_state(engine, later_engine)


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        *((stage, "fp32") for stage in STAGES),
        *(pytest.param(stage, "bf16", marks=pytest.mark.slow) for stage in (0, 1, 2)),
        (3, "bf16"),
    ],
)
def test_a_resumed_training_is_the_undisturbed_one_to_the_bit(ranks: Ranks, stage: int, precision: str):
    for losses, later, same in ranks.run(train_and_resume, [(stage, "clip", {"precision": precision})] * 3):
        assert later == losses[2:] and same
        assert losses[-1] != losses[0]


def test_siglip_trains_and_resumes_too(ranks: Ranks):
    losses, later, same = ranks.run(train_and_resume, [(1, "siglip", {})] * 3)[0]
    assert later == losses[2:] and same


def losses_of_steps(_group: Any, stage: int) -> list[float]:
    settings = config(stage)
    return [done.loss for done in steps(make_engine(settings), settings, 0, 4)]


def test_every_stage_takes_the_same_steps(ranks: Ranks):
    losses = [ranks.run(losses_of_steps, [(stage,)] * 3)[0] for stage in STAGES]
    for other in losses[1:]:
        # The stages add up gradients in another order: rounding, grown over four steps.
        assert other == pytest.approx(losses[0], rel=1e-5)


def scalars_after(_group: Any, stage: int, precision: str, loss: str, scale: float, rate: float, count: int):
    """The scalars and the scales that the steps used."""
    settings = config(stage, loss, precision=precision, initial_logit_scale=scale)
    engine = make_engine(settings)
    results = steps(engine, settings, 0, count, rate)
    masters, _ = state(engine)
    return masters["logit_scale"].item(), masters.get("logit_bias"), [done.logit_scale for done in results]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_scale_never_passes_one_hundred_and_stays_exact_there(ranks: Ranks, stage: int, precision: str):
    for value, _, used in ranks.run(scalars_after, [(stage, precision, "clip", 100.0, 1e-3, 3)] * 3):
        assert 0 <= value <= math.log(100)
        # bf16 would have made it 98.9.
        assert used[0] == pytest.approx(100.0, rel=1e-6) and max(used) <= 100.0001


@pytest.mark.parametrize("stage", STAGES)
def test_updates_of_a_thousandth_near_the_clamp_are_not_lost_in_bf16(ranks: Ranks, stage: int):
    results = ranks.run(scalars_after, [(stage, "bf16", "siglip", 99.0, 1e-3, 1)] * 3)
    for value, bias, _ in results:
        # Adam's first step is the rate itself; a bf16 value there moves by steps of 0.016 or not at all.
        assert abs(value - math.log(99.0)) == pytest.approx(1e-3, rel=0.01)
        assert bias is not None and abs(bias.item() + math.log(BATCH - 1)) == pytest.approx(1e-3, rel=0.01)
    assert len({value for value, _, _ in results}) == 1


def weights_after(_group: Any, stage: int, micro_batch_size: int | None, values: dict[str, Any]):
    """The masters after a step of plain proportion to the gradient's size, the loss, and the gradient's norm."""
    settings = config(stage, micro_batch_size=micro_batch_size, eps=1.0, **values)
    engine = make_engine(settings)
    done = steps(engine, settings, 0, 2, rate=1.0)
    return state(engine)[0], [result.loss for result in done], done[-1].gradient_norm


def assert_chunks_change_nothing(ranks: Ranks, stage: int, values: dict[str, Any], tolerance: float) -> None:
    whole, losses, norm = ranks.run(weights_after, [(stage, None, values)] * 3)[0]
    chunked, chunked_losses, chunked_norm = ranks.run(weights_after, [(stage, 1, values)] * 3)[0]
    assert chunked_losses == pytest.approx(losses, rel=tolerance)
    if norm is not None:
        assert chunked_norm == pytest.approx(norm, rel=10 * tolerance)
    start = dict(make_model(config(stage, **values)).named_parameters())
    for name, master in whole.items():
        moved = (master - start[name].detach()).norm()
        assert (master - chunked[name]).norm() <= tolerance * 10 * moved + 1e-7 * master.norm(), name


@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_give_the_whole_batchs_gradients(ranks: Ranks, stage: int):
    # With eps = 1, Adam's step is nearly the gradient itself; what is left is the rounding of sums in another order.
    assert_chunks_change_nothing(ranks, stage, {}, 1e-5)


@pytest.mark.parametrize("stage", FIRST_AND_LAST)
def test_micro_batches_in_bf16_differ_by_its_rounding(ranks: Ranks, stage: int):
    assert_chunks_change_nothing(ranks, stage, {"precision": "bf16"}, 2e-2)


def test_micro_batches_of_siglip_are_exact_too(ranks: Ranks):
    assert_chunks_change_nothing(ranks, 2, {"loss": LossName.SIGLIP}, 1e-5)


def other_stage(_group: Any, first: int, second: int):
    """Two steps at one stage, then two more there and at another."""
    settings, others = config(first), config(second)
    engine = make_engine(settings)
    steps(engine, settings, 0, 2)
    masters, moments = state(engine)
    model = make_model(others)
    model.load_state_dict(masters, strict=False)
    new = make_engine(others, model)
    new.restore(masters, moments, 2)
    same = all(torch.equal(value, masters[name]) for name, value in state(new)[0].items())
    return same, [[done.loss for done in steps(each, settings, 2, 4)] for each in (engine, new)]


@pytest.mark.parametrize(("first", "second"), [(1, 3), pytest.param(3, 0, marks=pytest.mark.slow)])
def test_a_training_goes_on_at_another_zero_stage(ranks: Ranks, first: int, second: int):
    for same, (stayed, changed) in ranks.run(other_stage, [(first, second)] * 3):
        # The weights are the same to the bit; the stages add up gradients in another order.
        assert same and changed == pytest.approx(stayed, rel=1e-5)


def encoded(encode: Any) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(99)
    pictures = torch.randn(6, 3, SIDE, SIDE, generator=chance)
    tokens = torch.randint(1, 49000, (6, 20), generator=chance)
    with torch.no_grad():
        images, texts = encode(pictures, tokens)[:2]
    return images.float(), texts.float()


def average_of(engine: Any) -> dict[str, torch.Tensor]:
    # Copies: what is read stands in the weights' place for a moment.
    return {name: value.clone() for name, value in engine.gather_average()}


def around_the_average(_group: Any, stage: int, precision: str):
    """Features before, inside and after; the averages; whether the training ends as one that never looked."""
    settings = config(stage, precision=precision, ema_decay=0.5)
    engine, undisturbed = make_engine(settings), make_engine(settings)
    features = []
    for each in (engine, undisturbed):
        steps(each, settings, 0, 2, rate=1e-2)
    for context in (nullcontext(), engine.averaged(), nullcontext()):
        with context:
            features.append(encoded(lambda images, tokens: engine.encode(images.to(engine.dtype), tokens)))
    averages = average_of(engine)
    for each in (engine, undisturbed):
        steps(each, settings, 2, 4, rate=1e-2)
    later, others = average_of(engine), average_of(undisturbed)
    same = all(torch.equal(value, others[name]) for name, value in later.items())
    return features, averages, same and same_state(engine, undisturbed)


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        *((stage, "fp32") for stage in (0, 3)),
        *((stage, "bf16") for stage in (1, 3)),
        *(pytest.param(stage, "fp32", marks=pytest.mark.slow) for stage in (1, 2)),
        *(pytest.param(stage, "bf16", marks=pytest.mark.slow) for stage in (0, 2)),
    ],
)
def test_the_average_is_encoded_with_and_the_training_goes_on_to_the_bit(ranks: Ranks, stage: int, precision: str):
    model = make_model(config(stage))
    # The model's weights are rounded to bf16, and its products too.
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for (before, inside, after), averages, same in ranks.run(around_the_average, [(stage, precision)] * 3):
        model.load_state_dict(averages)
        for expected, found, first, last in zip(encoded(model), inside, before, after, strict=True):
            assert (found - expected).abs().max() < tolerance < (first - expected).abs().max()
            assert torch.equal(first, last)
        assert same
