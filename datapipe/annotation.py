"""A dataset's annotations: one value for each row of its shards, in files beside them; and who made them of what.

columns/NAME/00000.parquet     key and NAME, one row per row of the shard, null where there is no value
columns/NAME/annotation.json   the commit marker: sizes and SHA-256 of those files; written last
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.dataset import Dataset, shard_name
from datapipe.finished import find_finished
from datapipe.marker import STATS_SUFFIX, FileFacts, ShardStats
from infra.errors import ConfigError, CorruptData
from infra.storage import Storage

COLUMNS_FOLDER = "columns"
ANNOTATION_FILE = "annotation.json"
FORMAT_VERSION = 1
MADE_FROM = b"made_from"  # in a file's metadata: a hash of all that its values depend on


@dataclass(frozen=True, slots=True)
class Annotation:
    """A finished annotation: the settings that made it, its files, and how many rows have a value.

    `sources` has for each file a hash of the shard that its values are of.
    """

    name: str
    settings: dict[str, Any]
    files: dict[str, FileFacts]
    sources: dict[str, str]
    rows: int
    values: int

    def to_json(self) -> bytes:
        """The marker as it is written."""
        value = {
            "format_version": FORMAT_VERSION,
            "settings": self.settings,
            "rows": self.rows,
            "values": self.values,
            "files": {name: facts.to_json() for name, facts in self.files.items()},
            "sources": self.sources,
        }
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, name: str, data: bytes) -> "Annotation":
        """Reads `to_json`'s bytes. Raises ValueError, KeyError, TypeError or AttributeError when they are none."""
        raw = json.loads(data)
        if raw["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {raw['format_version']}")
        files = {file: FileFacts(**facts) for file, facts in raw["files"].items()}
        return cls(name, raw["settings"], files, dict(raw["sources"]), raw["rows"], raw["values"])


def annotation_folder(dataset: Storage, name: str) -> Storage:
    """Where the annotation's files lie."""
    return dataset.at(f"{COLUMNS_FOLDER}/{name}")


def annotation_marker(name: str) -> str:
    """Where the annotation's commit marker lies in its dataset."""
    return f"{COLUMNS_FOLDER}/{name}/{ANNOTATION_FILE}"


def annotation_file(shard: int) -> str:
    """`00003.parquet` for 3."""
    return f"{shard_name(shard)}.parquet"


def annotation_names(dataset: Storage) -> list[str]:
    """The names of the finished annotations, sorted."""
    entries = dataset.list_files(COLUMNS_FOLDER, recursive=True)
    return sorted(
        entry.path.split("/")[1]
        for entry in entries
        if entry.path.endswith(f"/{ANNOTATION_FILE}") and entry.path.count("/") == 2
    )


def find_annotation(dataset: Storage, name: str) -> Annotation | None:
    """The finished annotation of that name; None when there is none, or one whose marker cannot be read."""
    folder = annotation_folder(dataset, name)
    try:
        return Annotation.from_json(name, folder.read_bytes(ANNOTATION_FILE))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_annotated(dataset: Storage, name: str, settings: dict[str, Any]) -> bool:
    """Whether the annotation is finished: by these settings, of the shards that are there, its files as large as then.

    Reads of each shard no more than its marker.
    """
    annotation = find_annotation(dataset, name)
    if annotation is None or annotation.settings != settings:
        return False
    finished = find_finished(dataset, len(annotation.sources))
    if annotation.sources != {annotation_file(shard): source_of(stats) for shard, stats in finished.items()}:
        return False
    if annotation.sources and not _has_its_column(annotation_folder(dataset, name), name):
        return False
    sizes = {entry.path: entry.size_bytes for entry in annotation_folder(dataset, name).list_files()}
    return all(sizes.get(file) == facts.size_bytes for file, facts in annotation.files.items())


def _has_its_column(folder: Storage, name: str) -> bool:
    """Whether the first file's values are of that name, and not of the one that the folder had once."""
    try:
        with folder.open_input(annotation_file(0)) as stream:
            return name in pq.read_schema(stream).names
    except (OSError, pa.ArrowException):
        return False


def require_annotation(dataset: Storage, name: str) -> Annotation:
    """The finished annotation of that name. Raises ConfigError when there is none."""
    annotation = find_annotation(dataset, name)
    if annotation is None:
        there = ", ".join(annotation_names(dataset)) or "none"
        raise ConfigError(
            f"{dataset.url} has no annotation {name!r}.",
            f"Its annotations are: {there}.",
            "Name one of them, or make it with `diptych annotate`.",
        )
    return annotation


def source_of(stats: ShardStats) -> str:
    """A hash of the shard's bytes, by which an annotation knows what its values are of."""
    hashes = {file: facts.sha256 for file, facts in stats.files.items()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def read_values(dataset: Dataset, annotation: Annotation, shard: int) -> pa.ChunkedArray:
    """The shard's values, one for each of its rows.

    Raises CorruptData when the file is not the committed one, or its values are of another shard than is there.
    """
    folder, file = annotation_folder(dataset.storage, annotation.name), annotation_file(shard)
    if annotation.sources.get(file) != source_in(dataset.storage, shard):
        raise CorruptData(
            f"{folder.url}: its values for shard {shard} are not of the shard that is there.",
            "The dataset was changed after it was annotated.",
            "Run `diptych annotate` again: it makes anew what is of other shards.",
        )
    try:
        data = folder.read_bytes(file)
    except FileNotFoundError as error:
        raise _damaged(folder, file) from error
    if facts_of(data) != annotation.files.get(file):
        raise _damaged(folder, file)
    values = pq.ParquetFile(pa.BufferReader(data)).read(columns=[annotation.name])
    if not values.num_columns:  # its folder has another name than when it was made
        raise _damaged(folder, file)
    return values[annotation.name]


def facts_of(data: bytes) -> FileFacts:
    """Size and hash of a file with these bytes."""
    return FileFacts(len(data), hashlib.sha256(data).hexdigest())


def source_in(dataset: Storage, shard: int) -> str:
    """`source_of` the shard that is there; nothing where it has no marker of ours."""
    try:
        return source_of(ShardStats.from_json(shard, dataset.read_bytes(f"{shard_name(shard)}{STATS_SUFFIX}")))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _damaged(folder: Storage, file: str) -> CorruptData:
    return CorruptData(
        f"{folder.url}/{file} is missing, or not as {ANNOTATION_FILE} vouches for.",
        "An annotation's files are read only as they were committed.",
        "Remove that file and run `diptych annotate` again: it makes it anew.",
    )
