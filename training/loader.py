"""Reads, decodes and augments batches in threads, ahead of the training; the same ones at every start."""

import functools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.augment import STREAMS, augment
from training.config import AugmentConfig
from training.mixture import Mixture
from training.model import ModelTraits, Tokenizer
from training.order import batch_positions, digest_of, keyed_numbers
from training.pictures import fill_planes
from training.sample_reader import Sample, SampleReader
from training.samples import Samples
from training.selection import Integers

BATCHES_AHEAD = 2
TASK_SAMPLES = 16  # of a batch that one thread takes at once: few enough to spread a small batch
ANNOUNCED_SAMPLES = 2048  # read ahead of from object storage: enough that neighbours meet in one request


@dataclass(frozen=True, slots=True)
class Replacement:
    """Another sample than a position's own: its number and key, and the keys of the broken ones that it stands for.

    None are broken where one was excluded.
    """

    position: int
    number: int
    taken: str
    broken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's part of one global batch.

    images: (n, 3, side, side) uint8; tokens: (n, context) int64; both in page-locked memory where a GPU takes them from
    it while it computes. `digest` says which sample stands at which position
    (see `order.digest_of`); read_s, decode_s: seconds of threads.
    """

    images: Tensor
    tokens: Tensor
    digest: int
    replacements: tuple[Replacement, ...]
    read_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class _Part:
    """The tokens of some samples of a batch, and what is known of them without picture and caption."""

    tokens: Tensor
    numbers: list[int]
    replacements: list[Replacement]
    read_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch whose pictures are being filled in, by several tasks."""

    positions: Integers
    images: Tensor
    tasks: list[Future[_Part]]

    def wait(self) -> Batch:
        parts = [task.result() for task in self.tasks]
        numbers = np.asarray([number for part in parts for number in part.numbers], dtype=np.int64)
        tokens = torch.cat([part.tokens for part in parts])
        return Batch(
            self.images,
            tokens.pin_memory() if self.images.is_pinned() else tokens,
            digest_of(self.positions, numbers),
            tuple(replacement for part in parts for replacement in part.replacements),
            sum(part.read_s for part in parts),
            sum(part.decode_s for part in parts),
        )


class TrainingLoader:
    """The training's batches from any step on. A `with` block ends its threads."""

    def __init__(
        self,
        samples: Samples,
        order: Mixture,
        traits: ModelTraits,
        *,
        batch_size: int,
        rank: int,
        ranks: int,
        augment: AugmentConfig,
        threads: int,
        exclude: frozenset[str] = frozenset(),
        feeds_gpu: bool = False,
    ) -> None:
        self._order = order
        self._traits = traits
        self._slice = (batch_size, rank, ranks)
        self._augment = augment
        self._tokenize = Tokenizer(traits.name)
        self._reader = SampleReader(samples, exclude)
        self._feeds_gpu = feeds_gpu
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._batches_announced = max(1, ANNOUNCED_SAMPLES * ranks // batch_size)

    def __enter__(self) -> "TrainingLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._reader.close()

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """This rank's part of the global batches `first` to `last` − 1."""
        under_way: deque[_Pending] = deque()
        announced = first
        for number in range(first, last + BATCHES_AHEAD):
            if number < last:
                announced = self._announce(number, announced, last)
                under_way.append(self._submit(number))
            if len(under_way) > BATCHES_AHEAD or number >= last:
                if not under_way:
                    return
                yield under_way.popleft().wait()

    def _announce(self, number: int, announced: int, last: int) -> int:
        """Announces whole groups of batches, one group ahead; returns the first batch that is not announced yet."""
        while self._reader.reads_ahead and announced < min(last, number + self._batches_announced + 1):
            after = min(last, announced + self._batches_announced)
            positions = [batch_positions(each, *self._slice) for each in range(announced, after)]
            self._reader.expect(self._order.samples_at(np.concatenate(positions)))
            announced = after
        return announced

    def _submit(self, number: int) -> _Pending:
        positions = batch_positions(number, *self._slice)
        samples, epochs = self._order.draw(positions)
        chances = keyed_numbers(self._order.seed, epochs, samples, STREAMS + 1)
        side = self._traits.image_size
        images = torch.empty((len(samples), 3, side, side), dtype=torch.uint8, pin_memory=self._feeds_gpu)
        pixels = images.numpy()
        parts = [slice(start, start + TASK_SAMPLES) for start in range(0, len(samples), TASK_SAMPLES)]
        return _Pending(
            positions,
            images,
            [
                self._threads.submit(self._load, pixels[part], positions[part], samples[part], chances[part])
                for part in parts
            ],
        )

    def _load(
        self,
        images: npt.NDArray[np.uint8],
        positions: Integers,
        numbers: Integers,
        chances: npt.NDArray[np.float64],
    ) -> _Part:
        """Fills in the pictures (k, 3, side, side) of some samples."""
        samples: list[Sample] = []
        augment_s = 0.0
        read = self._reader.read_each(numbers, chances[:, STREAMS])
        for planes, sample, chance in zip(images, read, chances, strict=True):
            began = time.perf_counter()
            fill_planes(planes, augment(sample.picture, self._traits.image_size, self._augment, chance[:STREAMS]))
            augment_s += time.perf_counter() - began
            samples.append(sample)
        return _Part(
            self._tokenize([sample.caption for sample in samples]),
            [sample.number for sample in samples],
            [
                Replacement(int(position), sample.number, sample.key, sample.broken)
                for position, number, sample in zip(positions, numbers, samples, strict=True)
                if sample.number != number
            ],
            sum(sample.read_s for sample in samples),
            sum(sample.decode_s for sample in samples) + augment_s,
        )


def normalize(images: Tensor, traits: ModelTraits, dtype: torch.dtype) -> Tensor:
    """uint8 pictures as the model wants them, on the device that they are on: (n, 3, side, side)."""
    mean, std = _mean_and_deviation(traits, images.device)
    # In place: on a CPU new memory for a batch of pictures costs more than the arithmetic.
    return images.float().sub_(mean).div_(std).to(dtype)


@functools.cache  # bringing them to a GPU waits for all that it was given before
def _mean_and_deviation(traits: ModelTraits, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of pixels from 0 to 255: (1, 3, 1, 1) each."""
    with torch.inference_mode(False):  # whoever comes first may be in it, and others not
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (traits.mean, traits.std))
    return mean, std
