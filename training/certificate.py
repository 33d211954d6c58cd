"""Proves at the start of a run that its loss is exact on the run's own workers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from infra.errors import StageFailed
from training.config import LossName
from training.loss import clip_loss, siglip_loss
from training.tile_check import compiled_error

ROWS_OF_A_RANK = (3, 5, 2)  # uneven, taken in turn
WIDTH = 24
TILE = 2  # several tiles to each rank
SCALE = 10.0
BIAS = -2.0
# Of the largest gradient: at this scale rounding one logit costs 6e-7 in fp32; bf16 features' gradients have 8 bits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LossCertificate:
    """How far the loss was from a float64 computation on one process: the greatest error of value and gradients.

    Errors are shares of the largest gradient of their kind, or of the value.
    """

    loss: str
    ranks: int
    rows: int
    precision: str
    error: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"{self.loss} loss over {self.ranks} worker{'s' if self.ranks > 1 else ''} checked against float64: "
            f"greatest error {self.error:.1e} (allowed {self.tolerance:.0e})"
        )


def certify_loss(
    name: LossName,
    device: torch.device,
    dtype: torch.dtype,
    *,
    group: ProcessGroup | None = None,
    loss: Loss | None = None,
) -> LossCertificate:
    """Takes the loss of small random features on all ranks of the group and compares it with the formula.

    Value, features' gradients, and the gradients of scale and bias; on CUDA also the compiled arithmetic of a tile with
    the plain one. Every rank must call it, and gets the same answer.
    loss: what to check in place of the run's loss. Raises StageFailed when an error is above the tolerance.
    """
    ranks = dist.get_world_size(group) if dist.is_initialized() else 1
    rank = dist.get_rank(group) if dist.is_initialized() else 0
    counts = [ROWS_OF_A_RANK[index % len(ROWS_OF_A_RANK)] for index in range(ranks)]
    first = sum(counts[:rank])
    own = slice(first, first + counts[rank])
    images, texts = _random_features(sum(counts), dtype)
    expected = _taken(_formula(name), images, texts, torch.float64)
    found = _taken(
        loss or _loss_of_the_run(name, group), images[own].to(device, dtype), texts[own].to(device, dtype), dtype
    )
    of_tiles = 0.0 if loss else compiled_error(name, device)
    error = _greatest_error(found, expected, own, ranks, group, of_tiles)
    certificate = LossCertificate(
        name.value, ranks, sum(counts), str(dtype).removeprefix("torch."), error, TOLERANCE[dtype]
    )
    if error > certificate.tolerance:
        raise StageFailed(
            f"The {name.value} loss over {ranks} workers is off by {error:.1e} of its float64 value or gradients.",
            f"At most {certificate.tolerance:.0e} is rounding; more would train another model than the config says.",
            "Check that all workers have the same torch and diptych and healthy links; then report this as a bug.",
        )
    return certificate


@dataclass(frozen=True, slots=True)
class _Taken:
    """A loss with its gradients, in float64 on the CPU."""

    value: Tensor
    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor


def _random_features(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unit rows, rounded to the features' precision, the same on every rank."""
    chance = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(rows, WIDTH, generator=chance, dtype=torch.float64) for _ in range(2))
    return F.normalize(images, dim=1).to(dtype), F.normalize(images + noise, dim=1).to(dtype)


def _taken(loss: Loss, images: Tensor, texts: Tensor, dtype: torch.dtype) -> _Taken:
    features = [rows.detach().to(dtype).requires_grad_() for rows in (images, texts)]
    # The scalars are never in half precision.
    scalars_in = torch.promote_types(dtype, torch.float32)
    scalars = [
        torch.tensor([value], dtype=scalars_in, device=images.device, requires_grad=True) for value in (SCALE, BIAS)
    ]
    value = loss(*features, *scalars)
    torch.autograd.backward(value)
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in (*features, *scalars)]
    return _Taken(*(tensor.detach().double().cpu() for tensor in (value, *gradients)))


def _loss_of_the_run(name: LossName, group: ProcessGroup | None) -> Loss:
    if name is LossName.SIGLIP:
        return lambda images, texts, scale, bias: siglip_loss(images, texts, scale, bias, group=group, tile=TILE)
    return lambda images, texts, scale, _bias: clip_loss(images, texts, scale, group=group, tile=TILE)


def _formula(name: LossName) -> Loss:
    """The papers' formulas on the whole batch, with one matrix of logits."""

    def clip(images: Tensor, texts: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
        logits = scale * images @ texts.T
        labels = torch.arange(len(images))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    def siglip(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        signs = 2 * torch.eye(len(images), dtype=images.dtype) - 1
        return -F.logsigmoid(signs * (scale * images @ texts.T + bias)).sum() / len(images)

    return siglip if name is LossName.SIGLIP else clip


def _greatest_error(
    found: _Taken, expected: _Taken, own: slice, ranks: int, group: ProcessGroup | None, of_tiles: float
) -> float:
    """Over all ranks. Each holds W times its gradients, which the average over ranks divides by W again.

    of_tiles: another error of this rank, which counts as well.
    """
    scalars = torch.cat((found.scale, found.bias))
    if ranks > 1:
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        scalars = scalars.to(device)
        dist.all_reduce(scalars, group=group)
        scalars = scalars.cpu() / ranks
    pairs = (
        (found.value, expected.value, expected.value.abs()),
        (found.images / ranks, expected.images[own], expected.images.abs().max()),
        (found.texts / ranks, expected.texts[own], expected.texts.abs().max()),
        (scalars[:1], expected.scale, expected.scale.abs().max()),
        (scalars[1:], expected.bias, expected.bias.abs().max().clamp(min=1e-30)),
    )
    error = torch.stack([((one - other).abs() / size).max() for one, other, size in pairs]).max()
    error = error.nan_to_num(nan=torch.inf).clamp(min=of_tiles)  # the ranks' maximum could drop a NaN
    if ranks > 1:
        worst = error.to(scalars.dtype).to("cuda" if dist.get_backend(group) == "nccl" else "cpu")
        dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=group)
        error = worst.cpu()
    return float(error)
