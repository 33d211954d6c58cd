"""Stages are done again when what they were made from changes, and a training keeps the data that it began with."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from commands import DIPTYCH, diptych
from saved_checkpoints import save_weights
from small_datasets import make_dataset, write_annotation
from torch import ones, zeros

from datapipe.dataset import MANIFEST_FILE, Dataset
from datapipe.phash import PerceptualHash
from infra.errors import ConfigError, InputError
from orchestrator.cli import cli
from orchestrator.config import RunConfig, Stage, load_config
from orchestrator.drive import drive
from orchestrator.records import read_events, read_standing
from orchestrator.run import EVALUATION_FOLDER, check_run, read_config, read_training, refuse_other_config
from orchestrator.run_state import RunState, Standing
from orchestrator.stage_state import Verdict, inputs_of, plan_stages
from orchestrator.stages import RUNNERS, StageContext, configured_stages
from orchestrator.status import restarts_of
from training.checkpoint import CheckpointState
from training.records import SCORES_FILE

CONFIG = """
storage: {folder}/runs
annotate:
  data: {folder}/shapes
  phash: true
curate:
  data: ${{annotate.data}}
  view: clean
  where: {{score: {{min: 0.5}}}}
train:
  data: {{path: "${{annotate.data}}", view: "${{curate.view}}"}}
  model: diptych-tiny
  steps: 9
"""
HALF = [[row / 10 for row in range(10)]] * 2
DONE, TO_DO, STALE = Verdict.DONE, Verdict.TO_DO, Verdict.STALE


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=2, rows=10))
    write_annotation(dataset, "score", HALF, pa.float64())
    return dataset


@pytest.fixture
def place(tmp_path: Path, dataset: Dataset) -> Path:
    (tmp_path / "birds.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "birds.yaml"


def call(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception


def mark_done(config: RunConfig, *stages: Stage) -> None:
    for stage in stages:
        facts = {"made_from": inputs_of(stage, config, config.folder)}
        config.folder.write_bytes(f"stages/{stage}.json", json.dumps(facts).encode())


def verdicts(place: Path, *overrides: str) -> list[Verdict]:
    config = load_config(place, overrides)
    return [plan.verdict for plan in plan_stages(config, configured_stages(config))]


def finish(place: Path, dataset: Dataset) -> RunConfig:
    """As if all had been done, but for the training's own result."""
    config = load_config(place)
    write_annotation(dataset, "phash", [[1] * 10] * 2, pa.uint64(), PerceptualHash().settings)
    mark_done(config, Stage.ANNOTATE)
    call("curate", place)
    state = CheckpointState(9, "diptych-tiny", "clip", 256, 100, 0, {})
    save_weights(config.folder, state, {"weight": zeros(2)})
    mark_done(config, Stage.TRAIN)
    return config


def test_what_depends_on_a_change_is_stale_and_nothing_else(place: Path, dataset: Dataset):
    assert verdicts(place) == [TO_DO, TO_DO, TO_DO]
    finish(place, dataset)
    assert verdicts(place) == [DONE, DONE, DONE]
    assert verdicts(place, "curate.where={score: {min: 0.2}}") == [DONE, STALE, DONE]
    scorer = "annotate.clip_scores={s: {model: diptych-tiny, pretrained: openai}}"
    assert verdicts(place, scorer)[0] is STALE
    write_annotation(dataset, "score", [[1.0] * 10] * 2, pa.float64())
    assert verdicts(place) == [DONE, STALE, DONE]  # the view was made from other scores
    dataset.storage.delete("views/clean.parquet")
    assert verdicts(place) == [DONE, STALE, STALE]
    dataset.storage.delete("columns/phash/00001.parquet")
    assert verdicts(place)[0] is TO_DO


def test_a_command_that_did_less_than_the_config_names_leaves_a_partial_run(place: Path, dataset: Dataset):
    call("curate", place)
    folder = load_config(place).folder
    told = CliRunner().invoke(cli, ["status", folder.url])
    assert told.exit_code == 0 and "curate: all of it is done; still to do: annotate, train" in told.stdout
    followed = CliRunner().invoke(cli, ["logs", folder.url, "-f"])
    assert followed.exit_code == 0 and followed.stderr.startswith("partial: curate")
    finish(place, dataset)  # which curates again, before the training has its result
    assert read_standing(folder) == Standing(RunState.PARTIAL, "curate: all of it is done; still to do: train")
    call("curate", place)
    assert read_standing(folder) == Standing(RunState.DONE, "curate: all of it is done")
    assert not list(restarts_of(read_events(folder)))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluate={retrieval: {}}", "evaluate.retrieval.data is missing, and train.held_out keeps no samples"),
        ("evaluate={batch_size: 4}", "evaluate names nothing to score"),
        ("export={checkpoint: best}", "export.checkpoint: got best; the run birds validates nothing"),
    ],
)
def test_what_the_last_stages_would_miss_is_said_before_the_first(
    place: Path, dataset: Dataset, override: str, words: str
):
    folder = load_config(place).folder
    for arguments in (["run", place, override], ["run", place, override, "--dry-run"]):
        with pytest.raises(ConfigError, match=words) as caught:
            call(*arguments)
        assert caught.value.exit_code == 2
    assert not folder.exists("run.json")
    call("curate", place, override)  # which needs none of it
    told = CliRunner().invoke(cli, ["status", folder.url])
    assert told.exit_code == 0 and f"train, {override.partition('=')[0]}" in told.stdout


def test_a_config_of_one_section_leaves_the_others_of_its_run_as_they_are(place: Path, dataset: Dataset):
    config = finish(place, dataset)
    before = read_config(config.folder)
    short = place.parent / "short.yaml"
    short.write_text(
        f"name: birds\nstorage: {place.parent}/runs\ncurate: {{data: {place.parent}/shapes, view: more}}\n"
    )
    call("curate", short)
    after = read_config(config.folder)
    assert (after.train, after.annotate) == (before.train, before.annotate)
    assert after.curate is not None and after.curate.view == "more"
    assert read_training(config.folder) == config.train
    for override in ("train.lr=0.25", "train.seed=3"):
        with pytest.raises(ConfigError, match="has checkpoints of a training with other settings: train"):
            call("curate", place, override)
    with pytest.raises(ConfigError, match="has checkpoints of a training, and the config has no section train"):
        call("curate", short, "train=null")
    call("curate", short, "annotate=null")
    assert read_config(config.folder).annotate is None and read_training(config.folder) == config.train


def test_a_run_of_a_version_that_had_fewer_keys_goes_on(place: Path, dataset: Dataset):
    config = finish(place, dataset)
    values = yaml.safe_load(config.folder.read_bytes("run.yaml"))
    del values["train"]["eps"], values["train"]["augment"], values["curate"]["top"], values["export"]
    config.folder.write_bytes("run.yaml", yaml.safe_dump(values).encode())
    check_run(config)
    refuse_other_config(config, config.folder)


def test_a_complete_dataset_needs_its_url_list_no_more_but_heeds_one_that_is_there(place: Path, dataset: Dataset):
    links = place.parent / "urls.txt"
    links.write_text("http://127.0.0.1:9/1.jpg\n")
    build = f"build={{input: {links}, output: {place.parent}/shapes}}"
    config = load_config(place, [build])
    mark_done(config, Stage.BUILD)
    stages = [Stage.BUILD, Stage.CURATE]
    links.unlink()
    plan = plan_stages(config, [Stage.BUILD])[0]
    assert plan.verdict is DONE and "the URL list is not there any more" in plan.why
    drive(config, stages)
    said = CliRunner().invoke(cli, ["logs", config.folder.url]).stdout
    assert "✓ build  already done: its dataset is complete; the URL list is not there any more" in said
    links.write_text("http://127.0.0.1:9/2.jpg\n")
    assert verdicts(place, build)[0] is STALE
    links.unlink()
    dataset.storage.delete(MANIFEST_FILE)
    with pytest.raises(InputError, match="names no file"):
        drive(config, stages)


def test_what_another_run_made_under_the_same_name_is_not_ones_own(place: Path, dataset: Dataset):
    finish(place, dataset)
    write_annotation(dataset, "phash", [[2] * 10] * 2, pa.uint64(), {"kind": "another"})
    assert verdicts(place)[0] is TO_DO
    finish(place, dataset)
    call("curate", place, "curate.where={color: red}", "name=others")
    assert verdicts(place)[1] is TO_DO


def test_a_view_is_not_changed_under_a_training(place: Path, dataset: Dataset):
    finish(place, dataset)
    before = dataset.storage.read_bytes("views/clean.parquet")
    with pytest.raises(ConfigError, match="has checkpoints of a training on views/clean"):
        call("curate", place, "curate.where={score: {min: 0.2}}")
    assert dataset.storage.read_bytes("views/clean.parquet") == before
    call("curate", place, "name=more", "curate.view=more", "curate.where={score: {min: 0.2}}")
    assert dataset.storage.read_bytes("views/clean.parquet") == before
    assert dataset.storage.exists("views/more.parquet")


SCORES_VIEW = 'evaluate={retrieval: {data: {path: "${annotate.data}", view: clean}}}'


def test_scores_of_another_view_or_of_another_checkpoint_in_the_same_place_are_stale(place: Path, dataset: Dataset):
    finish(place, dataset)
    config = load_config(place, [SCORES_VIEW])
    mark_done(config, Stage.EVALUATE)
    config.folder.at(EVALUATION_FOLDER).write_bytes(SCORES_FILE, b"{}")
    assert verdicts(place, SCORES_VIEW)[3] is DONE
    assert verdicts(place, SCORES_VIEW, "train.workers=2", "train.zero_stage=2")[2:] == [DONE, DONE]
    assert verdicts(place, SCORES_VIEW, "train.seed=2")[2:] == [STALE, STALE]
    state = CheckpointState(9, "diptych-tiny", "clip", 256, 100, 0, {})
    save_weights(config.folder, state, {"weight": ones(2)})
    assert verdicts(place, SCORES_VIEW)[3] is STALE
    save_weights(config.folder, state, {"weight": zeros(2)})
    assert verdicts(place, SCORES_VIEW)[3] is DONE
    call("curate", place, "name=others", "curate.where={color: red}", "train=null")
    assert verdicts(place, SCORES_VIEW)[3] is STALE


def test_what_changes_while_a_stage_is_at_work_makes_it_stale(
    place: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    def annotate(_: StageContext) -> dict[str, str | None]:
        write_annotation(dataset, "phash", [[1] * 10] * 2, pa.uint64(), PerceptualHash().settings)
        manifest = dataset.storage.read_bytes(MANIFEST_FILE)
        dataset.storage.write_bytes(MANIFEST_FILE, manifest + b"\n")  # as if it had been built anew
        return {}

    monkeypatch.setitem(RUNNERS, Stage.ANNOTATE, annotate)
    monkeypatch.setattr("orchestrator.stages.WITHOUT_CLUSTER", frozenset(Stage))
    drive(load_config(place, ["train=null", "curate=null"]), [Stage.ANNOTATE])
    assert verdicts(place, "train=null", "curate=null") == [STALE]


def test_a_stage_whose_input_the_one_before_it_changes_is_done_again(
    place: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    config = load_config(place, ["train=null", "annotate.phash=true"])
    done: list[Stage] = []

    def annotate(_: StageContext) -> dict[str, str | None]:
        write_annotation(dataset, "phash", [[1] * 10] * 2, pa.uint64(), PerceptualHash().settings)
        write_annotation(dataset, "score", [[0.9] * 10] * 2, pa.float64())
        done.append(Stage.ANNOTATE)
        return {}

    really_curate = RUNNERS[Stage.CURATE]

    def curate(context: StageContext) -> dict[str, str | None]:
        done.append(Stage.CURATE)
        return really_curate(context)

    monkeypatch.setitem(RUNNERS, Stage.ANNOTATE, annotate)
    monkeypatch.setitem(RUNNERS, Stage.CURATE, curate)
    monkeypatch.setattr("orchestrator.stages.WITHOUT_CLUSTER", frozenset(Stage))
    call("curate", place, "train=null")
    assert done == [Stage.CURATE]
    drive(config, [Stage.ANNOTATE, Stage.CURATE])
    assert done == [Stage.CURATE, Stage.ANNOTATE, Stage.CURATE]
    drive(config, [Stage.ANNOTATE, Stage.CURATE])
    assert len(done) == 3


def test_a_training_does_not_go_on_with_other_data(place: Path, dataset: Dataset):
    config = finish(place, dataset)
    config.folder.write_bytes("stages/train.data.json", json.dumps({"data": "of another view", "drive": 1}).encode())
    config.folder.delete("stages/train.json")
    refused = diptych("train", place, "train.workers=1", cwd=place.parent)
    assert refused.returncode == 2 and "a training with other data" in refused.stderr


def test_run_and_train_print_the_record_that_resume_prints(place: Path, dataset: Dataset):
    folder = finish(place, dataset).folder
    expected = {"folder": folder.url, "state": "done", "report": f"{folder.url}/report.html"}
    for arguments in (["run", place], ["train", place], ["resume", folder.url]):
        result = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert json.loads(result.stdout) == expected


def test_a_run_that_is_done_ends_as_such_though_nobody_reads_where_it_lies(place: Path, dataset: Dataset):
    finish(place, dataset)
    reader, lost = os.pipe()
    os.close(reader)
    assert subprocess.run([DIPTYCH, "run", place], cwd=place.parent, stdout=lost, stderr=lost).returncode == 0
    os.close(lost)
