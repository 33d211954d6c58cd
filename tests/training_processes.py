"""Ranks of a training as processes of their own, without Ray, that can be killed."""

import multiprocessing
import os
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

from warm_processes import warm_context

from infra.storage import storage_of
from training.config import TrainConfig
from training.data_identity import data_identity


class TrainingProcesses:
    """Runs `train_worker` on some ranks, in a run's folder on disk or S3; a `with` block kills what is left of them.

    data: the identity of what is trained on; None: of what is there now.
    """

    def __init__(self, config: TrainConfig, run: Path | str, ranks: int, *, data: str | None = None) -> None:
        data = data or data_identity(config.training_sources())
        self._folder = tempfile.TemporaryDirectory()
        rendezvous = Path(self._folder.name, "rendezvous")
        context = warm_context()
        self._results = context.Queue()
        self.processes: list[BaseProcess] = [
            context.Process(
                target=_train,
                args=(
                    dict(os.environ),
                    config.model_dump_json(),
                    storage_of(run).url,
                    data,
                    str(rendezvous),
                    rank,
                    ranks,
                    self._results,
                ),
            )
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def __enter__(self) -> "TrainingProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def kill(self) -> None:
        """kill -9 of all."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(20)

    def wait(self, timeout_s: float = 600) -> list[str]:
        """What each rank ended with: an empty string, or its error."""
        results = dict(self._results.get(timeout=timeout_s) for _ in self.processes)
        for process in self.processes:
            process.join(30)
        return [results[rank] for rank in range(len(self.processes))]


def _train(
    environment: dict[str, str],
    config: str,
    run: str,
    data: str | None,
    rendezvous: str,
    rank: int,
    ranks: int,
    results: "multiprocessing.Queue[object]",
) -> None:
    import torch
    import torch.distributed as dist

    from infra.storage import Storage
    from training.engine import initialize_deepspeed
    from training.loop import Worker, train_worker

    os.environ.update(environment)
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    initialize_deepspeed(use_gpu=False)
    try:
        worker = Worker(rank, ranks, use_gpu=False, data=data)
        train_worker(TrainConfig.model_validate_json(config), Storage(run), worker)
        results.put((rank, ""))
    except Exception as error:  # noqa: BLE001 - the process's border: told to the test
        results.put((rank, f"{type(error).__name__}: {error}"))
