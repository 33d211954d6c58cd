"""Keeps the logit scale and bias out of DeepSpeed's hands: in fp32, with an optimizer of their own.

Inside DeepSpeed they would be rounded to bf16 (ln 100 to a scale of 98.9), clamped copies would be overwritten by their
masters, and under ZeRO-3 they would be empty shards outside of the forward pass. Two numbers cost nothing to repeat on
every rank.
"""

import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.config import MAX_LOGIT_SCALE, TrainConfig

MAX_LOG_SCALE = math.log(MAX_LOGIT_SCALE)
SCALE_NAME, BIAS_NAME = "logit_scale", "logit_bias"
MOMENTS = ("exp_avg", "exp_avg_sq")


class LogitScalars:
    """The scale and, for SigLIP, the bias; equal on all ranks. They are taken out of the model's parameters."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        self._values = {name: _take_out(model, name).to(device) for name in _names(model)}
        for value in self._values.values():
            value.requires_grad_()
        self._optimizer = torch.optim.AdamW(
            self._values.values(), betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=0.0
        )
        self._make_states(0)

    @property
    def scale(self) -> Tensor:
        """The factor itself (1,), exponentiated, with gradient."""
        return self._values[SCALE_NAME].exp()

    @property
    def bias(self) -> Tensor | None:
        """The bias (1,), with gradient; None for a loss without."""
        return self._values.get(BIAS_NAME)

    @property
    def tensors(self) -> list[Tensor]:
        """The values that the optimizer steps: ln(scale), and the bias."""
        return [value.data for value in self._values.values()]

    def step(self, learning_rate: float, gradient_factor: float) -> None:
        """Averages the gradients over ranks, steps, and clamps ln(scale) to [0, ln 100].

        gradient_factor: what the towers' gradients were multiplied with to be clipped.
        """
        for value in self._values.values():
            if value.grad is None:
                value.grad = torch.zeros_like(value)
            if dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(value.grad)
                value.grad /= dist.get_world_size()
            value.grad *= gradient_factor
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._values[SCALE_NAME].data.clamp_(0.0, MAX_LOG_SCALE)

    def forget_gradients(self) -> None:
        """Leaves out the step under way."""
        self._optimizer.zero_grad()

    def sizes(self) -> dict[str, int]:
        """Elements of each, by name."""
        return {name: value.numel() for name, value in self._values.items()}

    def gather(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Name, value and moments of each."""
        for name, value in self._values.items():
            state = self._optimizer.state[value]
            yield name, value.detach(), {moment: state[moment] for moment in MOMENTS}

    def restore(self, masters: dict[str, Tensor], moments: dict[str, dict[str, Tensor]], step: int) -> None:
        """Puts back values and moments as they were after `step` steps."""
        self.restore_weights(masters)
        self._make_states(step)
        for name, value in self._values.items():
            for moment in MOMENTS:
                self._optimizer.state[value][moment].copy_(moments[name][moment])

    def restore_weights(self, masters: dict[str, Tensor]) -> None:
        """Puts back the values alone."""
        for name, value in self._values.items():
            value.data.copy_(masters[name])

    def _make_states(self, step: int) -> None:
        for value in self._values.values():
            empty = {moment: torch.zeros_like(value) for moment in MOMENTS}
            self._optimizer.state[value] = {"step": torch.tensor(float(step)), **empty}


def _names(model: nn.Module) -> list[str]:
    return [name for name in (SCALE_NAME, BIAS_NAME) if getattr(model, name, None) is not None]


def _take_out(model: nn.Module, name: str) -> Tensor:
    parameter = getattr(model, name)
    delattr(model, name)
    # The model's own forward still reads it, for outputs that nobody uses.
    setattr(model, name, torch.zeros(1) if name == SCALE_NAME else None)
    value: Tensor = parameter.detach().float().clone()
    return value
