"""The time in collectives: counted once, for those that wait and those that are waited for later."""

import time
from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from warm_processes import warm_context

LATE_S = 0.4


def seconds_of(action: Any) -> float:
    from training.communication import communication_ns

    before = communication_ns()
    action()
    return (communication_ns() - before) / 1e9


def late_rank(group: Any, is_async: bool) -> tuple[float, float]:
    """Rank 1 comes late: what each rank counts in the collective, and its sum."""
    import torch
    import torch.distributed as dist

    from training.communication import measure_communication

    measure_communication()
    measure_communication()
    values = torch.ones(1000)

    def reduce() -> None:
        if dist.get_rank() == 1:
            time.sleep(LATE_S)
        work = dist.all_reduce(values, group=group, async_op=is_async)
        if is_async:
            assert work.is_completed() in (True, False)
            work.wait()

    dist.barrier(group)
    return seconds_of(reduce), values.sum().item()


@pytest.mark.parametrize("is_async", [False, True])
def test_waiting_for_a_late_rank_is_communication_and_being_late_is_not(ranks: Ranks, is_async: bool):
    (early, total), (late, other) = ranks.run(late_rank, [(is_async,)] * 2)
    assert total == other == 2000
    # Counted twice it would be more than the time that there was.
    assert early > 0.7 * LATE_S and late < early


def computing_beside(group: Any) -> tuple[float, float]:
    """A collective under way while this rank computes for as long as the other one is late."""
    import torch
    import torch.distributed as dist

    from training.communication import measure_communication

    measure_communication()
    values = torch.ones(10)
    dist.barrier(group)
    began = time.perf_counter()

    def overlapped() -> None:
        time.sleep(LATE_S)
        work = dist.all_reduce(values, group=group, async_op=True)
        time.sleep(LATE_S)
        work.wait()

    counted = seconds_of(overlapped)
    return counted, time.perf_counter() - began


def test_what_goes_on_beside_computing_is_not_counted(ranks: Ranks):
    for counted, passed in ranks.run(computing_beside, [()] * 2):
        assert passed >= 2 * LATE_S and counted < passed - LATE_S


def every_kind(group: Any) -> dict[str, float]:
    import torch
    import torch.distributed as dist

    from training.communication import measure_communication

    measure_communication()
    one, both = torch.ones(2), torch.empty(4)
    actions = {
        "all_gather_single": lambda: dist.all_gather_single(both, one, group=group),
        "reduce_scatter_single": lambda: dist.reduce_scatter_single(one, both, group=group),
        "all_gather_object": lambda: dist.all_gather_object([None, None], "x", group=group),
        "broadcast": lambda: dist.broadcast(one, 0, group=group),
        "barrier": lambda: dist.barrier(group),
    }
    return {name: seconds_of(action) for name, action in actions.items()}


def test_every_kind_of_collective_that_training_uses_is_counted(ranks: Ranks):
    for counted in ranks.run(every_kind, [()] * 2):
        assert all(seconds > 0 for seconds in counted.values()), counted


def in_deepspeed(rendezvous: str, results: Any) -> None:
    import torch
    import torch.distributed as dist

    from training.communication import communication_ns, measure_communication
    from training.engine import initialize_deepspeed

    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    measure_communication()
    initialize_deepspeed(use_gpu=False)
    import deepspeed.comm

    counted = []
    for action in (
        lambda: deepspeed.comm.all_reduce(torch.ones(4)),
        lambda: deepspeed.comm.all_gather_into_tensor(torch.empty(4), torch.ones(4)),
        lambda: deepspeed.comm.reduce_scatter_tensor(torch.empty(4), torch.ones(4)),
    ):
        before = communication_ns()
        action()
        counted.append(communication_ns() - before)
    results.put(counted)


@pytest.mark.slow
def test_deepspeeds_own_collectives_are_counted(tmp_path: Path):
    context = warm_context()
    results = context.Queue()
    process = context.Process(target=in_deepspeed, args=(str(tmp_path / "rendezvous"), results))
    process.start()
    counted = results.get(timeout=240)
    process.join(30)
    assert len(counted) == 3 and all(counted)
