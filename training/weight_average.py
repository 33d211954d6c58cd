"""An exponential moving average of the weights, in fp32, spread over the ranks as the masters are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """average ← decay·average + (1 − decay)·weights after each step, beginning with the weights themselves.

    weights: the tensors that the optimizer steps, which stay the same objects.
    """

    def __init__(self, weights: list[Tensor], decay: float) -> None:
        self._weights = weights
        self._decay = decay
        self._averages = [weight.clone() for weight in weights]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights as they are after a step."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.lerp_(weight, 1 - self._decay)

    @torch.no_grad()
    def take(self) -> None:
        """Begins anew with the weights as they are."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.copy_(weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the weights hold the average."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weight in zip(self._averages, self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
