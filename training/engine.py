"""Wraps a model in DeepSpeed: optimizer, ZeRO, precision, accumulation of gradients over micro-batches."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.batch_norm import average_statistics, exact_batch_norm, synchronize_batch_norm
from training.config import Precision, TrainConfig
from training.deepspeed_settings import merged, settled_settings, user_settings
from training.logit_scalars import LogitScalars
from training.master_weights import MasterWeights
from training.model_size import tower_of
from training.parameter_groups import parameter_groups
from training.weight_average import WeightAverage

LARGEST_BUCKET = 100_000_000  # elements: past this size all-reduces are no faster


def initialize_deepspeed(use_gpu: bool) -> None:
    """Makes DeepSpeed ready on an initialised process group; must come before anything imports deepspeed."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    if not use_gpu:
        # Without this, DeepSpeed compiles a C++ extension for CPU communication, and fails without a compiler.
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend="nccl" if use_gpu else "gloo", verbose=False)


class Engine:
    """A model under DeepSpeed, stepped with a learning rate from outside.

    A step is `micro_batches` calls of `backward`, the same number on every rank, then `step`.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, *, ranks: int, micro_batches: int = 1) -> None:
        import deepspeed

        device = torch.device("cuda", torch.cuda.current_device()) if _is_on_gpu() else torch.device("cpu")
        self.scalars = LogitScalars(model, config, device)
        if config.sync_batch_norm:
            synchronize_batch_norm(model)
        elif config.precision is Precision.BF16 and config.zero_stage:
            exact_batch_norm(model)  # DeepSpeed makes its parameters bf16
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=takes_one_pass(device, config),
        )
        self._stage = config.zero_stage
        # Of the last step's averaged gradients before clipping, over both towers; None where nobody knows it.
        self.gradient_norm: float | None = None
        # Whether the last step changed the weights: one whose gradient is not finite does not.
        self.is_applied = True
        trained_parts = {tower_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
        # Of "image" and "text", those with a parameter that is trained; the others give the same features each time.
        self.trained_towers = frozenset(trained_parts - {"scalars"})
        weights = {name: value.detach().float().clone() for name, value in model.named_parameters()}
        self._clip_norm = config.grad_clip_norm
        self._is_bf16 = config.precision is Precision.BF16
        # At stage 0 fp32 weights are computed with in bf16; from stage 1 on the weights are bf16, and masters fp32.
        self._autocasts = self._is_bf16 and config.zero_stage == 0
        if self._autocasts:
            # Inside of the module: from outside, DeepSpeed switches CUDA's autocast off for the length of its forward.
            model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        self._deepspeed, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=_deepspeed_config(config, ranks, micro_batches, trained)
        )
        self.module: nn.Module = self._deepspeed.module
        self.device: torch.device = self._deepspeed.device
        self._masters = MasterWeights(self._deepspeed, is_plain=config.zero_stage == 0, stage=config.zero_stage)
        # DeepSpeed takes its fp32 masters from weights that it has rounded to bf16.
        self._masters.restore_weights(weights, 0)
        tensors = [*self._masters.tensors, *self.scalars.tensors]
        self._average = None if config.ema_decay is None else WeightAverage(tensors, config.ema_decay)

    @property
    def dtype(self) -> torch.dtype:
        """Of the pictures that `encode` takes."""
        return torch.bfloat16 if self._is_bf16 and not self._autocasts else torch.float32

    @property
    def feature_dtype(self) -> torch.dtype:
        """Of the features that the loss multiplies."""
        return torch.bfloat16 if self._is_bf16 else torch.float32

    def encode(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unit image features and unit text features (n, D), with gradient where that is on."""
        outputs = self._deepspeed(images, tokens)
        return outputs[0].to(self.feature_dtype), outputs[1].to(self.feature_dtype)

    def encode_pictures(self, images: Tensor) -> Tensor:
        """Unit image features (n, D), the text tower left out. Every rank leaves the same one out: see ZeRO-3."""
        features: Tensor = self._deepspeed(images, None)[0].to(self.feature_dtype)
        return features

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Unit text features (n, D), the image tower left out on every rank."""
        features: Tensor = self._deepspeed(None, tokens)[1].to(self.feature_dtype)
        return features

    def backward(self, loss: Tensor) -> None:
        """Adds a micro-batch's gradients to the step's."""
        self._deepspeed.backward(loss, scale_wrt_gas=False)

    def end_micro_batch(self, learning_rate: float) -> None:
        """Ends a micro-batch after its `backward`; after the last one the optimizer steps."""
        is_last = self._deepspeed.is_gradient_accumulation_boundary()
        for group in self._deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_scale"]
        plain_norm = self._plain_norm() if is_last else None
        if plain_norm is not None:
            self._clip_plain_gradients(plain_norm)
        self._deepspeed.step()
        if is_last:
            norm = self._deepspeed.get_global_grad_norm() if plain_norm is None else plain_norm
            self.gradient_norm = None if norm is None else float(norm)
            if self.gradient_norm is not None and not math.isfinite(self.gradient_norm):
                self.skip_step()
                return
            self.is_applied = True
            self.scalars.step(learning_rate, self._clip_factor())
            average_statistics(self.module)
            if self._average is not None:
                self._average.update()

    def skip_step(self) -> None:
        """Leaves the step under way out: it changes nothing. Every rank calls it."""
        self.is_applied = False
        self.scalars.forget_gradients()

    def sizes(self) -> dict[str, int]:
        """Elements of each tensor that `gather` gives."""
        return self._masters.sizes() | self.scalars.sizes()

    def gather(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Name, whole fp32 master and whole moments of each parameter; every rank goes through all of them.

        A locked parameter has no moments.
        """
        yield from self._masters.gather()
        yield from self.scalars.gather()

    def restore(self, masters: dict[str, Tensor], moments: dict[str, dict[str, Tensor]], step: int) -> None:
        """Puts back masters and moments (name → moment → tensor) after `step` optimizer steps.

        The model was given the same masters before DeepSpeed took it, so that its own copies are right already. What
        was locked until now has no moments, and begins with empty ones.
        """
        self._masters.restore(masters, moments, step)
        self.scalars.restore(masters, moments, step)

    def gather_average(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole averaged weight of each parameter; nothing without `ema_decay`. Every rank goes through."""
        if self._average is not None:
            # What reads the masters reads the average in their place.
            with self._average.in_place():
                for name, value, _ in self.gather():
                    yield name, value

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model encodes with the averaged weights, where there are some; after it all is as before.

        Every rank enters and leaves at once. After an error the model keeps the average: to put the weights back is the
        work of all ranks, and those that met no error are elsewhere.
        """
        if self._average is None:
            yield
            return
        with self._average.in_place():
            self._masters.copy_to_model()
            yield
        self._masters.copy_to_model()

    def restore_average(self, weights: dict[str, Tensor], step: int) -> None:
        """Puts back the averaged weights; before `restore`, which puts back the masters in whose place they come."""
        if self._average is not None:
            self._masters.restore_weights(weights, step)
            self.scalars.restore_weights(weights)
            self._average.take()

    def buffers(self) -> dict[str, Tensor]:
        """What the model keeps beside its parameters: batch normalisation's running statistics; equal on all ranks."""
        kept = self.module.state_dict().keys()
        return {name: buffer.detach() for name, buffer in self.module.named_buffers() if name in kept}

    def _plain_norm(self) -> float | None:
        """The gradient's norm at stage 0, where DeepSpeed keeps none; None at the others."""
        if self._stage:
            return None
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _clip_plain_gradients(self, norm: float) -> None:
        """Does at stage 0 what DeepSpeed does at the others: clips, or leaves out a step that is not finite.

        DeepSpeed's own clipping can't do without any gradient.
        """
        if not math.isfinite(norm):
            for parameter in self.module.parameters():
                parameter.grad = None
        elif self._clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.module.parameters(), self._clip_norm, torch.tensor(norm))

    def _clip_factor(self) -> float:
        norm = self.gradient_norm
        return 1.0 if self._clip_norm is None or norm is None else min(1.0, self._clip_norm / (norm + 1e-6))


def _is_on_gpu() -> bool:
    return dist.is_initialized() and dist.get_backend() == "nccl"


def takes_one_pass(device: torch.device, config: TrainConfig) -> bool | None:
    """Whether AdamW goes over its memory once, which pays in a node's; None for torch's own choice on a GPU.

    The masters and moments of an offloaded optimizer are in the node's memory.
    """
    return True if device.type == "cpu" or config.optimizer_offload else None


def reduce_bucket_elements(trained: int) -> int:
    """Gradients that DeepSpeed sums over the ranks at once; it sets that many aside, 500 million by itself."""
    return min(trained, LARGEST_BUCKET)


def _deepspeed_config(config: TrainConfig, ranks: int, micro_batches: int, trained: int) -> dict[str, Any]:
    # DeepSpeed checks its batch sizes against each other and uses them for nothing else: the loss weighs the rows.
    ours = settled_settings(config) | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "train_batch_size": ranks * micro_batches,
    }
    ours["zero_optimization"] = {"reduce_bucket_size": reduce_bucket_elements(trained), **ours["zero_optimization"]}
    settings = merged(ours, user_settings(config))
    return settings if config.zero_stage else settings | {"gradient_clipping": 0.0}
