"""Reads and sets the fp32 master weights and Adam's moments inside DeepSpeed, whole and by name, at any ZeRO stage."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


class MasterWeights:
    """The masters of a DeepSpeed engine. is_plain: torch's own optimizer works on the fp32 parameters themselves."""

    def __init__(self, engine: Any, *, is_plain: bool, stage: int) -> None:
        self._engine = engine
        self._module: nn.Module = engine.module
        self._is_plain = is_plain
        self._stage = stage

    @property
    def tensors(self) -> list[Tensor]:
        """The masters as this rank holds them, spread over the ranks from stage 1 on; in a fixed order."""
        optimizer = self._engine.optimizer
        if self._is_plain:
            return [parameter.data for parameter in self._module.parameters() if parameter.requires_grad]
        flat: list[Tensor] = (
            optimizer.fp32_partitioned_groups_flat if self._stage == 3 else optimizer.single_partition_of_fp32_groups
        )
        return [tensor.data for tensor in flat]

    def sizes(self) -> dict[str, int]:
        """Elements of each parameter, by name; at stage 3 their own shape is that of an empty part."""
        named = self._module.named_parameters()
        return {name: int(getattr(parameter, "ds_numel", parameter.numel())) for name, parameter in named}

    def gather(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Name, whole master and whole moments of each parameter; a locked one has no moments."""
        self._link_moments()
        for name, parameter in self._module.named_parameters():
            moments = MOMENTS if parameter.requires_grad else ()
            yield name, self._master(parameter), {moment: self._moment(parameter, moment) for moment in moments}

    def restore(self, masters: dict[str, Tensor], moments: dict[str, dict[str, Tensor]], step: int) -> None:
        """Puts back masters and moments after `step` optimizer steps. Locked ones the model has already.

        Those that were locked until now have no moments, and begin with zeros: see training/joining.py.
        """
        self.restore_weights(masters, step)
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                for moment, value in moments.get(name, {}).items():
                    self._put(parameter, value, moment)

    def restore_weights(self, masters: dict[str, Tensor], step: int) -> None:
        """Puts back the masters alone; the moments are zeros then."""
        self._make_states(step)
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                self._put(parameter, masters[name])

    def copy_to_model(self) -> None:
        """Has the model's own copies follow the masters, as a step does. Every rank calls it at once."""
        optimizer = self._engine.optimizer
        if self._is_plain:
            return
        if self._stage < 3:
            optimizer.update_lp_params()
            return
        # Small parameters are kept whole on every rank: they are let go before, and gathered anew.
        optimizer.checkpoint_event_prologue()
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()

    def _master(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed import zero
        from deepspeed.utils import safe_get_full_fp32_param

        if self._is_plain:
            return parameter.detach()
        if not parameter.requires_grad:
            if self._stage < 3:
                return parameter.detach().float()
            with zero.GatheredParameters([parameter]):
                return parameter.detach().float().clone()
        value: Tensor = safe_get_full_fp32_param(parameter)
        return value.detach()

    def _moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._is_plain:
            state: Tensor = self._engine.optimizer.state[parameter][name]
            return state
        value: Tensor = safe_get_full_optimizer_state(parameter, name)
        return value

    def _put(self, parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
        """Sets this rank's part of a parameter's master, or of one of its moments."""
        from deepspeed import utils

        value = value.to(self._engine.device)
        if self._is_plain:
            target = parameter.data if moment is None else self._engine.optimizer.state[parameter][moment]
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
        optimizer = self._engine.optimizer
        inner = optimizer if self._is_plain else optimizer.optimizer
        grouped = [parameter for group in inner.param_groups for parameter in group["params"]]
        for flat in getattr(optimizer, "fp32_partitioned_groups_flat", grouped):
            empty = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            inner.state[flat] = {"step": torch.tensor(float(step)), **empty}
        self._link_moments()

    def _link_moments(self) -> None:
        """Lets DeepSpeed find Adam's state: by itself it links after the first group's step, when others have none."""
        optimizer = self._engine.optimizer
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()


def _part(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a value that ZeRO-3 spreads evenly over the ranks, the last part padded."""
    padded = F.pad(value.flatten(), (0, like.numel() * dist.get_world_size() - value.numel()))
    return padded.narrow(0, like.numel() * dist.get_rank(), like.numel())
