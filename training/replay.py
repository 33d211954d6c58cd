"""Takes one step of a finished or broken training apart: its samples, and what each adds to the loss."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from infra.errors import ConfigError
from infra.storage import Storage
from training.agreement import MASK
from training.augment import STREAMS
from training.checkpoint import TensorKind, committed_checkpoints, load_tensors, problem_of, read_state, step_of
from training.config import LossName, TrainConfig
from training.loader import Batch, TrainingLoader, normalize
from training.mixture import Mixture
from training.model import ModelTraits, create_model, model_to_train, traits_of
from training.order import batch_positions, keyed_numbers
from training.picture_constants import settle_pictures
from training.records import read_metrics
from training.sample_reader import captions_in
from training.samples import Samples, select_training
from training.selection import Integers

ENCODED_AT_ONCE = 256
THREADS = 2


@dataclass(frozen=True, slots=True)
class ReplayedSample:
    """A pair of a step: its place in the order and in the dataset, the numbers of its augmentation, and its loss.

    The step's loss is the mean of its samples' losses. It is a neighbour of the sample that the order has at its
    position where that one `is_replaced`: broken, or excluded.
    """

    position: int
    epoch: int
    dataset: str
    shard: int
    index: int
    key: str
    caption: str
    augmentation: tuple[float, ...]
    loss: float
    is_replaced: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """A step, from 1, with the weights of `checkpoint` after `checkpoint_step` steps; None: those it began with.

    Dropout is off, and batch normalisation uses its running statistics. `is_as_recorded`: whether these are the very
    samples that the training recorded at this step; None when it has not recorded the step.
    """

    step: int
    checkpoint: str | None
    checkpoint_step: int
    loss: float
    samples: tuple[ReplayedSample, ...]
    is_as_recorded: bool | None = None


def replay_step(config: TrainConfig, run: Storage, step: int) -> Replay:
    """Runs the batch of a step (from 1) through the model of the last checkpoint before it, on this machine's CPU.

    Raises ConfigError for a step that the training has not.
    """
    samples, order = select_training(config)
    _require_step(config, order.places, step)
    checkpoint, done, model = _model_before(config, run, step)
    config = settle_pictures(config, run)
    traits = traits_of(config)
    batch = _batch(config, samples, order, traits, step)
    images, texts, scale, bias = _features(model.eval(), traits, batch)
    losses = losses_of_samples(config.loss, images, texts, scale, bias)
    return Replay(
        step,
        checkpoint,
        done,
        float(losses.mean()),
        tuple(_replayed(config, samples, order, step, batch, losses)),
        _is_as_recorded(run, step, batch),
    )


def losses_of_samples(name: LossName, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """What each pair adds to N times the loss (N,): its row's and its column's half, or its row's pairs for SigLIP."""
    parts = []
    for first in range(0, len(images), ENCODED_AT_ONCE):
        rows = slice(first, min(first + ENCODED_AT_ONCE, len(images)))
        labels = torch.arange(rows.start, rows.stop)
        logits = scale * images[rows] @ texts.T
        if name is LossName.SIGLIP:
            signs = -torch.ones_like(logits)
            signs[torch.arange(len(labels)), labels] = 1
            assert bias is not None
            parts.append(-F.logsigmoid(signs * (logits + bias)).sum(1))
        else:
            columns = scale * texts[rows] @ images.T
            by_row, by_column = (F.cross_entropy(each, labels, reduction="none") for each in (logits, columns))
            parts.append((by_row + by_column) / 2)
    return torch.cat(parts)


def _require_step(config: TrainConfig, samples: int, step: int) -> None:
    from training.plan import length_of

    steps = length_of(config, samples).steps
    if not 1 <= step <= steps:
        raise ConfigError(f"--step: got {step:,}.", f"The training has the steps 1 to {steps:,}.", "Name one of them.")


def _model_before(config: TrainConfig, run: Storage, step: int) -> tuple[str | None, int, torch.nn.Module]:
    for path in reversed(committed_checkpoints(run)):
        if step_of(path) < step and problem_of(run.at(path)) is None:
            state = read_state(run.at(path))
            model = create_model(config.model, config.loss, config.seed)
            kinds = (TensorKind.PARAMETERS, TensorKind.BUFFERS)
            parameters, buffers = (load_tensors(run.at(path), kind) for kind in kinds)
            model.load_state_dict(parameters | buffers)
            return path, state.step, model
    return None, 0, model_to_train(config)


def _batch(config: TrainConfig, samples: Samples, order: Mixture, traits: ModelTraits, step: int) -> Batch:
    loader = TrainingLoader(
        samples,
        order,
        traits,
        batch_size=config.global_batch_size,
        rank=0,
        ranks=1,
        augment=config.augment,
        threads=THREADS,
        exclude=frozenset(config.exclude),
    )
    with loader:
        return next(loader.batches(step - 1, step))


@torch.inference_mode()
def _features(
    model: torch.nn.Module, traits: ModelTraits, batch: Batch
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    outputs = [
        model(normalize(images, traits, torch.float32), tokens)
        for images, tokens in zip(
            torch.split(batch.images, ENCODED_AT_ONCE), torch.split(batch.tokens, ENCODED_AT_ONCE), strict=True
        )
    ]
    images, texts = (torch.cat([output[side] for output in outputs]) for side in (0, 1))
    return images, texts, outputs[0][2], outputs[0][3] if len(outputs[0]) > 3 else None


def _is_as_recorded(run: Storage, step: int, batch: Batch) -> bool | None:
    recorded = next((int(metrics.digest, 16) for metrics in read_metrics(run) if metrics.step == step), None)
    return None if recorded is None else recorded == batch.digest & MASK


def _replayed(
    config: TrainConfig, samples: Samples, order: Mixture, step: int, batch: Batch, losses: Tensor
) -> list[ReplayedSample]:
    positions = batch_positions(step - 1, config.global_batch_size)
    planned, epochs = order.draw(positions)
    # A sample that stands in for another has that one's augmentation.
    chances = keyed_numbers(config.seed, epochs, planned, STREAMS + 1)
    numbers = planned.copy()
    for replacement in batch.replacements:
        numbers[replacement.position - positions[0]] = replacement.number
    sources, shards, indices = samples.locate(numbers)
    texts = _keys_and_captions(samples, sources, shards, indices, chances[:, STREAMS])
    return [
        ReplayedSample(
            int(positions[row]),
            int(epochs[row]),
            samples.selections[int(sources[row])].dataset.storage.url,
            int(shards[row]),
            int(indices[row]),
            *texts[row],
            tuple(float(chance) for chance in chances[row]),
            float(losses[row]),
            bool(numbers[row] != planned[row]),
        )
        for row in range(len(positions))
    ]


def _keys_and_captions(
    samples: Samples, sources: Integers, shards: Integers, indices: Integers, chances: npt.NDArray[np.float64]
) -> list[tuple[str, str]]:
    """The key of each sample, and the caption that the chance draws."""
    found = [("", "")] * len(sources)
    for source, shard in sorted(set(zip(sources.tolist(), shards.tolist(), strict=True))):
        selection = samples.selections[source]
        with selection.dataset.open_shard(shard, ["key", *selection.captions]) as reader:
            for row in np.flatnonzero((sources == source) & (shards == shard)):
                captions = captions_in(reader, selection.captions, int(indices[row]))
                caption = captions[int(chances[row] * len(captions))]
                found[int(row)] = (str(reader.samples["key"][int(indices[row])].as_py()), caption)
    return found
