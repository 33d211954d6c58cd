"""Recall, looked up by one process and by several ranks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import Ranks

from training.retrieval import QUERIES_AT_ONCE, recalls_at
from training.team import Team

KS = (1, 3, 10)


def features(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, answers that are like them, and ids that some samples share."""
    chance = torch.Generator().manual_seed(0)
    queries, noise = (F.normalize(torch.randn(count, 8, generator=chance), dim=1) for _ in range(2))
    return queries, F.normalize(queries + noise, dim=1), torch.randint(count // 2, (count,), generator=chance)


def recalls_by_a_full_matrix(count: int) -> list[float]:
    queries, answers, ids = features(count)
    order = (queries @ answers.T).argsort(dim=1, descending=True)
    is_true = ids[order] == ids[:, None]
    return [float(is_true[:, :k].any(dim=1).float().mean()) for k in KS]


def recalls_on_a_rank(_group: Any, count: int) -> list[float]:
    return recalls_at(*features(count), KS, Team.of_all_ranks(torch.device("cpu")))


@pytest.mark.parametrize("count", [7, 2 * QUERIES_AT_ONCE + 100])
def test_ranks_that_share_the_queries_find_exactly_what_one_process_finds(ranks: Ranks, count: int):
    alone = recalls_at(*features(count), KS, Team())
    assert alone == pytest.approx(recalls_by_a_full_matrix(count), abs=1e-6)
    assert ranks.run(recalls_on_a_rank, [(count,)] * 3) == [alone] * 3


@pytest.mark.parametrize("ranks_in_all", [1, 2, 5])
def test_every_part_is_one_ranks(ranks_in_all: int):
    shares = [Team(rank, ranks_in_all).share(7) for rank in range(ranks_in_all)]
    assert sorted(part for share in shares for part in share) == list(range(7))
