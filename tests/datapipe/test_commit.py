"""Two attempts at one shard: whatever their order, what counts as committed is one attempt's, whole."""

import random
import threading
from pathlib import Path
from uuid import uuid4

import pytest
from object_store import ObjectStore

from datapipe.commit import commit_shard, committed_shard, marker_name
from datapipe.marker import ShardStats
from infra.errors import DiptychError
from infra.staged import StagedFile
from infra.storage import Storage, sha256_in, storage_of

STATS = ShardStats(7, 1, {"success": 1}, {})


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return storage_of(tmp_path)
    store: ObjectStore = request.getfixturevalue("store")
    return storage_of(store.url(f"commit-{uuid4().hex}"))


def attempt(output: Storage, content: bytes) -> ShardStats:
    """Writes and commits a shard whose two files hold `content`, all of the same sizes."""
    with StagedFile(output, "00007.tar") as tar, StagedFile(output, "00007.parquet") as table:
        for file in (tar, table):
            file.stream.write(content)
        return commit_shard(output, STATS, [tar, table])


def assert_consistent(output: Storage) -> None:
    stats = committed_shard(output, 7)
    assert stats is not None
    assert {name: sha256_in(output, name) for name in stats.files} == {
        name: facts.sha256 for name, facts in stats.files.items()
    }
    assert output.read_bytes("00007.tar") == output.read_bytes("00007.parquet")


def test_the_first_attempt_stays_and_the_second_learns_of_it(output: Storage):
    first = attempt(output, b"first")
    assert attempt(output, b"other") == first == committed_shard(output, 7)
    assert output.read_bytes("00007.tar") == b"first"
    assert {entry.path for entry in output.list_files()} == {"00007.tar", "00007.parquet", "00007_stats.json"}


def test_racing_attempts_leave_no_mixture(output: Storage):
    for number in range(6):
        output.delete(marker_name(7))
        chance = random.Random(number)
        contents = [f"attempt {one} of {number}".encode() for one in range(4)]
        failures: list[DiptychError] = []

        def run(content: bytes, failures: list[DiptychError] = failures) -> None:
            try:
                attempt(output, content)
            except DiptychError as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(content,)) for content in chance.sample(contents, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if committed_shard(output, 7) is None:
            attempt(output, b"the next one to come")
        assert_consistent(output)


def test_a_tar_of_another_attempt_beside_a_committed_table_does_not_count(output: Storage):
    attempt(output, b"right")
    output.write_bytes("00007.tar", b"wrong")
    if output.is_local:
        # A local folder has no versions: there, commits are kept apart by a lock, and damage is found by `verify`.
        output.write_bytes("00007.tar", b"longer than it was")
    assert committed_shard(output, 7) is None
    attempt(output, b"again")
    assert_consistent(output)


def test_a_marker_that_does_not_vouch_is_gone_before_other_bytes_come(output: Storage):
    attempt(output, b"right")
    output.delete("00007.parquet")
    output.write_bytes(marker_name(7), b"{}")
    assert committed_shard(output, 7) is None
    attempt(output, b"again")
    assert_consistent(output)
