"""Plans a list of a billion rows and finds 100,000 finished shards; prints the seconds and the peak memory of each.

Run it with `python tests/benchmarks/plan_a_billion_rows.py`. The list is what the metadata of its Parquet files would
give: paths and row counts. The finished shards are real markers beside files of the sizes that these vouch for. Each
part runs in a process of its own, whose peak memory is taken less what it had after its imports.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datapipe.dataset import shard_name
from datapipe.finished import find_finished
from datapipe.marker import STATS_SUFFIX, FileFacts, ShardStats
from datapipe.plan import InputFile, plan_shards, shard_count
from infra.storage import storage_of

TAR_BYTES, PARQUET_BYTES = 40, 20
PLAN_LIMIT_S, PLAN_LIMIT_BYTES = 30, 1 << 30


@dataclass(frozen=True)
class Cost:
    """What one part took: seconds, the process's peak memory, and how much of it came after the imports."""

    seconds: float
    peak_bytes: int
    added_bytes: int
    count: int

    def __str__(self) -> str:
        return f"{self.seconds:6.2f} s, peak {self.peak_bytes / 1e6:,.0f} MB (of it {self.added_bytes / 1e6:,.0f} MB)"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(work: Callable[..., int], *arguments: object) -> Cost:
    """Runs the work in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, work, arguments).result()


def _measure(work: Callable[..., int], arguments: tuple[object, ...]) -> Cost:
    before, began = peak_bytes(), time.perf_counter()
    count = work(*arguments)
    return Cost(time.perf_counter() - began, peak_bytes(), peak_bytes() - before, count)


def plan(files: int, rows_per_file: int, shards: int) -> int:
    """Plans all shards and holds them at once, as a build does; returns their number."""
    listed = [InputFile(f"/lists/part-{number:06d}.parquet", rows_per_file) for number in range(files)]
    rows = files * rows_per_file
    plans = list(plan_shards(listed, -(-rows // shards)))
    assert sum(plan.rows for plan in plans) == rows
    assert len(plans) == shard_count(rows, -(-rows // shards))
    return len(plans)


def make_finished(folder: Path, shards: int) -> None:
    """Markers, and files of the sizes that they vouch for."""
    for shard in range(shards):
        name = shard_name(shard)
        files = {
            f"{name}.tar": FileFacts(TAR_BYTES, "0" * 64),
            f"{name}.parquet": FileFacts(PARQUET_BYTES, "0" * 64),
        }
        stats = ShardStats(shard, 10_000, {"http_404": 1000, "success": 8990, "timeout": 10}, files)
        (folder / f"{name}{STATS_SUFFIX}").write_bytes(stats.to_json())
        for file, facts in files.items():
            (folder / file).write_bytes(bytes(facts.size_bytes))


def find(folder: str, shards: int) -> int:
    """Recognises the finished shards; returns their number."""
    return len(find_finished(storage_of(folder), shards))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rows-per-file", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100_000)
    arguments = parser.parse_args()
    rows = arguments.files * arguments.rows_per_file
    planned = measured(plan, arguments.files, arguments.rows_per_file, arguments.shards)
    print(f"plan {rows:,} rows into {planned.count:,} shards      {planned}")
    with tempfile.TemporaryDirectory() as name:
        make_finished(Path(name), arguments.shards)
        found = measured(find, name, arguments.shards)
        print(f"find {found.count:,} finished shards of {arguments.shards:,}   {found}")
    is_in_bounds = planned.seconds < PLAN_LIMIT_S and planned.peak_bytes < PLAN_LIMIT_BYTES
    print(f"planning in under {PLAN_LIMIT_S} s and {PLAN_LIMIT_BYTES >> 30} GiB: {'yes' if is_in_bounds else 'no'}")


if __name__ == "__main__":
    main()
