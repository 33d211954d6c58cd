"""What the plan says of memory, against what a training holds."""

import gc
from typing import Any

import pytest
import torch
from ranks import Ranks
from test_engine import BATCH, MODEL, SIDE, STAGES, config, make_engine, make_model, steps

from training.architectures import architecture_of
from training.memory import activation_bytes, plan_memory, saved_bytes, state_bytes
from training.model_size import size_of
from training.plan import plan_training
from training.small_models import SMALL_ARCHITECTURES

WIDTH = architecture_of(MODEL)["embed_dim"]
DEEP = {"model": "diptych-tiny"}
PARTS = ("weights", "masters", "gradients", "bucket", "moments", "average")


def storage_bytes(tensors: Any) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}.values())


def measured(_group: Any, stage: int, values: dict[str, Any]):
    """Bytes of the parts that this rank holds."""
    from training.step import global_loss

    settings = config(stage, **values)
    engine = make_engine(settings)
    steps(engine, settings, 0, 1)
    optimizer = engine._deepspeed.optimizer
    weights = storage_bytes(engine.module.parameters())
    if stage == 3:
        weights = storage_bytes(parameter.ds_tensor for parameter in engine.module.parameters())
    masters = 0 if stage == 0 else storage_bytes(engine._masters.tensors)
    inner = optimizer if stage == 0 else optimizer.optimizer
    moments = storage_bytes(state[key] for state in inner.state.values() for key in ("exp_avg", "exp_avg_sq"))
    average = storage_bytes(engine._average._averages) if engine._average else 0
    features = engine.encode(torch.randn(4, 3, SIDE, SIDE).to(engine.dtype), torch.ones(4, 20).long())
    engine.backward(global_loss(settings.loss, *features, engine.scalars))
    if stage == 0:
        gradients = storage_bytes(p.grad for p in engine.module.parameters() if p.grad is not None)
    elif stage < 3:
        # Views of what was reduced: their elements, and not the buckets that they lie in.
        kept = [t for group in optimizer.averaged_gradients.values() if group for t in group]
        gradients = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    else:
        gradients = storage_bytes([optimizer.grad_partitions_flat_buffer])
    value = next(engine.module.parameters()).element_size()
    bucket = 0 if stage == 0 else optimizer.reduce_bucket_size * value
    return weights, masters, gradients, bucket, moments, average


@pytest.mark.parametrize("values", [{}, {"precision": "bf16", "ema_decay": 0.9}], ids=["fp32", "bf16 with average"])
@pytest.mark.parametrize("stage", STAGES)
def test_weights_gradients_and_optimizer_take_what_the_formula_says(ranks: Ranks, stage: int, values: dict[str, Any]):
    size = size_of(MODEL)
    formula = state_bytes(config(stage, **values), size.image + size.text, 0, 3)
    of_ranks = ranks.run(measured, [(stage, values)] * 3)
    for part, found, expected in zip(PARTS, zip(*of_ranks, strict=True), formula, strict=True):
        # Flat partitions are padded to equal lengths; the two scalars lie elsewhere, but their average is counted.
        assert sum(found) / 3 == pytest.approx(expected, rel=0.02, abs=64), part


def test_an_offloaded_optimizer_is_counted_in_the_nodes_memory_and_not_in_the_gpus():
    size = size_of(MODEL)
    values = {"precision": "bf16", "ema_decay": 0.9, "micro_batch_size": 1}
    plain, offloaded = (
        plan_training(config(2, use_gpu=True, optimizer_offload=offload, **values), 1000) for offload in (False, True)
    )
    trained = size.image + size.text
    assert plain.memory.offloaded_parts == {}
    workers = config(2).max_workers
    # A master, two moments and an average, of 4 bytes each.
    assert sum(offloaded.memory.offloaded_parts.values()) == 4 * 4 * -(-trained // workers)
    assert offloaded.memory.total == plain.memory.total - sum(offloaded.memory.offloaded_parts.values())
    assert offloaded.facts()["memory_total"] == offloaded.memory.total
    told = [line for line in offloaded.lines() if "node's memory" in line]
    assert len(told) == 1 and "moments" in told[0]
    assert not any("node's memory" in line for line in plain.lines())


def test_without_a_gpu_offloading_moves_nothing():
    plan = plan_training(config(2, use_gpu=False, optimizer_offload=True), 1000)
    assert plan.memory.offloaded_parts == {} and plan.memory.moments > 0


@pytest.mark.parametrize("name", sorted(SMALL_ARCHITECTURES))
def test_the_probe_finds_what_a_real_forward_pass_saves(name: str):
    settings = config(0, model=name)
    side = SMALL_ARCHITECTURES[name]["vision_cfg"]["image_size"]
    model = make_model(settings)
    real = saved_bytes(model, torch.randn(5, 3, side, side), torch.ones(5, 20, dtype=torch.int64))
    assert activation_bytes(settings, 5) == pytest.approx(real, rel=0.02)


def test_recomputed_activations_and_locked_towers_save_memory():
    plain = activation_bytes(config(0, **DEEP), BATCH)
    assert activation_bytes(config(0, **DEEP, activation_checkpointing=True), BATCH) < plain / 2
    assert activation_bytes(config(0, **DEEP, lock={"image": True}), BATCH) < plain / 2
    assert activation_bytes(config(0, **DEEP, patch_dropout=0.75), BATCH) < plain
    assert activation_bytes(config(0, **DEEP, precision="bf16"), BATCH) < plain


def features_between_backwards(_group: Any, values: dict[str, Any]) -> tuple[int, int]:
    """Bytes of the features and their gradients after the loss's backward, and what the plan says of them."""
    settings = config(0, micro_batch_size=1, **values)
    engine = make_engine(settings)
    plan = plan_memory(settings, 1, 0, WIDTH, torch.distributed.get_world_size())
    found = []
    backward = engine.backward

    def watched(loss: torch.Tensor) -> None:
        gc.collect()
        alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.ndim == 2 and t.shape[1] == WIDTH]
        # This micro-batch's own features, one row a side, have a graph that leads into the model.
        rows = [t for t in alive if t.grad_fn is None and len(t) <= BATCH]
        found.append(storage_bytes([*rows, *(t.grad for t in rows if t.is_leaf and t.grad is not None)]))
        backward(loss)

    engine.backward = watched
    steps(engine, settings, 0, 1)
    return max(found), plan.features


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_features_are_held_once_beside_their_gradients(ranks: Ranks, precision: str):
    for found, planned in ranks.run(features_between_backwards, [({"precision": precision},)] * 3):
        assert found == planned
