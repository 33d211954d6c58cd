"""The learning rate: a rise, then a cosine, a constant or an inverse square root."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import ScheduleName
from training.schedule import Schedule, learning_rate


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    steps = draw(st.integers(2, 300))
    warmup = draw(st.integers(0, steps - 1))
    cooldown = draw(st.integers(0, steps - warmup))
    return Schedule(draw(st.sampled_from(list(ScheduleName))), 0.5, steps, warmup, cooldown, draw(st.integers(1, 1000)))


@given(schedules())
def test_it_rises_to_the_peak_and_never_rises_again(schedule: Schedule):
    rates = [learning_rate(step, schedule) for step in range(schedule.steps)]
    rise, fall = rates[: schedule.warmup], rates[schedule.warmup :]
    assert all(0 < rate <= schedule.peak for rate in rates)
    assert rise == sorted(rise) and fall == sorted(fall, reverse=True)
    if rise:
        assert rise[-1] == pytest.approx(schedule.peak) and rise[0] == pytest.approx(schedule.peak / schedule.warmup)


@given(schedules())
def test_a_cooldown_ends_at_zero_after_the_last_step(schedule: Schedule):
    if schedule.name is not ScheduleName.COSINE and schedule.cooldown:
        before = Schedule(schedule.name, schedule.peak, schedule.steps, schedule.warmup, 0, schedule.timescale)
        last = schedule.steps - 1
        assert learning_rate(last, schedule) == pytest.approx(learning_rate(last, before) / schedule.cooldown)


def test_the_cosine_is_the_papers():
    schedule = Schedule(ScheduleName.COSINE, 1.0, 100, 10, 0, 1)
    assert learning_rate(55, schedule) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert learning_rate(99, schedule) < 0.001


def test_the_inverse_square_root_falls_to_half_after_three_timescales():
    schedule = Schedule(ScheduleName.RSQRT, 1.0, 10_000, 100, 0, 500)
    assert learning_rate(100, schedule) == 1.0
    assert learning_rate(1600, schedule) == pytest.approx(0.5)
