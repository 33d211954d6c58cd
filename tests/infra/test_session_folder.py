"""The folders of a process go with it, however it ends."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from infra.errors import OutputError
from infra.session_folder import session_folder, sweep_dead_sessions

SESSION = """
import sys, time
from pathlib import Path
from infra.session_folder import session_folder
with session_folder(sys.argv[1], Path(sys.argv[2])):
    print("made", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("purpose", ["", "logs-", "checkpoint-", "list-"])
def test_a_folder_of_each_purpose_is_swept_once_its_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purpose: str
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", SESSION, purpose, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "made\n"
        sweep_dead_sessions()
        assert len(list(tmp_path.iterdir())) == 1
        process.kill()
    sweep_dead_sessions()
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_not_there_is_an_error_for_the_user(tmp_path: Path):
    with pytest.raises(OutputError, match="cannot be written"), session_folder(parent=tmp_path / "none"):
        pass
