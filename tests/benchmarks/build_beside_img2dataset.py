"""Builds the same list with diptych and with img2dataset in one run and prints the ratio of their times.

Run it with `python tests/benchmarks/build_beside_img2dataset.py`, after `pip install img2dataset==1.47.0`. Both get the
same pictures, server and settings. The difference of a long and a short list is taken, so that start-up cancels. The
web server's own CPU time is no part of either tool: it is printed apart.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.demo.web import DemoWeb

DISTINCT = 300
SIZES = {"small": (500, 375), "large": (2000, 1500)}
PROCESSES = 2
THREADS = 32
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds of one command, and the CPU seconds meanwhile of the whole machine but the web server."""

    wall_s: float
    cpu_s: float
    web_cpu_s: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s, self.web_cpu_s - other.web_cpu_s)


def make_pictures(folder: Path, size: tuple[int, int]) -> None:
    """Photograph-like JPEGs: soft shapes under a grain."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(DISTINCT if size[0] < 1000 else DISTINCT // 5):
        coarse = Image.fromarray(chance.integers(0, 255, (24, 32, 3)).astype(np.uint8)).resize(size, Image.BICUBIC)
        grain = chance.normal(0, 14, (size[1], size[0], 3))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{number}.jpg", quality=90
        )


@dataclass(frozen=True)
class Bench:
    """The folder that the commands run in, and the process of the web that they download from."""

    folder: Path
    web: psutil.Process

    def run(self, command: list[str | Path]) -> Cost:
        """Runs a command to its end. Ray's daemons are part of what it costs."""
        before, web_before, began = busy_s(), self._web_cpu_s(), time.perf_counter()
        with (self.folder / "benchmark.log").open("a") as log:
            subprocess.run(command, cwd=self.folder, stdout=log, stderr=log, check=True)
        web_cpu_s = self._web_cpu_s() - web_before
        return Cost(time.perf_counter() - began, busy_s() - before - web_cpu_s, web_cpu_s)

    def _web_cpu_s(self) -> float:
        times = self.web.cpu_times()
        return float(times.user + times.system)


def busy_s() -> float:
    """CPU seconds that the machine has spent on anything but waiting, since it started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def build_with_diptych(bench: Bench, urls: str, output: str) -> Cost:
    config = {
        "build": {
            "input": urls,
            "output": output,
            "number_sample_per_shard": 1000,
            "tasks": PROCESSES,
            "allow_private_addresses": ["127.0.0.0/8"],
        }
    }
    path = bench.folder / f"{output}.yaml"
    path.write_text(json.dumps(config))
    return bench.run([BIN / "diptych", "build", path])


def build_with_img2dataset(bench: Bench, urls: str, output: str) -> Cost:
    options = {
        "url_list": urls,
        "output_folder": output,
        "input_format": "parquet",
        "output_format": "webdataset",
        "url_col": "url",
        "caption_col": "caption",
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "encode_quality": 95,
        "number_sample_per_shard": 1000,
        "processes_count": PROCESSES,
        "thread_count": THREADS,
        "enable_wandb": False,
    }
    return bench.run([BIN / "img2dataset", *(f"--{key}={value}" for key, value in options.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=2000, help="rows of the short list")
    parser.add_argument("--long", type=int, default=12000, help="rows of the long list")
    parser.add_argument("--size", choices=SIZES, default="small", help="size of the pictures that are made")
    parser.add_argument("--photographs", type=Path, help="a folder of JPEGs to take instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.photographs:
            shutil.copytree(arguments.photographs, folder / "web")
        else:
            make_pictures(folder / "web", SIZES[arguments.size])
        files = sorted((folder / "web").glob("*.jpg"))
        mean_bytes = sum(file.stat().st_size for file in files) / len(files)
        print(f"{len(files)} distinct pictures, {mean_bytes / 1000:.0f} KB on average")
        with DemoWeb(folder / "web", port_file=folder / "port") as web:
            for rows in (arguments.short, arguments.long):
                urls = [web.picture_url(files[row % len(files)].name) for row in range(rows)]
                table = pa.table({"url": urls, "caption": [f"picture {row}" for row in range(rows)]})
                pq.write_table(table, folder / f"{rows}.parquet")
            bench = Bench(folder, psutil.Process(web.pid))
            costs = {}
            for tool, build in (("img2dataset", build_with_img2dataset), ("diptych", build_with_diptych)):
                short = build(bench, f"{arguments.short}.parquet", f"{tool}-short")
                whole = build(bench, f"{arguments.long}.parquet", f"{tool}-long")
                costs[tool] = whole - short
                images = arguments.long - arguments.short
                print(
                    f"{tool:12} {images / costs[tool].wall_s:7.0f} images/s   "
                    f"{1000 * costs[tool].cpu_s / images:5.2f} ms CPU an image   "
                    f"(and {1000 * costs[tool].web_cpu_s / images:.2f} the web's; "
                    f"whole run of {arguments.long:,}: {whole.wall_s:.0f} s)"
                )
    peer, ours = costs["img2dataset"], costs["diptych"]
    print(f"diptych / img2dataset: {peer.wall_s / ours.wall_s:.2f} times the images a second, ", end="")
    print(f"{ours.cpu_s / peer.cpu_s:.2f} of the CPU time an image")


if __name__ == "__main__":
    main()
