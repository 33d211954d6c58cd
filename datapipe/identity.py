"""Says what a dataset's bytes depend on, and refuses to mix two settings in one folder."""

import json
from collections.abc import Iterable
from typing import Any

from datapipe.config import BuildConfig
from datapipe.input_files import ListFile
from datapipe.marker import STATS_SUFFIX
from datapipe.urls import input_identity
from infra.errors import ConfigError
from infra.storage import Storage

SETTINGS_FILE = "build.json"  # what the shards are made with; written first
# What the bytes do not depend on, or (input) depend on by content and not by name.
FREE_KEYS = frozenset({"input", "output", "tasks", "connections", "connections_per_host"})
MAX_SHOWN = 40


def build_settings(config: BuildConfig, files: Iterable[ListFile]) -> dict[str, Any]:
    """What the bytes depend on: the same list of `files` in another place gives the same."""
    values = config.model_dump(mode="json", exclude=set(FREE_KEYS))
    # JSON has no infinity; null reads as "no limit".
    values = {key: None if value == float("inf") else value for key, value in values.items()}
    return values | {"input_sha256": input_identity(files)}


def write_settings(output: Storage, settings: dict[str, Any]) -> None:
    """Keeps the settings in the dataset's folder, before its first shard."""
    output.write_bytes(SETTINGS_FILE, (json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())


def refuse_other_settings(output: Storage, settings: dict[str, Any]) -> None:
    """Raises ConfigError when the folder holds shards of other settings, of another list or of another tool."""
    if not any(entry.path.endswith(STATS_SUFFIX) for entry in output.list_files()):
        return
    if not output.exists(SETTINGS_FILE):
        raise ConfigError(
            f"build.output: {output.url} holds shards, but not their settings ({SETTINGS_FILE}).",
            "A dataset is built in a folder of its own, and shards of another tool are not overwritten.",
            "Choose another output.",
        )
    before = json.loads(output.read_bytes(SETTINGS_FILE))
    changed = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
    if changed:
        shown = ", ".join(f"{key} {_short(before.get(key))} → {_short(settings.get(key))}" for key in changed)
        raise ConfigError(
            f"build.output: {output.url} holds a dataset made with other settings: {shown}.",
            f"A dataset keeps its settings; only {', '.join(sorted(FREE_KEYS))} may change.",
            "Choose another output, or remove that folder to begin anew.",
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:16]}…"
