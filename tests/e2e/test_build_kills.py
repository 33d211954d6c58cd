"""Builds that are killed at random moments, on local disk and on S3: the dataset is that of an undisturbed build."""

import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import diptych, family, kill_all, name_of, start_diptych
from counting_web import CountingWeb
from dataset_files import contents
from object_store import ObjectStore

from infra.storage import Storage, storage_of

pytestmark = pytest.mark.slow

SHARDS, ROWS_PER_SHARD = 12, 20
ROWS = SHARDS * ROWS_PER_SHARD
LONGEST_WAIT_S = 14.0  # from the start of Ray to past the end
LEASE_WAIT_S = 32.0  # on S3, until the lease of one that was killed has expired
WAIT_S = 600


@pytest.fixture(scope="module")
def web() -> Iterator[CountingWeb]:
    with CountingWeb(delay_s=0.2) as running:
        yield running


def write_inputs(folder: Path, web: CountingWeb) -> None:
    urls = [web.url(number) for number in range(ROWS)]
    pq.write_table(pa.table({"url": urls, "caption": [f"picture {n}" for n in range(ROWS)]}), folder / "urls.parquet")


def write_config(folder: Path, name: str, output: str) -> str:
    config = {
        "input": str(folder / "urls.parquet"),
        "output": output,
        "number_sample_per_shard": ROWS_PER_SHARD,
        "connections": 1,
        "tasks": 2,
        "allow_private_addresses": ["127.0.0.0/8"],
    }
    (folder / f"{name}.yaml").write_text(json.dumps({"build": config}))
    return f"{name}.yaml"


class KilledBuild:
    """One build, killed and started again until it has been killed often enough; then left to end."""

    def __init__(self, folder: Path, config: str, output: Storage, web: CountingWeb, chance: random.Random) -> None:
        self._folder, self._config, self._output, self._web, self._chance = folder, config, output, web, chance
        self._process: subprocess.Popen[str] | None = None
        self._longest_wait_s = LONGEST_WAIT_S + (0 if output.is_local else LEASE_WAIT_S)
        self.kills: list[str] = []
        self.builds_ended = 0

    def round(self, check_ended: Callable[[], None]) -> None:
        """Waits a random time, then kills a worker, the driver or all."""
        if self._process is None:
            self._start()
        try:
            assert self._process is not None
            self._process.wait(self._chance.uniform(0.5, self._longest_wait_s))
        except subprocess.TimeoutExpired:
            self._kill(self._chance.choice(("worker", "driver", "tree")))
            return
        self.end(check_ended)

    def end(self, check_ended: Callable[[], None]) -> None:
        """Lets the build end, has it checked, and removes the dataset."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.wait(WAIT_S) == 0, (self._folder / "output.txt").read_text()[-3000:]
        self._process = None
        self.builds_ended += 1
        check_ended()
        for entry in self._output.list_files(recursive=True):
            self._output.delete(entry.path)

    def _start(self) -> None:
        self._committed = {int(path[:5]) for path in contents(self._output) if path.endswith("_stats.json")}
        self._asked = self._web.asked.copy()
        self._process = start_diptych("build", self._config, cwd=self._folder)

    def _kill(self, what: str) -> None:
        assert self._process is not None
        everybody = family(self._process.pid)
        workers = [process for process in everybody if "RayShardWorker" in name_of(process)]
        chosen = self._chance.sample(workers, min(1, len(workers))) if what == "worker" else everybody
        kill_all(chosen[:1] if what == "driver" else chosen)
        self.kills.append(what if chosen else "no worker yet")
        if what != "worker":
            self._process.wait(30)
            self._process = None
            if what == "driver":
                kill_orphans(everybody[1:])
        self.assert_nothing_is_downloaded_again()

    def assert_nothing_is_downloaded_again(self) -> None:
        for shard in self._committed:
            rows = range(shard * ROWS_PER_SHARD, (shard + 1) * ROWS_PER_SHARD)
            assert all(self._web.asked[row] == self._asked[row] for row in rows), f"shard {shard} was finished"


def kill_orphans(processes: list[psutil.Process]) -> None:
    """What a killed driver leaves; it would end by itself, but the rounds are many."""
    kill_all([process for process in processes if process.is_running()])


def run_rounds(tmp_path: Path, web: CountingWeb, output: Storage, request: pytest.FixtureRequest) -> None:
    rounds, seed = request.config.getoption("--kill-rounds"), request.config.getoption("--kill-seed")
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}, {rounds} rounds")
    write_inputs(tmp_path, web)
    reference = storage_of(output.url + "-undisturbed")
    done = diptych("build", write_config(tmp_path, "undisturbed", reference.url), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = contents(reference)
    build = KilledBuild(tmp_path, write_config(tmp_path, "killed", output.url), output, web, random.Random(seed))

    def check_ended() -> None:
        assert contents(output).keys() == expected.keys()
        assert contents(output) == expected

    began = time.monotonic()
    for _ in range(rounds):
        build.round(check_ended)
    build.end(check_ended)
    counts = {kind: build.kills.count(kind) for kind in sorted(set(build.kills))}
    print(f"{counts}, {build.builds_ended} builds ended as they should, {time.monotonic() - began:.0f} s")
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def test_killed_builds_on_local_disk_end_with_the_undisturbed_bytes(
    tmp_path: Path, web: CountingWeb, request: pytest.FixtureRequest
):
    run_rounds(tmp_path, web, storage_of(tmp_path / "dataset"), request)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.long
def test_killed_builds_on_s3_end_with_the_undisturbed_bytes(
    tmp_path: Path, web: CountingWeb, store: ObjectStore, request: pytest.FixtureRequest
):
    run_rounds(tmp_path, web, storage_of(store.url("kills/dataset")), request)
    assert store.uploads() == []
    assert all(key.startswith("kills/dataset-undisturbed/") for key in store.keys("kills/"))
