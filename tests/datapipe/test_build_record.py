"""What the shards under way tell together, and what is said of those whose processes died."""

from collections import Counter

from datapipe.build_record import BuildRecord
from datapipe.shard_task import ShardProgress
from infra.place import Place

FIRST, SECOND, OTHER = Place("ant", "a" * 56, 1), Place("ant", "a" * 56, 2), Place("bee", "b" * 56, 3)


def test_nodes_are_those_with_shards_under_way_and_bytes_stay():
    record = BuildRecord()
    for shard, place in enumerate((FIRST, SECOND, OTHER)):
        assert record.begin(shard, place) == 0
        record.set(shard, ShardProgress(Counter({"success": 2}), 10))
    assert record.look().nodes == 2
    record.forget(2)
    view = record.look()
    assert (view.nodes, view.done.rows, view.done.downloaded_bytes, view.losses) == (1, 4, 30, ())


def test_shards_that_are_begun_again_are_told_once_with_the_node_that_they_were_on():
    record = BuildRecord()
    for shard in range(6):
        record.begin(shard, FIRST if shard < 3 else SECOND)
    record.forget(0)
    assert [record.begin(shard, OTHER) for shard in range(1, 6)] == [1] * 5
    (loss,) = record.look().losses
    assert loss.words({FIRST.node}) == (
        "shards 00001, 00002, 00003 and 2 more are begun again: node aaaaaaaaaaaa (ant) died"
    )
    assert record.look().losses == () and record.look().nodes == 1


def test_a_process_that_died_alone_is_named():
    record = BuildRecord()
    record.begin(7, FIRST)
    record.begin(7, OTHER)
    (loss,) = record.look().losses
    assert loss.words(frozenset()) == (
        "shard 00007 is begun again: a process died, on node aaaaaaaaaaaa (ant), process 1"
    )
