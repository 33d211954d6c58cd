"""What the commands share: their options, and how a record is printed."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.errors import OutputError
from infra.terminal import flush_or_drop

if TYPE_CHECKING:
    from infra.storage import Storage

config_argument = click.argument("config", type=click.Path(path_type=Path))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
run_argument = click.argument("run_folder", metavar="RUN")
address_option = click.option("--address", metavar="HOST:PORT", help="A running Ray cluster; default: this machine.")
progress_option = click.option(
    "--progress",
    "progress_form",
    type=click.Choice(["auto", "json"]),
    default="auto",
    show_default=True,
    help="auto: a bar, or plain lines in a log; json: a JSON object a line on standard error, about once a second.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_record(record: Any, lines: list[str], as_json: bool) -> None:
    """A record (a dataclass, or a dict of JSON values) as ASCII JSON, which can't steer a terminal; or the lines."""
    value = record if isinstance(record, dict) else dataclasses.asdict(record)
    say(json_text(value, indent=1) if as_json else "\n".join(lines))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """As JSON in ASCII; null stands for a number that is none or has no end, which JSON cannot say."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def say(text: str) -> None:
    """Prints a line. Raises OutputError when it cannot; a pipe that its reader closed ends the command by itself."""
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"Standard output cannot be written ({error.strerror}).",
            "It is a terminal, a pipe that is read, or a file on a disk with room.",
            "Send it elsewhere.",
        ) from error


def print_run(folder: "Storage", as_json: bool) -> None:
    """Where a run lies whose command has done its part; as JSON also how it stands."""
    report = f"{folder.url}/report.html"
    if as_json:
        from orchestrator.records import read_standing

        print_record({"folder": folder.url, "state": read_standing(folder).state, "report": report}, [], as_json)
        return
    for line in (f"Run: {folder.url}", f"Report: {report}"):
        say_if_heard(line)


def say_if_heard(text: str, *, err: bool = False) -> None:
    """Prints a line for whoever is still there: a reader that went away, or a full disk, costs the line alone."""
    try:
        click.echo(text, err=err)
    except OSError:
        flush_or_drop(sys.stderr if err else sys.stdout, 2 if err else 1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
