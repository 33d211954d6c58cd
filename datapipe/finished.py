"""Finds the shards of a dataset that are finished."""

from concurrent.futures import ThreadPoolExecutor

from datapipe.commit import committed_shard, has_its_files, marker_name
from datapipe.marker import ShardStats
from datapipe.marker_index import read_index
from infra.storage import Storage

MARKERS_AT_ONCE = 32


def find_finished(output: Storage, shards: int) -> dict[int, ShardStats]:
    """The shards whose marker is there and whose files are those it vouches for; storage is listed once."""
    listed = {entry.path: entry for entry in output.list_files()}
    candidates = [shard for shard in range(shards) if marker_name(shard) in listed]
    if output.is_local:  # where threads would only wait for each other
        found = [committed_shard(output, shard, listed) for shard in candidates]
        return {stats.shard: stats for stats in found if stats is not None}
    index = read_index(output, listed)

    def look(shard: int) -> ShardStats | None:
        stats = index.find(shard, listed)
        known = stats is not None and has_its_files(output, stats, listed)
        return stats if known else committed_shard(output, shard, listed)

    with ThreadPoolExecutor(MARKERS_AT_ONCE) as pool:
        return {stats.shard: stats for stats in pool.map(look, candidates) if stats is not None}
