"""The commands that look at runs and steer them, from any machine that reaches their storage."""

import sys
import time
from functools import partial
from pathlib import Path

import click

from orchestrator.options import (
    config_argument,
    json_option,
    json_text,
    overrides_argument,
    print_record,
    print_run,
    progress_option,
    run_argument,
    say,
    say_if_heard,
)

WATCH_EVERY_S = 2.0

shared_folder_option = click.option(
    "--shared-folder",
    metavar="FOLDER",
    help="A folder that every node of the cluster mounts at this path; a job's run and datasets lie there or on S3.",
)


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

    The states are queued, running, retrying, lost (its driver died), stopping, stopped, failed, partial (a command did
    its part, and stages are left) and done. Exit code 1 for a run that is lost or has failed, 130 for one that was
    stopped, 0 for all others.

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
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line; with -f the last one is the ending.")
def logs(run_folder: str, follow: bool, as_json: bool) -> None:
    """The lines that a run's drivers have said so far, all drives in order, each with its time in UTC.

    With -f the exit code is the run's: 0 done or partial, 1 failed or lost, 130 stopped. What libraries and Ray
    had to say lies in the run's folder logs/.

    \b
    Examples:
      diptych logs s3://bucket/runs/birds -f
      diptych logs s3://bucket/runs/birds --json
    """
    from infra.storage import storage_of
    from infra.terminal import printable
    from orchestrator.records import read_standing
    from orchestrator.run import read_identity
    from orchestrator.run_log import LogReader, time_and_text
    from orchestrator.run_log import follow as follow_log
    from orchestrator.show import first_line

    folder = storage_of(run_folder)
    read_identity(folder)
    reader = LogReader(folder)

    def tell(line: str) -> None:
        said_at, text = time_and_text(line)
        say(json_text({"at": said_at, "text": text}) if as_json else printable(line))

    if not follow:
        for line in reader.new_lines():
            tell(line)
        return
    standing = follow_log(reader, lambda: read_standing(folder), tell, partial(say_if_heard, err=True))
    if as_json:
        say(json_text({"state": standing.state, "reason": standing.reason}))
    else:
        click.echo(f"{standing.state}: {first_line(standing.reason)}", err=True)
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
@click.option(
    "--address",
    metavar="HOST:PORT|http://HEAD:8265",
    help="A running Ray cluster to drive it on from here, or the dashboard of one that is handed the run as a job; "
    "default: this machine.",
)
@shared_folder_option
@progress_option
@json_option
def resume(
    run_folder: str,
    overrides: tuple[str, ...],
    address: str | None,
    shared_folder: str | None,
    progress_form: str,
    as_json: bool,
) -> None:
    """Goes on with a run from its storage alone: with the config that lies there, from its last checkpoint.

    Any machine will do, and any cluster. Overrides may change what the result does not depend on (train.workers, …).

    \b
    Examples:
      diptych resume s3://bucket/runs/birds
      diptych resume s3://bucket/runs/birds train.workers=2 --address 10.0.0.7:6379
      diptych resume s3://bucket/runs/birds --address http://10.0.0.7:8265
    """
    from infra.progress_display import ProgressForm
    from infra.storage import storage_of
    from orchestrator.resume import resubmit_run, resume_run

    folder = storage_of(run_folder)
    if address is not None and address.startswith(("http://", "https://")):
        found = resubmit_run(folder, overrides, address, shared_folder=shared_folder)
        print_record(found, found.lines(), as_json)
        return
    if shared_folder is not None:
        raise click.UsageError("--shared-folder is for a run that is handed to a cluster: --address http://HEAD:8265.")
    resume_run(folder, overrides, address=address, progress_form=ProgressForm(progress_form))
    print_run(folder, as_json)


@click.command()
@config_argument
@overrides_argument
@click.option("--address", metavar="http://HEAD:8265", required=True, help="The dashboard of the cluster's head.")
@shared_folder_option
@json_option
def submit(config: Path, overrides: tuple[str, ...], address: str, shared_folder: str | None, as_json: bool) -> None:
    """Hands a run to a Ray cluster and returns at once.

    Our code and the config travel with the job, so that the cluster needs our dependencies and no shared file system;
    the run lies in its storage, where logs, status, stop and resume find it from anywhere. A local storage or dataset
    is refused, unless it lies in the --shared-folder. Of several submissions of
    one name one counts; with another config it is refused. Credentials are the cluster's own: none are sent.

    \b
    Example:
      diptych submit birds.yaml storage=s3://bucket/runs --address http://10.0.0.7:8265
    """
    from orchestrator.config import load_config
    from orchestrator.submit import submit_run

    found = submit_run(load_config(config, overrides), address, shared_folder=shared_folder)
    print_record(found, found.lines(), as_json)


@click.command()
@run_argument
@click.argument("new_name")
@overrides_argument
@click.option("--step", type=click.IntRange(min=1), required=True, help="The checkpoint's step.")
@json_option
def fork(run_folder: str, new_name: str, overrides: tuple[str, ...], step: int, as_json: bool) -> None:
    """Makes a new run from a checkpoint of another one, with changes; `diptych resume` then trains it.

    The model, the loss, the batch and the order of the samples stay; learning rates, lengths, exclusions may change.
    A tower that is unlocked begins with empty moments: its first updates are up to 1.6 times the learning rate.

    \b
    Example:
      diptych fork runs/birds birds-slower --step 8000 train.lr=1.0e-4
      diptych fork runs/lit lit-unlocked --step 8000 train.lock.image=false train.lr=1.0e-5
    """
    from infra.storage import storage_of
    from orchestrator.fork import fork_run

    made = fork_run(storage_of(run_folder), new_name, step, overrides)
    print_record({"run": made.url, "step": step}, [f"Run: {made.url}", f"Go on: diptych resume {made.url}"], as_json)


@click.command()
@click.argument("place", metavar="RUN|STORAGE")
@click.option("--delete", is_flag=True, help="Remove what is listed.")
@json_option
def gc(place: str, delete: bool, as_json: bool) -> None:
    """Lists what nothing refers to in a run, or in all runs of a storage; with --delete it goes.

    That is: torn checkpoints, files of other attempts, checkpoints past train.keep_checkpoints, open uploads,
    unfinished forks. Never the newest checkpoint whose every byte is right, and nothing of a run that somebody drives.

    \b
    Examples:
      diptych gc runs/birds
      diptych gc s3://bucket/runs --delete
    """
    from dataclasses import asdict

    from infra.storage import storage_of
    from orchestrator.garbage import collect_garbage
    from orchestrator.records import RUN_FILE
    from orchestrator.show import garbage_lines
    from orchestrator.status import read_runs

    root = storage_of(place)
    folders = [root] if root.exists(RUN_FILE) else [storage_of(run.folder) for run in read_runs(root)]
    found = [collect_garbage(folder, delete=delete) for folder in folders]
    print_record({"runs": [asdict(run) for run in found]}, garbage_lines(found, is_deleted=delete), as_json)


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


run_commands = (submit, runs, status, logs, stop, resume, fork, gc, config)
