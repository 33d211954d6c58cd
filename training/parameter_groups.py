"""Groups a model's parameters for the optimizer: which are decayed, and how fast each layer learns."""

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from training.config import TrainConfig, WeightDecayRule
from training.layers import depths

POSITIONS_AND_CLASS_TOKENS = ("positional_embedding", "pos_embed", "class_embedding", "cls_token", "cls_emb")


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups for AdamW: `params`, `weight_decay` and `lr_scale`, which the learning rate is multiplied with.

    Locked parameters are in none. With `layer_decay` d, a layer k below the head learns at d^k of the rate.
    Source: Clark et al. 2020 (arXiv 2003.10555), section A; Bao et al. 2021 (arXiv 2106.08254).
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    depth_of = depths(name for name, _ in named)
    groups: dict[tuple[bool, float], list[Tensor]] = defaultdict(list)
    for name, parameter in named:
        scale = config.layer_decay ** depth_of[name].from_the_top
        groups[is_decayed(name, parameter, config.weight_decay_rule), scale].append(parameter)
    return [
        {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0, "lr_scale": scale}
        for (decayed, scale), parameters in sorted(groups.items(), key=lambda item: (not item[0][0], -item[0][1]))
    ]


def is_decayed(name: str, parameter: Tensor, rule: WeightDecayRule) -> bool:
    """Whether weight decay acts on the parameter; never on gains, biases and the two scalars.

    OpenAI's rule decays positional embeddings; open_clip's newer one (its models' no_weight_decay) leaves them and
    class tokens out, as timm does.
    """
    if parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale")):
        return False
    is_position = any(part in name for part in POSITIONS_AND_CLASS_TOKENS)
    return not (is_position and rule is WeightDecayRule.OPEN_CLIP)
