"""Bounded counters: exact while little is seen, with a known error beyond."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapipe.tallies import NameTally, ValueTally


def tallied(*parts: list[float]) -> ValueTally:
    tally = ValueTally()
    for part in parts:
        tally.add(np.array(part, np.float64))
    return tally


@given(st.lists(st.lists(st.integers(1, 9999), max_size=50), max_size=5).filter(any), st.floats(0, 1))
def test_quantiles_of_sizes_are_exact_in_any_number_of_parts(parts: list[list[float]], share: float):
    distribution = tallied(*parts).distribution()
    values = sorted(value for part in parts for value in part)
    assert distribution.total == len(values)
    assert distribution.quantile(share) == np.quantile(values, share, method="inverted_cdf")


@given(st.lists(st.floats(1e-6, 1e12), min_size=1))
def test_any_value_is_kept_to_four_digits(values: list[float]):
    kept = tallied(values).distribution()
    assert kept.quantile(1) == pytest.approx(max(values), rel=6e-4)
    assert kept.quantile(0) == pytest.approx(min(values), rel=6e-4)


def test_memory_is_bounded_whatever_the_number_of_values():
    rng = np.random.default_rng(0)
    kept = tallied(*[(10 ** rng.uniform(0, 3, 100_000)).tolist() for _ in range(3)]).distribution()
    assert kept.total == 300_000 and len(kept.values) <= 3 * 9000 + 1


def test_what_is_no_size_is_left_out():
    assert tallied([0, -3, np.nan, np.inf, 5]).distribution().values == (5,)
    assert tallied([]).distribution().total == 0


@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from([None, "timeout", "http_404"]))))
def test_names_are_never_counted_too_high_nor_too_low_by_more_than_is_said(rows: list[tuple[str, str | None]]):
    tally = NameTally(kept=3)
    for name, failure in rows:
        tally.add(name, failure, 1)
        assert len(tally) <= 6
    true = Counter(name for name, _ in rows)
    for name, count in tally.most_frequent(10):
        assert true[name] - tally.missed_at_most <= count.rows <= true[name]
        assert count.samples + count.failures.total() == count.rows
    if len(true) <= 6:
        assert tally.missed_at_most == tally.let_go == 0
        assert {name: count.rows for name, count in tally.most_frequent(10)} == true


def test_a_frequent_name_survives_a_flood_of_rare_ones():
    tally = NameTally(kept=10)
    for number in range(1000):
        tally.add(f"rare{number}", None, 1)
        tally.add("big.example", "timeout" if number % 4 else None, 1)
    ((name, count),) = tally.most_frequent(1)
    assert (name, count.rows, count.samples) == ("big.example", 1000, 250)
    assert tally.let_go > 900 and tally.missed_at_most >= 1
