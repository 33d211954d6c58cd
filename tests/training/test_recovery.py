"""Trainings that are killed and go on with other numbers of ranks and at other ZeRO stages."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy
from object_store import ObjectStore
from small_datasets import make_dataset
from store_client import UseStore
from training_processes import TrainingProcesses

from infra.storage import storage_of
from training.checkpoint import newest_checkpoint, step_of
from training.config import TrainConfig
from training.proof import prove_samples
from training.records import read_metrics, read_validations

STEPS = 24
# Sums over ranks are taken in another order, which moves fp32 gradients by some 1e-7 of their size; Adam's division by
# their square root carries that on from step to step.
TOLERANCE = 2e-3
WAIT_S = 600
OUTAGE_S = 60
OUTAGE_STEPS = 600


def config(data: str, **values: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": data,
        "model": "diptych-tiny",
        "global_batch_size": 22,  # neither 3 nor 4 divides it
        "steps": STEPS,
        "lr": 1e-3,
        "checkpoint_every": 3,
        "keep_checkpoints": 2,
    }
    return TrainConfig(**settings | values)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_dataset(tmp_path_factory.mktemp("data") / "shapes", broken=frozenset({5, 77}))


def losses(run: Path) -> list[float]:
    metrics = read_metrics(storage_of(run))
    assert [step.step for step in metrics] == list(range(1, STEPS + 1))
    return [step.loss for step in metrics]


@pytest.fixture(scope="module")
def undisturbed(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with TrainingProcesses(config(data), run, 2) as ranks:
        assert ranks.wait() == ["", ""]
    return run


def train_until(settings: TrainConfig, run: Path, ranks: int, step: int) -> None:
    """Kills all ranks once that step is recorded."""
    with TrainingProcesses(settings, run, ranks) as processes:
        deadline = time.monotonic() + WAIT_S
        while not any(metrics.step >= step for metrics in read_metrics(storage_of(run))):
            assert time.monotonic() < deadline and all(process.is_alive() for process in processes.processes)
            time.sleep(0.05)


@pytest.mark.slow
def test_a_training_moves_from_four_ranks_to_two_and_three_and_between_zero_stages(
    data: str, undisturbed: Path, tmp_path: Path
):
    run = tmp_path / "run"
    train_until(config(data, zero_stage=1), run, 4, 8)
    train_until(config(data, zero_stage=3), run, 2, 16)
    with TrainingProcesses(config(data, zero_stage=0, micro_batch_size=3), run, 3) as ranks:
        assert ranks.wait() == ["", "", ""]
    assert losses(run) == pytest.approx(losses(undisturbed), rel=TOLERANCE)
    proof = prove_samples(config(data), storage_of(run))
    assert proof.problems == () and proof.steps == STEPS and proof.replaced > 0
    digests = [[step.digest for step in read_metrics(storage_of(place))] for place in (run, undisturbed)]
    assert digests[0] == digests[1]
    assert len({step.ranks for step in read_metrics(storage_of(run))}) == 3


@pytest.mark.slow
def test_the_proof_finds_what_is_missing_and_what_was_read_in_its_place(data: str, undisturbed: Path, tmp_path: Path):
    storage = storage_of(tmp_path)
    for name in ("metrics.jsonl", "replacements.jsonl"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    assert prove_samples(config(data), storage).problems == ()
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[:4] + lines[5:]) + "\n")
    assert prove_samples(config(data), storage).problems[0] == "step 5 was not recorded"
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "replacements.jsonl").write_text("")
    problems = prove_samples(config(data), storage).problems
    assert problems and all("used other samples" in problem for problem in problems)
    other_seed = prove_samples(config(data, seed=1), storage)
    assert len(other_seed.problems) == 20


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.long), 3])
def test_validations_give_every_rank_count_the_same_scores_and_keep_the_best(data: str, tmp_path: Path, stage: int):
    scores = []
    for ranks in (1, 3):
        run = tmp_path / str(ranks)
        settings = config(data, held_out=0.2, validate_every=4, steps=12, keep_checkpoints=1, zero_stage=stage)
        with TrainingProcesses(settings, run, ranks) as processes:
            assert processes.wait() == [""] * ranks
        scores.append([validation.scores for validation in read_validations(storage_of(run))])
        kept = sorted(path.name for path in (run / "checkpoints").iterdir())
        best = max(read_validations(storage_of(run)), key=lambda each: (each.scores[0].value, -each.step)).step
        assert kept == sorted({f"step_{best:08d}", "step_00000012"})
    for one, other in zip(*scores, strict=True):
        assert [score.name for score in one] == [score.name for score in other]
        assert [score.value for score in one] == pytest.approx([score.value for score in other], abs=0.15)


@pytest.mark.long
@pytest.mark.slow
def test_a_storage_that_fails_for_a_minute_delays_a_checkpoint_and_stops_no_rank(
    data: str, object_store: ObjectStore, use_store: UseStore
):
    run = object_store.url("outage")
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(proxy.endpoint))
        settings = config(data, steps=OUTAGE_STEPS, checkpoint_every=20, global_batch_size=8)
        with TrainingProcesses(settings, run, 2) as ranks:
            deadline = time.monotonic() + WAIT_S
            while newest_checkpoint(storage_of(run)) is None:
                assert time.monotonic() < deadline and all(process.is_alive() for process in ranks.processes)
                time.sleep(0.2)
            began = time.time()
            proxy.refuse(OUTAGE_S)
            assert ranks.wait(2 * WAIT_S) == ["", ""]
        metrics = read_metrics(storage_of(run))
        during = [step for step in metrics if began + 2 < step.time < began + OUTAGE_S]
        assert len(metrics) == OUTAGE_STEPS and {step.attempt for step in metrics} == {1}
        assert len(during) > 20, "the training stood still"
        assert max(after.time - step.time for step, after in pairwise(during)) < OUTAGE_S / 6
        saved = newest_checkpoint(storage_of(run))
        assert saved is not None and step_of(saved) == OUTAGE_STEPS
        assert prove_samples(settings, storage_of(run)).problems == ()
