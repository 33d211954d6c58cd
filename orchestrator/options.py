"""What the commands share: their options, and how a record is printed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

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
    click.echo(json.dumps(value, indent=1) if as_json else "\n".join(lines))
