"""A training on a cluster whose nodes come and die: it goes on with the workers that there is room for."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import DIPTYCH
from several_nodes import SeveralNodes, several_nodes
from small_datasets import make_dataset
from training_processes import TrainingProcesses

from infra.storage import storage_of
from training.config import TrainConfig
from training.proof import prove_samples
from training.records import StepMetrics, read_metrics

pytestmark = pytest.mark.slow

WAIT_S = 600
STEPS = 200  # more than are done until it is seen that there is room for another worker, within some seconds
# Sums in another order differ by some 1e-7; at this rate of learning they stay small over all steps.
SETTINGS = {"model": "diptych-tiny", "global_batch_size": 9, "steps": STEPS, "lr": 1e-6, "checkpoint_every": 100}
TOLERANCE = 1e-4


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[SeveralNodes]:
    with several_nodes(tmp_path / "host.log", 1) as nodes:
        yield nodes


def wait_until(condition: Callable[[], object], train: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline and train.poll() is None, log.read_text()
        time.sleep(0.2)


@pytest.mark.long
def test_a_node_that_comes_is_used_and_one_that_dies_is_done_without(nodes: SeveralNodes, tmp_path: Path):
    data = make_dataset(tmp_path / "data")
    config = {"name": "elastic", "storage": str(tmp_path / "runs")}
    train = SETTINGS | {"data": data, "workers": [1, 2], "resize_check_s": 2}
    (tmp_path / "config.yaml").write_text(json.dumps(config | {"train": train}))
    run, log = storage_of(tmp_path / "runs" / "elastic"), tmp_path / "train.log"
    with log.open("wb") as output:
        command = subprocess.Popen(
            [DIPTYCH, "train", "config.yaml", "--address", nodes.address],
            cwd=tmp_path,
            env=nodes.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def done(ranks: int) -> list[StepMetrics]:
        return [step for step in read_metrics(run) if step.ranks == ranks]

    try:
        wait_until(lambda: len(done(1)) > 10, command, log)
        # Held while the node is started, which takes as many seconds as the machine likes.
        (alone_worker,) = nodes.workers()
        alone_worker.suspend()
        nodes.add(1)
        alone_worker.resume()
        wait_until(lambda: len(done(2)) > 10, command, log)
        alone = done(1)[-1].step
        nodes.kill(1)
        assert command.wait(WAIT_S) == 0, log.read_text()
    finally:
        command.kill()
        command.wait()

    metrics = read_metrics(run)
    assert [step.step for step in metrics] == list(range(1, STEPS + 1)) and metrics[-1].ranks == 1
    starts = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs" / "elastic" / "attempts").iterdir())]
    assert [start["workers"] for start in starts] == [1, 2, 1]
    # It was saved before the workers were ended that were well, so nothing was done twice.
    assert starts[1]["first_step"] >= alone
    whole = TrainConfig(data=data, **SETTINGS)
    assert prove_samples(whole, run).problems == ()
    with TrainingProcesses(whole, tmp_path / "undisturbed", 1) as ranks:
        assert ranks.wait(WAIT_S) == [""]
    undisturbed = read_metrics(storage_of(tmp_path / "undisturbed"))
    assert [step.loss for step in metrics] == pytest.approx([step.loss for step in undisturbed], rel=TOLERANCE)
