"""Knows the names of all models without importing any of them."""

import difflib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from infra.errors import ConfigError

SMALL_MODELS = ("diptych-tiny",)


def check_model_name(name: str) -> None:
    """Raises ConfigError with the nearest names when there is no such model."""
    known = [*SMALL_MODELS, *open_clip_names()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ConfigError(
            f"train.model: got {name!r}.",
            f"Allowed are {', '.join(SMALL_MODELS)} and open_clip's {len(known) - len(SMALL_MODELS)} names.",
            f"Did you mean {' or '.join(near)}?" if near else "See open_clip.list_models().",
        )


@lru_cache
def open_clip_names() -> tuple[str, ...]:
    """The names of open_clip's contrastive architectures: those of its config files, which it reads when imported.

    CoCa's are left out: they are trained with a captioning loss too.
    """
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return tuple(
        sorted(
            path.stem
            for folder in folders
            for path in Path(folder).glob("model_configs/*.json")
            if not path.stem.startswith("coca")
        )
    )
