"""Makes models by name, as they begin a training, with their tokenizers and picture constants."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from infra.errors import ConfigError
from training.architectures import architecture_of, build
from training.config import LossName, SquareMode, TrainConfig
from training.layers import require_blocks
from training.locking import lock_towers
from training.model_names import check_hub_packages
from training.pretrained import load_pretrained
from training.small_models import SMALL_ARCHITECTURES

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_INITIAL_SCALE = 1 / 0.07
SIGLIP_INITIAL_SCALE = 10.0
SIGLIP_INITIAL_BIAS = -10.0


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What the model wants to be fed: picture side in pixels, mean and deviation, and how pictures become square."""

    name: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: SquareMode = SquareMode.SHORTEST


class Tokenizer:
    """Captions → token ids (n, context length) int64. Raises ConfigError when the model's tokenizer can't be had."""

    def __init__(self, name: str) -> None:
        text = architecture_of(name)["text_cfg"]
        try:
            self._tokenize: Any = (
                open_clip.SimpleTokenizer(context_length=text["context_length"])
                if name in SMALL_ARCHITECTURES
                else open_clip.get_tokenizer(name)
            )
        except (ImportError, OSError, TypeError) as error:
            raise ConfigError(
                f"train.model: the tokenizer of {name!r}, {text.get('hf_tokenizer_name')}, cannot be had: {error}",
                "It comes from the Hugging Face hub: it needs the transformers package, and the network or its cache.",
                "Run pip install transformers on every node and give them the network once.",
            ) from error

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The captions' tokens, cut or padded to the context length."""
        tokens: Tensor = self._tokenize(list(captions))
        return tokens

    def save(self, folder: Path) -> None:
        """Writes its files, where it is one of the Hugging Face hub's; open_clip has the others by itself."""
        if hasattr(self._tokenize, "tokenizer"):
            self._tokenize.tokenizer.save_pretrained(folder)

    @property
    def vocabulary(self) -> int:
        """How many different tokens it gives."""
        return int(getattr(self._tokenize, "tokenizer", self._tokenize).vocab_size)


def check_tokenizer(name: str) -> None:
    """Raises ConfigError when the model's tokenizer can't be had, or gives what its text tower doesn't take."""
    check_hub_packages(name)
    tokenizer, text = Tokenizer(name), architecture_of(name)["text_cfg"]
    if "hf_model_name" in text:
        return  # the tower has its shape from where the tokenizer is from
    context, vocabulary = text.get("context_length", 77), text.get("vocab_size", 49408)
    width = tokenizer(["a photo"]).shape[1]
    for what, gives, takes in (
        ("tokens for each caption", width, context),
        ("different tokens", tokenizer.vocabulary, vocabulary),
    ):
        if gives > takes:
            raise ConfigError(
                f"train.model: the tokenizer of {name!r} gives {gives:,} {what}; its text tower takes {takes:,}.",
                "A tokenizer may give as many as the tower takes, or fewer.",
                "Take another model, or the tokenizer and open_clip version that belong to this one.",
            )


def create_model(
    name: str,
    loss: LossName,
    seed: int,
    *,
    initial_scale: float | None = None,
    initial_bias: float = SIGLIP_INITIAL_BIAS,
    patch_dropout: float = 0.0,
) -> nn.Module:
    """The model with fresh weights that depend on the seed alone. Raises ConfigError for an unknown name.

    Its forward(image, text) gives unit image features, unit text features, the logit scale (exponentiated) and,
    for SigLIP, the bias. The scale starts at the loss's published value, unless another is given.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = build(name, patch_dropout=patch_dropout)
    model.output_dict = False
    scale = initial_scale or (CLIP_INITIAL_SCALE if loss is LossName.CLIP else SIGLIP_INITIAL_SCALE)
    model.logit_scale = nn.Parameter(torch.full((1,), math.log(scale)))
    # A SigLIP architecture under CLIP's loss has no bias: the loss's gradient does not depend on one.
    model.logit_bias = nn.Parameter(torch.full((1,), initial_bias)) if loss is LossName.SIGLIP else None
    result: nn.Module = model
    return result


def model_to_train(config: TrainConfig, *, resumes: bool = False) -> nn.Module:
    """The model as the training begins with it: weights loaded, towers locked, options set. Raises ConfigError.

    resumes: the weights come from a checkpoint, and those that the config begins with are not wanted any more.
    """
    bias = -math.log(config.global_batch_size - 1) if config.initial_logit_bias is None else config.initial_logit_bias
    model = create_model(
        config.model,
        config.loss,
        config.seed,
        initial_scale=config.initial_logit_scale,
        initial_bias=bias,
        patch_dropout=config.patch_dropout,
    )
    if not resumes:
        load_pretrained(model, config)
    if config.activation_checkpointing:
        checkpoint_activations(model, config.model)
    require_blocks((name for name, _ in model.named_parameters()), config)
    lock_towers(model, config.lock)
    return model


def model_traits(
    name: str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize_mode: SquareMode | None = None,
) -> ModelTraits:
    """What the model wants to be fed; the others: of its weights, where they are known to have their own.

    Raises ConfigError for an unknown name.
    """
    size = architecture_of(name)["vision_cfg"].get("image_size", 224)
    is_siglip = "siglip" in name.lower()
    own_mean, own_std = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) if is_siglip else (OPENAI_MEAN, OPENAI_STD)
    return ModelTraits(
        name,
        int(size[0] if isinstance(size, list | tuple) else size),
        own_mean if mean is None else (mean[0], mean[1], mean[2]),
        own_std if std is None else (std[0], std[1], std[2]),
        resize_mode or SquareMode.SHORTEST,
    )


def traits_of(config: TrainConfig) -> ModelTraits:
    """What a training's model wants to be fed, once `settle_pictures` has settled it. Raises as `model_traits`."""
    return model_traits(config.model, config.mean, config.std, config.resize_mode)


def checkpoint_activations(model: Any, name: str) -> None:
    """Has the model compute its activations again in the backward pass. Raises ConfigError where it cannot."""
    if isinstance(model.visual, ModifiedResNet):
        raise ConfigError(
            f"train.activation_checkpointing: got true for {name!r}.",
            "OpenAI's modified ResNets have no activation checkpointing.",
            "Set train.activation_checkpointing=false and lower train.micro_batch_size.",
        )
    model.set_grad_checkpointing(True)
