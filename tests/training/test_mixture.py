"""The mixture: even in every prefix, exact in every epoch, each dataset in its own order at its own speed."""

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import make_dataset

from infra.errors import ConfigError
from training.config import DataSource, TrainConfig
from training.mixture import Mixture, Share, mixture_by_repetition, mixture_by_weight, one_dataset
from training.order import SampleOrder
from training.samples import Samples, select_training
from training.selection import select

counts = st.integers(1, 300)
# Few own epochs in an epoch of the mixture: each costs a call of its own.
shares = st.builds(Share, samples=st.integers(20, 90), places=st.integers(1, 120))
mixtures = st.builds(Mixture, st.lists(shares, min_size=1, max_size=5).map(tuple), st.integers(0, 2**40))


def sources(mixture: Mixture, numbers: np.ndarray) -> np.ndarray:
    """Which dataset each sample is of."""
    return np.searchsorted(np.cumsum([share.samples for share in mixture.shares]), numbers, side="right")


@given(mixtures, st.integers(0, 50))
def test_an_epoch_has_each_datasets_exact_number_of_places(mixture: Mixture, epoch: int):
    dealt = sources(mixture, mixture.samples_at(epoch * mixture.places + np.arange(mixture.places)))
    assert np.bincount(dealt, minlength=len(mixture.shares)).tolist() == [share.places for share in mixture.shares]


@given(mixtures, st.integers(0, 10**12))
def test_every_stretch_of_positions_holds_each_datasets_share_to_within_the_number_of_datasets(
    mixture: Mixture, first: int
):
    start = first // mixture.places * mixture.places
    dealt = sources(mixture, mixture.samples_at(start + np.arange(2 * mixture.places)))
    positions = np.arange(1, len(dealt) + 1)
    for source, share in enumerate(mixture.shares):
        fair = positions * share.places / mixture.places
        # Of two datasets each is at most one sample away; each one more takes its share of what is rounded.
        assert np.abs(np.cumsum(dealt == source) - fair).max() < max(1, len(mixture.shares) - 1) + 1e-9


@settings(max_examples=40)
@given(mixtures)
def test_each_dataset_goes_through_its_own_order(mixture: Mixture):
    numbers, epochs = mixture.draw(np.arange(2 * mixture.places))
    dealt, start = sources(mixture, numbers), 0
    for source, share in enumerate(mixture.shares):
        order, own = SampleOrder(share.samples, mixture.seed + source), np.arange((dealt == source).sum())
        assert np.array_equal(numbers[dealt == source] - start, order.samples_at(own))
        assert np.array_equal(epochs[dealt == source], own // share.samples)
        start += share.samples


@settings(max_examples=40)
@given(mixtures, st.integers(0, 10**6), st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_it_does_not_matter_how_positions_are_cut_into_calls(mixture: Mixture, first: int, lengths: list[int]):
    edges = first + np.cumsum([0, *lengths])
    parts = [mixture.samples_at(np.arange(*edge)) for edge in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), mixture.samples_at(np.arange(first, edges[-1])))


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=2, max_size=4), st.data())
def test_positions_in_any_order_and_far_apart_are_each_as_if_alone(pairs: list[tuple[int, int]], data: st.DataObject):
    mixture = Mixture(tuple(Share(*pair) for pair in pairs), 5)
    positions = np.array(data.draw(st.lists(st.integers(0, 10**15), min_size=1, max_size=8)))
    alone = [mixture.samples_at(positions[place : place + 1])[0] for place in range(len(positions))]
    assert mixture.samples_at(positions).tolist() == alone


def test_a_position_where_products_have_more_than_64_bits_is_exact():
    """The epoch alone has 5·10¹² places: a place times a share is past 2⁸⁰."""
    mixture = Mixture((Share(10**9, 2 * 10**12), Share(3 * 10**9, 3 * 10**12)), 7)
    first = 4 * 10**12
    numbers, epochs = mixture.draw(np.arange(first, first + 2000))
    before = [place * 2 // 5 for place in range(first, first + 2001)]
    is_first = np.diff(before) == 1
    assert np.array_equal(numbers < 10**9, is_first)
    own = np.asarray(before[:-1])[is_first]
    assert np.array_equal(numbers[is_first], SampleOrder(10**9, 7).samples_at(own))
    assert np.array_equal(epochs[is_first], own // 10**9)


def least_seconds(mixture: Mixture, first: int) -> float:
    """Of several tries, since other programs can only add to the time."""
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        mixture.samples_at(np.arange(first, first + 2048))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@pytest.mark.parametrize("far", [10**9, 10**12, 10**15])
def test_a_far_position_costs_about_what_the_first_costs(far: int):
    mixture = Mixture((Share(10**6, 10**6), Share(5 * 10**6, 2 * 10**6)), 1)
    assert least_seconds(mixture, far) < 5 * least_seconds(mixture, 0)


@given(counts, st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.integers(0, 9))
def test_a_dataset_comes_as_often_as_it_is_repeated(samples: int, repeat: float, seed: int):
    mixture = mixture_by_repetition([2 * samples, 40], [repeat, 1.0], seed)
    numbers = mixture.samples_at(np.arange(mixture.places))
    own = np.bincount(numbers[numbers < 2 * samples], minlength=2 * samples)
    assert own.sum() == 2 * samples * repeat
    assert set(own.tolist()) == ({0, 1} if repeat == 0.5 else {int(repeat)})
    assert np.array_equal(np.sort(numbers[numbers >= 2 * samples]), 2 * samples + np.arange(40))


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.001, 1000)), min_size=1, max_size=5))
def test_weights_are_shares_of_an_epoch_as_long_as_the_datasets_together(pairs: list[tuple[int, float]]):
    samples, weights = zip(*pairs, strict=True)
    mixture = mixture_by_weight(samples, weights, 0)
    for share, weight in zip(mixture.shares, weights, strict=True):
        assert share.places == max(1, round(sum(samples) * weight / sum(weights)))
    assert abs(mixture.places - sum(samples)) <= len(samples)


@given(st.integers(10, 300), st.integers(0, 2**40), st.integers(0, 10**12))
def test_one_dataset_is_its_own_order(samples: int, seed: int, first: int):
    positions = np.arange(first, first + 50)
    numbers, epochs = one_dataset(samples, seed).draw(positions)
    order = SampleOrder(samples, seed)
    assert np.array_equal(numbers, order.samples_at(positions)) and np.array_equal(epochs, order.epoch_of(positions))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    return [make_dataset(folder / f"d{shards}", shards=shards, rows=20) for shards in (1, 3)]


def test_selections_are_numbered_on_and_located_in_their_own_dataset(places: list[str]):
    selections = tuple(select(DataSource(path=place)) for place in places)
    samples = Samples(selections)
    sources, shards, indices = samples.locate(np.arange(len(samples)))
    assert len(samples) == 18 + 54 and sources.tolist() == [0] * 18 + [1] * 54
    for source, selection in enumerate(selections):
        expected = selection.locate(np.arange(len(selection)))
        assert np.array_equal(shards[sources == source], expected[0])
        assert np.array_equal(indices[sources == source], expected[1])


@given(st.integers(0, 71), st.integers(1, 200))
def test_a_neighbour_is_of_the_same_dataset_and_the_first_follows_the_last(number: int, steps: int):
    samples = Samples((Sized(18), Sized(54)))  # type: ignore[arg-type]
    start, length = (0, 18) if number < 18 else (18, 54)
    assert samples.neighbour(number, steps) == start + (number - start + steps) % length


class Sized:
    """A selection that knows its length alone."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


def config(places: list[str], **values: dict[str, float]) -> TrainConfig:
    data = [{"path": place, **values.get(f"d{number}", {})} for number, place in enumerate(places)]
    return TrainConfig(data=data, steps=1, seed=3)


def test_the_config_says_the_mixture_by_repetition_or_by_weight(places: list[str]):
    _, plain = select_training(config(places))
    assert [share.places for share in plain.shares] == [18, 54]
    _, repeated = select_training(config(places, d0={"repeat": 3.0}))
    assert [share.places for share in repeated.shares] == [54, 54] and repeated.seed == 3
    _, weighted = select_training(config(places, d0={"weight": 1.0}, d1={"weight": 2.0}))
    assert [share.places for share in weighted.shares] == [24, 48]


@pytest.mark.parametrize(
    "values", [{"d0": {"weight": 1.0}}, {"d0": {"weight": 1.0, "repeat": 2.0}, "d1": {"weight": 1}}]
)
def test_weights_for_some_datasets_or_beside_repeat_are_refused(places: list[str], values: dict[str, dict[str, float]]):
    with pytest.raises(ConfigError, match="of 2 datasets have a weight"):
        select_training(config(places, **values))


def test_the_same_dataset_under_two_conditions_is_two_datasets(tmp_path: Path):
    place = make_dataset(tmp_path / "shapes", shards=1, rows=40)
    data = [{"path": place, "where": {"color": color}} for color in ("red", "blue")]
    samples, order = select_training(TrainConfig(data=data, steps=1))
    seen = order.samples_at(np.arange(order.places))
    assert np.array_equal(np.sort(seen), np.arange(len(samples)))
