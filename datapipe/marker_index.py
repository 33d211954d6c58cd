"""Keeps the markers of a dataset in an object store in one file, so that a restart need not read them one by one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from datapipe.commit import marker_name
from datapipe.marker import ShardStats
from infra.files import FileEntry
from infra.storage import Storage

INDEX_FILE = "_markers.json"


@dataclass(frozen=True, slots=True)
class MarkerIndex:
    """Markers as they were, by shard, each with the version that it had. It vouches for nothing that has changed."""

    markers: Mapping[int, tuple[str, ShardStats]]

    def find(self, shard: int, listed: Mapping[str, FileEntry]) -> ShardStats | None:
        """The shard's marker, if the listed one is still of the same version."""
        version, stats = self.markers.get(shard, (None, None))
        return stats if version is not None and listed[marker_name(shard)].version == version else None


def read_index(output: Storage, listed: Mapping[str, FileEntry]) -> MarkerIndex:
    """The index of the dataset; empty when there is none, or one that cannot be read."""
    if INDEX_FILE not in listed:
        return MarkerIndex({})
    try:
        raw = json.loads(output.read_bytes(INDEX_FILE))
        markers = {
            int(shard): (str(version), ShardStats.from_json(int(shard), text.encode()))
            for shard, (version, text) in raw.items()
        }
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return MarkerIndex({})
    return MarkerIndex(markers)


def write_index(output: Storage, committed: Iterable[ShardStats]) -> None:
    """Writes the index of these shards, with the versions that their markers have now."""
    versions = {entry.path: entry.version for entry in output.list_files()}
    index = {
        str(stats.shard): (versions[name], stats.to_json().decode())
        for stats in sorted(committed, key=lambda stats: stats.shard)
        if (name := marker_name(stats.shard)) in versions
    }
    output.write_bytes(INDEX_FILE, (json.dumps(index) + "\n").encode())
