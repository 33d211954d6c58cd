"""When a checkpoint is due: by steps, samples and minutes, whichever comes first, and alike after a resume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.cadence import Cadence, CadenceClock

BATCH = 100


def saved(cadence: Cadence, first: int, last: int, batch: int = BATCH) -> list[int]:
    """The steps after which a training saves that takes a second a step and has checkpoint `first`."""
    now, found = [0.0], []
    clock = CadenceClock(cadence, batch, first, lambda: now[0])
    for step in range(first + 1, last + 1):
        now[0] += 1.0
        if clock.is_step(step) or clock.is_time():
            clock.saved_at(step)
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("cadence", "expected"),
    [
        (Cadence(), []),
        (Cadence(steps=7), [7, 14, 21, 28]),
        (Cadence(samples=1000), [10, 20, 30]),
        (Cadence(samples=250), [3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30]),
        (Cadence(samples=50), list(range(1, 31))),
        (Cadence(minutes=0.15), [9, 18, 27]),
        (Cadence(steps=10, samples=1500), [10, 15, 20, 30]),
        # Minutes count from the last checkpoint, whatever it was taken for.
        (Cadence(steps=10, minutes=0.1), [6, 10, 16, 20, 26, 30]),
        (Cadence(steps=4, samples=600, minutes=0.15), [4, 6, 8, 12, 16, 18, 20, 24, 28, 30]),
    ],
)
def test_whichever_comes_first_counts(cadence: Cadence, expected: list[int]):
    assert saved(cadence, 0, 30) == expected


@given(st.none() | st.integers(1, 40), st.none() | st.integers(1, 4000), st.integers(1, 300), st.integers(0, 90))
def test_after_a_resume_from_any_step_the_same_multiples_are_saved(
    steps: int | None, samples: int | None, batch: int, first: int
):
    cadence = Cadence(steps, samples)
    assert saved(cadence, first, 120, batch) == [step for step in saved(cadence, 0, 120, batch) if step > first]


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 60))
def test_what_could_not_be_saved_stays_due_until_it_is(steps: int, late: int, first: int):
    clock = CadenceClock(Cadence(steps), BATCH, first)
    due = (first // steps + 1) * steps
    assert not any(clock.is_step(step) for step in range(first, due))
    assert all(clock.is_step(step) for step in range(due, due + late + 1))
    clock.saved_at(due + late)
    assert clock.saved == due + late and not clock.is_step(due + late)


def test_minutes_begin_with_the_clock_and_again_with_each_checkpoint():
    now = [1000.0]
    clock = CadenceClock(Cadence(minutes=2), BATCH, 50, lambda: now[0])
    for at, is_due in ((1119.9, False), (1120.0, True), (1130.0, True)):
        now[0] = at
        assert clock.is_time() is is_due and not clock.is_step(10**6)
    clock.saved_at(60)
    now[0] = 1249.0
    assert not clock.is_time()
