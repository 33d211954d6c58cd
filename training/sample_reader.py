"""Reads single samples: the decoded picture and one caption, or a neighbour in place of what is broken."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datapipe.dataset import ShardReader
from infra.errors import CorruptData
from training.open_shards import OpenShards
from training.pictures import Pixels, decode_picture
from training.read_ahead import ReadAhead
from training.samples import Samples
from training.selection import Integers

MAX_REPLACEMENTS = 100  # broken neighbours in a row: past this it is the dataset that is broken


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and its caption. `number` is the sample that they are of, which `broken` ones (keys) stood before.

    read_s, decode_s: seconds that reading and decoding took.
    """

    picture: Pixels
    caption: str
    number: int
    key: str
    broken: tuple[str, ...]
    read_s: float
    decode_s: float


class SampleReader:
    """Pictures and captions by sample number, from several threads; `close` ends its own."""

    def __init__(self, samples: Samples, exclude: frozenset[str] = frozenset()) -> None:
        self._samples = samples
        self._exclude = exclude
        self._shards = OpenShards(samples)
        is_remote = any(not selection.dataset.storage.is_local for selection in samples.selections)
        in_tars = all(selection.dataset.is_webdataset for selection in samples.selections)
        self._ahead = ReadAhead(samples, self._shards) if is_remote and in_tars else None

    @property
    def reads_ahead(self) -> bool:
        """Whether coming samples should be announced."""
        return self._ahead is not None

    def expect(self, numbers: Integers) -> None:
        """Announces samples that will be read, each once."""
        if self._ahead is not None:
            self._ahead.expect(numbers)

    def read_each(self, numbers: Integers, chances: npt.NDArray[np.float64]) -> Iterator[Sample]:
        """One sample after the other, as `read` gives them. They are located together, in half of the time."""
        places = zip(*(each.tolist() for each in self._samples.locate(numbers)), strict=True)
        for number, place, chance in zip(numbers.tolist(), places, chances.tolist(), strict=True):
            yield self._read(number, place, chance)

    def read(self, number: int, chance: float = 0.0) -> Sample:
        """The sample; `chance` in [0, 1) chooses among its captions.

        A broken picture is replaced by the next sample in the dataset's order, which is the same at every start; so is
        an excluded one, which does not count as broken. Raises CorruptData where that finds none.
        """
        return self._read(number, self._place(number), chance)

    def close(self) -> None:
        """Ends what is being read ahead."""
        if self._ahead is not None:
            self._ahead.close()

    def _read(self, number: int, place: tuple[int, int, int], chance: float) -> Sample:
        broken: list[str] = []
        read_s = decode_s = 0.0
        ahead = None if self._ahead is None else self._ahead.take(number)
        for step in range(len(self._samples)):
            began = time.perf_counter()
            found = self._samples.neighbour(number, step) if step else number
            source, shard, index = self._place(found) if step else place
            reader = self._shards.get(source, shard)
            key = str(reader.samples["key"][index].as_py())
            # A view may have the same sample many times in a row.
            if key in self._exclude or key in broken:
                continue
            data = ahead if ahead is not None and not step else reader.image(index)
            read = time.perf_counter()
            picture = decode_picture(data)
            read_s, decode_s = read_s + read - began, decode_s + time.perf_counter() - read
            if picture is not None:
                caption = self._caption(source, reader, index, chance)
                return Sample(picture, caption, found, key, tuple(broken), read_s, decode_s)
            broken.append(key)
            if len(broken) == MAX_REPLACEMENTS:
                break
        dataset = self._samples.selections[source].dataset.storage.url
        raise CorruptData(
            f"{len(broken)} pictures in a row cannot be decoded in {dataset}, and no other one is left to take.",
            "Single broken pictures are replaced by their neighbours, as are those of train.exclude.",
            "Look at the dataset with `diptych verify`.",
        )

    def _place(self, number: int) -> tuple[int, int, int]:
        """Its selection, its shard, and its index there."""
        sources, shards, indices = self._samples.locate(np.asarray([number], dtype=np.int64))
        return int(sources[0]), int(shards[0]), int(indices[0])

    def _caption(self, source: int, reader: ShardReader, index: int, chance: float) -> str:
        captions = captions_in(reader, self._samples.selections[source].captions, index)
        return captions[int(chance * len(captions))]


def captions_in(reader: ShardReader, columns: tuple[str, ...], index: int) -> list[str]:
    """The captions of a sample that are not empty, in the order of its columns and of the lists in them."""
    found: list[str] = []
    for column in columns:
        value = reader.samples[column][index].as_py()
        found += [text for text in (value if isinstance(value, list) else [value]) if text]
    return found
