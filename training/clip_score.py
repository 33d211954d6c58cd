"""The CLIP score of pictures and their captions: the cosine of their embeddings by a given model."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datapipe.dataset import ShardReader
from training.annotate_config import ClipScoreConfig
from training.pictures import decode_picture, fill_planes, model_square
from training.scoring_model import load_scoring_model, model_name, told_as, weights_identity

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Device:
    """What one process has to compute on."""

    use_gpu: bool
    threads: int
    batch_size: int


class ClipScore:
    """Cosine similarity of each picture and its caption, as float32; null without a caption or a whole picture.

    column: the name under which the config has it. Raises ConfigError when the weights are not there.
    """

    def __init__(self, config: ClipScoreConfig, column: str, device: Device) -> None:
        self._key = f"annotate.clip_scores.{column}"
        self._config = config
        self._device = device
        with told_as(self._key):
            self._model, self._weights = model_name(config), weights_identity(config.pretrained)
        self._scorer: _Scorer | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on: of weights their bytes, and not their place."""
        return {
            "kind": "clip_score",
            "version": 1,
            "model": self._model,
            "weights": self._weights,
            "caption_col": self._config.caption_col,
        }

    @property
    def columns(self) -> Sequence[str]:
        """The captions'."""
        return (self._config.caption_col,)

    @property
    def type(self) -> pa.DataType:
        """A cosine."""
        return pa.float32()

    def values(self, shard: ShardReader) -> pa.Array:
        """The score of each pair."""
        if self._scorer is None:
            with told_as(self._key):
                self._scorer = _Scorer(self._config, self._device)
        captions = [_first_text(value) for value in shard.samples[self._config.caption_col].to_pylist()]
        scores = self._scorer.score(shard.images(), captions)
        return pa.array(scores, mask=np.isnan(scores))


class _Scorer:
    """The model on its device, with its tokenizer."""

    def __init__(self, config: ClipScoreConfig, device: Device) -> None:
        import torch

        from training.model import Tokenizer
        from training.precision import multiply_in_full_precision

        multiply_in_full_precision()
        self._threads = device.threads
        torch.set_num_threads(device.threads)
        module, self._traits = load_scoring_model(config)
        self._device = torch.device("cuda" if device.use_gpu else "cpu")
        self._model: Any = module.to(self._device)
        self._tokenize = Tokenizer(self._traits.name)
        self._batch_size = device.batch_size

    def score(self, images: Iterator[bytes], captions: Sequence[str]) -> Scores:
        """One score for each pair; NaN where there is none. Pictures are decoded while others are encoded."""
        scores = np.full(len(captions), np.nan, dtype=np.float32)
        with ThreadPoolExecutor(self._threads) as decoders, ThreadPoolExecutor(1) as ahead:

            def read_batch() -> list[npt.NDArray[np.uint8] | None]:
                return list(decoders.map(self._planes, islice(images, self._batch_size)))

            start = 0
            coming: Future[list[npt.NDArray[np.uint8] | None]] = ahead.submit(read_batch)
            while batch := coming.result():
                coming = ahead.submit(read_batch)
                scores[start : start + len(batch)] = self._score_batch(batch, captions[start : start + len(batch)])
                start += len(batch)
        return scores

    def _planes(self, image: bytes) -> npt.NDArray[np.uint8] | None:
        """The picture as the model wants it, (3, side, side); None for a broken one."""
        picture = decode_picture(image)
        if picture is None:
            return None
        side = self._traits.image_size
        planes = np.empty((3, side, side), dtype=np.uint8)
        fill_planes(planes, model_square(picture, side, self._traits.resize_mode))
        return planes

    def _score_batch(self, batch: Sequence[npt.NDArray[np.uint8] | None], captions: Sequence[str]) -> Scores:
        import torch

        from training.loader import normalize

        scores = np.full(len(batch), np.nan, dtype=np.float32)
        whole = [(place, planes) for place, planes in enumerate(batch) if planes is not None and captions[place]]
        if not whole:
            return scores
        places = [place for place, _ in whole]
        images = torch.from_numpy(np.stack([planes for _, planes in whole])).to(self._device)
        tokens = self._tokenize([captions[place] for place in places]).to(self._device)
        with torch.inference_mode():
            of_images = self._model.encode_image(normalize(images, self._traits, torch.float32), normalize=True)
            of_texts = self._model.encode_text(tokens, normalize=True)
            scores[places] = (of_images * of_texts).sum(dim=-1).float().cpu().numpy()
        return scores


def _first_text(value: str | list[str] | None) -> str:
    """The caption; of several the first that is not empty."""
    texts = value if isinstance(value, list) else [value]
    return next((text for text in texts if text), "")
