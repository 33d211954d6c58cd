"""Batch normalisation in data-parallel training: over which samples, and what becomes of the running statistics.

By default each micro-batch of each rank is normalised by its own statistics, and the running ones, which evaluation
uses, are averaged over the ranks after each step. `sync_batch_norm` normalises by the statistics of a micro-batch of
all ranks together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Replaces every batch normalisation by one over all ranks; the parameters keep their names."""
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            setattr(model, name, _GlobalBatchNorm.like(child))
        else:
            synchronize_batch_norm(child)
    return model


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, forward passes leave the running statistics as they are: they have seen these samples already."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches


def average_statistics(model: nn.Module) -> None:
    """Makes the running statistics of all ranks their average, so that any rank's are the training's."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    running = [
        statistic
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
        for statistic in (layer.running_mean, layer.running_var)
        if statistic is not None
    ]
    if running:
        flat = torch.cat([statistic.float() for statistic in running])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for statistic, average in zip(running, torch.split(flat, [len(each) for each in running]), strict=True):
            statistic.copy_(average)


class _GlobalBatchNorm(_BatchNorm):
    """Over all ranks' samples, on every backend; torch's own knows GPUs only. Ranks may differ in their rows.

    timm's layers drop and activate what they have normalised; by the same names, so that parameters keep theirs.
    """

    drop: nn.Module
    act: nn.Module

    @classmethod
    def like(cls, layer: _BatchNorm) -> "_GlobalBatchNorm":
        """The same layer, with the same parameters and statistics."""
        new = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        new.weight, new.bias = layer.weight, layer.bias
        new.running_mean, new.running_var = layer.running_mean, layer.running_var
        new.num_batches_tracked = layer.num_batches_tracked
        for name in ("drop", "act"):
            setattr(new, name, getattr(layer, name, None) or nn.Identity())
        return new.train(layer.training)

    def _check_input_dim(self, values: Tensor) -> None:
        if values.ndim < 2:
            raise ValueError(f"got {values.ndim} dimensions; batch normalisation wants (rows, channels, …)")

    def forward(self, values: Tensor) -> Tensor:
        """values: (rows, channels, …), this rank's."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return self._after(super().forward(values))
        others = [axis for axis in range(values.ndim) if axis != 1]
        exact = values.float()
        count = _global_sum(torch.full((1,), float(values.numel() // values.shape[1]), device=values.device))
        mean = _global_sum(exact.sum(others)) / count
        centered = exact - _along_channels(mean, values)
        variance = _global_sum((centered * centered).sum(others)) / count
        self._track(mean.detach(), variance.detach(), float(count))
        normal = centered * _along_channels(torch.rsqrt(variance + self.eps), values)
        if self.affine:
            normal = normal * _along_channels(self.weight, values) + _along_channels(self.bias, values)
        return self._after(normal.to(values.dtype))

    def _after(self, normal: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(normal))
        return result

    def _track(self, mean: Tensor, variance: Tensor, count: float) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.momentum is not None, "a cumulative average is not offered"
        unbiased = variance * (count / max(1.0, count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(new.to(running.dtype), self.momentum)


class _SumOverRanks(torch.autograd.Function):
    """An all-reduce; every rank's input contributes to every rank's output, so that gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _global_sum(values: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(values)
    return total


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.ndim - 2))
