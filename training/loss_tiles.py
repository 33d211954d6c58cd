"""The arithmetic on one tile of the logits, elementwise; on CUDA fused into one pass each.

Legend: a tile has R rows (images) and C columns (texts); a diagonal tile has the matched pairs on its diagonal.
`products` (R, C) are the features' inner products in the accumulation's precision; every function uses them up, so that
a tile is held once.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED_ROWS = 128
MIN_COMPILED_ELEMENTS = 1 << 16  # smaller tiles, as those at the edges, come in many shapes and cost little

TileFunction = TypeVar("TileFunction", bound=Callable[..., object])


def add_to_softmax(
    products: Tensor,
    scale: Tensor,
    row_max: Tensor,
    row_sum: Tensor,
    column_max: Tensor,
    column_sum: Tensor,
    is_diagonal: bool,
) -> None:
    """Takes the unmatched pairs of a tile into the running softmax of its rows and of its columns, in place.

    The maximum of the logits and the sum of exp(logit − maximum) are kept apart: one number for both would round at
    the size of the logits. Source of the running form: Milakov and Gimelshein 2018 (arXiv 1805.02867).
    """
    logits = products.mul_(scale)
    if is_diagonal:
        logits.diagonal().fill_(-torch.inf)
    _add_along(1, logits, row_max, row_sum)
    _add_along(0, logits, column_max, column_sum)


def _add_along(dim: int, logits: Tensor, maximum: Tensor, total: Tensor) -> None:
    greatest = torch.maximum(maximum, logits.amax(dim))
    total.mul_(torch.exp(maximum - greatest)).add_(torch.exp(logits - greatest.unsqueeze(dim)).sum(dim))
    maximum.copy_(greatest)


def softmax_gradient(
    products: Tensor, scale: Tensor, row_max: Tensor, row_weight: Tensor, column_max: Tensor, column_weight: Tensor
) -> Tensor:
    """The softmax over rows plus the softmax over columns (R, C), each entry times its row's or column's weight.

    A weight is what the entry counts in the loss, divided by the sum of exp(logit − maximum).
    """
    logits = products.mul_(scale)
    gradient = (logits - row_max[:, None]).exp_().mul_(row_weight[:, None])
    return gradient.addcmul_(logits.sub_(column_max).exp_(), column_weight)


def sigmoid_tile(products: Tensor, scale: Tensor, bias: Tensor, is_diagonal: bool) -> tuple[Tensor, Tensor]:
    """Σ ln(1 + e^(∓logit)) of a tile's pairs, matched (−) or not (+), and the logits' gradient (R, C)."""
    logits = products.mul_(scale).add_(bias)
    if is_diagonal:
        logits.diagonal().neg_()
    # On a CPU in pieces that stay in a core's cache over all of the operations.
    pieces = torch.split(logits, len(logits) if logits.is_cuda else CACHED_ROWS)
    value = torch.stack([_sum_of_softplus(piece) for piece in pieces]).sum()
    gradient = logits.sigmoid_()
    if is_diagonal:
        gradient.diagonal().neg_()
    return value, gradient


def _sum_of_softplus(logits: Tensor) -> Tensor:
    """Σ ln(1 + e^logit), as Σ max(logit, 0) + ln(1 + e^−|logit|).

    Not by torch's softplus, which is cut to the identity above 20 and is then wrong by 2e-9.
    """
    return F.relu(logits).sum() + _log1p(logits.abs().neg_().exp_()).sum()


def _log1p(values: Tensor) -> Tensor:
    """ln(1 + x) for x from 0 to 1 to the last digit; uses up x. On CPUs torch.log1p takes ten times as long as log.

    What 1 + x loses of x in rounding is known exactly, and counts in the logarithm by its share of 1 + x.
    """
    if values.is_cuda:
        return torch.log1p(values)
    rounded = values + 1
    lost = values.sub_(rounded - 1).div_(rounded)
    return rounded.log_().add_(lost)


def fused(function: TileFunction, device: torch.device) -> TileFunction:
    """The tile function as it runs fastest on the device: compiled on CUDA, where a compiler is there; else itself."""
    return compiled(function) if device.type == "cuda" and _can_compile() else function


@lru_cache
def compiled(function: TileFunction, backend: Any = "inductor") -> TileFunction:
    """The tile function, compiled for each shape of the larger tiles; what cannot be compiled runs as it is.

    With shapes left open, the compiler would make one of its own for each place of a tile, since the vectors' parts are
    views, and give up after eight.
    """
    compiled_function = cast(TileFunction, torch.compile(function, dynamic=False, backend=backend))

    @wraps(function)
    def run(products: Tensor, *others: Any) -> object:
        return (compiled_function if products.numel() >= MIN_COMPILED_ELEMENTS else function)(products, *others)

    return cast(TileFunction, run)


@lru_cache
def _can_compile() -> bool:
    """Triton builds its launcher with the machine's C compiler, against Python's headers."""
    from torch.utils._triton import has_triton

    has_compiler = any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang") if name)
    has_headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
    return has_compiler and has_headers and bool(has_triton())
