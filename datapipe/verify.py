"""Checks every committed byte of a dataset against the markers, and the markers against the manifest."""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow.compute as pc

from datapipe.damage import note_damage
from datapipe.dataset import Dataset, shard_name
from datapipe.marker import STATS_SUFFIX, ShardStats
from datapipe.status import SampleStatus
from infra.storage import sha256_in


class ProblemKind(StrEnum):
    """In which way a file is not as committed."""

    MISSING = "is missing"
    WRONG_SIZE = "has another size"
    WRONG_HASH = "has another SHA-256"
    UNREADABLE = "cannot be read as a shard's marker"
    WRONG_COUNT = "counts other samples than the manifest"
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

    @property
    def is_intact(self) -> bool:
        """Whether every file is as committed."""
        return not self.problems


def verify(url: str) -> VerifyReport:
    """Reads all of the dataset, and leaves note of damaged shards, so that the next build makes them again.

    Raises InputError when there is no finished dataset at `url`.
    """
    dataset = Dataset.open(url)
    shards = len(dataset.manifest.shard_rows)
    found = {shard: problems for shard in range(shards) if (problems := _check_shard(dataset, shard))}
    is_noted = bool(found) and note_damage(dataset.storage, found)
    everything = tuple(problem for of_shard in found.values() for problem in of_shard)
    return VerifyReport(dataset.storage.url, shards, everything, is_noted)


def _check_shard(dataset: Dataset, shard: int) -> list[Problem]:
    marker = f"{shard_name(shard)}{STATS_SUFFIX}"
    if not dataset.storage.exists(marker):
        return [Problem(marker, ProblemKind.MISSING)]
    try:
        stats = ShardStats.from_json(shard, dataset.storage.read_bytes(marker))
    except (ValueError, KeyError, TypeError):
        return [Problem(marker, ProblemKind.UNREADABLE)]
    problems = [problem for name in stats.files if (problem := _check_file(dataset, name, stats)) is not None]
    manifest = dataset.manifest
    if (stats.rows, stats.samples) != (manifest.shard_rows[shard], manifest.shard_samples[shard]):
        problems.append(Problem(marker, ProblemKind.WRONG_COUNT))
    return problems or _check_table(dataset, shard, stats)


def _check_file(dataset: Dataset, name: str, stats: ShardStats) -> Problem | None:
    size = dataset.storage.size_bytes(name)
    if size is None:
        return Problem(name, ProblemKind.MISSING)
    if size != stats.files[name].size_bytes:
        return Problem(name, ProblemKind.WRONG_SIZE)
    if sha256_in(dataset.storage, name) != stats.files[name].sha256:
        return Problem(name, ProblemKind.WRONG_HASH)
    return None


def _check_table(dataset: Dataset, shard: int, stats: ShardStats) -> list[Problem]:
    """Bytes that are as committed can still have been written wrong: do table, tar and marker tell the same?"""
    ranges = ["image_offset", "image_length"] if dataset.is_webdataset else []
    rows = dataset.read_rows(shard, ["status", *ranges])
    good = rows.filter(pc.equal(rows["status"], SampleStatus.SUCCESS.value))
    is_right = rows.num_rows == stats.rows and good.num_rows == stats.samples
    if is_right and ranges and good.num_rows:
        ends = pc.add(good["image_offset"], good["image_length"])
        tar_bytes = stats.files[f"{shard_name(shard)}.tar"].size_bytes
        is_right = ends.null_count == 0 and pc.max(ends).as_py() <= tar_bytes
    return [] if is_right else [Problem(f"{shard_name(shard)}.parquet", ProblemKind.WRONG_TABLE)]
