"""The processes that score together: what each of them does, and what they have found in all."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Team:
    """This process's place among W ranks, and the device that their messages go through; or one process alone."""

    rank: int = 0
    ranks: int = 1
    device: torch.device | None = None

    @classmethod
    def of_all_ranks(cls, device: torch.device) -> "Team":
        """All ranks of the training, or one process where there is no group."""
        return cls(dist.get_rank(), dist.get_world_size(), device) if dist.is_initialized() else cls()

    def share(self, parts: int) -> range:
        """Which of the parts 0 to `parts` − 1 this rank does; each is one rank's."""
        return range(self.rank, parts, self.ranks)

    def total(self, counts: Tensor) -> Tensor:
        """The counts summed over the ranks, where they were."""
        if self.ranks == 1:
            return counts
        summed = counts.to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(counts.device)

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows (n, D) of all ranks, which have as many each: (W·n, D)."""
        if self.ranks == 1:
            return rows
        found = rows.new_empty(self.ranks * len(rows), rows.shape[1])
        dist.all_gather_single(found, rows.contiguous())
        return found
