"""Trains the same small models with `diptych train` and with open_clip's own training script, one after the other.

    python tests/benchmarks/train_beside_open_clip.py [--photographs FOLDER] [--rounds 2] [--models NAME…]

Both get the shards of load_beside_open_clip.py (256-pixel pictures), the same model, crop (0.9 to 1.0), global batch,
optimizer and loss over the global batch, and 2 processes on gloo. Two models: diptych-tiny, where computing dominates,
and diptych-nano of under a million parameters on pictures of 224 pixels, where loading does. Printed are images a
second after the first steps, the ratio, and the peak memory of the process tree (PSS; Ray's daemons apart).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from build_memory import Peak, watched
from load_beside_open_clip import SHARD_ROWS, make_dataset, pictures

from infra.storage import storage_of
from training.records import read_metrics
from training.small_models import SMALL_ARCHITECTURES

WORKERS = 2
SHARDS = 8
LOG_EVERY = 5
LOOK_EVERY_S = 15.0  # at the memory, which holds up the processes that are looked at
SKIPPED_LOGS = 2  # what was loaded before the first step lasts for some
MB = 1e6

# Started by torchrun: the script's own main, with our architecture under its name.
OPEN_CLIP_MAIN = """
import functools, json, sys
import open_clip, open_clip_train.data, torch, webdataset.tariterators
from open_clip_train.main import main
open_clip.add_model_config(sys.argv[1])
# This webdataset marks the ends of tar files, which open_clip 3.3 does not know.
expand = webdataset.tariterators.tar_file_expander
open_clip_train.data.tar_file_expander = functools.partial(expand, eof_value=None)
# open_clip 3.3 names the device of a process, which this torch refuses for a CPU.
wrap = torch.nn.parallel.DistributedDataParallel
torch.nn.parallel.DistributedDataParallel = lambda model, device_ids=None, **options: wrap(model, **options)
main(json.loads(sys.argv[2]))
"""


@dataclass(frozen=True)
class Case:
    """A model with the global batch that it is trained with."""

    model: str
    batch: int
    steps: int
    what: str


CASES = (
    Case("diptych-tiny", 256, 60, "computing dominates"),
    Case("diptych-nano", 512, 60, "loading dominates"),
)


@dataclass(frozen=True)
class Result:
    """Images a second of the middle steps, and the peak of memory."""

    rate: float
    peak: Peak


def main() -> None:
    """Prints a line a case; the best of the rounds of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photographs", type=Path, help="a folder of pictures; default: generated ones")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=[case.model for case in CASES])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "data", list(pictures(options.photographs)), SHARDS * SHARD_ROWS)
        for case in (case for case in CASES if case.model in options.models):
            rounds = [
                (ours(folder, case, number), open_clips(folder, case, number)) for number in range(options.rounds)
            ]
            mine, theirs = (max((both[side] for both in rounds), key=lambda result: result.rate) for side in (0, 1))
            print(
                f"{case.model} ({case.what}), global batch {case.batch}: diptych {mine.rate:,.0f} images/s, "
                f"{mine.peak.tool / MB:,.0f} MB and Ray's daemons {mine.peak.daemons / MB:,.0f} MB; "
                f"open_clip {theirs.rate:,.0f} images/s, {theirs.peak.tool / MB:,.0f} MB; "
                f"ratio of images/s {mine.rate / theirs.rate:.2f}",
                flush=True,
            )


def ours(folder: Path, case: Case, number: int) -> Result:
    """`diptych train`, as a user runs it."""
    name = f"{case.model}-{number}"
    config = {
        "name": name,
        "storage": str(folder / "runs"),
        "train": {
            "data": str(folder / "data"),
            "model": case.model,
            "global_batch_size": case.batch,
            "steps": case.steps,
            "workers": WORKERS,
            "use_gpu": False,
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))
    diptych = Path(sys.executable).parent / "diptych"
    peak = watched(lambda: start([str(diptych), "train", str(path)], folder / f"{name}.txt"), LOOK_EVERY_S)
    metrics = read_metrics(storage_of(folder / "runs" / name))
    first, last = metrics[SKIPPED_LOGS * LOG_EVERY - 1], metrics[-1]
    return Result((last.step - first.step) * case.batch / (last.time - first.time), peak)


def open_clips(folder: Path, case: Case, number: int) -> Result:
    """open_clip_train.main under torchrun, on the CPU."""
    name = f"open-clip-{case.model}-{number}"
    models = folder / "models"
    models.mkdir(exist_ok=True)
    (models / f"{case.model}.json").write_text(json.dumps(SMALL_ARCHITECTURES[case.model]))
    script = folder / "open_clip_main.py"
    script.write_text(OPEN_CLIP_MAIN)
    each = case.batch // WORKERS
    arguments = {
        "train-data": f"{folder}/data/{{00000..{SHARDS - 1:05d}}}.tar",
        "train-num-samples": case.steps * case.batch,
        "dataset-type": "webdataset",
        "model": case.model,
        "batch-size": each,
        "epochs": 1,
        "warmup": 10,
        "workers": 1,
        "lr": 5e-4,
        "wd": 0.2,
        "beta2": 0.98,
        "eps": 1e-6,
        "precision": "fp32",
        "device": "cpu",
        "dist-backend": "gloo",
        "logs": folder / "open-clip-logs",
        "name": name,
        "log-every-n-steps": LOG_EVERY,
        "save-frequency": 0,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
    options = ["--dataset-resampled", "--local-loss", "--gather-with-grad"]
    options += [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
    # In one word, for torchrun takes some of the script's options for its own.
    command += [str(script), str(models), json.dumps(options)]
    log = folder / f"{name}.txt"
    peak = watched(lambda: start(command, log), LOOK_EVERY_S)
    times = [float(value) for value in re.findall(r"Batch \(t\): ([0-9.]+)", log.read_text())][SKIPPED_LOGS:]
    if not times:
        raise SystemExit(f"open_clip's script logged no step:\n{log.read_text()[-3000:]}")
    return Result(case.batch * len(times) / sum(times), peak)


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts it with all that it says in `log`."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=log.parent, env=environment, stdout=output, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    main()
