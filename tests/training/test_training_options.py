"""Locked towers, dropped patches, recomputed activations, batch normalisation and averaged weights, in real steps."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import Ranks
from test_engine import FIRST_AND_LAST, SIDE, config, make_engine, make_model, resumed, state, steps
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from infra.errors import ConfigError
from training.architectures import build_without_memory
from training.batch_norm import exact_batch_norm, synchronize_batch_norm
from training.config import LossName
from training.locking import lock_towers
from training.model import model_to_train
from training.small_models import SMALL_ARCHITECTURES


def moved_names(_group: Any, stage: int, values: dict[str, Any]):
    settings = config(stage, **values)
    start = {name: parameter.detach().clone() for name, parameter in make_model(settings).named_parameters()}
    engine = make_engine(settings)
    steps(engine, settings, 0, 2)
    again = resumed(settings, engine, 2)
    steps(engine, settings, 2, 3)
    steps(again, settings, 2, 3)
    masters, others = state(engine)[0], state(again)[0]
    assert all(torch.equal(masters[name], others[name]) for name in start)
    return {name for name in start if not torch.equal(masters[name], start[name])}, set(start)


@pytest.mark.parametrize("stage", FIRST_AND_LAST)
def test_a_locked_tower_keeps_its_weights_to_the_bit_and_resumes(ranks: Ranks, stage: int):
    moved, names = ranks.run(moved_names, [(stage, {"lock": {"image": True}})] * 3)[0]
    assert moved == {name for name in names if not name.startswith("visual.")}


def test_the_last_blocks_may_stay_unlocked(ranks: Ranks):
    moved, _ = ranks.run(moved_names, [(1, {"lock": {"image": 1, "text": 0}})] * 3)[0]
    blocks = {name.split(".")[3] for name in moved if "visual.transformer.resblocks" in name}
    assert blocks == {"1"} and "visual.proj" in moved and "visual.conv1.weight" not in moved
    assert "text_projection" in moved and not any(name.startswith("transformer.") for name in moved)


@pytest.mark.parametrize(
    ("lock", "found"), [({"image": True, "text": True}, "both towers"), ({"image": 7}, "the tower has 2")]
)
def test_a_lock_that_leaves_nothing_or_wants_too_much_is_refused(lock: dict[str, Any], found: str):
    with pytest.raises(ConfigError, match=found):
        model_to_train(config(1, lock=lock))


def test_a_locked_resnet_keeps_its_running_statistics():
    model = model_to_train(config(0, model="diptych-tiny-resnet", lock={"image": True}))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(3, 3, 64, 64), torch.ones(3, 20, dtype=torch.int64))
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def masters_after(_group: Any, stage: int, values: dict[str, Any]):
    settings = config(stage, eps=1.0, **values)
    engine = make_engine(settings)
    losses = [done.loss for done in steps(engine, settings, 0, 2, rate=1.0)]
    return losses, state(engine)[0]


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_micro_batches_replay_the_patches_that_were_dropped(ranks: Ranks, stage: int):
    """Features that are not the same the second time would get the gradients of others."""
    values = {"patch_dropout": 0.5, "micro_batch_size": 2}
    losses, _ = ranks.run(masters_after, [(stage, values)] * 3)[0]
    again, _ = ranks.run(masters_after, [(stage, values)] * 3)[0]
    whole, _ = ranks.run(masters_after, [(stage, values | {"patch_dropout": 0.0})] * 3)[0]
    assert losses == again and losses != whole
    assert all(ranks.run(second_encoding_is_the_first, [(stage,)] * 3))


def second_encoding_is_the_first(_group: Any, stage: int) -> bool:
    from training.model import ModelTraits
    from training.step import MicroBatch, StepPlace, _encode

    settings = config(stage, patch_dropout=0.5)
    engine = make_engine(settings)
    traits = ModelTraits("any", SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    micro_batch = MicroBatch(1, torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8), torch.ones(2, 20).long())
    with torch.no_grad():
        first, second, other = (_encode(engine, traits, micro_batch, StepPlace(0, step, 0))[0] for step in (4, 4, 5))
    return torch.equal(first, second) and not torch.equal(first, other)


def with_a_locked_tower(_group: Any, stage: int, values: dict[str, Any], skips: bool):
    """Losses and masters of two steps of two micro-batches each, and how often each tower was run."""
    settings = config(stage, micro_batch_size=2, eps=1.0, **values)
    engine = make_engine(settings)
    runs = {"image": 0, "text": 0}
    for tower, layer in (("image", engine.module.visual), ("text", engine.module.transformer)):
        layer.register_forward_hook(lambda *_, tower=tower: runs.update({tower: runs[tower] + 1}))
    if not skips:
        engine.trained_towers = frozenset(runs)
    losses = [done.loss for done in steps(engine, settings, 0, 2, rate=1.0)]
    return losses, state(engine)[0], runs


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", FIRST_AND_LAST)
@pytest.mark.parametrize(
    ("locked", "other", "loss"),
    [("image", "text", "siglip"), pytest.param("text", "image", "clip", marks=pytest.mark.slow)],
)
def test_a_locked_tower_is_encoded_once_and_nothing_else_changes(
    ranks: Ranks, locked: str, other: str, loss: str, stage: int, precision: str
):
    values = {"lock": {locked: True}, "loss": LossName(loss), "precision": precision}
    whole, skipped = (ranks.run(with_a_locked_tower, [(stage, values, skips)] * 3) for skips in (False, True))
    for (losses, masters, runs), (found_losses, found, found_runs) in zip(whole, skipped, strict=True):
        assert found_losses == losses and runs == {"image": 8, "text": 8}
        assert found_runs == {locked: 4, other: 8}
        # The scalars too.
        assert all(torch.equal(found[name], master) for name, master in masters.items())


def texts_of_two_passes(_group: Any, stage: int) -> list[torch.Tensor]:
    """The text features of each pass of a step, of a tower with dropout beside a locked one that drops patches."""
    settings = config(stage, micro_batch_size=2, patch_dropout=0.5, lock={"image": True})
    model = make_model(settings)
    model.transformer.register_forward_hook(lambda _module, _inputs, output: F.dropout(output, 0.5))
    engine, found = make_engine(settings, model), []
    engine.module.ln_final.register_forward_hook(lambda _module, _inputs, output: found.append(output.detach().clone()))
    steps(engine, settings, 0, 1)
    return found


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_without_the_locked_tower_the_other_drops_the_same_again(ranks: Ranks, stage: int):
    for first, second, first_again, second_again in ranks.run(texts_of_two_passes, [(stage,)] * 3):
        assert torch.equal(first, first_again) and torch.equal(second, second_again)
        assert (first == 0).float().mean() < 0.01 and not torch.equal(first, second)


@pytest.mark.parametrize("stage", [0, 3])
def test_recomputed_activations_give_the_same_gradients(ranks: Ranks, stage: int):
    kept, recomputed = (
        ranks.run(masters_after, [(stage, {"activation_checkpointing": on, "patch_dropout": 0.25})] * 3)[0]
        for on in (False, True)
    )
    assert recomputed[0] == pytest.approx(kept[0], rel=1e-6)
    for name, master in kept[1].items():
        assert torch.allclose(recomputed[1][name], master, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"model": "diptych-tiny-resnet", "patch_dropout": 0.5}, "no patches"),
        ({"model": "diptych-tiny-convnext", "patch_dropout": 0.5}, "no patches"),
        ({"model": "diptych-tiny-resnet", "activation_checkpointing": True}, "modified ResNets"),
    ],
)
def test_an_option_that_a_tower_has_not_is_refused(values: dict[str, Any], found: str):
    with pytest.raises(ConfigError, match=found):
        model_to_train(config(1, **values))


def statistics_after(_group: Any, values: dict[str, Any]):
    """The running statistics after one step, and whether a new engine has them too."""
    settings = config(values.pop("zero_stage", 1), model="diptych-tiny-resnet", **values)
    engine = make_engine(settings)
    images = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    from training.bad_steps import BadStepJudge, BadStepRule
    from training.config import BadStepAction
    from training.model import ModelTraits
    from training.step import StepPlace, split_micro_batches, train_step

    traits = ModelTraits("any", 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    rank = torch.distributed.get_rank()
    parts = split_micro_batches(images + rank, torch.ones(4, 20).long(), 1 if settings.micro_batch_size is None else 2)
    train_step(
        engine,
        settings.loss,
        traits,
        parts,
        1e-3,
        StepPlace(0, 0, rank),
        BadStepJudge(BadStepRule(BadStepAction.STOP, None, 1)),
    )
    statistics = {name: buffer.clone() for name, buffer in engine.buffers().items() if "running" in name}
    copies = resumed(settings, engine, 1).buffers()
    return statistics, all(torch.equal(copies[name], value) for name, value in statistics.items())


def test_running_statistics_are_equal_on_all_ranks_and_in_checkpoints(ranks: Ranks):
    results = ranks.run(statistics_after, [({},)] * 3)
    for statistics, is_restored in results:
        assert is_restored and statistics
        assert all(torch.equal(value, results[0][0][name]) for name, value in statistics.items())
    fresh = dict(make_model(config(1, model="diptych-tiny-resnet")).named_buffers())
    assert not any(torch.equal(value, fresh[name]) for name, value in results[0][0].items())


def test_two_encodings_move_the_running_statistics_once(ranks: Ranks):
    """Two micro-batches move them twice, by momentum 0.1 each; encoded twice each, they would move four times."""
    statistics = ranks.run(statistics_after, [({"micro_batch_size": 2},)] * 3)[0][0]
    model = make_model(config(1, model="diptych-tiny-resnet"))
    images = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    name = "visual.bn1.running_mean"
    expected = []
    for rank in range(3):
        running = torch.zeros_like(statistics[name])
        for part in (images + rank).tensor_split(2):
            pictures = (part.float() / 255 - 0.5) / 0.25
            mean = model.visual.conv1(pictures).mean((0, 2, 3))
            running = 0.9 * running + 0.1 * mean.detach()
        expected.append(running)
    torch.testing.assert_close(statistics[name], torch.stack(expected).mean(0), rtol=1e-4, atol=1e-6)


def normalized_on_rank(_group: Any, rows: torch.Tensor, weights: torch.Tensor):
    layer = synchronize_batch_norm(nn.Sequential(nn.BatchNorm2d(3)))
    leaf = rows.clone().requires_grad_()
    output = layer(leaf)
    (output * weights).sum().backward()
    return output.detach(), leaf.grad, layer[0].weight.grad, layer[0].running_var


def test_synchronised_batch_normalisation_is_that_of_one_process(ranks: Ranks):
    rows, weights = torch.randn(9, 3, 4, 4), torch.randn(9, 3, 4, 4)
    layer, whole = nn.BatchNorm2d(3), rows.clone().requires_grad_()
    (layer(whole) * weights).sum().backward()
    cuts = (4, 3, 2)
    results = ranks.run(normalized_on_rank, list(zip(rows.split(cuts), weights.split(cuts), strict=True)))
    torch.testing.assert_close(torch.cat([result[0] for result in results]), layer(rows).detach())
    torch.testing.assert_close(torch.cat([result[1] for result in results]), whole.grad)
    torch.testing.assert_close(sum(result[2] for result in results), layer.weight.grad)
    reference = nn.BatchNorm2d(3)
    reference(rows)
    torch.testing.assert_close(results[0][3], reference.running_var)


def test_synchronised_batch_normalisation_keeps_what_timm_does_after_it():
    layer = BatchNormAct2d(3, act_layer=nn.GELU, inplace=False).eval()
    pictures = torch.randn(2, 3, 4, 4)
    before = layer(pictures)
    model = synchronize_batch_norm(nn.Sequential(layer))
    assert type(model[0]) is not BatchNormAct2d and torch.equal(model(pictures), before)


WITH_BATCH_NORM = [
    name
    for name in SMALL_ARCHITECTURES
    if any(isinstance(layer, _BatchNorm) for layer in build_without_memory(name).modules())
]


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_synchronised_batch_normalisation_changes_no_model_that_is_evaluated(name: str):
    assert {"diptych-tiny-resnet", "diptych-tiny-mobileclip"} <= set(WITH_BATCH_NORM)
    model = make_model(config(0, model=name)).eval()
    side = SMALL_ARCHITECTURES[name]["vision_cfg"]["image_size"]
    inputs = torch.randn(2, 3, side, side), torch.ones(2, 20, dtype=torch.int64)
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(*inputs)[:2]
        after = synchronize_batch_norm(model)(*inputs)[:2]
    assert list(model.state_dict()) == names and all(map(torch.equal, before, after))


def test_a_resnet_trains_with_synchronised_batch_normalisation(ranks: Ranks):
    results = ranks.run(statistics_after, [({"sync_batch_norm": True, "micro_batch_size": 2},)] * 3)
    assert all(is_restored for _, is_restored in results)


@pytest.mark.parametrize("stage", FIRST_AND_LAST)
@pytest.mark.parametrize("synchronised", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resnet_trains_in_bf16_with_fp32_statistics(ranks: Ranks, stage: int, synchronised: bool):
    values = {"precision": "bf16", "zero_stage": stage, "sync_batch_norm": synchronised}
    for statistics, is_restored in ranks.run(statistics_after, [(values,)] * 3):
        assert is_restored and all(value.dtype == torch.float32 for value in statistics.values())
        assert all(value.isfinite().all() for value in statistics.values())


@pytest.mark.parametrize("replace", [exact_batch_norm, synchronize_batch_norm])
@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), BatchNormAct2d(3)])
def test_a_replaced_batch_normalisation_does_what_the_layer_did(replace: Any, layer: nn.Module):
    rows = torch.randn(5, 3, 4, 4)
    other = replace(nn.Sequential(copy.deepcopy(layer)))
    for _ in range(2):
        torch.testing.assert_close(other(rows), layer(rows), rtol=1e-5, atol=1e-6)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(other[0].state_dict()[name], value)
    torch.testing.assert_close(other.eval()(rows), layer.eval()(rows), rtol=1e-5, atol=1e-6)


def averaged(_group: Any, stage: int, precision: str):
    """The average of four steps, the same after a resume, and a plain loop's."""
    settings = config(stage, ema_decay=0.7, precision=precision)
    engine = make_engine(settings)
    plain = {name: value.detach().clone() for name, value in make_model(settings).named_parameters()}
    for step in range(4):
        steps(engine, settings, step, step + 1)
        for name, value, _ in engine.gather():
            plain[name].lerp_(value, 1 - 0.7)
        if step == 1:
            again = resumed_with_average(settings, engine)
    steps(again, settings, 2, 4)
    results = [{name: value.clone() for name, value in each.gather_average()} for each in (engine, again)]
    return plain, *results


def resumed_with_average(settings: Any, engine: Any) -> Any:
    average = {name: value.clone() for name, value in engine.gather_average()}
    masters, moments = state(engine)
    model = make_model(settings)
    model.load_state_dict(masters, strict=False)
    new = make_engine(settings, model)
    new.restore_average(average, 2)
    new.restore(masters, moments, 2)
    return new


@pytest.mark.parametrize(
    ("stage", "precision"),
    [*(pytest.param(*each, marks=pytest.mark.slow) for each in ((0, "fp32"), (1, "bf16"), (2, "fp32"))), (3, "bf16")],
)
def test_the_weights_average_is_a_plain_loops_and_resumes_to_the_bit(ranks: Ranks, stage: int, precision: str):
    plain, average, again = ranks.run(averaged, [(stage, precision)] * 3)[0]
    for name, value in plain.items():
        torch.testing.assert_close(average[name], value, rtol=1e-6, atol=1e-7)
        assert torch.equal(average[name], again[name]), name


def clipped(_group: Any, stage: int, limit: float | None, micro_batch_size: int | None):
    settings = config(stage, grad_clip_norm=limit, micro_batch_size=micro_batch_size, eps=1.0, weight_decay=0.0)
    engine = make_engine(settings)
    start = {name: parameter.detach().clone() for name, parameter in make_model(settings).named_parameters()}
    norm = steps(engine, settings, 0, 1, rate=1e-3)[0].gradient_norm
    masters, _ = state(engine)
    return norm, sum(float((masters[n] - start[n]).norm() ** 2) for n in start if not n.startswith("logit")) ** 0.5


@pytest.mark.parametrize("stage", FIRST_AND_LAST)
def test_the_gradient_is_clipped_by_its_global_norm(ranks: Ranks, stage: int):
    """The norm is one process's with the whole batch, at every stage and with micro-batches."""
    expected = whole_gradient_norm()
    norm, free = ranks.run(clipped, [(stage, 1e6, None)] * 3)[0]
    assert norm == pytest.approx(expected, rel=1e-4)
    halved_norm, halved = ranks.run(clipped, [(stage, expected / 100, 2)] * 3)[0]
    assert halved_norm == pytest.approx(expected, rel=1e-4)
    assert halved < free / 20


def whole_gradient_norm() -> float:
    settings = config(0)
    model = make_model(settings)
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, SIDE, SIDE), generator=chance, dtype=torch.uint8)
    tokens = torch.randint(1, 49000, (12, 20), generator=chance)
    of_images, of_texts, scale = model((images.float() / 255 - 0.5) / 0.25, tokens)
    logits = scale * of_images @ of_texts.T
    labels = torch.arange(12)
    ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    squares = [float(p.grad.norm() ** 2) for name, p in model.named_parameters() if not name.startswith("logit")]
    return sum(squares) ** 0.5


def test_both_ways_to_lock_by_name_agree_with_the_config():
    model = make_model(config(0))
    lock_towers(model, config(0, lock={"text": True}).lock)
    assert not any(parameter.requires_grad for parameter in model.transformer.parameters())
    assert all(parameter.requires_grad for parameter in model.visual.parameters())
    assert model.logit_scale.requires_grad


def test_siglips_bias_is_balanced_for_the_global_batch():
    assert model_to_train(config(1, "siglip")).logit_bias.item() == pytest.approx(-math.log(11))
    paper = config(1, "siglip", initial_logit_bias=-10.0)
    assert model_to_train(paper).logit_bias.item() == -10 and paper.loss is LossName.SIGLIP
