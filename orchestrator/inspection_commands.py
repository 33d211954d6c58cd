"""The commands that look into what is there: datasets, runs, a training's steps, the recipes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.options import json_option, print_record

if TYPE_CHECKING:
    from datapipe.survey import Survey


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
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


inspection_commands = (inspect, verify, replay, recipes)


def _survey(dataset: str, hosts: int) -> "Survey":
    from datapipe.inspect import inspect_rows
    from infra.progress import Progress

    if not sys.stderr.isatty():
        return inspect_rows(dataset, hosts=hosts)
    with Progress() as progress:
        progress.begin("inspect", total=None, unit="shards")
        return inspect_rows(dataset, hosts=hosts, on_shard=lambda done, total: progress.update(done, total=total))
