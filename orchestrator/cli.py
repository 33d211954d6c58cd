"""The command line: each command's options and help; the work is done by what it calls."""

import dataclasses
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from infra.errors import DiptychError
from orchestrator.cluster_commands import cluster
from orchestrator.options import (
    address_option,
    config_argument,
    json_option,
    overrides_argument,
    print_record,
    progress_option,
)
from orchestrator.run_commands import run_commands

if TYPE_CHECKING:
    from datapipe.survey import Survey
    from infra.storage import Storage

INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM


def main() -> NoReturn:
    """The console script. Exit codes: 0 done, 1 failed, 2 command or config wrong, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DiptychError as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped. Run the same command again: it goes on where it was.", err=True)
        sys.exit(INTERRUPTED)
    except SystemExit as error:
        if error.code == TERMINATED:
            click.echo("Terminated. Run the same command again: it goes on where it was.", err=True)
        raise
    except Exception as error:  # noqa: BLE001 - the process's border: a bug is shown whole
        traceback.print_exception(error)
        sys.exit(1)
    sys.exit(0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="diptych", message="diptych %(version)s")
def cli() -> None:
    """From a list of image URLs with captions to a trained, evaluated CLIP model.

    Every command can be killed at any moment and started again: it goes on where it was.
    """


@cli.command()
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
        click.echo(f"Report: {workdir.absolute() / 'report.html'}")


@cli.command()
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
    _drive(config, overrides, address, ["build"], progress_form=progress_form)


@cli.command()
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
    _drive(config, overrides, address, ["annotate"], progress_form=progress_form)


@cli.command()
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
    _drive(config, overrides, address, ["curate"], progress_form=progress_form)


@cli.command()
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
        _drive(config, overrides, address, ["train"])
        return
    from orchestrator.config import load_config
    from orchestrator.dry_run import plan_run

    plan = plan_run(load_config(config, overrides))
    print_record(plan.facts(), plan.lines(), as_json)


@cli.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """Configs to start from: lists them, or prints one.

    \b
    Example:
      diptych recipes laptop > laptop.yaml
    """
    from orchestrator import recipe_list

    if name is not None:
        click.echo(recipe_list.recipe(name).text, nl=False)
        return
    for recipe in recipe_list.recipes():
        click.echo(f"{recipe.name:20} {recipe.summary}")


@cli.command()
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

        folder = _drive(config, overrides, address, ["evaluate"], echo=False)
        _show_scores(folder.at(EVALUATION_FOLDER), as_json)
        return
    from orchestrator.config import load_config
    from orchestrator.drive import evaluate_checkpoint

    _show_scores(evaluate_checkpoint(load_config(config, overrides), checkpoint, address=address), as_json)


@cli.command()
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

    folder = _drive(config, overrides, address, ["export"], echo=False)
    click.echo(f"Model: {folder.at(EXPORT_FOLDER).url}")


@cli.command()
@config_argument
@overrides_argument
@address_option
@progress_option
@click.option("--dry-run", is_flag=True, help="Print what is done, to do and stale, and why, and stop there.")
@json_option
def run(
    config: Path, overrides: tuple[str, ...], address: str | None, progress_form: str, dry_run: bool, as_json: bool
) -> None:
    """All the stages that the config names, each only if it is not done.

    \b
    Examples:
      diptych run birds.yaml
      diptych run birds.yaml train.steps=2000 --dry-run
    """
    if not dry_run:
        _drive(config, overrides, address, None, progress_form=progress_form)
        return
    from orchestrator.config import load_config
    from orchestrator.show import plan_lines
    from orchestrator.stage_state import plan_stages
    from orchestrator.stages import configured_stages

    loaded = load_config(config, overrides)
    plans = plan_stages(loaded, configured_stages(loaded))
    print_record({"stages": [dataclasses.asdict(plan) for plan in plans]}, plan_lines(plans), as_json)


@cli.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--step", type=click.IntRange(min=1), required=True, help="The step, from 1.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many samples to list.")
@json_option
def replay(run_folder: str, step: int, top: int, as_json: bool) -> None:
    """The samples of one step of a training and what each adds to its loss, the worst first.

    The step's very pictures go through the weights of the last checkpoint before it, on this machine. Samples that
    should not come again are left out with train.exclude. --json lists all of them, with their augmentations.

    \b
    Example:
      diptych replay runs/birds --step 812
    """
    from infra.storage import storage_of
    from orchestrator.run import read_training
    from orchestrator.show import replay_lines
    from training.replay import replay_step

    folder = storage_of(run_folder)
    found = replay_step(read_training(folder), folder, step)
    print_record(found, replay_lines(found, top), as_json)


@cli.command()
@click.argument("dataset")
@click.option("--hosts", type=click.IntRange(min=0), default=20, show_default=True, help="How many hosts to list.")
@click.option("--quick", is_flag=True, help="Counts alone, without reading the rows: no hosts, no sizes.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.html", help="Write the plots as one HTML file.")
@json_option
def inspect(dataset: str, hosts: int, quick: bool, plot: Path | None, as_json: bool) -> None:
    """A dataset's counts, its yield by reason and by host, and its sizes; also while it is being built.

    Counts come from the shards' markers. Hosts and sizes are read from the shards' tables, one after another in
    bounded memory; up to 100,000 hosts are told apart exactly, of more the frequent ones with the error stated.

    \b
    Examples:
      diptych inspect datasets/birds
      diptych inspect datasets/birds --plot birds.html
      diptych inspect s3://bucket/datasets/birds --quick --json
    """
    from datapipe.inspect import inspect as inspect_dataset
    from orchestrator.show import inspection_record, summary_lines, survey_lines

    summary = inspect_dataset(dataset)
    survey = None if quick else _survey(dataset, hosts)
    if plot is not None:
        from orchestrator.report.inspect_page import write_inspection

        write_inspection(summary, survey, plot.absolute())
    lines = summary_lines(summary) + ([] if survey is None else survey_lines(survey))
    print_record(
        inspection_record(summary, survey), lines + ([] if plot is None else [f"plots     {plot.absolute()}"]), as_json
    )


@cli.command()
@click.argument("place", metavar="DATASET|RUN")
@json_option
def verify(place: str, as_json: bool) -> None:
    """Checks every hash of a dataset or of a run's checkpoints; exit code 1 on a mismatch.

    Of a run it also proves from the loader's records that each sample was used exactly once an epoch.

    \b
    Examples:
      diptych verify datasets/birds
      diptych verify runs/birds
    """
    from datapipe.verify import verify as verify_dataset
    from infra.storage import storage_of
    from orchestrator.records import RUN_FILE
    from orchestrator.show import run_verdict_lines, verify_lines
    from orchestrator.verify_run import verify_run

    if storage_of(place).exists(RUN_FILE):
        verdict = verify_run(storage_of(place))
        print_record(verdict, run_verdict_lines(verdict), as_json)
        sys.exit(0 if verdict.is_intact else 1)
    report = verify_dataset(place)
    print_record(report, verify_lines(report), as_json)
    sys.exit(0 if report.is_intact else 1)


for command in (*run_commands, cluster):
    cli.add_command(command)


def _survey(dataset: str, hosts: int) -> "Survey":
    from datapipe.inspect import inspect_rows
    from infra.progress import Progress

    if not sys.stderr.isatty():
        return inspect_rows(dataset, hosts=hosts)
    with Progress() as progress:
        progress.begin("inspect", total=None, unit="shards")
        return inspect_rows(dataset, hosts=hosts, on_shard=lambda done, total: progress.update(done, total=total))


def _drive(
    path: Path,
    overrides: tuple[str, ...],
    address: str | None,
    names: Sequence[str] | None,
    *,
    echo: bool = True,
    progress_form: str = "auto",
) -> "Storage":
    from infra.progress_display import ProgressForm
    from orchestrator.config import Stage, load_config
    from orchestrator.drive import drive
    from orchestrator.stages import configured_stages

    config = load_config(path, overrides)
    stages: Sequence[Stage] = configured_stages(config) if names is None else [Stage(name) for name in names]
    folder = drive(config, stages, address=address, progress_form=ProgressForm(progress_form))
    if echo:
        click.echo(f"Run: {folder.url}")
        click.echo(f"Report: {folder.url}/report.html")
    return folder


def _show_scores(folder: "Storage", as_json: bool) -> None:
    from orchestrator.show import score_lines
    from training.records import read_evaluation

    evaluation = read_evaluation(folder)
    print_record(evaluation, score_lines(evaluation), as_json)


def _print_error(error: DiptychError) -> None:
    click.echo(f"{click.style('error:', fg='red')} {error}", err=True)
    for note in getattr(error, "__notes__", []):
        click.echo(note, err=True)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
