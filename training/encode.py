"""Encodes pictures and texts with a checkpoint's model."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from infra.storage import Storage
from training.evaluation_pictures import evaluation_pictures
from training.loader import normalize
from training.model import Tokenizer
from training.selection import Selection
from training.team import Team
from training.trained_model import load_model


class FeatureEncoder(Protocol):
    """What pictures and texts are scored with. `team`: the processes that make the same calls at once."""

    team: Team

    def encode_pictures(self, selection: Selection) -> Tensor:
        """Unit features of the selection's pictures, in its order: (N, D) float32 on the CPU."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features of the texts: (len(texts), D) float32 on the CPU."""
        ...


class Encoder:
    """A checkpoint's model, ready to encode. `state` is the checkpoint's.

    use_average: the weights' moving average, where the checkpoint has one.
    """

    team = Team()

    def __init__(self, checkpoint: Storage, *, use_gpu: bool, batch_size: int, use_average: bool) -> None:
        trained = load_model(checkpoint, use_average=use_average)
        self.state = trained.state
        self._device = torch.device("cuda" if use_gpu else "cpu")
        self._batch_size = batch_size
        self._traits = trained.traits
        self._tokenize = Tokenizer(self.state.model)
        self._model: Any = trained.module.to(self._device)

    @torch.inference_mode()
    def encode_pictures(self, selection: Selection) -> Tensor:
        """Unit features of the selection's pictures, in its order: (N, D) float32 on the CPU."""
        numbers = np.arange(len(selection), dtype=np.int64)
        batches = (numbers[start:][: self._batch_size] for start in range(0, len(numbers), self._batch_size))
        parts = []
        with closing(evaluation_pictures(selection, batches, self._traits)) as pictures:
            for images in pictures:
                batch = normalize(images.to(self._device), self._traits, torch.float32)
                parts.append(self._model.encode_image(batch, normalize=True).float().cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features of the texts: (len(texts), D) float32 on the CPU."""
        parts = []
        for start in range(0, len(texts), self._batch_size):
            tokens = self._tokenize(texts[start : start + self._batch_size]).to(self._device)
            parts.append(self._model.encode_text(tokens, normalize=True).float().cpu())
        return torch.cat(parts)
