"""Single samples, read one by one or several at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from small_datasets import make_dataset

from training.config import DataSource
from training.sample_reader import Sample, SampleReader
from training.samples import Samples
from training.selection import select


def without_times(sample: Sample) -> tuple[bytes, Sample]:
    return sample.picture.tobytes(), replace(sample, picture=None, read_s=0, decode_s=0)


def test_samples_that_are_located_together_are_those_of_reading_one_by_one(tmp_path: Path):
    """Of two datasets, with two broken pictures next to each other and an excluded one."""
    places = [make_dataset(tmp_path / name, shards=2, rows=20, broken=frozenset({3, 4})) for name in ("one", "two")]
    samples = Samples(tuple(select(DataSource(path=place, captions=["caption", "color"])) for place in places))
    reader = SampleReader(samples, frozenset({"0000101"}))
    numbers = np.random.default_rng(0).permutation(len(samples))
    chances = np.random.default_rng(1).random(len(samples))
    together = [without_times(sample) for sample in reader.read_each(numbers, chances)]
    one_by_one = [reader.read(number, chance) for number, chance in zip(numbers.tolist(), chances, strict=True)]
    assert together == [without_times(sample) for sample in one_by_one]
    assert {len(sample.broken) for sample in one_by_one} == {0, 1, 2}
    others = [sample for number, sample in zip(numbers, one_by_one, strict=True) if sample.number != number]
    assert [sample.key for sample in others if not sample.broken] == ["0000102"] * 2
