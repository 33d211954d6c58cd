"""The command line: quick help with examples, and mistakes that are explained in two or three lines."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import DIPTYCH, diptych
from small_datasets import make_dataset

COMMANDS = (
    *("demo", "build", "train", "evaluate", "export", "run", "inspect", "verify"),
    *("submit", "runs", "status", "logs", "stop", "resume", "fork", "gc", "config"),
)
CONFIG = "build: {input: urls.parquet, output: dataset}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"url": ["http://127.0.0.1:9/a.jpg"], "caption": ["a"]}), tmp_path / "urls.parquet")
    (tmp_path / "birds.yaml").write_text(CONFIG)
    return tmp_path


def problem(folder: Path, *arguments: object) -> str:
    """Runs a command that must refuse with a short error and write nothing."""
    before = sorted(folder.rglob("*"))
    done = diptych(*arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and 2 <= len(done.stderr.strip().splitlines()) <= 3, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert sorted(folder.rglob("*")) == before
    return done.stderr


def test_help_answers_in_under_half_a_second():
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([DIPTYCH, "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(command: str, tmp_path: Path):
    done = diptych(command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"  diptych {command}" in done.stdout.partition("Example")[2]


def test_the_help_lists_every_command(tmp_path: Path):
    text = diptych("--help", cwd=tmp_path).stdout
    assert all(f"  {command} " in text for command in COMMANDS)


def test_a_missing_column_names_those_there_are(folder: Path):
    text = problem(folder, "build", "birds.yaml", "build.caption_col=captoin")
    assert "captoin" in text and "url, caption" in text


def test_an_unreadable_list_is_named(folder: Path):
    (folder / "urls.parquet").write_bytes(b"PAR1 this is no parquet")
    assert "urls.parquet cannot be read as Parquet" in problem(folder, "build", "birds.yaml")


def test_a_missing_list_is_named(folder: Path):
    assert "nowhere.csv" in problem(folder, "build", "birds.yaml", "build.input=nowhere.csv")


def test_an_unknown_key_names_the_nearest(folder: Path):
    assert "Did you mean image_size?" in problem(folder, "build", "birds.yaml", "build.imagesize=3")


def test_an_output_that_cannot_be_written_is_named(folder: Path):
    (folder / "in-the-way").write_text("a file")
    assert "in-the-way/dataset" in problem(folder, "build", "birds.yaml", "build.output=in-the-way/dataset")


def test_a_run_folder_that_cannot_be_written_is_named(folder: Path):
    (folder / "runs").write_text("a file")
    assert "runs/birds" in problem(folder, "build", "birds.yaml")


def test_an_unknown_model_names_the_nearest(folder: Path):
    text = problem(folder, "run", "birds.yaml", "train.data=dataset", "train.steps=1", "train.model=ViT-B32")
    assert "ViT-B-32" in text


def test_training_without_a_dataset_says_how_to_get_one(folder: Path):
    text = problem(folder, "train", "birds.yaml", "train.data=dataset", "train.steps=1")
    assert "no finished dataset" in text


def test_a_checkpoint_that_is_none_is_named(folder: Path):
    arguments = ("evaluate", "birds.yaml", "evaluate={retrieval: {data: dataset}}", "--checkpoint", "step_7")
    assert "step_7 holds no whole checkpoint" in problem(folder, *arguments)


def test_a_stage_without_its_section_is_refused(folder: Path):
    assert "no section train" in problem(folder, "train", "birds.yaml")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_that_is_no_dataset_is_refused(folder: Path, command: str):
    assert "no finished dataset" in problem(folder, command, folder)


def test_inspect_prints_plots_and_gives_json_of_an_unfinished_dataset_too(tmp_path: Path):
    make_dataset(tmp_path / "data", shards=2, rows=20)
    (tmp_path / "data" / "dataset.json").unlink()
    (tmp_path / "data" / "00001_stats.json").unlink()
    done = diptych("inspect", "data", "--plot", "plots/data.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not finished" in done.stdout and "20 in 1 shards" in done.stdout and "example.org" in done.stdout
    assert "<svg" in (tmp_path / "plots" / "data.html").read_text()
    record = json.loads(diptych("inspect", "data", "--json", "--hosts", 1, cwd=tmp_path).stdout)
    assert record["samples"] == 18 and record["survey"]["hosts"][0]["rows"] == 20
    assert json.loads(diptych("inspect", "data", "--json", "--quick", cwd=tmp_path).stdout)["survey"] is None


def test_a_build_tells_machines_its_progress_in_json_lines(folder: Path):
    done = diptych("build", "birds.yaml", "--progress", "json", cwd=folder)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in events} == {"progress", "note", "end"}
    assert events[-1]["event"] == "end" and (events[-1]["done"], events[-1]["total"]) == (1, 1)
    assert done.stdout.startswith("Run: ")


def test_a_folder_that_is_no_run_is_refused(folder: Path):
    assert "holds no run" in problem(folder, "status", folder)


def test_a_port_in_use_is_refused_by_the_demo(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        workdir = tmp_path / "demo"
        workdir.mkdir()
        (workdir / "web-port").write_text(str(taken.getsockname()[1]))
        assert "is in use by another program" in problem(tmp_path, "demo", "--short", "--workdir", workdir)


def test_too_little_disk_is_refused_before_anything_starts(folder: Path, small_disk: Path):
    text = problem(folder, "build", "birds.yaml", f"build.output={small_disk}/dataset")
    assert "8 MB free" in text
    done = diptych("demo", "--workdir", small_disk / "demo", cwd=folder)
    assert done.returncode == 2 and "MB free" in done.stderr and list(small_disk.iterdir()) == []


def test_a_wrong_command_is_refused(tmp_path: Path):
    assert diptych("biuld", cwd=tmp_path).returncode == 2


def test_an_error_that_nobody_hears_keeps_its_exit_code(tmp_path: Path):
    reader, lost = os.pipe()
    os.close(reader)
    done = subprocess.run([DIPTYCH, "status", tmp_path], stdout=lost, stderr=lost)
    os.close(lost)
    assert done.returncode == 2
