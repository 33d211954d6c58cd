"""A shard's commit marker: its counts, and the sizes and hashes of the files that it vouches for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from datapipe.status import SampleStatus

STATS_SUFFIX = "_stats.json"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A committed file's size and hash, and on object stores its version (ETag)."""

    size_bytes: int
    sha256: str
    version: str | None = None

    def to_json(self) -> dict[str, object]:
        """The facts as they stand in the marker."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class ShardStats:
    """A shard's counts and the files that its marker vouches for."""

    shard: int
    rows: int
    status_counts: dict[str, int]
    files: dict[str, FileFacts]

    @property
    def samples(self) -> int:
        """Rows that became samples."""
        return self.status_counts.get(SampleStatus.SUCCESS.value, 0)

    def with_files(self, files: dict[str, FileFacts]) -> "ShardStats":
        """The same counts, vouching for these files."""
        return replace(self, files=files)

    def with_versions(self, versions: Mapping[str, str | None]) -> "ShardStats":
        """The same, with the versions that the files have got."""
        return replace(self, files={name: replace(facts, version=versions[name]) for name, facts in self.files.items()})

    def to_json(self) -> bytes:
        """The marker: img2dataset's counts, then sizes and hashes."""
        resized = sum(n for s, n in self.status_counts.items() if not SampleStatus(s).is_download_failure)
        value = {
            "count": self.rows,
            "successes": self.samples,
            "failed_to_download": self.rows - resized,
            "failed_to_resize": resized - self.samples,
            "status_dict": self.status_counts,
            "files": {name: facts.to_json() for name, facts in self.files.items()},
        }
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, shard: int, data: bytes) -> "ShardStats":
        """Reads a marker. Raises ValueError, KeyError or TypeError when it is none of ours."""
        raw = json.loads(data)
        if not isinstance(raw["files"], dict) or not isinstance(raw["status_dict"], dict):
            raise TypeError("files or status_dict are of another kind")
        files = {name: FileFacts(**facts) for name, facts in raw["files"].items()}
        return cls(shard, raw["count"], raw["status_dict"], files)
