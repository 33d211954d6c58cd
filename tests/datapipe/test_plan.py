"""The plan: every row of the list in exactly one shard, in order."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from datapipe.plan import InputFile, plan_shards, shard_count


def files_of(rows: list[int]) -> list[InputFile]:
    return [InputFile(f"{number:03d}.parquet", count) for number, count in enumerate(rows)]


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 40))
def test_every_row_is_planned_exactly_once_and_in_order(rows: list[int], rows_per_shard: int):
    files = files_of(rows)
    plans = list(plan_shards(files, rows_per_shard))
    planned = [
        (piece.path, piece.first_row + row) for plan in plans for piece in plan.pieces for row in range(piece.rows)
    ]
    assert planned == list(chain.from_iterable(((file.path, row) for row in range(file.rows)) for file in files))


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 40))
def test_all_shards_but_the_last_are_full(rows: list[int], rows_per_shard: int):
    plans = list(plan_shards(files_of(rows), rows_per_shard))
    assert [plan.shard for plan in plans] == list(range(shard_count(sum(rows), rows_per_shard)))
    assert all(plan.rows == rows_per_shard for plan in plans[:-1])
    assert all(0 < plan.rows <= rows_per_shard for plan in plans)
    assert all(piece.rows for plan in plans for piece in plan.pieces)


def test_a_billion_rows_are_planned_without_touching_them():
    plans = plan_shards([InputFile("huge.parquet", 10**12)], 10_000)
    assert next(plans).pieces[0].first_row == 0
    assert next(plans).pieces[0].first_row == 10_000
