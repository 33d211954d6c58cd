"""One step of the training: the global batch through the model in micro-batches, the loss, the optimizer.

With several micro-batches, features are encoded first without a graph; the loss over all of them gives each feature's
gradient; then each micro-batch is encoded again and its features' gradients go back through it. So the loss is that
of the whole global batch, in the memory of one micro-batch. Source: GradCache, Gao et al. 2021 (arXiv 2101.06983).
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.bad_steps import BadStepJudge
from training.batch_norm import frozen_statistics
from training.config import LossName
from training.engine import Engine
from training.loader import normalize
from training.logit_scalars import LogitScalars
from training.loss import clip_loss, siglip_loss
from training.model import ModelTraits

BOTH_TOWERS = frozenset({"image", "text"})


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to: the global loss, the scale that it was taken with, and the gradient's norm if known.

    A bad step is not applied: it has changed nothing.
    """

    loss: float
    logit_scale: float
    gradient_norm: float | None
    is_applied: bool = True


@dataclass(frozen=True, slots=True)
class StepPlace:
    """Where in the training, and on which rank, a step is: what its random numbers follow from."""

    seed: int
    step: int
    rank: int


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Pictures (n, 3, side, side) uint8 and tokens (n, context length), and its number in the step."""

    index: int
    images: Tensor
    tokens: Tensor


def train_step(
    engine: Engine,
    name: LossName,
    traits: ModelTraits,
    micro_batches: list[MicroBatch],
    learning_rate: float,
    place: StepPlace,
    judge: BadStepJudge,
) -> StepResult:
    """One optimizer step over this rank's part of the global batch, and all other ranks'.

    Raises TrainingStopped when the judge does, before any weight is changed.
    """
    scale = float(engine.scalars.scale.detach())
    statistics = {name: buffer.clone() for name, buffer in engine.buffers().items()}
    if len(micro_batches) == 1:
        value = _step_at_once(engine, name, traits, micro_batches[0], learning_rate, place, judge)
    else:
        value = _step_on_cached_features(engine, name, traits, micro_batches, learning_rate, place, judge)
    if engine.is_applied:
        return StepResult(value, scale, engine.gradient_norm)
    for buffer_name, buffer in engine.buffers().items():
        buffer.copy_(statistics[buffer_name])
    if math.isfinite(value) and engine.gradient_norm is not None and not math.isfinite(engine.gradient_norm):
        judge.refuse_gradient(place.step)
    return StepResult(value, scale, None, is_applied=False)


def _step_at_once(
    engine: Engine,
    name: LossName,
    traits: ModelTraits,
    micro_batch: MicroBatch,
    learning_rate: float,
    place: StepPlace,
    judge: BadStepJudge,
) -> float:
    features = _encode(engine, traits, micro_batch, place)
    loss = global_loss(name, *features, engine.scalars)
    value = float(loss.detach())
    if not judge.is_good(value, place.step):
        engine.skip_step()
        return value
    # Activation checkpointing runs parts of the model again.
    with frozen_statistics(engine.module):
        engine.backward(loss)
    engine.end_micro_batch(learning_rate)
    return value


def _step_on_cached_features(
    engine: Engine,
    name: LossName,
    traits: ModelTraits,
    micro_batches: list[MicroBatch],
    learning_rate: float,
    place: StepPlace,
    judge: BadStepJudge,
) -> float:
    images, texts = _cached_features(engine, traits, micro_batches, place)
    loss = global_loss(name, images, texts, engine.scalars)
    value = float(loss.detach())
    if not judge.is_good(value, place.step):
        engine.skip_step()
        return value
    torch.autograd.backward(loss)
    assert images.grad is not None and texts.grad is not None
    first = 0
    with frozen_statistics(engine.module):
        for micro_batch in micro_batches:
            rows = slice(first, first + len(micro_batch.images))
            again = zip(_encode_trained(engine, traits, micro_batch, place), (images.grad, texts.grad), strict=True)
            sums = [(found.float() * gradient[rows]).sum() for found, gradient in again if found is not None]
            # A loss whose gradient with respect to the features is the real one's.
            engine.backward(torch.stack(sums).sum())
            engine.end_micro_batch(learning_rate)
            first = rows.stop
    return value


@torch.no_grad()
def _cached_features(
    engine: Engine, traits: ModelTraits, micro_batches: list[MicroBatch], place: StepPlace
) -> tuple[Tensor, Tensor]:
    """Both towers' features of this rank's part of the batch, which take their gradients: (n, D) each.

    Where a tower is locked, each is encoded by itself, so that the other one can be again without it.
    """
    if engine.trained_towers == BOTH_TOWERS:
        cached = [_encode(engine, traits, micro_batch, place) for micro_batch in micro_batches]
        images, texts = (torch.cat(side) for side in zip(*cached, strict=True))
    else:
        images = torch.cat([_encode_pictures(engine, traits, micro_batch, place) for micro_batch in micro_batches])
        texts = torch.cat([_encode_texts(engine, micro_batch, place) for micro_batch in micro_batches])
    return images.requires_grad_(), texts.requires_grad_()


def _encode_trained(
    engine: Engine, traits: ModelTraits, micro_batch: MicroBatch, place: StepPlace
) -> tuple[Tensor | None, Tensor | None]:
    """The micro-batch's features as in `_cached_features`, with a graph; none of a locked tower."""
    if engine.trained_towers == BOTH_TOWERS:
        return _encode(engine, traits, micro_batch, place)
    if "image" in engine.trained_towers:
        return _encode_pictures(engine, traits, micro_batch, place), None
    return None, _encode_texts(engine, micro_batch, place)


def _encode(engine: Engine, traits: ModelTraits, micro_batch: MicroBatch, place: StepPlace) -> tuple[Tensor, Tensor]:
    """The micro-batch's features; dropout and patch dropout are the same each time, and after a resume."""
    torch.manual_seed(_seed(place, f"{micro_batch.index}"))
    images = normalize(micro_batch.images.to(engine.device, non_blocking=True), traits, engine.dtype)
    return engine.encode(images, micro_batch.tokens.to(engine.device, non_blocking=True))


def _encode_pictures(engine: Engine, traits: ModelTraits, micro_batch: MicroBatch, place: StepPlace) -> Tensor:
    torch.manual_seed(_seed(place, f"{micro_batch.index}"))
    images = micro_batch.images.to(engine.device, non_blocking=True)
    return engine.encode_pictures(normalize(images, traits, engine.dtype))


def _encode_texts(engine: Engine, micro_batch: MicroBatch, place: StepPlace) -> Tensor:
    # A seed of their own: with the pictures' the random numbers of both towers would be the same.
    torch.manual_seed(_seed(place, f"{micro_batch.index}/texts"))
    return engine.encode_texts(micro_batch.tokens.to(engine.device, non_blocking=True))


def _seed(place: StepPlace, part: str) -> int:
    text = f"{place.seed}/{place.step}/{place.rank}/{part}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def split_micro_batches(images: Tensor, tokens: Tensor, count: int) -> list[MicroBatch]:
    """A rank's part in `count` micro-batches, whose rows differ by one at most."""
    parts = zip(images.tensor_split(count), tokens.tensor_split(count), strict=True)
    return [MicroBatch(index, *part) for index, part in enumerate(parts)]


def micro_batch_count(rows_of_largest_rank: int, micro_batch_size: int | None) -> int:
    """How many micro-batches every rank makes of its part of a batch."""
    return 1 if micro_batch_size is None else -(-rows_of_largest_rank // micro_batch_size)


def global_loss(name: LossName, images: Tensor, texts: Tensor, scalars: LogitScalars) -> Tensor:
    """The configured loss of this rank's features (n, D) over the global batch."""
    if name is LossName.SIGLIP:
        assert scalars.bias is not None
        return siglip_loss(images, texts, scalars.scale, scalars.bias)
    return clip_loss(images, texts, scalars.scale)
