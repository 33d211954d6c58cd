"""Writes the demo's URL list: every picture once, and among them a few in a hundred that misbehave."""

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.demo.faults import EXPECTED_STATUS, Fault
from orchestrator.demo.pictures import Picture, PictureSet
from orchestrator.demo.server import PICTURES_PATH
from orchestrator.demo.split import Split

# Of a thousand training pictures, how many URLs of each kind are planted. Slow and silent ones are few: each
# holds a connection for seconds.
FAULTS_PER_THOUSAND = {
    Fault.NOT_FOUND: 8.0,
    Fault.FORBIDDEN: 2.0,
    Fault.SERVER_ERROR: 1.5,
    Fault.SLOW: 1.2,
    Fault.NEVER: 0.5,
    Fault.REDIRECT: 4.0,
    Fault.REDIRECT_LOOP: 1.0,
    Fault.HTML: 4.0,
    Fault.TRUNCATED: 2.0,
    Fault.TINY: 2.5,
    Fault.OPT_OUT: 2.0,
    Fault.EMPTY: 1.0,
    Fault.UNKNOWN_HOST: 1.0,
    Fault.MALFORMED: 1.0,
}


@dataclass(frozen=True, slots=True)
class UrlList:
    """What a URL list holds: rows in all, the rows that a build should turn into samples, faults by kind."""

    path: Path
    rows: int
    good_rows: int
    faults: dict[Fault, int]

    def expected_counts(self) -> dict[str, int]:
        """How many rows a build should count under each status."""
        counts = Counter({"success": self.rows - sum(self.faults.values())})
        for fault, count in self.faults.items():
            counts[EXPECTED_STATUS[fault].value] += count
        return dict(counts)


@dataclass(frozen=True, slots=True)
class _Row:
    url: str
    picture: Picture


def write_url_list(path: Path, pictures: PictureSet, base_url: str, seed: int) -> UrlList:
    """Writes the list as Parquet (url, caption, emoji, name, group, split), shuffled by the seed.

    Every picture can be had from exactly one row. Slow answers and redirects replace the plain URL of a training
    picture; the faults that yield nothing are rows of their own, with the caption of some training picture.
    """
    choose = random.Random(f"urls {seed}")
    training = pictures.of(Split.TRAIN)
    counts = {fault: max(1, round(share * len(training) / 1000)) for fault, share in FAULTS_PER_THOUSAND.items()}
    planted = _plant(training, counts, choose)
    still_good = [(fault, picture) for fault, picture in planted if EXPECTED_STATUS[fault].is_success]
    replaced = {picture.file for _, picture in still_good}
    rows = [_Row(_url(base_url, PICTURES_PATH, p.file), p) for p in pictures.pictures if p.file not in replaced]
    rows += [_Row(_faulty_url(base_url, fault, picture), picture) for fault, picture in planted]
    choose.shuffle(rows)
    _write_parquet(path, rows)
    good = len(rows) - len(planted) + len(still_good)
    return UrlList(path, len(rows), good, counts)


def _plant(training: Sequence[Picture], counts: dict[Fault, int], choose: random.Random) -> list[tuple[Fault, Picture]]:
    """A picture of its own for each fault; the truncated ones are JPEGs, which decoders are tempted to accept."""
    shuffled = choose.sample(training, len(training))
    jpegs = [picture for picture in shuffled if picture.file.endswith(".jpg")][: counts[Fault.TRUNCATED]]
    others = iter(picture for picture in shuffled if picture not in jpegs)
    planted = [(Fault.TRUNCATED, picture) for picture in jpegs]
    rest = [fault for fault in counts if fault is not Fault.TRUNCATED]
    return planted + [(fault, next(others)) for fault in rest for _ in range(counts[fault])]


def _faulty_url(base_url: str, fault: Fault, picture: Picture) -> str:
    match fault:
        case Fault.UNKNOWN_HOST:
            return f"http://does-not-exist.invalid/{picture.file}"
        case Fault.MALFORMED:
            return f"http:///{PICTURES_PATH} {picture.file}"
        case _:
            return _url(base_url, fault, picture.file)


def _url(base_url: str, folder: str, file: str) -> str:
    return f"{base_url}/{folder}/{file}"


def _write_parquet(path: Path, rows: Sequence[_Row]) -> None:
    def column(values: Iterable[str]) -> pa.Array:
        return pa.array([str(value) for value in values], pa.string())

    table = pa.table(
        {
            "url": column(row.url for row in rows),
            "caption": column(row.picture.caption for row in rows),
            "emoji": column(row.picture.emoji for row in rows),
            "name": column(row.picture.name for row in rows),
            "group": column(row.picture.group for row in rows),
            "split": column(row.picture.split for row in rows),
        }
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pq.write_table(table, partial)
    partial.replace(path)
