"""Runs the `diptych` command as a user does, and finds its processes."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

DIPTYCH = Path(sys.executable).parent / "diptych"


def diptych(
    *arguments: object, cwd: Path, timeout_s: float = 900, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [DIPTYCH, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def start_diptych(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts the command; its output goes to a file in `cwd`."""
    with (cwd / "output.txt").open("a") as output:
        return subprocess.Popen(
            [DIPTYCH, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )


def family(pid: int) -> list[psutil.Process]:
    """The process and all that it started."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def name_of(process: psutil.Process) -> str:
    """Its command line, or nothing once it is dead."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""


def workers_in(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that train."""
    return [process for process in processes if "RayTrainWorker" in name_of(process)]


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """kill -9 of each."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=30)
