"""`diptych demo`: renders the pictures, serves them, and sends them through the public pipeline."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from infra.storage import Storage, storage_of
from orchestrator.demo.urllist import write_url_list
from orchestrator.demo.web import DemoWeb
from orchestrator.drive import driving
from orchestrator.run import EVALUATION_FOLDER, REPORT_FILE, open_run
from orchestrator.stages import Stage, configured_stages, run_stages, write_run_report
from training.records import SCORES_FILE

SEED = 0
RUN_NAME = "run"
NEEDED_DISK_BYTES = 1 << 30  # pictures 150 MB, dataset 20 MB, three checkpoints of 100 MB, Ray's session
CREDIT = "Pictures: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0 (openmoji.org)."


@dataclass(frozen=True, slots=True)
class DemoSize:
    """How much the demo does. `emoji` limits the picture set; None is all of it."""

    emoji: int | None
    steps: int
    shard_rows: int
    checkpoint_every: int


FULL = DemoSize(emoji=None, steps=200, shard_rows=500, checkpoint_every=25)
SHORT = DemoSize(emoji=400, steps=8, shard_rows=100, checkpoint_every=4)


def run_demo(workdir: Path, *, short: bool = False) -> Storage:
    """Does what is missing of the demo in `workdir`; returns the folder with the scores.

    Raises MachineError when the disk is too small or the port of an earlier start is taken.
    """
    size = SHORT if short else FULL
    root = storage_of(workdir)
    root.require_writable()
    _require_disk(root)
    with driving(root.at(RUN_NAME)) as progress:
        pictures = _render(root, size, progress)
        with DemoWeb(pictures.folder, state=root.local_path("web.json")) as web:
            write_url_list(root.local_path("urls.parquet"), pictures, web, seed=SEED)
            config = _write_config(root, size)
            folder = open_run(config)
            # Only the build asks the web; what comes after it finds the dataset.
            run_stages(config, folder, [Stage.BUILD], progress)
        run_stages(config, folder, configured_stages(config)[1:], progress)
        write_run_report(config, folder, credit=CREDIT)
    shutil.copyfile(folder.local_path(REPORT_FILE), root.local_path(REPORT_FILE))
    shutil.copyfile(folder.local_path(f"{EVALUATION_FOLDER}/{SCORES_FILE}"), root.local_path(SCORES_FILE))
    return folder.at(EVALUATION_FOLDER)
