"""Checks every committed byte of a dataset and its annotations against the markers, and those against the manifest."""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow.compute as pc

from datapipe.annotation import (
    COLUMNS_FOLDER,
    annotation_file,
    annotation_marker,
    annotation_names,
    find_annotation,
    source_in,
)
from datapipe.columns import is_good
from datapipe.damage import note_damage
from datapipe.dataset import Dataset, shard_name
from datapipe.marker import STATS_SUFFIX, FileFacts, ShardStats
from infra.errors import CorruptData
from infra.storage import Storage, sha256_in


class ProblemKind(StrEnum):
    """In which way a file is not as committed."""

    MISSING = "is missing"
    WRONG_SIZE = "has another size"
    WRONG_HASH = "has another SHA-256"
    UNREADABLE = "cannot be read as a marker"
    WRONG_COUNT = "counts other samples than the manifest"
    OTHER_SHARD = "has values of another shard than is there"
    WRONG_TABLE = "has other samples than its marker or its tar"


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that is not as committed."""

    file: str
    kind: ProblemKind

    def __str__(self) -> str:
        return f"{self.file} {self.kind}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found."""

    url: str
    shards: int
    problems: tuple[Problem, ...]
    is_noted: bool = False  # for the next build
    annotations: int = 0

    @property
    def is_intact(self) -> bool:
        """Whether every file is as committed."""
        return not self.problems

    @property
    def has_damaged_annotations(self) -> bool:
        """Whether files of annotations are among them."""
        return any(problem.file.startswith(f"{COLUMNS_FOLDER}/") for problem in self.problems)


def verify(url: str) -> VerifyReport:
    """Reads all of the dataset, and leaves note of damaged shards, so that the next build makes them again.

    Raises InputError when there is no finished dataset at `url`.
    """
    dataset = Dataset.open(url)
    shards = len(dataset.manifest.shard_rows)
    found = {shard: problems for shard in range(shards) if (problems := _check_shard(dataset, shard))}
    is_noted = bool(found) and note_damage(dataset.storage, found)
    everything = [problem for of_shard in found.values() for problem in of_shard]
    names = annotation_names(dataset.storage)
    everything += [problem for name in names for problem in _check_annotation(dataset, name)]
    return VerifyReport(dataset.storage.url, shards, tuple(everything), is_noted, len(names))


def _check_shard(dataset: Dataset, shard: int) -> list[Problem]:
    marker = f"{shard_name(shard)}{STATS_SUFFIX}"
    if not dataset.storage.exists(marker):
        return [Problem(marker, ProblemKind.MISSING)]
    try:
        stats = ShardStats.from_json(shard, dataset.storage.read_bytes(marker))
    except (ValueError, KeyError, TypeError):
        return [Problem(marker, ProblemKind.UNREADABLE)]
    checked = [_check_file(dataset.storage, name, facts) for name, facts in stats.files.items()]
    problems = [problem for problem in checked if problem is not None]
    manifest = dataset.manifest
    if (stats.rows, stats.samples) != (manifest.shard_rows[shard], manifest.shard_samples[shard]):
        problems.append(Problem(marker, ProblemKind.WRONG_COUNT))
    return problems or _check_table(dataset, shard, stats)


def _check_annotation(dataset: Dataset, name: str) -> list[Problem]:
    annotation = find_annotation(dataset.storage, name)
    if annotation is None:
        return [Problem(annotation_marker(name), ProblemKind.UNREADABLE)]
    checked = [
        _check_file(dataset.storage, f"{COLUMNS_FOLDER}/{name}/{file}", facts)
        for file, facts in annotation.files.items()
    ]
    problems = [problem for problem in checked if problem is not None]
    return problems + [
        Problem(f"{COLUMNS_FOLDER}/{name}/{annotation_file(shard)}", ProblemKind.OTHER_SHARD)
        for shard in range(len(dataset.manifest.shard_rows))
        if annotation.sources.get(annotation_file(shard)) != source_in(dataset.storage, shard)
    ]


def _check_file(storage: Storage, name: str, facts: FileFacts) -> Problem | None:
    size = storage.size_bytes(name)
    if size is None:
        return Problem(name, ProblemKind.MISSING)
    if size != facts.size_bytes:
        return Problem(name, ProblemKind.WRONG_SIZE)
    if sha256_in(storage, name) != facts.sha256:
        return Problem(name, ProblemKind.WRONG_HASH)
    return None


def _check_table(dataset: Dataset, shard: int, stats: ShardStats) -> list[Problem]:
    """Bytes that are as committed can still have been written wrong: do table, tar and marker tell the same?"""
    ranges = ["image_offset", "image_length"] if dataset.is_webdataset else []
    try:
        rows = dataset.read_rows(shard, ["status", *ranges])
    except CorruptData:
        return [Problem(f"{shard_name(shard)}.parquet", ProblemKind.WRONG_TABLE)]
    good = rows.filter(is_good(rows))
    is_right = rows.num_rows == stats.rows and good.num_rows == stats.samples
    if is_right and ranges and good.num_rows:
        ends = pc.add(good["image_offset"], good["image_length"])
        tar_bytes = stats.files[f"{shard_name(shard)}.tar"].size_bytes
        is_right = ends.null_count == 0 and pc.max(ends).as_py() <= tar_bytes
    return [] if is_right else [Problem(f"{shard_name(shard)}.parquet", ProblemKind.WRONG_TABLE)]
