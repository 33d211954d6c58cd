"""The ledger: times add up, and the advice names what to mend first."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.agreement import StepFacts
from training.ledger import Activity, Ledger, RankTimes, add_facts, what_to_mend

nanoseconds = st.integers(0, 10**12)
facts = st.builds(
    StepFacts,
    must_stop=st.just(0),
    is_preempted=st.just(0),
    is_saving=st.just(0),
    is_time_to_save=st.just(0),
    digest=st.just(0),
    replaced=st.just(0),
    **{activity.value: nanoseconds for activity in Activity},
    read=nanoseconds,
    decode=nanoseconds,
)


@given(st.integers(1, 4).flatmap(lambda ranks: st.lists(st.lists(facts, min_size=ranks, max_size=ranks), min_size=1)))
def test_the_ranks_times_are_the_sums_of_their_steps(steps: list[list[StepFacts]]):
    times = None
    for step in steps:
        times = add_facts(times, step)
    assert times is not None and [each.rank for each in times] == list(range(len(steps[0])))
    for rank, each in enumerate(times):
        assert each.steps == len(steps)
        for name in (*(activity.value for activity in Activity), "read", "decode"):
            assert getattr(each, name) == pytest.approx(sum(getattr(step[rank], name) for step in steps) / 1e9)
        total = sum(getattr(each, activity.value) for activity in Activity)
        assert each.total == pytest.approx(total)
        assert sum(map(each.share, Activity)) == pytest.approx(1.0 if total else 0.0)


def test_a_block_is_counted_as_its_activity_also_when_it_fails():
    ledger = Ledger()
    with ledger.time(Activity.WAIT):
        time.sleep(0.02)
    with pytest.raises(ValueError, match="x"), ledger.time(Activity.TRANSFER):
        raise ValueError("x")
    ledger.add(Activity.COMPUTE, 5)
    ledger.add(Activity.COMPUTE, 6)
    spent = ledger.take()
    assert spent[Activity.WAIT] >= 20_000_000 and spent[Activity.TRANSFER] > 0 and spent[Activity.COMPUTE] == 11
    assert ledger.take() == dict.fromkeys(Activity, 0)


def times(rank: int = 0, steps: int = 10, **seconds: float) -> RankTimes:
    names = [*(activity.value for activity in Activity), "read", "decode"]
    return RankTimes(rank, steps, **{name: seconds.get(name, 0.0) for name in names})


@pytest.mark.parametrize(
    ("spent", "advice"),
    [
        ({"compute": 100}, "100 % of the time is computing: nothing else is in the way."),
        ({"compute": 90, "wait": 10}, "90 % of the time is computing"),
        (
            {"compute": 80, "wait": 20, "read": 3, "decode": 2},
            "20 % of the time is waiting for data, most of it reading",
        ),
        (
            {"compute": 80, "wait": 20, "read": 2, "decode": 3},
            "20 % of the time is waiting for data, most of it decoding",
        ),
        ({"compute": 60, "communication": 40}, "40 % of the time is communication and waiting for slower ranks"),
        ({"compute": 94, "checkpoint": 6}, "6 % of the time is taking checkpoints: raise train.checkpoint_every"),
        # What can be mended most easily comes first.
        ({"wait": 20, "communication": 70, "checkpoint": 10, "decode": 1}, "waiting for data, most of it decoding"),
        ({"communication": 60, "checkpoint": 40}, "communication"),
        ({}, ""),
    ],
)
def test_the_advice_names_what_to_mend(spent: dict[str, float], advice: str):
    found = what_to_mend([times(**spent)])
    assert advice in found and bool(found) == bool(advice)


def test_the_advice_is_of_all_ranks_together_and_names_the_slowest():
    ranks = [
        times(0, compute=20, communication=80),
        times(1, compute=60, wait=30, communication=10),
        times(2, compute=30, communication=70),
    ]
    assert "53 % of the time is communication" in what_to_mend(ranks)
    assert "rank 1 computes longest (6.000 s a step)" in what_to_mend(ranks)


def test_no_steps_give_no_advice():
    assert what_to_mend([]) == ""
