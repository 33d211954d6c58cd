"""Knows the names of all models without importing any of them."""

import difflib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

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


@lru_cache
def open_clip_names() -> tuple[str, ...]:
    """The names of open_clip's architectures: those of its config files, which it reads when imported."""
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return tuple(sorted(path.stem for folder in folders for path in Path(folder).glob("model_configs/*.json")))
