"""The plan of a training, before its first step: model, memory, batches, length; for people and as JSON."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from infra.errors import ConfigError
from training.architectures import build_without_memory
from training.config import ScheduleName, TrainConfig
from training.layers import require_blocks
from training.locking import lock_towers
from training.memory import MemoryPlan, plan_memory
from training.model import model_to_train
from training.model_size import size_of, tower_of
from training.step import micro_batch_count

MILLION = 1e6
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training over a dataset of so many samples is, in optimizer steps."""

    samples: int
    steps: int
    warmup: int


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a training is going to do; None is what follows from a dataset that is not there yet.

    `rows_of_a_worker` are those of the largest rank's part of a batch.
    """

    model: str
    image_parameters: int
    text_parameters: int
    locked_parameters: int
    embedding_width: int
    workers: int
    global_batch_size: int
    rows_of_a_worker: int
    micro_batches: int
    samples: int | None
    steps: int | None
    warmup: int | None
    zero_stage: int
    precision: str
    memory: MemoryPlan
    worker_memory_bytes: int | None

    def lines(self) -> list[str]:
        """For people."""
        return [self._model_line(), self._batch_line(), self._length_line(), *self._memory_lines()]

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {
            "memory_total": self.memory.total,
            "memory_offloaded_total": sum(self.memory.offloaded_parts.values()),
        }

    def _model_line(self) -> str:
        locked = f", {self.locked_parameters / MILLION:,.2f} M of them locked" if self.locked_parameters else ""
        return (
            f"{self.model}: image tower {self.image_parameters / MILLION:,.2f} M parameters, "
            f"text tower {self.text_parameters / MILLION:,.2f} M{locked}; embeddings of {self.embedding_width}"
        )

    def _batch_line(self) -> str:
        line = f"global batch {self.global_batch_size:,} = {self.workers} worker{'s' if self.workers > 1 else ''} × "
        if self.global_batch_size % self.workers:
            line = f"global batch {self.global_batch_size:,} over {self.workers} workers: at most "
        if self.micro_batches > 1:
            return line + f"{self.micro_batches} micro-batches × {self.rows_of_a_worker // self.micro_batches:,} pairs"
        return line + f"{self.rows_of_a_worker:,} pairs, in one piece"

    def _length_line(self) -> str:
        if self.steps is None:
            return "length: follows from the dataset, which is not built yet"
        line = f"{self.steps:,} steps, {self.warmup:,} of them warm-up"
        if not self.samples:
            return line
        return f"{line}; {self.steps * self.global_batch_size / self.samples:,.2f} epochs of {self.samples:,} samples"

    def _memory_lines(self) -> list[str]:
        lines = [
            f"memory of a worker at ZeRO {self.zero_stage} in {self.precision}, about {_listed(self.memory.parts)}"
        ]
        if self.memory.offloaded:
            lines.append(f"and of the node's memory for each worker, about {_listed(self.memory.offloaded_parts)}")
        if self.worker_memory_bytes is not None and self.memory.total > self.worker_memory_bytes:
            lines.append(
                f"WARNING: that is more than the {_size(self.worker_memory_bytes)} that a worker has; lower "
                "train.micro_batch_size, raise train.zero_stage, or set train.activation_checkpointing=true"
            )
        return lines


def length_of(config: TrainConfig, samples: int) -> Length:
    """The number of steps, however the config states it, and the length of the warm-up."""
    batch = config.global_batch_size
    if config.steps is not None:
        steps = config.steps
    elif config.samples is not None:
        steps = math.ceil(config.samples / batch)
    else:
        assert config.epochs is not None
        steps = math.ceil(config.epochs * samples / batch)
    warmup = config.warmup_steps if config.warmup_steps is not None else min(2000, steps // 10)
    return Length(samples, steps, warmup)


def plan_training(config: TrainConfig, samples: int | None, worker_memory_bytes: int | None = None) -> TrainingPlan:
    """The plan. samples: of the dataset, None when it is not there yet.

    Weights that the config begins with are read, so that what does not fit is found here. Raises ConfigError.
    """
    size = size_of(config.model)
    locked = _locked_parameters(config)
    rows = -(-config.global_batch_size // config.max_workers)
    # Of these three ways to state a length, epochs alone want the samples.
    length = None if samples is None and config.epochs is not None else length_of(config, samples or 0)
    if length is not None:
        _require_room_for_schedule(config, length)
    memory = plan_memory(config, size.image + size.text - locked, locked, size.embedding_width, config.max_workers)
    return TrainingPlan(
        config.model,
        size.image,
        size.text,
        locked,
        size.embedding_width,
        config.max_workers,
        config.global_batch_size,
        rows,
        micro_batch_count(rows, config.micro_batch_size),
        samples,
        length.steps if length else None,
        length.warmup if length else None,
        config.zero_stage,
        config.precision.value,
        memory,
        worker_memory_bytes,
    )


def _require_room_for_schedule(config: TrainConfig, length: Length) -> None:
    cooldown = 0 if config.schedule is ScheduleName.COSINE else config.cooldown_steps
    if length.warmup + cooldown > length.steps:
        raise ConfigError(
            f"train.warmup_steps and train.cooldown_steps: got {length.warmup:,} and {cooldown:,}; "
            f"the training has {length.steps:,} steps.",
            "The learning rate rises, and goes down at the end, within the training.",
            "Lower them, or train for longer.",
        )


def worker_memory(config: TrainConfig) -> int | None:
    """The memory that one worker has, if it runs on this machine: its GPU's, or its share of the machine's."""
    if config.use_gpu is not False and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    if config.use_gpu or config.max_workers > (psutil.cpu_count() or 1):
        return None  # they run elsewhere
    return int(psutil.virtual_memory().total) // config.max_workers


def _locked_parameters(config: TrainConfig) -> int:
    if config.pretrained is not None:
        model = model_to_train(config)
    else:
        model = build_without_memory(config.model)
        require_blocks((name for name, _ in model.named_parameters()), config)
        lock_towers(model, config.lock)
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if not p.requires_grad and tower_of(name) != "scalars")


def _listed(parts: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
    return f"{_size(sum(parts.values()))}: {listed}"


def _size(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / (1 << 20):,.0f} MiB"
