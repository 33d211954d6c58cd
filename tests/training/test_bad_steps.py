"""Bad steps: judged alike on every rank, recorded, and without any effect on the weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import Ranks
from safetensors.torch import save_file
from small_datasets import make_dataset
from test_engine import BATCH, MODEL, config, make_engine, make_model, state, steps

from infra.storage import Storage, storage_of
from training.bad_steps import MIN_REMEMBERED, REMEMBERED, BadStepJudge, BadStepRule, TrainingStopped
from training.checkpoint import TensorKind, load_tensors, newest_checkpoint, read_state
from training.config import BadStepAction, TrainConfig
from training.records import read_metrics

STOP = BadStepRule(BadStepAction.STOP, None, 10)
SKIP = BadStepRule(BadStepAction.SKIP, 2.0, 3)
USUAL = [1.0] * MIN_REMEMBERED


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_and_advice(loss: float):
    with pytest.raises(TrainingStopped, match=rf"Step 1,235 went wrong: its loss is {loss}.") as stopped:
        BadStepJudge(STOP).is_good(loss, 1234)
    assert "the last checkpoint is kept" in str(stopped.value) and "replay RUN --step 1235" in str(stopped.value)


@pytest.mark.parametrize(
    ("losses", "loss", "is_good"),
    [
        ([], 1e9, True),
        (USUAL[1:], 1e9, True),
        (USUAL, 2.0, True),
        (USUAL, 2.001, False),
        ([5.0] * 9 + [1.0] * 11, 2.001, False),
        ([5.0] * 11 + [1.0] * 9, 9.9, True),
        ([100.0] * 50 + [1.0] * REMEMBERED, 2.001, False),
    ],
)
def test_a_loss_diverges_by_the_median_of_the_last_hundred_once_there_are_twenty(
    losses: list[float], loss: float, is_good: bool
):
    assert BadStepJudge(SKIP, losses).is_good(loss, 500) is is_good


def test_divergence_stops_where_the_rule_says_so_and_names_what_is_usual():
    judge = BadStepJudge(BadStepRule(BadStepAction.STOP, 3.0, 10), USUAL)
    with pytest.raises(TrainingStopped, match=r"Step 8 went wrong: its loss is 3.5000, where 1.0000 is usual."):
        judge.is_good(3.5, 7)


def test_a_bad_loss_is_not_remembered():
    judge = BadStepJudge(SKIP, USUAL)
    assert [judge.is_good(loss, 0) for loss in (math.nan, 50.0, 1.5, math.inf, 1.25)] == [
        False,
        False,
        True,
        False,
        True,
    ]
    assert judge.losses == (*USUAL, 1.5, 1.25)


@given(st.lists(st.sampled_from(["good", "bad loss", "bad gradient"]), max_size=40), st.integers(1, 4))
def test_it_skips_until_there_are_more_in_a_row_than_allowed(kinds: list[str], allowed: int):
    judge, in_a_row = BadStepJudge(BadStepRule(BadStepAction.SKIP, None, allowed)), 0
    for step, kind in enumerate(kinds):
        in_a_row = 0 if kind == "good" else in_a_row + 1
        if in_a_row > allowed:
            with pytest.raises(TrainingStopped, match=rf"Step {step + 1} went wrong, as {allowed} before it"):
                take(judge, kind, step)
            return
        take(judge, kind, step)
    assert len(judge.losses) == kinds.count("good")


def take(judge: BadStepJudge, kind: str, step: int) -> None:
    """As a step does: a gradient is known only after the loss was found good."""
    assert judge.is_good(math.nan if kind == "bad loss" else 1.0, step) is (kind != "bad loss")
    if kind == "bad gradient":
        judge.refuse_gradient(step)


def poisoned(_group: Any, stage: int, values: dict[str, Any]) -> dict[str, Any]:
    """Two good steps, one whose gradient is not finite on rank 1 alone, one good step."""
    settings = config(stage, on_bad_step="skip", ema_decay=0.5, **values)
    model = make_model(settings)
    poison = [False]
    model.visual.proj.register_hook(lambda grad: grad * math.nan if poison[0] else grad)
    engine = make_engine(settings, model)
    results = steps(engine, settings, 0, 2)
    before = everything(engine)
    poison[0] = torch.distributed.get_rank() == 1
    results += steps(engine, settings, 2, 3)
    poison[0] = False
    is_same = all(torch.equal(one, other) for one, other in zip(before, everything(engine), strict=True))
    results += steps(engine, settings, 3, 4)
    is_finite = all(bool(tensor.isfinite().all()) for tensor in everything(engine))
    return {"applied": [done.is_applied for done in results], "is_same": is_same, "is_finite": is_finite}


def everything(engine: Any) -> list[torch.Tensor]:
    masters, moments = state(engine)
    average = [value.clone() for _, value in engine.gather_average()]
    return [*masters.values(), *(tensor for both in moments.values() for tensor in both.values()), *average]


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        (0, {}),
        (3, {"micro_batch_size": 2}),
        *(
            pytest.param(stage, values, marks=pytest.mark.slow)
            for stage in (0, 1, 2, 3)
            for values in ({"precision": "bf16"}, {"micro_batch_size": 2, "grad_clip_norm": 1.0})
        ),
    ],
)
def test_a_gradient_that_is_not_finite_on_one_rank_changes_nothing_on_any(
    ranks: Ranks, stage: int, values: dict[str, Any]
):
    for found in ranks.run(poisoned, [(stage, values)] * 3):
        assert found == {"applied": [True, True, False, True], "is_same": True, "is_finite": True}


def training(place: str, **values: Any) -> TrainConfig:
    settings: dict[str, Any] = {"model": MODEL, "global_batch_size": BATCH, "steps": 6, "checkpoint_every": 2}
    return TrainConfig(data=place, **settings | values)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_dataset(tmp_path_factory.mktemp("data") / "shapes", shards=1)


def train(_group: Any, settings: TrainConfig, run: str) -> None:
    from training.data_identity import data_identity
    from training.engine import initialize_deepspeed
    from training.loop import Worker, train_worker

    initialize_deepspeed(use_gpu=False)
    data = data_identity(settings.training_sources())
    train_worker(settings, Storage(run), Worker(torch.distributed.get_rank(), 3, use_gpu=False, data=data))


def test_a_training_whose_loss_explodes_stops_and_keeps_its_last_checkpoint(ranks: Ranks, place: str, tmp_path: Path):
    settings = training(place, lr=1e36, warmup_steps=0, checkpoint_every=1)
    with pytest.raises(TrainingStopped, match=r"Step 2 went wrong: its loss is nan.\n.*checkpoint is kept"):
        ranks.run(train, [(settings, str(tmp_path))] * 3)
    assert newest_checkpoint(storage_of(tmp_path)) == "checkpoints/step_00000001"
    assert [(step.step, step.is_skipped) for step in read_metrics(storage_of(tmp_path))] == [(1, False)]


def test_bad_steps_are_recorded_and_leave_the_weights_as_they_are(ranks: Ranks, place: str, tmp_path: Path):
    weights = {name: value.detach().clone() for name, value in make_model(config(1)).named_parameters()}
    weights["visual.proj"].view(-1)[0] = math.inf
    save_file(weights, tmp_path / "broken.safetensors")
    settings = training(place, pretrained=str(tmp_path / "broken.safetensors"), on_bad_step="skip", max_bad_steps=4)
    with pytest.raises(TrainingStopped, match="Step 5 went wrong, as 4 before it: its loss is nan"):
        ranks.run(train, [(settings, str(tmp_path / "run"))] * 3)
    run = storage_of(tmp_path / "run")
    assert [(step.step, step.is_skipped) for step in read_metrics(run)] == [(step, True) for step in range(1, 5)]
    path = newest_checkpoint(run)
    assert path is not None and read_state(run.at(path)).skipped == read_state(run.at(path)).step
    found = load_tensors(run.at(path), TensorKind.PARAMETERS)
    assert all(torch.equal(found[name], value) for name, value in weights.items() if not name.startswith("logit"))


def test_a_training_goes_on_after_a_skipped_step_and_counts_it(ranks: Ranks, place: str, tmp_path: Path):
    """Below any loss there is after twenty steps, so that all that follow are bad."""
    settings = training(place, steps=24, on_bad_step="skip", divergence_factor=1.0001, max_bad_steps=30, lr=1e-12)
    ranks.run(train, [(settings, str(tmp_path))] * 3)
    metrics, path = read_metrics(storage_of(tmp_path)), newest_checkpoint(storage_of(tmp_path))
    skipped = [step.step for step in metrics if step.is_skipped]
    assert len(metrics) == 24 and skipped and min(skipped) > MIN_REMEMBERED
    assert path is not None and read_state(storage_of(tmp_path).at(path)).skipped == len(skipped)
