"""A run's folder that some nodes do not see."""

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from test_retry_budgets import GroupError

from infra.errors import ConfigError
from infra.storage import Storage, storage_of
from training.config import TrainConfig
from training.restarts import Restarts
from training.sight import require_sight, show_run


def look(_group: Any, run: str, word: str | None, node: str) -> str:
    try:
        require_sight(Storage(run), word, node, patience_s=0.1)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_folder_that_all_nodes_see_is_accepted(ranks: Ranks, tmp_path: Path):
    word = show_run(storage_of(tmp_path))
    assert word is not None and show_run(storage_of(tmp_path)) != word
    word = show_run(storage_of(tmp_path))
    assert ranks.run(look, [(str(tmp_path), word, f"node {rank}") for rank in range(3)]) == ["", "", ""]


def test_nodes_that_do_not_see_it_are_named_by_every_rank_and_nothing_is_written(ranks: Ranks, tmp_path: Path):
    mine, stale = tmp_path / "mine", tmp_path / "stale"
    show_run(storage_of(stale))
    word = show_run(storage_of(mine))
    places = [(str(tmp_path / "elsewhere"), word, "node a (ant)"), (str(mine), word, "node b (bee)")]
    told = ranks.run(look, [*places, (str(stale), word, "node c (cat)")])
    assert len(told) == 3 and all("node a (ant), node c (cat) do not see the run's folder" in each for each in told)
    assert not (tmp_path / "elsewhere").exists()


def test_object_storage_is_seen_by_all(tmp_path: Path):
    assert show_run(Storage("s3://bucket/runs/birds")) is None
    require_sight(storage_of(tmp_path), None, "node a", patience_s=0)


def test_such_a_folder_ends_the_training_as_the_users_mistake(tmp_path: Path):
    blind = ConfigError("storage: node a does not see the run's folder.", "", "")
    restarts = Restarts(TrainConfig(data="unused", steps=5), storage_of(tmp_path), 5, None, lambda *_: None)
    peer = RuntimeError("Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(ConfigError, match="node a does not see"):
        restarts.next(GroupError({0: peer, 1: blind}))
