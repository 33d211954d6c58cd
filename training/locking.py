"""Locks towers, or the lower part of them, so that training leaves their weights as they are.

Source: LiT, Zhai et al. 2021 (arXiv 2111.07991), which locks the image tower.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from infra.errors import ConfigError
from training.config import LockConfig
from training.layers import depths
from training.model_size import tower_of


def lock_towers(model: nn.Module, lock: LockConfig) -> None:
    """Locks what the config says; batch normalisation in locked parts keeps its statistics too.

    Raises ConfigError when a tower has fewer blocks than are to stay unlocked, or nothing is left to train.
    """
    depth_of = depths(name for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        tower = tower_of(name)
        unlocked = {"image": lock.image, "text": lock.text, "scalars": False}[tower]
        if unlocked is False:
            continue
        depth = depth_of[name]
        if unlocked is not True and unlocked > depth.blocks:
            raise ConfigError(
                f"train.lock.{tower}: got {unlocked} blocks to leave unlocked; the tower has {depth.blocks}.",
                "Allowed are true (the whole tower), false, or a number of blocks up to that.",
                f"Set train.lock.{tower}=false to train the whole tower.",
            )
        if unlocked is True or depth.from_the_top > unlocked:
            parameter.requires_grad_(False)
    _freeze_statistics(model)
    towers = {tower_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not towers - {"scalars"}:
        raise ConfigError(
            "train.lock: both towers are locked.",
            "Training wants at least a part of one tower.",
            "Set train.lock.text=false.",
        )


def _freeze_statistics(model: nn.Module) -> None:
    for layer in model.modules():
        own = list(layer.parameters(recurse=False))
        if isinstance(layer, _BatchNorm) and own and not any(parameter.requires_grad for parameter in own):
            layer.eval()
