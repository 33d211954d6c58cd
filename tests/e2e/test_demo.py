"""The demo, killed in the middle of the build: it goes on, and in its full form it reaches what the README promises."""

import json
import re
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from commands import diptych, family, kill_all, start_diptych

from datapipe.dataset import Dataset
from datapipe.verify import verify
from infra.storage import storage_of
from orchestrator.demo.faults import EXPECTED_STATUS, Fault
from training.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow

WAIT_S = 1500
TIMES_CHANCE = 60
HELD_OUT = 400


@pytest.fixture(scope="module", params=[("--short",), pytest.param((), marks=pytest.mark.long)], ids=["short", "full"])
def form(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The demo's options: its short form has too few steps to learn much, and everything else."""
    options: tuple[str, ...] = request.param
    return options


@pytest.fixture(scope="module")
def workdir(form: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that was killed as a whole while it built, and started again."""
    folder = tmp_path_factory.mktemp("demo")
    driver = start_diptych("demo", *form, "--workdir", "demo", cwd=folder)
    deadline = time.monotonic() + WAIT_S
    while not list((folder / "demo").glob("dataset/*_stats.json")):
        assert driver.poll() is None and time.monotonic() < deadline, (folder / "output.txt").read_text()
        time.sleep(0.05)
    killed = family(driver.pid)
    kill_all(killed)
    driver.wait()
    assert not (folder / "demo" / "dataset" / "dataset.json").exists()
    driver = start_diptych("demo", *form, "--workdir", "demo", cwd=folder)
    started: set[psutil.Process] = set()
    while driver.poll() is None:
        assert time.monotonic() < deadline
        try:
            started |= set(family(driver.pid))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    assert driver.wait() == 0, (folder / "output.txt").read_text()
    assert psutil.wait_procs([*started, *killed], timeout=20)[1] == []
    return folder / "demo"


def test_it_leaves_what_it_promises(form: tuple[str, ...], workdir: Path):
    for name in ("urls.parquet", "config.yaml", "dataset/dataset.json", "run/run.yaml", "report.html", "scores.json"):
        assert (workdir / name).is_file(), name
    scores = {score["name"]: score for score in json.loads((workdir / "scores.json").read_text())["scores"]}
    for way in ("text_to_image", "image_to_text"):
        for k in (1, 5, 10):
            score = scores[f"{way}_recall@{k}"]
            assert score["chance"] == pytest.approx(k / score["samples"])
    if form:
        return
    assert all(score["samples"] >= HELD_OUT for name, score in scores.items() if "recall" in name)
    recall, zero_shot = scores["text_to_image_recall@1"], scores["zero_shot_accuracy"]
    assert recall["value"] >= TIMES_CHANCE * recall["chance"]
    assert zero_shot["chance"] == pytest.approx(1 / 9) and zero_shot["value"] > 1.5 * zero_shot["chance"]


def test_every_planted_fault_is_counted_under_its_reason(workdir: Path):
    urls = pq.read_table(workdir / "urls.parquet")["url"].to_pylist()
    manifest = Dataset.open(str(workdir / "dataset")).manifest
    assert manifest.rows == len(urls)
    for fault in Fault:
        status = EXPECTED_STATUS[fault]
        assert manifest.status_counts.get(status.value, 0) >= 1, (fault, manifest.status_counts)
    assert sum(manifest.status_counts.values()) == len(urls)
    assert verify(str(workdir / "dataset")).is_intact


def test_the_report_loads_nothing_from_a_network(workdir: Path):
    page = (workdir / "report.html").read_text()
    assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//""", page)
    assert "OpenMoji" in page and page.count("data:image/") > 30


def test_started_again_it_finds_all_done(form: tuple[str, ...], workdir: Path):
    before = {path: path.read_bytes() for path in workdir.glob("dataset/*.tar")}
    done = diptych("demo", *form, "--workdir", workdir, "--json", cwd=workdir)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("already done") == 3
    assert json.loads(done.stdout)["scores"] == json.loads((workdir / "scores.json").read_text())["scores"]
    assert {path: path.read_bytes() for path in workdir.glob("dataset/*.tar")} == before


def test_status_tells_of_it_from_outside(workdir: Path):
    done = diptych("status", workdir / "run", "--json", cwd=workdir)
    status = json.loads(done.stdout)
    assert status["state"] == "done" and status["stages_done"] == ["build", "train", "evaluate"]
    assert status["checkpoint"] == newest_checkpoint(storage_of(workdir / "run"))
