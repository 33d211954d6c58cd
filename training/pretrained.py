"""Starts a model from weights: a file, a checkpoint of ours, an open_clip tag or a Hugging Face folder."""

import logging
import math
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import ConfigError, first_line
from infra.storage import Storage
from training.architectures import uses_quick_gelu
from training.checkpoint import MARKER_FILE, TensorKind, load_tensors, require_whole
from training.config import MAX_LOGIT_SCALE, WEIGHT_FILE_SUFFIXES, PretrainedTowers, TrainConfig
from training.hugging_face import from_transformers, is_transformers_clip
from training.model_size import tower_of
from training.weight_facts import facts_of_weights, pretrained_tag

log = logging.getLogger(__name__)

FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
SCALARS = ("logit_scale", "logit_bias")
SHOWN = 3
# What torch's careful unpickler raises on bytes that are cut, damaged or no pickle at all.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, IndexError, KeyError, TypeError, OSError)
State = dict[str, Tensor]


def load_pretrained(model: nn.Module, config: TrainConfig) -> None:
    """Puts the weights that `train.pretrained` names into the model; the two scalars too, unless the config sets them.

    Of one tower's weights (`pretrained_towers`) the other tower and the scalars are left as they are.
    Positional embeddings are interpolated to the model's picture size, as open_clip does. Nothing is unpickled. Raises
    ConfigError when the weights can't be had, or are of another shape or activation than the model.
    """
    if config.pretrained is None:
        return
    _check_activation(config)
    state = _in_open_clips_form(_read(config.pretrained, config.model), model)
    if config.pretrained_towers is not PretrainedTowers.ALL:
        state = {name: value for name, value in state.items() if tower_of(name) == config.pretrained_towers}
    _fit_scalars(state, model, config)
    _require_fit(state, model, config)
    model.load_state_dict(state, strict=False)


def _read(source: str, name: str) -> State:
    if source.endswith(WEIGHT_FILE_SUFFIXES):
        place, _, file = source.rpartition("/")
        folder = Storage(place or ".")
        if not folder.exists(file):
            raise _not_found(source)
        return _read_file(folder, file, source)
    return _read_folder(Storage(source), source) if "/" in source else _read_tag(source, name)


def _read_folder(folder: Storage, source: str) -> State:
    if folder.exists(MARKER_FILE):
        require_whole(folder)
        return load_tensors(folder, TensorKind.PARAMETERS) | load_tensors(folder, TensorKind.BUFFERS)
    file = next((file for file in FOLDER_WEIGHTS if folder.exists(file)), None)
    if file is None:
        raise _not_found(source)
    return _read_file(folder, file, source)


def _read_tag(tag: str, name: str) -> State:
    from open_clip.pretrained import download_pretrained

    described = pretrained_tag(tag, name)
    try:
        path = Path(download_pretrained(described))
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"train.pretrained: the weights {tag!r} of {name} cannot be downloaded: {error}",
            "Tags need the network on every worker, or weights in the cache there.",
            "Download the file elsewhere and give its path.",
        ) from error
    return _read_file(Storage(str(path.parent)), path.name, tag)


def _read_file(folder: Storage, file: str, source: str) -> State:
    """Tensors by name. Only tensors: a pickle that would do anything else is refused unread."""
    with tempfile.TemporaryDirectory() as scratch:
        path = folder.local_path(file) if folder.is_local else Path(scratch, file)
        if not folder.is_local:
            path.write_bytes(folder.read_bytes(file))
        try:
            loaded: Any = _load(path)
        except UNREADABLE as error:
            raise ConfigError(
                f"train.pretrained: {source} cannot be read as tensors: {first_line(error)}",
                "Allowed are safetensors, and files of torch.save with tensors alone (no TorchScript, no objects).",
                "Save the model's state_dict() in a safe place as safetensors and give that file.",
            ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"train.pretrained: {source} holds no weights by name.",
            'Allowed is a dictionary of names and tensors, by itself or under "state_dict".',
            "Save the model's state_dict().",
        )
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_activation(config: TrainConfig) -> None:
    assert config.pretrained is not None
    has_quick_gelu = facts_of_weights(config.pretrained, config.model).has_quick_gelu
    of_model = uses_quick_gelu(config.model)
    names = {True: "QuickGELU", False: "GELU"}
    if has_quick_gelu is None:
        log.warning(
            f"train.pretrained: {config.pretrained} does not say which activation it was trained with; "
            f"{config.model} has {names[of_model]}. Weights of OpenAI, MetaCLIP and DFN want QuickGELU."
        )
    elif has_quick_gelu != of_model and not config.allow_activation_mismatch:
        plain = config.model.removesuffix("-quickgelu")
        right = f"{plain}-quickgelu" if has_quick_gelu else plain
        raise ConfigError(
            f"train.pretrained: {config.pretrained} was trained with {names[has_quick_gelu]}, "
            f"and {config.model} has {names[of_model]}.",
            "With the other activation the same weights score some points less.",
            f"Set train.model={right}, or train.allow_activation_mismatch=true to train on with the other one.",
        )


def _in_open_clips_form(state: State, model: nn.Module) -> State:
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed

    state = from_transformers(state) if is_transformers_clip(state) else dict(state)
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    # CoCa's decoder, and what some versions of libraries saved that is no weight.
    dropped = [name for name in state if name.startswith("text_decoder.") or name.endswith("position_ids")]
    dropped += [name for name in state if name in ("input_resolution", "context_length", "vocab_size")]
    for name in dropped:
        del state[name]
    # Before the interpolation, which is not to be had in fp16 on a CPU.
    state = {name: value.to(own[name].dtype) if name in own else value for name, value in state.items()}
    resize_pos_embed(state, model)
    return state


def _fit_scalars(state: State, model: nn.Module, config: TrainConfig) -> None:
    own = model.state_dict()
    given = {"logit_scale": config.initial_logit_scale, "logit_bias": config.initial_logit_bias}
    for name in SCALARS:
        if name not in own or name not in state or given[name] is not None:
            state.pop(name, None)
            continue
        value = state[name].reshape(own[name].shape).float()
        if not bool(value.isfinite()):
            raise ConfigError(
                f"train.pretrained: {config.pretrained} has {name} = {value.item()}.",
                "It must be a number.",
                f"Set train.initial_{name}, or take other weights: a training that ended so may have spoilt them all.",
            )
        state[name] = value.clamp(0.0, math.log(MAX_LOGIT_SCALE)) if name == "logit_scale" else value


def _require_fit(state: State, model: nn.Module, config: TrainConfig) -> None:
    towers = config.pretrained_towers
    own = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked") and towers in (PretrainedTowers.ALL, tower_of(name))
    }
    wrong = [
        f"{name} is {_shape(state[name])} and not {_shape(value)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    missing = [name for name in own if name not in state and name not in SCALARS]
    unexpected = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    problems = [
        f"{what} ({len(found)}): {', '.join(found[:SHOWN])}{', …' if len(found) > SHOWN else ''}"
        for what, found in (("of another shape", wrong), ("missing", missing), ("of another model", unexpected))
        if found
    ]
    if problems:
        raise ConfigError(
            f"train.pretrained: {config.pretrained} does not fit {config.model}: {'; '.join(problems)}.",
            f"{config.model} embeds into {_embedding_width(model)} dimensions.",
            "Name the model that the weights are of in train.model.",
        )


def _embedding_width(model: nn.Module) -> int:
    """D, from whichever weight projects texts."""
    for name, value in model.state_dict().items():
        if name.endswith("text_projection"):
            return int(value.shape[1])
        if name.endswith("text_projection.weight"):
            return int(value.shape[0])
    return 0


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a scalar"


def _not_found(source: str) -> ConfigError:
    return ConfigError(
        f"train.pretrained: {source} is not there, or holds no weights.",
        f"Allowed are a file ({', '.join(WEIGHT_FILE_SUFFIXES)}), a checkpoint of ours, a folder with one of "
        f"{', '.join(FOLDER_WEIGHTS)}, or an open_clip tag.",
        "Check the path.",
    )
