"""`diptych demo`: renders the pictures, serves them, and sends them through the public pipeline."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.errors import OutputError
from infra.progress import Progress
from infra.storage import Storage, storage_of
from orchestrator.config import RunConfig, Stage, load_config
from orchestrator.demo.groups import PROMPT_NAMES, Group
from orchestrator.demo.pictures import PictureSet, render_pictures
from orchestrator.demo.urllist import write_url_list
from orchestrator.demo.web import DemoWeb, require_port
from orchestrator.drive import driving
from orchestrator.report_refresh import refreshing_report
from orchestrator.run import EVALUATION_FOLDER, REPORT_FILE, open_run
from orchestrator.stages import check_stages, configured_stages, refresh_run_report, run_stages
from training.records import SCORES_FILE

SEED = 0
# The groups whose members differ in gender and skin tone, which is what is held out.
HELD_OUT_GROUPS = (
    Group.WORK,
    Group.SPORT,
    Group.GESTURE,
    Group.PORTRAIT,
    Group.FANTASY,
    Group.MOBILITY,
    Group.COUPLE,
    Group.HAND,
    Group.BODY_PART,
)
RUN_NAME = "run"
CONFIG_FILE = "config.yaml"
PORT_FILE = "web-port"
NEEDED_DISK_BYTES = 1 << 30  # pictures 150 MB, dataset 30 MB, three checkpoints of 160 MB, Ray's session
TITLE = "diptych demo"
CREDIT = "Pictures: OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0."

CONFIG = """\
# The config of the demo: run it again with `diptych run {config}`.
name: {name}
storage: {root}
build:
  input: {root}/urls.parquet
  output: {root}/dataset
  number_sample_per_shard: {shard_rows}
  image_size: 64
  resize_mode: border
  min_image_size: 32
  timeout: 5
  retries: 1
  allow_private_addresses: [127.0.0.0/8]
train:
  data: {{path: {root}/dataset, where: {{split: train}}}}
  model: diptych-tiny
  loss: clip
  global_batch_size: 128
  steps: {steps}
  initial_logit_scale: 25
  lr: 1.0e-3
  warmup_steps: {warmup_steps}
  weight_decay: 0.1
  zero_stage: 1
  precision: fp32
  workers: 2
  threads_per_worker: 1
  use_gpu: false
  checkpoint_every: {checkpoint_every}
  seed: {seed}
evaluate:
  retrieval:
    data: {{path: {root}/dataset, where: {{split: held_out}}}}
  zero_shot:
    data: {{path: {root}/dataset, where: {{split: held_out}}}}
    label_col: group
    classes: {classes}
    templates: ["a {{}}", "a drawing of a {{}}", "{{}}"]
"""


@dataclass(frozen=True, slots=True)
class DemoSize:
    """How much the demo does. `emoji` limits the picture set; None is all of it."""

    emoji: int | None
    steps: int
    warmup_steps: int
    shard_rows: int
    checkpoint_every: int


FULL = DemoSize(emoji=None, steps=480, warmup_steps=40, shard_rows=500, checkpoint_every=40)
SHORT = DemoSize(emoji=400, steps=8, warmup_steps=2, shard_rows=100, checkpoint_every=4)


def run_demo(workdir: Path, *, short: bool = False) -> Storage:
    """Does what is missing of the demo in `workdir`; returns the folder with the scores.

    Raises OutputError when the disk is too small, MachineError when the port of an earlier start is taken.
    """
    size = SHORT if short else FULL
    root = storage_of(workdir)
    _require_disk(root)
    root.require_writable()
    port_file = root.local_path(PORT_FILE)
    require_port(port_file)
    folder = root.at(RUN_NAME)
    with driving(folder, "demo") as driver:
        pictures = _render(root, size, driver.progress)
        with DemoWeb(pictures.folder, port_file=port_file) as web:
            write_url_list(root.local_path("urls.parquet"), pictures, web.base_url, SEED)
            config = _write_config(root, size)
            check_stages(config, [Stage.BUILD])
            open_run(driver, config)
            # Only the build asks the web; what comes after it finds the dataset.
            run_stages(driver, config, [Stage.BUILD])
        with refreshing_report(
            partial(refresh_run_report, config, driver, title=TITLE, credit=CREDIT), driver.progress.note
        ):
            run_stages(driver, config, configured_stages(config)[1:])
            driver.require_lease()  # without it the last report is left out
    shutil.copyfile(folder.local_path(REPORT_FILE), root.local_path(REPORT_FILE))
    shutil.copyfile(folder.local_path(f"{EVALUATION_FOLDER}/{SCORES_FILE}"), root.local_path(SCORES_FILE))
    return folder.at(EVALUATION_FOLDER)


def _require_disk(root: Storage) -> None:
    free = root.free_bytes()
    if free is not None and free < NEEDED_DISK_BYTES:
        raise OutputError(
            f"{root.url} has {free / 1e6:,.0f} MB free.",
            f"The demo needs {NEEDED_DISK_BYTES / 1e6:,.0f} MB.",
            "Free some space, or name another place with --workdir.",
        )


def _render(root: Storage, size: DemoSize, progress: Progress) -> PictureSet:
    progress.begin("render", total=None, unit="pictures")
    pictures = render_pictures(
        root.local_path("pictures"),
        SEED,
        emoji_limit=size.emoji,
        on_progress=lambda done, total: progress.update(done, total=total),
    )
    progress.end(f"{len(pictures.pictures):,} pictures of OpenMoji's emoji (CC BY-SA 4.0)")
    return pictures


def _write_config(root: Storage, size: DemoSize) -> RunConfig:
    path = root.local_path(CONFIG_FILE)
    text = CONFIG.format(
        config=path,
        name=RUN_NAME,
        root=root.url,
        steps=size.steps,
        warmup_steps=size.warmup_steps,
        shard_rows=size.shard_rows,
        checkpoint_every=size.checkpoint_every,
        seed=SEED,
        classes={group.value: PROMPT_NAMES[group] for group in HELD_OUT_GROUPS},
    )
    root.write_bytes(CONFIG_FILE, text.encode())
    return load_config(path)
