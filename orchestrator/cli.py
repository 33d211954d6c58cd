"""The command line: how it starts, ends and tells errors; the commands are in the files that it puts together."""

import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from infra.errors import DiptychError
from orchestrator.cluster_commands import cluster
from orchestrator.inspection_commands import inspection_commands
from orchestrator.options import say_if_heard
from orchestrator.run_commands import run_commands
from orchestrator.stage_commands import stage_commands

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
        say_if_heard("Stopped. Run the same command again: it goes on where it was.", err=True)
        sys.exit(INTERRUPTED)
    except SystemExit as error:
        if error.code == TERMINATED:
            say_if_heard("Terminated. Run the same command again: it goes on where it was.", err=True)
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


for command in (*stage_commands, *run_commands, *inspection_commands, cluster):
    cli.add_command(command)


def _print_error(error: DiptychError) -> None:
    say_if_heard(f"{click.style('error:', fg='red')} {error}", err=True)
    for note in getattr(error, "__notes__", []):
        say_if_heard(note, err=True)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
