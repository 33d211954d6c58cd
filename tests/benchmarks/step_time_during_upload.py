"""Trains with checkpoints on a slow S3 store and prints how long a step takes while one is uploaded, and otherwise.

    python tests/benchmarks/step_time_during_upload.py [--delay 0.5] [--ranks 1]

The store is a real server on this machine behind a proxy that keeps every request waiting, as a distant or busy one
does; so an upload lasts for several steps. The server's own work takes cores from the training too, which a store
elsewhere does not: so the ratio is an upper bound. Printed are the medians of the steps' times and their ratio.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fault_proxy import FaultProxy
from object_store import ObjectStore
from small_datasets import make_dataset
from training_processes import TrainingProcesses

from infra.storage import storage_of
from training.config import TrainConfig
from training.records import read_metrics

STEPS = 90
EVERY = 30  # steps between two checkpoints: about half of the steps are beside an upload
WARM_UP = 5
BATCH = 192


def main() -> None:
    """Prints the two medians and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.5, help="seconds that each request to the store waits")
    parser.add_argument("--ranks", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ObjectStore() as store, FaultProxy(store.endpoint) as proxy:
        data = make_dataset(Path(name, "data"))
        os.environ.update(store.environment(proxy.endpoint))
        proxy.delay_s = options.delay
        config = TrainConfig(
            data=data, model="diptych-tiny", global_batch_size=BATCH, steps=STEPS, lr=1e-4, checkpoint_every=EVERY
        )
        with TrainingProcesses(config, store.url("run"), options.ranks) as ranks:
            assert set(ranks.wait(1800)) == {""}
        metrics = read_metrics(storage_of(store.url("run")))[WARM_UP:]
    beside = [BATCH / step.samples_per_s for step in metrics if step.saving]
    alone = [BATCH / step.samples_per_s for step in metrics if not step.saving]
    print(
        f"{options.ranks} ranks: {len(beside)} steps beside an upload, median {median(beside):.3f} s; "
        f"{len(alone)} alone, median {median(alone):.3f} s; ratio {median(beside) / median(alone):.3f}"
    )


if __name__ == "__main__":
    main()
