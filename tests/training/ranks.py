"""A few processes that are the ranks of a gloo group, kept between tests."""

import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from warm_processes import warm_context

RANKS = 3
ANSWER_S = 300


class Ranks:
    """Runs a function on the first W of the ranks at once; a `with` block ends them."""

    def __init__(self, folder: Path, count: int = RANKS) -> None:
        context = warm_context()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, count, str(folder / "rendezvous"), theirs), daemon=True
            )
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
            process.kill()

    def run(self, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        """Calls function(group, *arguments[rank]) on rank 0 to len(arguments) − 1; their results, in rank order."""
        used = self._pipes[: len(arguments)]
        for pipe, values in zip(used, arguments, strict=True):
            pipe.send((function, len(arguments), values))
        results = []
        for pipe in used:
            assert pipe.poll(ANSWER_S), "a rank does not answer"
            results.append(pipe.recv())
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


def _serve(rank: int, count: int, rendezvous: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed wants what launchers set
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=count)
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in range(1, count + 1)}
    while (work := pipe.recv()) is not None:
        function, ranks, values = work
        try:
            pipe.send(function(groups[ranks], *values))
        except Exception as error:  # noqa: BLE001 - the process's border: raised again by the test
            pipe.send(error)
