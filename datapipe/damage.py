"""Keeps note of the shards that `verify` found damaged, until a build has made them again."""

import json
from collections.abc import Iterable

from infra.errors import DiptychError
from infra.storage import Storage

DAMAGE_FILE = "damaged.json"


def note_damage(dataset: Storage, shards: Iterable[int]) -> bool:
    """Leaves the note for the next build; says whether the dataset could be written."""
    try:
        dataset.write_bytes(DAMAGE_FILE, (json.dumps(sorted(set(shards))) + "\n").encode())
    except DiptychError:
        return False
    return True


def damaged_shards(dataset: Storage) -> list[int]:
    """The shards of the note; none without one."""
    if not dataset.exists(DAMAGE_FILE):
        return []
    return [int(shard) for shard in json.loads(dataset.read_bytes(DAMAGE_FILE))]


def forget_damage(dataset: Storage) -> None:
    """Removes the note."""
    dataset.delete(DAMAGE_FILE)
