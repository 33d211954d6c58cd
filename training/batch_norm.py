"""Batch normalisation in data-parallel training: over which samples, and what becomes of the running statistics.

By default each micro-batch of each rank is normalised by its own statistics, and the running ones, which evaluation
uses, are averaged over the ranks after each step. `sync_batch_norm` normalises by the statistics of a micro-batch of
all ranks together. Statistics are fp32 in any case: in bf16 they would hardly move.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Replaces every batch normalisation by one over all ranks; the parameters keep their names."""
    return _replace_batch_norm(model, _GlobalBatchNorm)


def exact_batch_norm(model: nn.Module) -> nn.Module:
    """Replaces every batch normalisation by one in fp32, whose parameters and samples may be bf16."""
    return _replace_batch_norm(model, _ExactBatchNorm)


def _replace_batch_norm(model: nn.Module, kind: "type[_ExactBatchNorm]") -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            setattr(model, name, kind.like(child))
        else:
            _replace_batch_norm(child, kind)
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


class _ExactBatchNorm(_BatchNorm):
    """In fp32, with the activation that some of timm's layers have inside."""

    drop: nn.Module
    act: nn.Module

    @classmethod
    def like(cls, layer: _BatchNorm) -> Self:
        """The same layer, with the same parameters and statistics."""
        new = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        new.weight, new.bias = layer.weight, layer.bias
        new.running_mean, new.running_var = layer.running_mean, layer.running_var
        new.num_batches_tracked = layer.num_batches_tracked
        new.drop, new.act = (getattr(layer, name, None) or nn.Identity() for name in ("drop", "act"))
        return new.train(layer.training)

    def _check_input_dim(self, values: Tensor) -> None:
        if values.ndim < 2:
            raise ValueError(f"got {values.ndim} dimensions; batch normalisation wants (rows, channels, …)")

    def forward(self, values: Tensor) -> Tensor:
        """values: (rows, channels, …), this rank's."""
        self._check_input_dim(values)
        output: Tensor = self.act(self.drop(self._scaled(self._normal(values.float())).to(values.dtype)))
        return output

    def _normal(self, exact: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        by_batch = self.training or self.running_mean is None
        assert self.momentum is not None, "a cumulative average is not offered"
        return F.batch_norm(
            exact, self.running_mean, self.running_var, training=by_batch, momentum=self.momentum, eps=self.eps
        )

    def _scaled(self, normal: Tensor) -> Tensor:
        if not self.affine:
            return normal
        return normal * _along_channels(self.weight, normal) + _along_channels(self.bias, normal)


class _GlobalBatchNorm(_ExactBatchNorm):
    """Over all ranks' samples, on every backend; torch's own knows GPUs only. Ranks may differ in their rows."""

    def _normal(self, exact: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super()._normal(exact)
        others = [axis for axis in range(exact.ndim) if axis != 1]
        count = _global_sum(torch.full((1,), float(exact.numel() // exact.shape[1]), device=exact.device))
        mean = _global_sum(exact.sum(others)) / count
        centered = exact - _along_channels(mean, exact)
        variance = _global_sum((centered * centered).sum(others)) / count
        self._track(mean.detach(), variance.detach(), float(count))
        return centered * _along_channels(torch.rsqrt(variance + self.eps), exact)

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
