"""The contrastive losses over the global batch: exact for any number of ranks, in memory linear in the batch.

Legend: N rows of the global batch, n of this rank, D width, W ranks, s the logit scale.

The n×N logits are never held: a sweep over tiles takes each logit once into running sums. Only the texts are gathered,
and their gradients summed back to their owners. Matrix products run in the features' precision (those of half precision
are summed in fp32), everything else in fp32, or in float64 for float64 features.

Every rank computes the same global value. DeepSpeed and DDP average parameter gradients over the ranks, so what this
rank contributes is scaled by W: its own rows' share of the global loss gets W times its gradient, and the average over
ranks is the gradient of one process that holds the whole batch; for the scale and bias too, and for unequal rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from training.loss_sweep import FeatureGradients, Sweep, without_autocast
from training.loss_tiles import add_to_softmax, fused, sigmoid_tile, softmax_gradient
from training.peers import Peers, alone, find_peers

# A tile of fp32 logits takes 4 MiB: near the size of a core's cache, and large enough for full-speed matrix products.
TILE = 1024


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    group: ProcessGroup | None = None,
    tile: int = TILE,
) -> Tensor:
    """The mean of the image-to-text and the text-to-image cross-entropy over the global batch.

    image_features, text_features: (n, D), unit rows; this rank's part, pairs in the same order. n may differ between
    ranks. logit_scale: scalar, the factor itself (already exponentiated). tile: rows and columns of the logits held at
    once. Returns a scalar, equal on all ranks. Raises ValueError, on all ranks, for features that are no pairs.

    In fp32, up to a scale of 30, gradients are within 1e-6 of the largest one, also where one side has near-duplicates.
    Above it, and where all pairs are nearly solved or near-duplicates on both sides, they are at most twice as far off
    as the formula on one matrix, since rounding a logit costs more.
    Source: Radford et al. 2021 (arXiv 2103.00020), figure 3.
    """
    image_features, text_features, peers = _checked(image_features, text_features, group, tile)
    loss: Tensor = _ClipLoss.apply(image_features, text_features, logit_scale, peers, tile)
    return loss


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    group: ProcessGroup | None = None,
    tile: int = TILE,
) -> Tensor:
    """The sum of all pairs' sigmoid losses over the global batch, divided by N.

    Arguments as for `clip_loss`; logit_bias: scalar, added to every logit.
    Source: Zhai et al. 2023 (arXiv 2303.15343), equation 1.
    """
    image_features, text_features, peers = _checked(image_features, text_features, group, tile)
    leaves = (image_features, text_features, logit_scale, logit_bias)
    wants_gradient = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
    loss: Tensor = _SiglipLoss.apply(*leaves, peers, tile, wants_gradient)
    return loss


def _checked(images: Tensor, texts: Tensor, group: ProcessGroup | None, tile: int) -> tuple[Tensor, Tensor, Peers]:
    """Both sides in one precision (autocast may have left them in two), and the ranks that share the batch."""
    if tile < 1:
        raise ValueError(f"tile: got {tile}; want a number of rows and columns, at least 1")
    peers = find_peers(images, texts, group)
    dtype = torch.promote_types(images.dtype, texts.dtype)
    return images.to(dtype), texts.to(dtype), peers


class _ClipLoss(torch.autograd.Function):
    """Forward: each tile once, into the softmax of its rows and columns. Backward: each tile once more."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, peers: Peers, tile: int) -> Tensor:
        sweep = Sweep(images.detach(), texts.detach(), peers, tile)
        factor = scale.detach().to(sweep.dtype).reshape(())
        row_max, row_sum = _empty_softmax(sweep, len(images))
        column_max, column_sum = _empty_softmax(sweep, peers.padded_rows)
        matched = sweep.full(len(images), 0)
        fold = fused(add_to_softmax, images.device)
        for place in sweep.tiles():
            products = sweep.products(place)
            if place.is_diagonal:
                matched[place.rows] = products.diagonal() * factor
            rows, columns = place.rows, place.columns
            fold(
                products,
                factor,
                row_max[rows],
                row_sum[rows],
                column_max[columns],
                column_sum[columns],
                place.is_diagonal,
            )
        by_row = _softmax_with_matches(row_max, row_sum, matched, alone(len(images)))
        matched_columns = sweep.full(peers.padded_rows, torch.finfo(sweep.dtype).min)
        matched_columns[peers.own] = matched
        by_column = _softmax_with_matches(column_max, column_sum, matched_columns, peers)
        own = by_column.part(peers.own)
        # The matched pairs' gradient, P + Q − 2: taken from the others' share, as 1 − P would be rounding alone.
        diagonal = (by_row.unmatched / by_row.total + own.unmatched / own.total).mul_(-0.5 / peers.rows)
        ctx.save_for_backward(
            images,
            sweep.all_texts(),
            scale,
            by_row.maximum,
            by_row.total,
            by_column.maximum,
            by_column.total,
            diagonal,
        )
        ctx.peers, ctx.tile = peers, tile
        both = by_row.negative_log_of(matched) + own.negative_log_of(matched)
        return peers.sum(both.sum() / (2 * peers.rows))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, row_max, row_total, column_max, column_total, diagonal = ctx.saved_tensors
        peers: Peers = ctx.peers
        sweep = Sweep(images, None, peers, ctx.tile, gathered=texts)
        totals = FeatureGradients(sweep)
        factor = scale.to(sweep.dtype).reshape(())
        row_weight, column_weight = (0.5 / peers.rows) / row_total, (0.5 / peers.rows) / column_total
        gradient_of = fused(softmax_gradient, images.device)
        for place in sweep.tiles():
            rows, columns = place.rows, place.columns
            gradient = gradient_of(
                sweep.products(place),
                factor,
                row_max[rows],
                row_weight[rows],
                column_max[columns],
                column_weight[columns],
            )
            if place.is_diagonal:
                gradient.diagonal().copy_(diagonal[rows])
            totals.add(place, gradient)
        upstream = gradients[0].to(sweep.dtype) * peers.ranks
        of_images, of_texts, of_scale = totals.finish(factor, upstream)
        return of_images, of_texts, of_scale.to(scale.dtype).reshape(scale.shape), None, None


class _SiglipLoss(torch.autograd.Function):
    """Forward: each tile once, into the value and the gradients, since no pair's depends on another's."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        peers: Peers,
        tile: int,
        wants_gradient: bool,
    ) -> Tensor:
        sweep = Sweep(images.detach(), texts.detach(), peers, tile)
        factor, offset = (scalar.detach().to(sweep.dtype).reshape(()) for scalar in (scale, bias))
        totals = FeatureGradients(sweep) if wants_gradient else None
        # In float64: the tiles' sums are of very different sizes.
        value, of_bias = (torch.zeros((), dtype=torch.float64, device=images.device) for _ in range(2))
        tile_of = fused(sigmoid_tile, images.device)
        for place in sweep.tiles():
            tile_value, gradient = tile_of(sweep.products(place), factor, offset, place.is_diagonal)
            value += tile_value
            if totals is not None:
                of_bias += gradient.sum()
                totals.add(place, gradient)
        if totals is not None:
            share = torch.full_like(factor, 1 / peers.rows)
            of_images, of_texts, of_scale = totals.finish(factor, share)
            of_scale = of_scale.to(scale.dtype).reshape(scale.shape)
            ctx.save_for_backward(
                of_images, of_texts, of_scale, (of_bias / peers.rows).to(bias.dtype).reshape(bias.shape)
            )
        ctx.ranks = peers.ranks
        return peers.sum(value / peers.rows).to(sweep.dtype)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        upstream = gradients[0] * ctx.ranks
        return (*((upstream * taken).to(taken.dtype) for taken in ctx.saved_tensors), None, None, None)


@dataclass(frozen=True, slots=True)
class _Softmax:
    """Of rows or columns: the greatest logit, and the sum of exp(logit − greatest) without and with the match."""

    maximum: Tensor
    unmatched: Tensor
    total: Tensor

    def part(self, place: slice) -> "_Softmax":
        """Of some of the rows or columns."""
        return _Softmax(self.maximum[place], self.unmatched[place], self.total[place])

    def negative_log_of(self, matched: Tensor) -> Tensor:
        """−ln of the softmax of the matched logits; when they are the greatest, exact to the smallest share."""
        sums = torch.where(matched >= self.maximum, self.unmatched.log1p(), self.total.log())
        return self.maximum - matched + sums


def _empty_softmax(sweep: Sweep, length: int) -> tuple[Tensor, Tensor]:
    """Maximum and sum before the first tile. Finite, since −inf − −inf is none."""
    return sweep.full(length, torch.finfo(sweep.dtype).min), sweep.full(length, 0)


def _softmax_with_matches(maximum: Tensor, unmatched: Tensor, matched: Tensor, peers: Peers) -> _Softmax:
    """Each rank's partial sums over the unmatched logits, made those of all ranks, and the matched logits taken in."""
    greatest = peers.max(torch.maximum(maximum, matched))
    unmatched = unmatched * torch.exp(maximum - greatest)
    sums = peers.sum(torch.stack((unmatched, unmatched + torch.exp(matched - greatest))))
    return _Softmax(greatest, sums[0], sums[1])
