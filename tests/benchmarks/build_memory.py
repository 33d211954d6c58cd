"""Prints the peak memory of a build's whole process tree, beside img2dataset's at equal parallelism.

Run it with `python tests/benchmarks/build_memory.py`, after `pip install img2dataset==1.47.0`. Both get the lists,
pictures and settings of build_beside_img2dataset.py, a short list and a long one: memory should not grow with the
rows. Counted is the PSS of every process (pages shared by several are divided among them); Ray's daemons, which
run no code of a build, are listed apart.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import build_beside_img2dataset as beside
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.demo.web import DemoWeb

SAMPLE_EVERY_S = 0.1
DAEMON_NAMES = ("gcs_server", "raylet")
DAEMON_FOLDERS = ("/ray/_private/", "/ray/dashboard/", "/ray/autoscaler/")
WORKER_FOLDER = "/ray/_private/workers/"


@dataclass
class Peak:
    """The highest sums of PSS seen, in bytes, and the processes at the tool's highest."""

    tool: int = 0
    daemons: int = 0
    whole: int = 0
    at_peak: Counter[str] = field(default_factory=Counter)

    def take(self, processes: list[tuple[str, bool, int]]) -> None:
        """Notes one moment: each process's name, whether it is a daemon of Ray, and its PSS."""
        tool = sum(pss for _, is_daemon, pss in processes if not is_daemon)
        daemons = sum(pss for _, is_daemon, pss in processes if is_daemon)
        if tool > self.tool:
            self.tool, self.at_peak = tool, Counter[str]()
            for name, is_daemon, pss in processes:
                self.at_peak[f"({name})" if is_daemon else name] += pss
        self.daemons, self.whole = max(self.daemons, daemons), max(self.whole, tool + daemons)


def look(pid: int) -> list[tuple[str, bool, int]]:
    """All processes below this one, now."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                words = process.cmdline() or [process.name()]
                name = words[0] if words[0].startswith("ray::") else process.name()
                is_daemon = is_daemon_of_ray(name, words)
                found.append((name, is_daemon, process.memory_full_info().pss))
    return found


def is_daemon_of_ray(name: str, words: list[str]) -> bool:
    """By the name that it goes by, or the file that it was started from; Ray's actors count as workers."""
    if name.startswith("ray::"):
        return name.strip().endswith("Agent")
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    is_script_of_ray = any(folder in script for folder in DAEMON_FOLDERS) and WORKER_FOLDER not in script
    return name in DAEMON_NAMES or is_script_of_ray


def watched(work: Callable[[], subprocess.Popen[bytes]], every_s: float = SAMPLE_EVERY_S) -> Peak:
    """Starts the command and looks at its processes until it ends."""
    peak, process = Peak(), work()
    try:
        while process.poll() is None:
            peak.take(look(process.pid))
            time.sleep(every_s)
    finally:
        process.kill()
        process.wait()
    return peak


def watch(build: Callable[[Path, str, str], object], folder: Path, rows: int, output: str) -> Peak:
    """Has the build of the sibling benchmark done in a process of its own, which is looked at."""
    code = (
        "import sys; from pathlib import Path; import build_beside_img2dataset as b; "
        f"b.{build.__name__}(Path(sys.argv[1]), sys.argv[2], sys.argv[3])"
    )
    command = [sys.executable, "-c", code, str(folder), f"{rows}.parquet", output]
    began = time.monotonic()
    with (folder / f"{output}.log").open("wb") as log:
        peak = watched(lambda: subprocess.Popen(command, cwd=Path(__file__).parent, stdout=log, stderr=log))
    if not list((folder / output).glob("*_stats.json")):
        sys.exit((folder / f"{output}.log").read_text() + (folder / "benchmark.log").read_text())
    print(
        f"{output:18} {rows:7,} rows  {peak.tool / 1e6:6.0f} MB   Ray's daemons {peak.daemons / 1e6:5.0f} MB   "
        f"all at once {peak.whole / 1e6:6.0f} MB   ({time.monotonic() - began:.0f} s)"
    )
    at_peak = ", ".join(f"{name} {pss / 1e6:.0f}" for name, pss in peak.at_peak.most_common())
    print(f"    at its peak: {at_peak}", flush=True)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=2000, help="rows of the short list")
    parser.add_argument("--long", type=int, default=12000, help="rows of the long list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beside.make_pictures(folder / "web", beside.SIZES["small"])
        peaks = {}
        with DemoWeb(folder / "web", port_file=folder / "port") as web:
            for rows in (arguments.short, arguments.long):
                urls = [web.picture_url(f"{row % beside.DISTINCT}.jpg") for row in range(rows)]
                table = pa.table({"url": urls, "caption": [f"picture {row}" for row in range(rows)]})
                pq.write_table(table, folder / f"{rows}.parquet")
                for tool, build in (
                    ("diptych", beside.build_with_diptych),
                    ("img2dataset", beside.build_with_img2dataset),
                ):
                    peaks[tool, rows] = watch(build, folder, rows, f"{tool}-{rows}")
    for tool in ("diptych", "img2dataset"):
        growth = peaks[tool, arguments.long].tool / peaks[tool, arguments.short].tool
        print(f"{tool}: {growth:.2f} times the memory for {arguments.long / arguments.short:.0f} times the rows")
    ours, theirs = (peaks[tool, arguments.long].tool for tool in ("diptych", "img2dataset"))
    print(f"diptych / img2dataset, without Ray's daemons: {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
