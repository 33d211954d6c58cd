"""Compares the compiled arithmetic of the losses' tiles with the plain one, on a tile of full size."""

from typing import Any

import torch
from torch import Tensor

from training.config import LossName
from training.loss import TILE
from training.loss_tiles import add_to_softmax, fused, sigmoid_tile, softmax_gradient

SCALE = 10.0
BIAS = -2.0


def compiled_error(name: LossName, device: torch.device) -> float:
    """The greatest difference of a tile's results, as a share of the greatest result; 0 where nothing is compiled."""
    calls = _calls(name, device)
    errors = [_difference(function, arguments) for function, arguments in calls if fused(function, device) != function]
    return max(errors, default=0.0)


def _calls(name: LossName, device: torch.device) -> list[tuple[Any, tuple[Any, ...]]]:
    """The loss's functions of a tile, each with arguments as a sweep has them."""
    chance = torch.Generator().manual_seed(0)
    products = torch.rand(TILE, TILE, generator=chance).mul_(2).sub_(1).to(device)
    scale, bias = torch.tensor(SCALE, device=device), torch.tensor(BIAS, device=device)
    if name is LossName.SIGLIP:
        return [(sigmoid_tile, (products, scale, bias, is_diagonal)) for is_diagonal in (False, True)]
    greatest, total = torch.full((TILE,), 0.5 * SCALE, device=device), torch.full((TILE,), 2.0, device=device)
    sums = (greatest, total, greatest.clone(), total.clone())
    weighted = (softmax_gradient, (products, scale, greatest, total, greatest, total))
    return [*((add_to_softmax, (products, scale, *sums, is_diagonal)) for is_diagonal in (False, True)), weighted]


def _difference(function: Any, arguments: tuple[Any, ...]) -> float:
    device = arguments[0].device
    pairs = zip(_results(fused(function, device), arguments), _results(function, arguments), strict=True)
    error = torch.stack([(one - other).abs().max() / other.abs().max() for one, other in pairs]).max()
    return float(error.nan_to_num(nan=torch.inf))


def _results(function: Any, arguments: tuple[Any, ...]) -> list[Tensor]:
    """What it returns, and what it has made of its arguments but the products, which it uses up."""
    own = [each.clone() if isinstance(each, Tensor) else each for each in arguments]
    returned = function(*own)
    given = returned if isinstance(returned, tuple) else (returned,)
    return [each for each in (*given, *own[1:]) if isinstance(each, Tensor)]
