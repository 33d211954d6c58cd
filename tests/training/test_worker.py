"""A worker's cores, seeds and settings."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import Storage
from training.config import TrainConfig
from training.precision import multiply_in_full_precision
from training.worker import WorkerSettings, cores_of, seed_process, settings_for

cores = st.sets(st.integers(0, 255), min_size=1, max_size=64).map(sorted)


@given(cores, st.integers(1, 64))
def test_the_workers_of_a_machine_share_its_cores_evenly(cores: list[int], workers: int):
    workers = min(workers, len(cores))
    shares = [cores_of(rank, workers, cores) for rank in range(workers)]
    assert [core for share in shares for core in share] == cores
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(cores, st.integers(1, 200))
def test_more_workers_than_cores_have_one_each_as_evenly_as_can_be(cores: list[int], more: int):
    workers = len(cores) + more
    shares = [cores_of(rank, workers, cores) for rank in range(workers)]
    assert all(len(share) == 1 and share[0] in cores for share in shares)
    counts = [shares.count([core]) for core in cores]
    assert max(counts) - min(counts) <= 1


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))


@pytest.mark.parametrize("seed", [0, 7, 2**32, 2**40 + 7, 2**63])
def test_a_seed_is_of_every_source_of_random_numbers(seed: int):
    seed_process(seed)
    first = drawn()
    seed_process(seed)
    assert drawn() == first
    seed_process(seed + 1)
    assert not set(drawn()) & set(first)


def test_products_of_fp32_are_fp32_where_the_environment_asks_for_less():
    """As TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does when torch is loaded."""
    torch.set_float32_matmul_precision("high")
    assert torch.backends.cuda.matmul.allow_tf32
    multiply_in_full_precision()
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32


def test_the_drivers_settings_arrive_as_they_were(tmp_path: Path):
    config = TrainConfig(data=[{"path": "a", "weight": 2.0}], steps=5, deepspeed={"x": {"y": 1}}, workers=(2, 4))
    of = {"use_gpu": False, "threads": 3, "board": "board", "data": "data", "fence": "fence", "sight": "word"}
    raw = settings_for(config, Storage(str(tmp_path)), **of)
    settings = WorkerSettings.of(raw)
    assert TrainConfig.model_validate_json(settings.config) == config
    assert (settings.run, settings.use_gpu, settings.threads, settings.board) == (str(tmp_path), False, 3, "board")
