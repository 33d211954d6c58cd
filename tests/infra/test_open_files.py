"""How many files a process may open."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from infra.errors import MachineError
from infra.open_files import require_open_files

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 512) if hard > 0 else 512))
try:
    require_open_files({needed})
    print("enough", resource.getrlimit(resource.RLIMIT_NOFILE))
except MachineError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("needed", "said"),
    [(512, "enough (512, 512)"), (513, "may have 512 files"), (513, "needs up to 513"), (513, "build.connections")],
)
def test_a_process_takes_what_it_may_have_open_and_says_when_that_is_too_little(needed: int, said: str):
    script = SCRIPT.format(needed=needed)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said in done.stdout
