"""What ranks agree on."""

from pathlib import Path
from typing import Any

import torch
from ranks import Ranks

from training.agreement import any_rank


def is_so_on_any(_group: Any, is_so_here: bool) -> bool:
    return any_rank(is_so_here, torch.device("cpu"))


def test_what_is_so_on_one_rank_is_heard_by_all(tmp_path: Path):
    with Ranks(tmp_path, 3) as ranks:
        assert ranks.run(is_so_on_any, [(False,), (True,), (False,)]) == [True] * 3
        assert ranks.run(is_so_on_any, [(False,)] * 3) == [False] * 3
    assert any_rank(True, torch.device("cpu")) and not any_rank(False, torch.device("cpu"))
