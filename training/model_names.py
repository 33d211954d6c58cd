"""Knows the names of all models without importing any of them."""

import difflib
import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from training.small_models import SMALL_ARCHITECTURES


def check_model_name(name: str) -> None:
    """Raises ConfigError with the nearest names when there is no such model."""
    known = [*SMALL_ARCHITECTURES, *open_clip_names()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ConfigError(
            f"train.model: got {name!r}.",
            f"Allowed are {', '.join(SMALL_ARCHITECTURES)} and open_clip's {len(open_clip_names())} names.",
            f"Did you mean {' or '.join(near)}?" if near else "See open_clip.list_models().",
        )


def check_hub_packages(name: str) -> None:
    """Raises ConfigError when the model's tokenizer or text tower wants transformers, which is not installed."""
    described = _described(name)
    wanted = [
        f"the {what} {described[key]}"
        for what, key in (("text tower", "hf_model_name"), ("tokenizer", "hf_tokenizer_name"))
        if described.get(key)
    ]
    if wanted and find_spec("transformers") is None:
        raise ConfigError(
            f"train.model: {name!r} has {' and '.join(wanted)} of the Hugging Face hub; transformers is not installed.",
            "What comes from the hub needs the transformers package, and the network or its cache.",
            "Run pip install transformers on every node, or take a model with a tokenizer and text tower of its own.",
        )


def _described(name: str) -> dict[str, Any]:
    """The model's text_cfg, from open_clip's file of it; {} for a model of ours."""
    path = next((path for path in _open_clip_files() if path.stem == name), None)
    described: dict[str, Any] = {} if path is None else json.loads(path.read_text())["text_cfg"]
    return described


@lru_cache
def open_clip_names() -> tuple[str, ...]:
    """The names of open_clip's architectures: those of its config files, which it reads when imported."""
    return tuple(sorted(path.stem for path in _open_clip_files()))


def _open_clip_files() -> list[Path]:
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [path for folder in folders for path in Path(folder).glob("model_configs/*.json")]
