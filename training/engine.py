"""Wraps a model in DeepSpeed: optimizer, ZeRO, precision, and the scale's clamp on the master weights."""

import math
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
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

    def gather(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Name, whole fp32 master and whole moments of each parameter; every rank goes through all of them."""
        self._link_moments()
        for name, parameter in self._module.named_parameters():
            yield name, self._master(parameter), {moment: self._moment(parameter, moment) for moment in MOMENTS}

    def restore(self, masters: dict[str, Tensor], moments: dict[str, dict[str, Tensor]], step: int) -> None:
        """Puts back masters and moments (name → moment → tensor) after `step` optimizer steps.

        The model was given the same masters before DeepSpeed took it, so that its own copies are right already.
        """
        self._make_states(step)
        for name, parameter in self._module.named_parameters():
            self._put(parameter, masters[name])
            for moment in MOMENTS:
                self._put(parameter, moments[name][moment], moment)

    @property
    def _is_plain(self) -> bool:
        """Whether torch's own optimizer works on the parameters themselves."""
        return self._stage == 0 and self.dtype == torch.float32

    def _master(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        value = safe_get_full_fp32_param(parameter)
        # Stage 0 in fp32 has no other copy than the parameter itself.
        return parameter.detach().float() if value is None else value.detach()

    def _moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._is_plain:
            state: Tensor = self._deepspeed.optimizer.state[parameter][name]
            return state
        value: Tensor = safe_get_full_optimizer_state(parameter, name)
        return value

    def _put(self, parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
        """Sets this rank's part of a parameter's master, or of one of its moments."""
        from deepspeed import utils

        value = value.to(self.device)
        if self._is_plain:
            target = parameter.data if moment is None else self._deepspeed.optimizer.state[parameter][moment]
            target.copy_(value)
        elif self._stage < 3 and moment is None:
            utils.safe_set_full_fp32_param(parameter, value)
        elif self._stage < 3:
            utils.safe_set_full_optimizer_state(parameter, value, moment)
        elif moment is None:
            utils.safe_set_local_fp32_param(parameter, _part(value, utils.safe_get_local_fp32_param(parameter)))
        else:
            part = _part(value, utils.safe_get_local_optimizer_state(parameter, moment))
            utils.safe_set_local_optimizer_state(parameter, part, moment)

    def _make_states(self, step: int) -> None:
        """Makes Adam's states as they are after `step` steps, empty: torch makes them only at the first step."""
        optimizer = self._deepspeed.optimizer
        inner = optimizer if self._is_plain else optimizer.optimizer
        grouped = [parameter for group in inner.param_groups for parameter in group["params"]]
        for flat in getattr(optimizer, "fp32_partitioned_groups_flat", grouped):
            empty = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            inner.state[flat] = {"step": torch.tensor(float(step)), **empty}
        self._link_moments()

    def _link_moments(self) -> None:
        """Lets DeepSpeed find Adam's state: by itself it links after the first group's step, when others have none."""
        optimizer = self._deepspeed.optimizer
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def _clamp_logit_scale(self) -> None:
        """Keeps ln(scale) in [0, ln 100], in the fp32 master: a clamped copy would be overwritten at the next step."""
        parameter = self._module.logit_scale
        assert isinstance(parameter, nn.Parameter)
        value = self._master(parameter)
        clamped = value.clamp(0.0, MAX_LOG_SCALE)
        if not torch.equal(value, clamped):
            self._put(parameter, clamped)
            # The working copy too, where it is not spread over the ranks.
            if parameter.numel():
                parameter.data.copy_(clamped)


def _part(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a value that ZeRO-3 spreads evenly over the ranks, the last part padded."""
    padded = F.pad(value.flatten(), (0, like.numel() * dist.get_world_size() - value.numel()))
    return padded.narrow(0, like.numel() * dist.get_rank(), like.numel())


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
