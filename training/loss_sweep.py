"""Goes over a rank's rows of the logits tile by tile, and adds up the features' gradients.

Legend: N rows of the global batch, n of this rank, D width, W ranks; a tile has R rows and C columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from training.peers import Peers

Pass = TypeVar("Pass", bound=Callable[..., object])


def without_autocast(function: Pass) -> Pass:
    """A forward or backward of autograd (ctx, tensor, …) whose products and sums keep the precision they ask for.

    Under torch.autocast, matrix products of fp32 features would be taken in half precision.
    """

    @wraps(function)
    def run(ctx: Any, *arguments: Any) -> object:
        with torch.autocast(arguments[0].device.type, enabled=False):
            return function(ctx, *arguments)

    return cast(Pass, run)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile lies: its rows among this rank's images, its columns among the padded texts of all ranks."""

    rows: slice
    columns: slice
    is_diagonal: bool


class Sweep:
    """This rank's tiles. texts (n, D) are gathered while the first tiles, of its own texts, are worked on.

    In a second sweep the texts are known already: gathered (W·longest, D).
    """

    def __init__(
        self, images: Tensor, texts: Tensor | None, peers: Peers, tile: int, *, gathered: Tensor | None = None
    ) -> None:
        self.images = images
        self.peers = peers
        self.dtype = torch.promote_types(images.dtype, torch.float32)
        self._tile = tile
        self._own_texts = texts
        self._gathering = None if texts is None else peers.begin_gather(texts)
        self._gathered = gathered

    def tiles(self) -> Iterator[Place]:
        """All tiles, those of this rank's own texts first."""
        yield from self._tiles_of(self.peers.own, is_own=True)
        for segment in self.peers.others():
            yield from self._tiles_of(segment, is_own=False)

    def _tiles_of(self, segment: slice, *, is_own: bool) -> Iterator[Place]:
        for first in range(segment.start, segment.stop, self._tile):
            columns = slice(first, min(first + self._tile, segment.stop))
            for start in range(0, len(self.images), self._tile):
                rows = slice(start, min(start + self._tile, len(self.images)))
                yield Place(rows, columns, is_own and first - segment.start == start)

    def products(self, place: Place) -> Tensor:
        """The inner products of the tile's images and texts (R, C)."""
        left, right = self.images[place.rows], self.texts(place).T
        if left.dtype == self.dtype:
            return left @ right
        if left.is_cuda:
            return torch.mm(left, right, out_dtype=self.dtype)
        return left.to(self.dtype) @ right.to(self.dtype)

    def texts(self, place: Place) -> Tensor:
        """The tile's texts (C, D)."""
        own = self.peers.own
        if self._own_texts is not None and own.start <= place.columns.start < own.stop:
            return self._own_texts[place.columns.start - own.start : place.columns.stop - own.start]
        return self.all_texts()[place.columns]

    def all_texts(self) -> Tensor:
        """The padded texts of all ranks (W·longest, D), waited for."""
        if self._gathered is None:
            assert self._gathering is not None
            self._gathered = self._gathering.wait()
        return self._gathered

    def full(self, length: int, value: float) -> Tensor:
        """A vector in the accumulation's precision."""
        return torch.full((length,), value, dtype=self.dtype, device=self.images.device)


class FeatureGradients:
    """What the tiles add up to, before the scale: of this rank's images, and this rank's part of all texts'."""

    def __init__(self, sweep: Sweep) -> None:
        width = sweep.images.shape[1]
        self._sweep = sweep
        self._images = sweep.images.new_zeros(len(sweep.images), width, dtype=sweep.dtype)
        self._texts = sweep.images.new_zeros(sweep.peers.padded_rows, width, dtype=sweep.dtype)

    def add(self, place: Place, gradient: Tensor) -> None:
        """Takes in a tile's gradient with respect to its logits (R, C)."""
        _add_product(self._images[place.rows], gradient, self._sweep.texts(place))
        _add_product(self._texts[place.columns], gradient.T, self._sweep.images[place.rows])

    def finish(self, factor: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of images (n, D), texts (n, D) and scale, times `upstream`; what was added up is used up.

        factor: the scale, in the accumulation's precision.
        """
        features = self._sweep.images
        # Σ gradient ∘ products, which the images' rows have summed already.
        of_scale = torch.bmm(self._images[:, None], features.to(self._sweep.dtype)[:, :, None]).sum() * upstream
        of_images = self._images.mul_(factor * upstream)
        of_texts = self._sweep.peers.scatter_sum(self._texts).mul_(factor * upstream)
        return of_images.to(features.dtype), of_texts.to(features.dtype), of_scale


def _add_product(target: Tensor, gradient: Tensor, features: Tensor) -> None:
    """target += gradient @ features, the product in the features' precision."""
    if features.dtype == target.dtype:
        target.addmm_(gradient, features)
    elif features.is_cuda:
        target.add_(torch.mm(gradient.to(features.dtype), features, out_dtype=target.dtype))
    else:
        target.addmm_(gradient, features.to(target.dtype))
