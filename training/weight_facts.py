"""Reads what is said of weights by those who made them: their activation, and what pictures are normalised with."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from infra.errors import ConfigError
from infra.storage import Storage
from training.architectures import uses_quick_gelu
from training.checkpoint import MARKER_FILE, read_state
from training.config import WEIGHT_FILE_SUFFIXES, ChannelDeviations, ChannelMeans, SquareMode
from training.hugging_face import transformers_has_quick_gelu

FOLDER_CONFIG = "open_clip_config.json"
TRANSFORMERS_CONFIG = "config.json"
TRANSFORMERS_PICTURES = "preprocessor_config.json"


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """Whether weights were made with QuickGELU; mean, deviation and shape of their pictures; None: nothing says so."""

    has_quick_gelu: bool | None = None
    mean: ChannelMeans | None = None
    std: ChannelDeviations | None = None
    resize_mode: SquareMode | None = None


def facts_of_weights(source: str, name: str) -> WeightFacts:
    """What `train.pretrained` says of its weights, without reading them. name: the model's, whose tag it may be.

    Raises ConfigError for an unknown tag, and for a folder whose description cannot be read.
    """
    if source.endswith(WEIGHT_FILE_SUFFIXES):
        return WeightFacts()
    return facts_of_folder(Storage(source), source) if "/" in source else _facts_of_tag(source, name)


def facts_of_folder(folder: Storage, source: str) -> WeightFacts:
    """Those of a checkpoint of ours, or of a Hugging Face folder."""
    if folder.exists(MARKER_FILE):
        state = read_state(folder)
        pictures = _pictures(state.settings, "mean", "std", f"{source}/{MARKER_FILE}")
        return WeightFacts(uses_quick_gelu(state.model), *pictures, square_mode(state.settings))
    if folder.exists(FOLDER_CONFIG):
        return _facts_of_open_clips_folder(folder, source)
    if not folder.exists(TRANSFORMERS_CONFIG):
        return WeightFacts()
    has_quick_gelu = transformers_has_quick_gelu(_read_object(folder, TRANSFORMERS_CONFIG, source))
    if not folder.exists(TRANSFORMERS_PICTURES):
        return WeightFacts(has_quick_gelu)
    described = _read_object(folder, TRANSFORMERS_PICTURES, source)
    constants = _pictures(described, "image_mean", "image_std", f"{source}/{TRANSFORMERS_PICTURES}")
    return WeightFacts(has_quick_gelu, *constants, _transformers_square_mode(described))


def pretrained_tag(tag: str, name: str) -> dict[str, Any]:
    """open_clip's description of a tag's weights. Raises ConfigError for a tag that the model has not."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ConfigError(
            f"train.pretrained: got {tag!r}, which is no file or folder and no tag of {name}.",
            f"The tags of {name} are: {', '.join(tags) or 'none'}.",
            f"Write a path with a slash, a file ({', '.join(WEIGHT_FILE_SUFFIXES)}), or one of the tags.",
        )
    described: dict[str, Any] = get_pretrained_cfg(name, tag)
    return described


def _facts_of_tag(tag: str, name: str) -> WeightFacts:
    described = pretrained_tag(tag, name)
    constants = _pictures(described, "mean", "std", tag)
    return WeightFacts(described.get("quick_gelu"), *constants, square_mode(described))


def _facts_of_open_clips_folder(folder: Storage, source: str) -> WeightFacts:
    described = _read_object(folder, FOLDER_CONFIG, source)
    model, pictures = described.get("model_cfg"), described.get("preprocess_cfg", {})
    if not isinstance(model, dict) or not isinstance(pictures, dict):
        raise _unreadable(f"{source}/{FOLDER_CONFIG}", "it has no model_cfg, or a preprocess_cfg that is no object")
    constants = _pictures(pictures, "mean", "std", f"{source}/{FOLDER_CONFIG}")
    return WeightFacts(bool(model.get("quick_gelu", False)), *constants, square_mode(pictures))


def square_mode(described: dict[str, Any]) -> SquareMode | None:
    """open_clip's word for it; None for one that we have not (longest, which pads)."""
    word = described.get("resize_mode")
    return SquareMode(word) if word in list(SquareMode) else None


def _transformers_square_mode(described: dict[str, Any]) -> SquareMode | None:
    """Those without a crop resize to a height and a width."""
    size = described.get("size")
    if described.get("do_center_crop"):
        return SquareMode.SHORTEST
    return SquareMode.SQUASH if isinstance(size, dict) and {"height", "width"} <= size.keys() else None


def _read_object(folder: Storage, file: str, source: str) -> dict[str, Any]:
    try:
        described = json.loads(folder.read_bytes(file))
    except ValueError as error:
        raise _unreadable(f"{source}/{file}", str(error)) from error
    if not isinstance(described, dict):
        raise _unreadable(f"{source}/{file}", "it is no JSON object")
    return described


def _pictures(
    described: dict[str, Any], mean: str, std: str, place: str
) -> tuple[ChannelMeans | None, ChannelDeviations | None]:
    try:
        return (
            TypeAdapter(ChannelMeans | None).validate_python(described.get(mean)),
            TypeAdapter(ChannelDeviations | None).validate_python(described.get(std)),
        )
    except ValidationError as error:
        raise _unreadable(place, f"{mean} or {std} is not three numbers, above 0 for {std}") from error


def _unreadable(place: str, why: str) -> ConfigError:
    return ConfigError(
        f"train.pretrained: {place} cannot be used: {why}.",
        "It is the JSON object that open_clip or transformers writes beside the weights.",
        "Fetch the folder again, or give the file of weights itself.",
    )
