"""Encodes pictures and texts with a checkpoint's model."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from infra.storage import Storage
from training.checkpoint import TensorKind, load_tensors, read_state, require_whole
from training.config import LossName
from training.loader import evaluation_pictures, normalize
from training.model import Tokenizer, create_model, model_traits
from training.selection import Selection


class FeatureEncoder(Protocol):
    """What pictures and texts are scored with."""

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

    def __init__(self, checkpoint: Storage, *, use_gpu: bool, batch_size: int, use_average: bool) -> None:
        require_whole(checkpoint)
        self.state = read_state(checkpoint)
        self._device = torch.device("cuda" if use_gpu else "cpu")
        self._batch_size = batch_size
        self._traits = model_traits(self.state.model, self.state.settings.get("mean"), self.state.settings.get("std"))
        self._tokenize = Tokenizer(self.state.model)
        model = create_model(self.state.model, LossName(self.state.loss), seed=0)
        weights = (load_tensors(checkpoint, TensorKind.AVERAGE) if use_average else {}) or load_tensors(
            checkpoint, TensorKind.PARAMETERS
        )
        model.load_state_dict(weights | load_tensors(checkpoint, TensorKind.BUFFERS))
        self._model: Any = model.eval().to(self._device)

    @torch.inference_mode()
    def encode_pictures(self, selection: Selection) -> Tensor:
        """Unit features of the selection's pictures, in its order: (N, D) float32 on the CPU."""
        numbers = np.arange(len(selection), dtype=np.int64)
        parts = []
        for start in range(0, len(numbers), self._batch_size):
            images = evaluation_pictures(selection, numbers[start : start + self._batch_size], self._traits)
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
