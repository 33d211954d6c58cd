"""Wraps a model in DeepSpeed: optimizer, ZeRO, precision, and the scale's clamp on the master weights."""

import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.config import Precision, TrainConfig
from training.model import MAX_LOGIT_SCALE, is_decayed

MAX_LOG_SCALE = math.log(MAX_LOGIT_SCALE)
MOMENTS = ("exp_avg", "exp_avg_sq")


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
    """A model under DeepSpeed, stepped with a learning rate from outside."""

    def __init__(self, model: nn.Module, config: TrainConfig, *, ranks: int, batch_of_rank: int) -> None:
        import deepspeed

        optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
        )
        self._stage = config.zero_stage
        self._deepspeed, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=_deepspeed_config(config, ranks, batch_of_rank)
        )
        self._module: nn.Module = self._deepspeed.module
        self.device: torch.device = self._deepspeed.device
        self.dtype = torch.bfloat16 if config.precision is Precision.BF16 else torch.float32

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """Unit image features, unit text features, scale (and bias), with gradient."""
        features: tuple[Tensor, ...] = self._deepspeed(images, tokens)
        return features

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Backward, the ranks' average, the optimizer's step, and the clamp of the scale."""
        for group in self._deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        self._deepspeed.backward(loss)
        self._deepspeed.step()
        self._clamp_logit_scale()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's parameters by name, in a fixed order."""
        return self._module.named_parameters()

    def master(self, parameter: nn.Parameter) -> Tensor:
        """The whole fp32 master of a parameter; every rank calls it, in the same order."""
        from deepspeed.utils import safe_get_full_fp32_param

        value = safe_get_full_fp32_param(parameter)
        # Stage 0 in fp32 has no other copy than the parameter itself.
        return parameter.detach().float() if value is None else value.detach()

    def moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        """One of Adam's moments of a parameter, whole; every rank calls it, in the same order."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._is_plain:
            state: Tensor = self._deepspeed.optimizer.state[parameter][name]
            return state
        value: Tensor = safe_get_full_optimizer_state(parameter, name)
        return value

    def restore(self, masters: dict[str, Tensor], moments: dict[str, dict[str, Tensor]], step: int) -> None:
        """Puts back masters and moments (name → moment → tensor) after `step` optimizer steps."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._make_states(step)
        for name, parameter in self.named_parameters():
            if self._is_plain:
                parameter.data.copy_(masters[name])
                for moment in MOMENTS:
                    self._deepspeed.optimizer.state[parameter][moment].copy_(moments[name][moment])
                continue
            safe_set_full_fp32_param(parameter, masters[name].to(self.device))
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, moments[name][moment].to(self.device), moment)

    @property
    def _is_plain(self) -> bool:
        """Whether torch's own optimizer works on the parameters themselves."""
        return self._stage == 0 and self.dtype == torch.float32

    def _make_states(self, step: int) -> None:
        """Makes Adam's states as they are after `step` steps, empty: torch makes them only at the first step."""
        optimizer = self._deepspeed.optimizer
        inner = optimizer if self._is_plain else optimizer.optimizer
        for group in inner.param_groups:
            for flat in group["params"]:
                inner.state[flat] = {
                    "step": torch.tensor(float(step)),
                    **{moment: torch.zeros_like(flat, memory_format=torch.preserve_format) for moment in MOMENTS},
                }
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            optimizer._lazy_init_hp_params_optimizer_state()

    def _clamp_logit_scale(self) -> None:
        """Keeps ln(scale) in [0, ln 100], in the fp32 master: a clamped copy would be overwritten at the next step."""
        from deepspeed.utils import safe_set_full_fp32_param

        parameter = self._module.logit_scale
        assert isinstance(parameter, nn.Parameter)
        value = self.master(parameter)
        clamped = value.clamp(0.0, MAX_LOG_SCALE)
        if not torch.equal(value, clamped):
            if not self._is_plain:
                safe_set_full_fp32_param(parameter, clamped)
            if parameter.numel():
                parameter.data.copy_(clamped)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [parameter for name, parameter in named if is_decayed(name, parameter)]
    others = [parameter for name, parameter in named if not is_decayed(name, parameter)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _deepspeed_config(config: TrainConfig, ranks: int, batch_of_rank: int) -> dict[str, Any]:
    # DeepSpeed wants equal parts; where a rank has one row less, the loss weighs it rightly all the same.
    return {
        "train_micro_batch_size_per_gpu": batch_of_rank,
        "train_batch_size": batch_of_rank * ranks,
        "zero_optimization": {"stage": config.zero_stage},
        "bf16": {"enabled": config.precision is Precision.BF16},
        "gradient_clipping": config.grad_clip_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
    }
