"""Finished shards on S3 are recognised from one file, which vouches for nothing that has changed."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from object_store import ObjectStore
from store_client import UseStore

from datapipe.commit import commit_shard, marker_name
from datapipe.finished import find_finished
from datapipe.marker import ShardStats
from datapipe.marker_index import INDEX_FILE, write_index
from infra.staged import StagedFile
from infra.storage import Storage, storage_of

SHARDS = 12


@pytest.fixture
def proxy(store: ObjectStore, use_store: UseStore) -> Iterator[FaultProxy]:
    with FaultProxy(store.endpoint) as running:
        use_store(store.environment(endpoint=running.endpoint))
        yield running


@pytest.fixture
def output(store: ObjectStore, proxy: FaultProxy) -> Storage:
    return storage_of(store.url(f"index-{uuid4().hex}"))


def make_shard(output: Storage, shard: int, content: bytes = b"content") -> ShardStats:
    with StagedFile(output, f"{shard:05d}.tar") as tar:
        tar.stream.write(content)
        return commit_shard(output, ShardStats(shard, 3, {"success": 2, "timeout": 1}, {}), [tar])


def objects_read(proxy: FaultProxy, output: Storage) -> list[str]:
    """What finding the finished shards reads; lists apart."""
    before = len(proxy.requests)
    find_finished(output, SHARDS)
    targets = [target.partition("?")[0] for method, target in proxy.requests[before:] if method in ("GET", "HEAD")]
    return [target.rpartition("/")[2] for target in targets if target.endswith((".json", ".tar", ".parquet"))]


def test_all_are_recognised_with_one_read_and_one_listing(output: Storage, proxy: FaultProxy):
    made = {shard: make_shard(output, shard) for shard in range(SHARDS)}
    assert len(objects_read(proxy, output)) == SHARDS
    write_index(output, made.values())
    before = len(proxy.requests)
    assert find_finished(output, SHARDS) == made
    assert len(proxy.requests) - before == 2


def test_what_has_changed_since_is_read_and_what_is_damaged_is_not_finished(output: Storage, proxy: FaultProxy):
    made = {shard: make_shard(output, shard) for shard in range(SHARDS)}
    write_index(output, made.values())
    output.delete(marker_name(3))
    made[3] = make_shard(output, 3, b"other content")
    output.delete("00005.tar")
    output.delete(marker_name(7))
    output.write_bytes("00009.tar", b"changed")
    assert find_finished(output, SHARDS) == {shard: made[shard] for shard in range(SHARDS) if shard not in (5, 7, 9)}


def test_an_index_that_cannot_be_read_costs_only_time(output: Storage, proxy: FaultProxy):
    made = {shard: make_shard(output, shard) for shard in range(3)}
    output.write_bytes(INDEX_FILE, b"{]")
    assert find_finished(output, SHARDS) == made
