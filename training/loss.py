"""The contrastive losses over the global batch, exact for any number of ranks.

Legend: N rows of the global batch, n of this rank, D width, W ranks.

Every rank computes the same global value. DeepSpeed and DDP average parameter gradients over the ranks, so what this
rank contributes is scaled by W: its own rows' share of the global loss gets W times its gradient, and the average over
ranks is the gradient of one process that holds the whole batch; for the scale and bias too, and for unequal rows.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup


def clip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, *, group: ProcessGroup | None = None
) -> Tensor:
    """The mean of the image-to-text and the text-to-image cross-entropy over the global batch.

    image_features, text_features: (n, D), unit rows; this rank's part, pairs in the same order. n may differ between
    ranks. logit_scale: scalar, the factor itself (already exponentiated). Returns a scalar, equal on all ranks.
    Source: Radford et al. 2021 (arXiv 2103.00020), figure 3.
    """
    images, texts, first = _gather_pairs(image_features, text_features, group)
    labels = torch.arange(first, first + len(image_features), device=image_features.device)
    by_image = F.cross_entropy(logit_scale * image_features @ texts.T, labels, reduction="sum")  # (n, N)
    by_text = F.cross_entropy(logit_scale * text_features @ images.T, labels, reduction="sum")  # (n, N)
    return _global_sum((by_image + by_text) / (2 * len(images)), group)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    group: ProcessGroup | None = None,
) -> Tensor:
    """The sum of all pairs' sigmoid losses over the global batch, divided by N.

    Arguments as for `clip_loss`; logit_bias: scalar, added to every logit.
    Source: Zhai et al. 2023 (arXiv 2303.15343), equation 1.
    """
    _, texts, first = _gather_pairs(image_features, text_features, group, images_too=False)
    logits = logit_scale * image_features @ texts.T + logit_bias  # (n, N)
    rows = torch.arange(len(image_features), device=logits.device)
    matched = logits[rows, rows + first]
    # ln(1 + e^(−z·logit)) with z = −1 for all pairs, corrected for the matched ones. Not by softplus, which torch
    # cuts to the identity above 20 and is then wrong by 2e-9.
    share = -F.logsigmoid(-logits).sum() - matched.sum()
    return _global_sum(share / len(texts), group)


def _gather_pairs(
    images: Tensor, texts: Tensor, group: ProcessGroup | None, *, images_too: bool = True
) -> tuple[Tensor, Tensor, int]:
    """All ranks' rows (N, D) of both sides, with gradient, and where this rank's begin."""
    if not _is_distributed(group):
        return images, texts, 0
    counts = _row_counts(len(images), images.device, group)
    first = sum(counts[: dist.get_rank(group)])
    gathered = _GatherRows.apply(images, counts, group) if images_too else images
    return gathered, _GatherRows.apply(texts, counts, group), first


def _is_distributed(group: ProcessGroup | None) -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def _row_counts(rows: int, device: torch.device, group: ProcessGroup | None) -> list[int]:
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, torch.tensor([rows], dtype=torch.int64, device=device), group=group)
    return [int(count) for count in counts]


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks, in rank order. Backward sums each row's gradient over the ranks that used it.

    Ranks with fewer rows are padded, because gloo gathers equal shapes only.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: ProcessGroup | None) -> Tensor:
        ctx.counts, ctx.group = counts, group
        longest = max(counts)
        padded = F.pad(rows, (0, 0, 0, longest - len(rows))).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # gloo has no reduce-scatter; an all-reduce gives every rank all rows, of which it takes its own.
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed, op=dist.ReduceOp.SUM, group=ctx.group)
        rank = dist.get_rank(ctx.group)
        first = sum(ctx.counts[:rank])
        return summed[first : first + ctx.counts[rank]], None, None


class _GlobalSum(torch.autograd.Function):
    """Sums the ranks' shares of the loss. Backward multiplies by W, which the averaging over ranks takes away."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.ranks = dist.get_world_size(group)
        total = share.detach().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.ranks, None


def _global_sum(share: Tensor, group: ProcessGroup | None) -> Tensor:
    if not _is_distributed(group):
        return share
    total: Tensor = _GlobalSum.apply(share, group)
    return total
