"""Reads the pictures that a model is evaluated on: in threads, some batches ahead of it."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from training.model import ModelTraits
from training.pictures import Pixels, fill_planes, model_square
from training.sample_reader import SampleReader
from training.samples import Samples
from training.selection import Integers, Selection

BATCHES_AHEAD = 2
LEAST_THREADS = 2  # reading waits for the disk


def evaluation_pictures(selection: Selection, batches: Iterable[Integers], traits: ModelTraits) -> Generator[Tensor]:
    """The pictures of each batch of sample numbers as the model's squares: (n, 3, side, side) uint8.

    Its threads end with it: close it where not all batches are taken.
    """
    side = traits.image_size
    with ExitStack() as stack:
        reader = SampleReader(Samples((selection,)))
        stack.callback(reader.close)
        threads = ThreadPoolExecutor(max(LEAST_THREADS, torch.get_num_threads()), thread_name_prefix="evaluation")
        stack.callback(threads.shutdown, cancel_futures=True)

        def fill(planes: Pixels, number: int) -> None:
            fill_planes(planes, model_square(reader.read(number).picture, side, traits.resize_mode))

        under_way: deque[tuple[Pixels, Iterator[None]]] = deque()
        for numbers in batches:
            reader.expect(numbers)
            images = np.empty((len(numbers), 3, side, side), dtype=np.uint8)
            under_way.append((images, threads.map(fill, images, numbers.tolist())))
            if len(under_way) > BATCHES_AHEAD:
                yield _finished(*under_way.popleft())
        while under_way:
            yield _finished(*under_way.popleft())


def _finished(images: Pixels, filling: Iterator[None]) -> Tensor:
    for _ in filling:
        pass
    return torch.from_numpy(images)
