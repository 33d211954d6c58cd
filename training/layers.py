"""Says how deep in its tower a parameter lies, from its name, for every family of models."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from infra.errors import ConfigError
from training.config import TrainConfig
from training.model_size import tower_of

# Blocks of ViTs and text towers, of timm's transformers, and the stages of the convolutional towers and Swin's; of
# the Hugging Face hub's text towers those of BERT and RoBERTa, of T5, and of NLLB.
_BLOCK = re.compile(
    r"(?:resblocks|trunk\.blocks|trunk\.stages|trunk\.layers|^visual\.layer"
    r"|^text\.transformer\.encoder\.layer|^text\.transformer\.block|^text\.transformer\.layers)\.?(\d+)\."
)
_STEM = re.compile(
    r"^visual\.(conv\d|bn\d|class_embedding|positional_embedding|ln_pre)"
    r"|^visual\.trunk\.(stem|patch_embed|pos_embed|cls_token|reg_token|norm_pre)"
    r"|^(text\.)?(token_embedding|positional_embedding|cls_emb)"
    r"|^text\.transformer\.(embeddings|embed_tokens|embed_positions)\."
)


@dataclass(frozen=True, slots=True)
class Depth:
    """A parameter's layer: 0 the stem, 1 to `blocks` the blocks or stages, blocks + 1 the head."""

    layer: int
    blocks: int

    @property
    def from_the_top(self) -> int:
        """0 for the head, 1 for the last block, …"""
        return self.blocks + 1 - self.layer


def depths(names: Iterable[str]) -> dict[str, Depth]:
    """Each parameter's depth in its tower; the two scalars count as heads."""
    numbers = {name: _block_number(name) for name in names}
    blocks: dict[str, int] = {}
    firsts: dict[str, int] = {}
    for name, number in numbers.items():
        if number is not None:
            tower = tower_of(name)
            blocks[tower] = max(blocks.get(tower, 0), number)
            firsts[tower] = min(firsts.get(tower, number), number)
    result = {}
    for name, number in numbers.items():
        tower = tower_of(name)
        # ModifiedResNet counts its stages from 1.
        count = blocks.get(tower, -1) + 1 - firsts.get(tower, 0)
        if number is not None:
            result[name] = Depth(number + 1 - firsts[tower], count)
        else:
            result[name] = Depth(0 if _STEM.search(name) else count + 1, count)
    return result


def require_blocks(names: Iterable[str], config: TrainConfig) -> None:
    """Raises ConfigError where the config tells the layers of a tower apart whose blocks are not known.

    names: of all parameters.
    """
    blocks = {tower_of(name): depth.blocks for name, depth in depths(names).items()}
    for tower, lock in (("image", config.lock.image), ("text", config.lock.text)):
        if blocks[tower] or lock is True:
            continue
        if lock is not False:
            raise _unknown_blocks(config.model, tower, f"train.lock.{tower}", str(lock), "false")
        if config.layer_decay < 1:
            raise _unknown_blocks(config.model, tower, "train.layer_decay", str(config.layer_decay), "1")


def _unknown_blocks(model: str, tower: str, key: str, value: str, harmless: str) -> ConfigError:
    return ConfigError(
        f"{key}: got {value}; the blocks of the {tower} tower of {model} are not known.",
        "The layers of a tower are told apart by its blocks.",
        f"Set {key}={harmless}, or take another model.",
    )


def _block_number(name: str) -> int | None:
    found = _BLOCK.search(name)
    return int(found.group(1)) if found else None
