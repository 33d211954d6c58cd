"""The README's commands do what it says, on a web of this machine."""

import http.server
import re
import shlex
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import diptych
from PIL import Image

pytestmark = pytest.mark.slow

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PICTURES = 80
# The README's model and steps are for a GPU; everything else is run as it stands.
SMALLER = {"model: ViT-B-32": "model: diptych-tiny\n  global_batch_size: 16", "steps: 1000": "steps: 4"}
SMALLER_STEPS = {"step_00001000": "step_00000004", "--step 812": "--step 3"}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a reader has it: the URL list, and the README's config beside it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "web").mkdir()
    chance = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = Image.fromarray(chance.integers(0, 255, (8, 10, 3)).astype(np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / "web" / f"{number}.jpg", quality=90)
    handler = partial(QuietHandler, directory=str(folder / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        table = {"url": [f"{base}/{n}.jpg" for n in range(PICTURES)], "caption": [f"bird {n}" for n in range(PICTURES)]}
        pq.write_table(pa.table(table), folder / "urls.parquet")
        config = re.search(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
        assert config
        text = config[1].replace("  image_size: 256\n", "  image_size: 256\n  allow_private_addresses: [127.0.0.0/8]\n")
        for large, small in SMALLER.items():
            assert large in text
            text = text.replace(large, small)
        (folder / "birds.yaml").write_text(text)
        yield folder
        server.shutdown()


def test_each_command_of_the_readme_runs_in_its_order(folder: Path):
    commands = [line for block in BLOCKS for line in block.splitlines() if line.startswith("diptych ")]
    assert len(commands) >= 9
    for command in commands:
        smaller = command
        for large, small in SMALLER_STEPS.items():
            smaller = smaller.replace(large, small)
        done = diptych(*shlex.split(smaller)[1:], cwd=folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip(), command
    assert (folder / "runs" / "birds" / "report.html").is_file()


def test_its_first_two_commands_are_single_lines_that_set_themselves_up():
    for name in ("demo", "tests"):
        block = re.search(rf"<!-- {name} -->\n```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
        assert block and block[1].count("\n") == 1
        assert block[1].startswith("python3 -m venv .venv && .venv/bin/pip install")
