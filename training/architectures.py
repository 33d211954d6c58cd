"""Builds the architecture that a name stands for, with or without memory for its weights."""

from copy import deepcopy
from functools import lru_cache

import open_clip
import torch
from open_clip import model as clip_models
from torch import nn

from infra.errors import ConfigError
from training.model_names import check_hub_packages, check_model_name
from training.small_models import SMALL_ARCHITECTURES, Architecture


def architecture_of(name: str) -> Architecture:
    """The architecture in open_clip's form, a copy. Raises ConfigError for an unknown name."""
    check_model_name(name)
    return deepcopy(_read_architecture(name))


@lru_cache
def _read_architecture(name: str) -> Architecture:
    architecture: Architecture = SMALL_ARCHITECTURES.get(name) or open_clip.get_model_config(name)
    return architecture


def contrastive_architecture(name: str) -> Architecture:
    """What `build` builds of it: no decoder of captions, nothing to be fetched. Raises as `architecture_of`."""
    architecture = architecture_of(name)
    if "hf_model_name" in architecture["text_cfg"]:
        architecture["text_cfg"]["hf_model_pretrained"] = False
    if architecture.pop("multimodal_cfg", None):
        architecture["vision_cfg"]["output_tokens"] = architecture["text_cfg"]["output_tokens"] = False
    return architecture


def build(name: str, *, patch_dropout: float = 0.0) -> nn.Module:
    """The contrastive model with fresh weights from torch's random numbers.

    Of CoCa it is the contrastive part: both towers without the decoder of captions. A text tower of the Hugging Face
    hub has its shape from there, and fresh weights too. Raises ConfigError for an unknown name, for a tower that can't
    be had, and for patch dropout in a tower without patches.
    """
    architecture = contrastive_architecture(name)
    is_of_the_hub = "hf_model_name" in architecture["text_cfg"]
    if is_of_the_hub:
        check_hub_packages(name)
    if patch_dropout:
        architecture["vision_cfg"]["patch_dropout"] = patch_dropout
    is_custom = architecture.pop("custom_text", False) or is_of_the_hub
    model_class = clip_models.CustomTextCLIP if is_custom else clip_models.CLIP
    try:
        model: nn.Module = model_class(**architecture)
    except TypeError as error:
        if not patch_dropout:
            raise
        raise _no_patches(name, patch_dropout) from error
    except OSError as error:
        raise ConfigError(
            f"train.model: the text tower of {name!r} cannot be had from the Hugging Face hub: {error}",
            "Its shape is described there: it needs the network once, or the hub's cache.",
            "Give every node the network once, or take a model with a text tower of its own.",
        ) from error
    if patch_dropout and isinstance(architecture["vision_cfg"].get("layers"), list):
        raise _no_patches(name, patch_dropout)
    return model


def build_without_memory(name: str, *, patch_dropout: float = 0.0) -> nn.Module:
    """The same model with shapes only, on torch's meta device; in well under a second for the largest."""
    with torch.device("meta"):
        return build(name, patch_dropout=patch_dropout)


def uses_quick_gelu(name: str) -> bool:
    """Whether the model's activation is x·σ(1.702x), OpenAI's, and not GELU."""
    return bool(architecture_of(name).get("quick_gelu", False))


def _no_patches(name: str, patch_dropout: float) -> ConfigError:
    return ConfigError(
        f"train.patch_dropout: got {patch_dropout} for {name!r}, whose image tower has no patches to drop.",
        "Patches are dropped in vision transformers.",
        "Set train.patch_dropout=0 or take a ViT.",
    )
