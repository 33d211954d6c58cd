"""Makes models by name: open_clip's, and a small one of ours; with their tokenizers and picture constants."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip import model as clip_models
from torch import Tensor, nn

from training.config import LossName
from training.model_names import check_model_name

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = 100.0
CLIP_INITIAL_SCALE = 1 / 0.07
SIGLIP_INITIAL_SCALE = 10.0
SIGLIP_INITIAL_BIAS = -10.0

SMALL_CONFIGS: dict[str, dict[str, Any]] = {
    # Learns a few thousand small pictures in minutes on two cores.
    "diptych-tiny": {
        "embed_dim": 192,
        "vision_cfg": {"image_size": 48, "layers": 6, "width": 128, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
    },
}


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What the model wants to be fed: picture side in pixels, and the mean and deviation to normalise with."""

    name: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Tokenizer:
    """Captions → token ids (n, context length) int64."""

    def __init__(self, name: str) -> None:
        if name in SMALL_CONFIGS:
            length = SMALL_CONFIGS[name]["text_cfg"]["context_length"]
            self._tokenize: Any = open_clip.SimpleTokenizer(context_length=length)
        else:
            self._tokenize = open_clip.get_tokenizer(name)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The captions' tokens, cut or padded to the context length."""
        tokens: Tensor = self._tokenize(list(captions))
        return tokens


def create_model(name: str, loss: LossName, seed: int, initial_scale: float | None = None) -> nn.Module:
    """The model with fresh weights that depend on the seed alone. Raises ConfigError for an unknown name.

    Its forward(image, text) gives unit image features, unit text features, the logit scale (exponentiated) and,
    for SigLIP, the bias. Scale and bias start at the loss's published values, unless another scale is given.
    """
    check_model_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = clip_models.CLIP(**SMALL_CONFIGS[name]) if name in SMALL_CONFIGS else open_clip.create_model(name)
    model.output_dict = False
    scale = initial_scale or (CLIP_INITIAL_SCALE if loss is LossName.CLIP else SIGLIP_INITIAL_SCALE)
    # One element and not zero dimensions: DeepSpeed broadcasts parameters as bytes, which the latter refuse.
    model.logit_scale = nn.Parameter(torch.full((1,), math.log(scale)))
    if loss is LossName.SIGLIP:
        model.logit_bias = nn.Parameter(torch.full((1,), SIGLIP_INITIAL_BIAS))
    elif getattr(model, "logit_bias", None) is not None:
        # A SigLIP architecture under CLIP's loss, whose gradient does not depend on a bias.
        model.logit_bias = None
    result: nn.Module = model
    return result


def model_traits(name: str) -> ModelTraits:
    """What the model wants to be fed. Raises ConfigError for an unknown name."""
    check_model_name(name)
    if name in SMALL_CONFIGS:
        return ModelTraits(name, int(SMALL_CONFIGS[name]["vision_cfg"]["image_size"]), OPENAI_MEAN, OPENAI_STD)
    config = open_clip.get_model_config(name)
    size = config["vision_cfg"].get("image_size", 224)
    is_siglip = "siglip" in name.lower()
    mean, std = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) if is_siglip else (OPENAI_MEAN, OPENAI_STD)
    return ModelTraits(name, int(size[0] if isinstance(size, list | tuple) else size), mean, std)


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on the parameter: OpenAI's rule, gains, biases and the two scalars left out."""
    is_excluded = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
    return not is_excluded
