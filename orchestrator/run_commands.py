"""The commands that look at runs and steer them, from any machine that reaches their storage."""

import sys
import time
from pathlib import Path

import click

from orchestrator.options import json_option, overrides_argument, print_record, run_argument

WATCH_EVERY_S = 2.0


@click.command()
@click.argument("storage", metavar="STORAGE")
@json_option
def runs(storage: str, as_json: bool) -> None:
    """The runs below a storage, the newest first, with the state of each.

    \b
    Examples:
      diptych runs runs
      diptych runs s3://bucket/runs --json
    """
    from dataclasses import asdict

    from infra.storage import storage_of
    from orchestrator.show import run_lines
    from orchestrator.status import read_runs

    found = read_runs(storage_of(storage))
    print_record({"runs": [asdict(run) for run in found]}, run_lines(found) or ["no runs"], as_json)


@click.command()
@run_argument
@click.option("--watch", is_flag=True, help="Print it anew every two seconds until the run has ended.")
@json_option
def status(run_folder: str, watch: bool, as_json: bool) -> None:
    """How a run stands: its stages with progress, rate and time left, its restarts and why, its last checkpoint.

    The states are queued, running, retrying, lost (its driver died), stopping, stopped, failed and done. Exit code 1
    for a run that is lost or has failed, 130 for one that was stopped, 0 for all others.

    \b
    Examples:
      diptych status runs/birds
      diptych status s3://bucket/runs/birds --watch
    """
    from infra.storage import storage_of
    from orchestrator.show import status_lines
    from orchestrator.status import read_status

    folder = storage_of(run_folder)
    while True:
        found = read_status(folder)
        if watch and sys.stdout.isatty() and not as_json:
            click.clear()
        print_record(found, status_lines(found), as_json)
        if not watch or found.state.is_ended:
            sys.exit(found.state.exit_code)
        time.sleep(WATCH_EVERY_S)


@click.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come in, until the run has ended.")
def logs(run_folder: str, follow: bool) -> None:
    """The lines that a run's drivers have said so far, all drives in order, each with its time in UTC.

    With -f the exit code is the run's: 0 done, 1 failed or lost, 130 stopped. What libraries and Ray had to say lies
    in the run's folder logs/.

    \b
    Example:
      diptych logs s3://bucket/runs/birds -f
    """
    from infra.storage import storage_of
    from infra.terminal import printable
    from orchestrator.records import read_standing
    from orchestrator.run import read_identity
    from orchestrator.run_log import LogReader
    from orchestrator.run_log import follow as follow_log

    folder = storage_of(run_folder)
    read_identity(folder)
    reader = LogReader(folder)

    def say(line: str) -> None:
        click.echo(printable(line))

    if not follow:
        for line in reader.new_lines():
            say(line)
        return
    standing = follow_log(reader, lambda: read_standing(folder), say)
    click.echo(f"{standing.state}: {printable(standing.reason.splitlines()[0])}", err=True)
    sys.exit(standing.state.exit_code)


@click.command()
@run_argument
@click.option("--now", is_flag=True, help="Without a checkpoint: what came after the last one is done again.")
@click.option("--wait", is_flag=True, help="Return when the run has stopped.")
@json_option
def stop(run_folder: str, now: bool, wait: bool, as_json: bool) -> None:
    """Asks a run to stop, through its storage; its driver sees that within seconds.

    A training takes a checkpoint first, for at most two minutes. `diptych resume` goes on later.

    \b
    Examples:
      diptych stop runs/birds --wait
      diptych stop s3://bucket/runs/birds --now
    """
    from infra.storage import storage_of
    from orchestrator.run_state import StopMode
    from orchestrator.stop import stop_run, wait_until_stopped

    folder = storage_of(run_folder)
    found = stop_run(folder, StopMode.NOW if now else StopMode.CHECKPOINT)
    if wait and not found.state.is_ended:
        found = wait_until_stopped(folder)
    print_record(found, [f"{found.state}: {found.reason}"], as_json)


@click.command()
@run_argument
@overrides_argument
@click.option("--address", metavar="HOST:PORT", help="A running Ray cluster; default: this machine.")
@click.option("--progress", "progress_form", type=click.Choice(["auto", "json"]), default="auto", show_default=True)
def resume(run_folder: str, overrides: tuple[str, ...], address: str | None, progress_form: str) -> None:
    """Goes on with a run from its storage alone: with the config that lies there, from its last checkpoint.

    Any machine will do, and any cluster. Overrides may change what the result does not depend on (train.workers, …).

    \b
    Examples:
      diptych resume s3://bucket/runs/birds
      diptych resume s3://bucket/runs/birds train.workers=2 --address 10.0.0.7:6379
    """
    from infra.progress_display import ProgressForm
    from infra.storage import storage_of
    from orchestrator.resume import resume_run

    folder = resume_run(storage_of(run_folder), overrides, address=address, progress_form=ProgressForm(progress_form))
    click.echo(f"Run: {folder.url}")
    click.echo(f"Report: {folder.url}/report.html")


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@overrides_argument
@click.option("--schema", is_flag=True, help="Print the JSON schema of configs instead, for editors.")
@json_option
def config(config: Path | None, overrides: tuple[str, ...], schema: bool, as_json: bool) -> None:
    """Prints a config as a run would take it: references resolved, defaults filled in, checked.

    \b
    Examples:
      diptych config birds.yaml train.steps=500
      diptych config --schema > diptych-config.json
    """
    from orchestrator.config import RunConfig, load_config

    if schema:
        print_record(RunConfig.model_json_schema(), [], True)
        return
    if config is None:
        raise click.UsageError("Missing argument 'CONFIG' (or give --schema).")
    loaded = load_config(config, overrides)
    print_record(loaded.model_dump(mode="json"), [loaded.to_yaml().decode().rstrip()], as_json)


run_commands = (runs, status, logs, stop, resume, config)
