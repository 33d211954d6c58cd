"""Says what a training takes of each worker's memory: its state by formula, its activations by a probe.

Source of the formulas: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3.1, and what DeepSpeed 0.19.8
allocates: from stage 1 on it keeps fp32 masters in fp32 training too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from training.architectures import architecture_of, build_without_memory
from training.config import LossName, Precision, TrainConfig
from training.engine import reduce_bucket_elements
from training.locking import lock_towers
from training.loss_memory import loss_memory_bytes
from training.model import checkpoint_activations

FP32 = 4
BF16 = 2
OFFLOADED = ("masters", "moments", "average")  # with train.optimizer_offload


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one worker, at its fullest. `activations` are those of one micro-batch between forward and backward.

    `offloaded` names the parts that lie in the node's memory and not in the GPU's.
    """

    weights: int
    masters: int
    gradients: int
    reduce_bucket: int
    moments: int
    average: int
    activations: int
    features: int
    loss: int
    offloaded: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, int]:
        """Each part on the device that computes, by its name."""
        return {name: size for name, size in self._sizes().items() if name not in self.offloaded}

    @property
    def offloaded_parts(self) -> dict[str, int]:
        """Each part in the node's memory, by its name."""
        return {name: size for name, size in self._sizes().items() if name in self.offloaded}

    @property
    def total(self) -> int:
        """The sum of the parts on the device that computes."""
        return sum(self.parts.values())

    def _sizes(self) -> dict[str, int]:
        return {name: size for name, size in asdict(self).items() if name != "offloaded"}


def plan_memory(config: TrainConfig, trained: int, locked: int, width: int, workers: int) -> MemoryPlan:
    """The parts for a config. trained, locked: parameters of both towers; width: D."""
    weights, masters, gradients, bucket, moments, average = state_bytes(config, trained, locked, workers)
    rows = -(-config.global_batch_size // workers)
    micro_batch = min(config.micro_batch_size or rows, rows)
    feature_bytes = BF16 if config.precision is Precision.BF16 else FP32
    return MemoryPlan(
        weights,
        masters,
        gradients,
        bucket,
        moments,
        average,
        activation_bytes(config, micro_batch),
        # Of both sides: the features, and their gradients.
        2 * 2 * rows * width * feature_bytes,
        loss_memory_bytes(
            config.global_batch_size,
            workers,
            width,
            feature_bytes=feature_bytes,
            for_siglip=config.loss is LossName.SIGLIP,
        ),
        OFFLOADED if config.optimizer_offload and config.use_gpu is not False else (),
    )


def state_bytes(config: TrainConfig, trained: int, locked: int, workers: int) -> tuple[int, int, int, int, int, int]:
    """Weights, masters, gradients, the bucket they are reduced in, Adam's moments and the average, by ZeRO stage.

    At stage 1, gradients are whole between micro-batches, and otherwise spread as soon as they are there.
    """
    stage = config.zero_stage
    half = config.precision is Precision.BF16 and stage > 0
    value = BF16 if half else FP32
    share = -(-trained // workers)
    weights = (trained + locked) * value if stage < 3 else -(-(trained + locked) // workers) * value
    masters = share * FP32 if stage else 0
    is_whole = stage == 0 or (stage == 1 and has_micro_batches(config, workers))
    gradients = (trained if is_whole else share) * value
    bucket = reduce_bucket_elements(trained) * value if stage else 0
    moments = 2 * FP32 * (share if stage else trained)
    average = 0 if config.ema_decay is None else FP32 * (share if stage else trained)
    return weights, masters, gradients, bucket, moments, average


def has_micro_batches(config: TrainConfig, workers: int) -> bool:
    """Whether a worker's part of a batch goes through in several pieces."""
    return config.micro_batch_size is not None and config.micro_batch_size * workers < config.global_batch_size


def activation_bytes(config: TrainConfig, rows: int) -> int:
    """What the forward pass of `rows` pairs keeps for the backward pass.

    A probe: the real model's forward pass on tensors that have shapes and no memory. It is linear in the rows, so two
    small passes give any number.
    """
    one, two = (_saved_bytes(config, count) for count in (2, 3))
    return one + (two - one) * (rows - 2)


def _saved_bytes(config: TrainConfig, rows: int) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    architecture = architecture_of(config.model)
    side = architecture["vision_cfg"].get("image_size", 224)
    side = side[0] if isinstance(side, list | tuple) else side
    dtype = torch.bfloat16 if config.precision is Precision.BF16 else torch.float32
    with _default_dtype(dtype):
        model = build_without_memory(config.model, patch_dropout=config.patch_dropout)
    with FakeTensorMode(), _default_dtype(dtype):
        _pretend_to_be_on_the_cpu(model)
        lock_towers(model, config.lock)
        if config.activation_checkpointing:
            checkpoint_activations(model, config.model)
        images = torch.empty(rows, 3, side, side)
        tokens = torch.zeros(rows, architecture["text_cfg"].get("context_length", 77), dtype=torch.int64)
        return saved_bytes(model, images, tokens)


def _pretend_to_be_on_the_cpu(model: nn.Module) -> None:
    """Gives a model on the meta device tensors of the fake mode, in which operations choose what they do on a CPU."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def saved_bytes(model: nn.Module, images: Tensor, tokens: Tensor) -> int:
    """The memory of what autograd saves in one forward pass, without the parameters and buffers themselves."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)  # an address would be given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images, tokens)
    return sum(kept.values())
