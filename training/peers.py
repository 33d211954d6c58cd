"""Talks to the ranks that share a global batch: gathers rows, sums and maxima, scatters gradients back."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True)
class Peers:
    """The ranks of one global batch, their numbers of rows in rank order, and this rank's place among them.

    Without torch.distributed, or in a group of one, nothing is sent.
    """

    counts: tuple[int, ...]
    rank: int
    group: ProcessGroup | None

    @property
    def rows(self) -> int:
        """N, the rows of the global batch."""
        return sum(self.counts)

    @property
    def ranks(self) -> int:
        """W, the number of ranks."""
        return len(self.counts)

    @property
    def own(self) -> slice:
        """Where this rank's rows lie among the padded rows of all ranks."""
        return self.segment(self.rank)

    @property
    def padded_rows(self) -> int:
        """Rows of a tensor that holds a segment of equal length for each rank."""
        return self.ranks * max(self.counts)

    def segment(self, rank: int) -> slice:
        """Where a rank's rows lie among the padded rows of all ranks."""
        first = rank * max(self.counts)
        return slice(first, first + self.counts[rank])

    def others(self) -> Iterator[slice]:
        """The segments of the other ranks, the next rank's first."""
        for distance in range(1, self.ranks):
            yield self.segment((self.rank + distance) % self.ranks)

    def begin_gather(self, rows: Tensor) -> "Gathering":
        """Starts to gather the rows (n, D) of all ranks; they arrive while the caller goes on."""
        if self.ranks == 1:
            return Gathering(rows, None)
        missing = max(self.counts) - len(rows)
        padded = F.pad(rows, (0, 0, 0, missing)) if missing else rows.contiguous()
        gathered = padded.new_empty(self.padded_rows, rows.shape[1])
        return Gathering(gathered, dist.all_gather_single(gathered, padded, group=self.group, async_op=True))

    def scatter_sum(self, rows: Tensor) -> Tensor:
        """This rank's rows (n, D) of the sum over ranks of padded rows (W·longest, D), which are used up."""
        if self.ranks == 1:
            return rows
        if dist.get_backend(self.group) == "gloo":
            # Its reduce-scatter takes a copy of all rows; reducing each rank's in place does not.
            for rank in range(self.ranks):
                dist.reduce(rows[self.segment(rank)], group=self.group, group_dst=rank)
            return rows[self.own].clone()  # a view would keep all rows
        own = rows.new_empty(max(self.counts), rows.shape[1])
        dist.reduce_scatter_single(own, rows, group=self.group)
        return own[: self.counts[self.rank]]

    def sum(self, values: Tensor) -> Tensor:
        """The values, summed over the ranks in place."""
        if self.ranks > 1:
            dist.all_reduce(values, op=dist.ReduceOp.SUM, group=self.group)
        return values

    def max(self, values: Tensor) -> Tensor:
        """The greatest of the ranks' values, one by one."""
        if self.ranks == 1:
            return values
        greatest = values.clone()
        dist.all_reduce(greatest, op=dist.ReduceOp.MAX, group=self.group)
        return greatest


@dataclass(frozen=True, slots=True)
class Gathering:
    """Rows of all ranks (W·longest, D) that may still be on their way."""

    rows: Tensor
    work: dist.Work | None

    def wait(self) -> Tensor:
        """The rows, arrived."""
        if self.work is not None:
            self.work.wait()
        return self.rows


def alone(rows: int) -> Peers:
    """One process that holds the whole batch."""
    return Peers((rows,), 0, None)


def find_peers(images: Tensor, texts: Tensor, group: ProcessGroup | None) -> Peers:
    """The ranks of the group (None: all) and how many pairs each has.

    images, texts: (n, D), this rank's; n may be 0 where other ranks have rows. Raises ValueError on every rank at once
    when a rank's are no pairs, or ranks differ in D: raised on one alone, the others would wait for it for ever.
    """
    own = [*_shape(images), *_shape(texts)]
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        shapes, rank = [own], None
    else:
        rank = dist.get_rank(group)
        gathered = torch.empty(4 * dist.get_world_size(group), dtype=torch.int64, device=images.device)
        dist.all_gather_single(gathered, torch.tensor(own, device=images.device), group=group)
        shapes = gathered.reshape(-1, 4).tolist()
    _require_pairs(shapes)
    if rank is None:
        return alone(len(images))
    return Peers(tuple(rows for rows, *_ in shapes), rank, group)


def _shape(features: Tensor) -> tuple[int, int]:
    """Rows and width; −1 rows for what has not two dimensions."""
    return (features.shape[0], features.shape[1]) if features.ndim == 2 else (-1, features.ndim)


def _require_pairs(shapes: list[list[int]]) -> None:
    for rank, (rows, width, text_rows, text_width) in enumerate(shapes):
        if -1 in (rows, text_rows):
            dimensions = width if rows == -1 else text_width
            raise ValueError(f"features of rank {rank}: got {dimensions} dimensions; want (rows, width)")
        if rows != text_rows:
            raise ValueError(f"rank {rank} has {rows} images and {text_rows} texts; want as many of both, in pairs")
        if width != text_width or width != shapes[0][1]:
            raise ValueError(
                f"rank {rank} has images of width {width} and texts of width {text_width}, and rank 0 images of width "
                f"{shapes[0][1]}; want one width"
            )
    if not any(rows for rows, *_ in shapes):
        raise ValueError("got no pairs on any rank; want at least one")
