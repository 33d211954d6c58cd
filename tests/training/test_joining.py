"""Towers that are unlocked or locked in the middle of a training."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from ranks import Ranks
from test_engine import config, make_engine, make_model, state, steps

from training.config import LockConfig
from training.joining import largest_update, unlocked_towers


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"image": True}, {}, ["image"]),
        ({"image": True}, {"image": 0}, ["image"]),
        ({"image": 2, "text": 1}, {"image": 3, "text": 0}, ["image"]),
        ({"image": 2, "text": True}, {}, ["image", "text"]),
        ({}, {"image": True}, []),
        ({"image": 2}, {"image": 2}, []),
    ],
)
def test_a_tower_is_unlocked_when_more_of_it_is_trained(
    before: dict[str, Any], after: dict[str, Any], expected: list[str]
):
    assert unlocked_towers(LockConfig(**before), LockConfig(**after)) == expected


@pytest.mark.parametrize("beta2", [0.98, 0.999])
def test_the_largest_update_is_that_of_adam_with_empty_moments_after_many_steps(beta2: float):
    weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=1.0, betas=(0.9, beta2), eps=0.0, weight_decay=0.0)
    optimizer.state[weight] = {"step": torch.tensor(1e6), "exp_avg": weight * 0, "exp_avg_sq": weight * 0}
    places = [0.0]
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        places.append(-weight.item())
    updates = [after - before for before, after in pairwise(places)]
    assert max(updates) == pytest.approx(largest_update(0.9, beta2), rel=1e-6)


def changed(_group: Any, stage: int, before: dict[str, Any], after: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """State after two steps, as restored under the other lock, and after two steps more; the last losses."""
    settings, others = config(stage, lock=before), config(stage, lock=after)
    engine = make_engine(settings)
    steps(engine, settings, 0, 2)
    saved = state(engine)
    model = make_model(others)
    model.load_state_dict(saved[0], strict=False)
    new = make_engine(others, model)
    new.restore(*saved, 2)
    restored = state(new)
    losses = [done.loss for done in steps(new, others, 2, 4)]
    return saved, restored, state(new), losses


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_an_unlocked_tower_is_trained_from_empty_moments_and_the_other_goes_on(ranks: Ranks, stage: int):
    for saved, restored, after, losses in ranks.run(changed, [(stage, {"image": True}, {})] * 3):
        assert all(torch.equal(restored[0][name], value) for name, value in saved[0].items())
        for name, moments in restored[1].items():
            expected = saved[1][name] or {key: torch.zeros_like(value) for key, value in moments.items()}
            assert len(moments) == 2 and all(torch.equal(moments[key], expected[key]) for key in moments)
        moved = {name for name, value in after[0].items() if not torch.equal(value, restored[0][name])}
        assert moved == set(after[0]) and all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("stage", [1, 3])
def test_a_tower_that_is_locked_keeps_its_weights_and_has_no_moments_any_more(ranks: Ranks, stage: int):
    for saved, restored, after, _ in ranks.run(changed, [(stage, {}, {"image": True})] * 3):
        for name, value in after[0].items():
            assert torch.equal(value, saved[0][name]) == name.startswith("visual.")
            assert bool(after[1][name]) != name.startswith("visual.")
        kept = {name: moments for name, moments in restored[1].items() if moments}
        assert all(
            torch.equal(value, saved[1][name][key]) for name, both in kept.items() for key, value in both.items()
        )
