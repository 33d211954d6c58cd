"""What ranks agree on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks
from small_datasets import make_dataset

from infra.errors import CorruptData
from training.agreement import any_rank, shared_out
from training.config import DataSource
from training.selection import select


def is_so_on_any(_group: Any, is_so_here: bool) -> bool:
    return any_rank(is_so_here, torch.device("cpu"))


def test_what_is_so_on_one_rank_is_heard_by_all(tmp_path: Path):
    with Ranks(tmp_path, 3) as ranks:
        assert ranks.run(is_so_on_any, [(False,), (True,), (False,)]) == [True] * 3
        assert ranks.run(is_so_on_any, [(False,)] * 3) == [False] * 3
    assert any_rank(True, torch.device("cpu")) and not any_rank(False, torch.device("cpu"))


def squares(_group: Any, items: list[int]) -> tuple[list[int], list[int]]:
    """Of the items, and those that were worked on here."""
    own: list[int] = []

    def work(share: Sequence[int]) -> list[int]:
        own.extend(share)
        if -1 in share:
            raise CorruptData("-1 is no number.", "Numbers are not negative.", "Take another.")
        return [item * item for item in share]

    return shared_out(items, work), own


def selected(_group: Any, place: str) -> tuple[tuple[int, ...], list[list[int]]]:
    found = select(DataSource(path=place, held_out=0.2, part="train"), shared_out)
    return found.shards, [list(rows) for rows in found.indices]


def test_each_rank_does_its_share_and_has_the_results_of_all(tmp_path: Path):
    place = make_dataset(tmp_path / "data", rows=[30, 1, 0, 12, 30, 7])
    whole = select(DataSource(path=place, held_out=0.2, part="train"))
    with Ranks(tmp_path, 3) as ranks:
        for count in (0, 1, 2, 7):
            items = list(range(count))
            results = ranks.run(squares, [(items,)] * 3)
            assert [found for found, _ in results] == [[item * item for item in items]] * 3
            assert sorted(item for _, own in results for item in own) == items
        assert ranks.run(selected, [(place,)] * 3) == [(whole.shards, [list(rows) for rows in whole.indices])] * 3
        with pytest.raises(CorruptData, match="-1 is no number"):
            ranks.run(squares, [([1, -1, 2],)] * 3)
        assert ranks.run(squares, [([3],)] * 3)[2] == ([9], [])  # all are still there
