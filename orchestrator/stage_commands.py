"""The commands that do the stages of a config, alone or all of them, and the demo."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.options import (
    address_option,
    config_argument,
    json_option,
    overrides_argument,
    print_record,
    print_run,
    progress_option,
    say_if_heard,
)

if TYPE_CHECKING:
    from infra.storage import Storage


@click.command()
@click.option("--workdir", type=click.Path(path_type=Path), default=Path("diptych-demo"), show_default=True)
@click.option("--short", is_flag=True, help="Few pictures and few steps: shows that all works, not what it reaches.")
@json_option
def demo(workdir: Path, short: bool, as_json: bool) -> None:
    """The whole pipeline on this machine, offline, in a few minutes.

    Renders emoji, serves them as a small, rather hostile web, builds a dataset, trains a small CLIP and
    evaluates it. Leaves urls.parquet, config.yaml, dataset/, run/, report.html and scores.json in WORKDIR.

    \b
    Example:
      diptych demo --workdir demo
    """
    from orchestrator.demo.requirements import require_packages

    require_packages()
    from orchestrator.demo.command import run_demo

    evaluation_folder = run_demo(workdir, short=short)
    _show_scores(evaluation_folder, as_json)
    if not as_json:
        say_if_heard(f"Report: {workdir.absolute() / 'report.html'}")


@click.command()
@config_argument
@overrides_argument
@address_option
@progress_option
def build(config: Path, overrides: tuple[str, ...], address: str | None, progress_form: str) -> None:
    """URL list → dataset.

    \b
    Examples:
      diptych build birds.yaml build.image_size=224
      diptych build birds.yaml --progress json 2> progress.jsonl
    """
    print_run(_drive(config, overrides, address, ["build"], progress_form=progress_form), as_json=False)


@click.command()
@config_argument
@overrides_argument
@address_option
@progress_option
def annotate(config: Path, overrides: tuple[str, ...], address: str | None, progress_form: str) -> None:
    """Dataset → columns: a perceptual hash and CLIP scores of each picture, beside its shards.

    \b
    Examples:
      diptych annotate birds.yaml
      diptych annotate birds.yaml annotate.phash=true
    """
    print_run(_drive(config, overrides, address, ["annotate"], progress_form=progress_form), as_json=False)


@click.command()
@config_argument
@overrides_argument
@address_option
@progress_option
def curate(config: Path, overrides: tuple[str, ...], address: str | None, progress_form: str) -> None:
    """Dataset → view: the samples that fulfil conditions, are no duplicates and are among the best.

    \b
    Examples:
      diptych curate birds.yaml
      diptych curate birds.yaml curate.top.share=0.3
    """
    print_run(_drive(config, overrides, address, ["curate"], progress_form=progress_form), as_json=False)


@click.command()
@config_argument
@overrides_argument
@address_option
@click.option("--dry-run", is_flag=True, help="Print the plan (model, memory, batches, length) and stop there.")
@json_option
def train(config: Path, overrides: tuple[str, ...], address: str | None, dry_run: bool, as_json: bool) -> None:
    """Dataset → checkpoint.

    \b
    Examples:
      diptych train birds.yaml train.steps=2000 train.workers=2
      diptych train birds.yaml --dry-run
    """
    if not dry_run:
        print_run(_drive(config, overrides, address, ["train"]), as_json)
        return
    from orchestrator.config import load_config
    from orchestrator.dry_run import plan_run

    plan = plan_run(load_config(config, overrides))
    print_record(plan.facts(), plan.lines(), as_json)


@click.command()
@config_argument
@overrides_argument
@click.option("--checkpoint", help="A checkpoint's folder; default: the newest of the config's run.")
@address_option
@json_option
def evaluate(
    config: Path, overrides: tuple[str, ...], checkpoint: str | None, address: str | None, as_json: bool
) -> None:
    """Checkpoint → scores, each beside its chance level.

    \b
    Examples:
      diptych evaluate birds.yaml
      diptych evaluate birds.yaml --checkpoint runs/birds/checkpoints/step_00001000 --json
    """
    if checkpoint is None:
        from orchestrator.run import EVALUATION_FOLDER

        folder = _drive(config, overrides, address, ["evaluate"])
        _show_scores(folder.at(EVALUATION_FOLDER), as_json)
        return
    from orchestrator.config import load_config
    from orchestrator.drive import evaluate_checkpoint

    _show_scores(evaluate_checkpoint(load_config(config, overrides), checkpoint, address=address), as_json)


@click.command()
@config_argument
@overrides_argument
@address_option
def export(config: Path, overrides: tuple[str, ...], address: str | None) -> None:
    """Checkpoint → a folder that open_clip and the Hugging Face hub read.

    It is read again by open_clip, whose features of some pictures and texts must be the checkpoint's to the last bit.

    \b
    Examples:
      diptych export birds.yaml
      diptych export birds.yaml export.checkpoint=best
    """
    from orchestrator.run import EXPORT_FOLDER

    folder = _drive(config, overrides, address, ["export"])
    say_if_heard(f"Model: {folder.at(EXPORT_FOLDER).url}")


@click.command()
@config_argument
@overrides_argument
@address_option
@progress_option
@click.option("--dry-run", is_flag=True, help="Print what is done, to do and stale, and why, and stop there.")
@click.option("--submitted", is_flag=True, hidden=True)  # what `diptych submit` hands to the cluster
@json_option
def run(
    config: Path,
    overrides: tuple[str, ...],
    address: str | None,
    progress_form: str,
    dry_run: bool,
    submitted: bool,
    as_json: bool,
) -> None:
    """All the stages that the config names, each only if it is not done.

    \b
    Examples:
      diptych run birds.yaml
      diptych run birds.yaml train.steps=2000 --dry-run
    """
    if not dry_run:
        folder = _drive(config, overrides, address, None, progress_form=progress_form, is_submitted=submitted)
        print_run(folder, as_json)
        return
    from orchestrator.config import load_config
    from orchestrator.run import with_stored_sections
    from orchestrator.show import plan_lines
    from orchestrator.stage_state import plan_stages
    from orchestrator.stages import check_last_stages, configured_stages

    loaded = load_config(config, overrides)
    stages = configured_stages(loaded)
    loaded = with_stored_sections(loaded)
    check_last_stages(loaded, stages)
    plans = plan_stages(loaded, stages)
    print_record({"stages": [dataclasses.asdict(plan) for plan in plans]}, plan_lines(plans), as_json)


stage_commands = (demo, build, annotate, curate, train, evaluate, export, run)


def _drive(
    path: Path,
    overrides: tuple[str, ...],
    address: str | None,
    names: Sequence[str] | None,
    *,
    progress_form: str = "auto",
    is_submitted: bool = False,
) -> "Storage":
    from infra.progress_display import ProgressForm
    from orchestrator.config import Stage, load_config
    from orchestrator.drive import drive
    from orchestrator.stages import configured_stages

    config = load_config(path, overrides)
    stages: Sequence[Stage] = configured_stages(config) if names is None else [Stage(name) for name in names]
    form = ProgressForm(progress_form)
    return drive(config, stages, address=address, progress_form=form, is_submitted=is_submitted)


def _show_scores(folder: "Storage", as_json: bool) -> None:
    from orchestrator.show import score_lines
    from training.records import read_evaluation

    evaluation = read_evaluation(folder)
    print_record(evaluation, score_lines(evaluation), as_json)
