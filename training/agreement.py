"""Lets all ranks know what each of them has seen, so that they decide alike: at the end of each step, and elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from infra.errors import DiptychError

Item = TypeVar("Item")
Value = TypeVar("Value")

MASK = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One rank's view of a step. Flags are 0 or 1, times are nanoseconds, see `ledger.Ledger`.

    digest: of its part of the batch (`order.digest_of`), cut to 63 bits.
    """

    must_stop: int
    is_preempted: int
    is_saving: int
    is_time_to_save: int
    digest: int
    replaced: int
    wait: int
    transfer: int
    compute: int
    communication: int
    checkpoint: int
    validation: int
    read: int
    decode: int


def gather_facts(facts: StepFacts, device: torch.device) -> list[StepFacts]:
    """The facts of all ranks, in rank order; every rank calls it once a step."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [facts]
    own = torch.tensor(astuple(facts), dtype=torch.int64, device=device)
    gathered = torch.empty(dist.get_world_size() * len(own), dtype=torch.int64, device=device)
    dist.all_gather_single(gathered, own)
    return [StepFacts(*row) for row in gathered.view(-1, len(fields(StepFacts))).tolist()]


def rank_and_ranks() -> tuple[int, int]:
    """This process's rank and the world size; without torch.distributed it is alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_of(value: Value) -> list[Value]:
    """The values of all ranks, in rank order; every rank calls it at once, and none goes on before all have."""
    _, ranks = rank_and_ranks()
    if ranks == 1:
        return [value]
    values: list[Value | None] = [None] * ranks
    dist.all_gather_object(values, value)
    return cast("list[Value]", values)


def shared_out(items: Sequence[Item], work: Callable[[Sequence[Item]], list[Value]]) -> list[Value]:
    """What `work` makes of each of the items, of which each rank does its share; every rank calls it at once.

    What one of them raises of our own errors, all do.
    """
    rank, ranks = rank_and_ranks()
    own: list[Value] | DiptychError
    try:
        own = work(items[rank::ranks])
    except DiptychError as error:
        if ranks == 1:
            raise
        own = error
    shares = all_of(own)
    done: list[list[Value]] = []
    for share in shares:
        if isinstance(share, DiptychError):
            raise share
        done.append(share)
    return [done[number % ranks][number // ranks] for number in range(len(items))]


def any_rank(is_so: bool, device: torch.device) -> bool:
    """Whether it is so on any rank; every rank calls it at once."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return is_so
    found = torch.tensor([int(is_so)], device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())


def total_digest(facts: list[StepFacts]) -> int:
    """The digest of the whole batch, whatever the number of ranks, in 63 bits."""
    return sum(each.digest for each in facts) & MASK
