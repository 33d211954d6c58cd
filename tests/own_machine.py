"""Runs a script as if on a machine of its own: with its own processes, network and temporary folder (/mnt)."""

import subprocess

import pytest

# For what ends every Ray process that it sees, or takes fixed ports. Its first process takes all the others along.
ISOLATED = ("unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child")


def require_own_machine() -> None:
    """Skips the test where this is not allowed."""
    command = [*ISOLATED, "--net", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode:
        pytest.skip("processes, networks and mounts of one's own (unshare, as root) are not allowed here")
