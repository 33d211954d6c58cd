"""Node-hours: measured by drive, kept in the run's folder, added up over drives that ended in any way."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.append_log import AppendLog
from infra.lease import hold
from infra.progress import NODES_FACT, StageSnapshot
from infra.storage import Storage, storage_of
from orchestrator.cli import cli
from orchestrator.keeper import Keeper
from orchestrator.node_hours import NodeMeter, NodeUse, node_hours_by_stage, read_uses, write_uses
from orchestrator.records import begin_drive, encode
from orchestrator.show import status_lines
from orchestrator.status import read_status


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    folder = storage_of(tmp_path / "run")
    folder.write_bytes("run.json", encode({"name": "birds", "created": 1.0}))
    folder.write_bytes("run.yaml", b"name: birds\ntrain: {data: data, model: diptych-tiny, steps: 9}\n")
    return folder


def snapshot(stage: str, nodes: int | None = None) -> StageSnapshot:
    facts = {} if nodes is None else {NODES_FACT: nodes}
    return StageSnapshot(stage, "steps", 3, 9, 1.5, 4.0, "loss 2.1", 2.0, facts)


def test_each_stretch_with_as_many_nodes_for_a_stage_is_one_use():
    clock = Clock()
    meter = NodeMeter(clock)
    clock.now += 50  # before the first stage nothing is held
    for stage, nodes, seconds in (("build", 3, 60), ("build", 3, 60), ("build", 2, 60), ("train", 2, 1800)):
        meter.hold(stage, nodes)
        clock.now += seconds
    uses = meter.measure()
    assert [(use.stage, use.nodes, use.seconds) for use in uses] == [
        ("build", 3, 120.0),
        ("build", 2, 60.0),
        ("train", 2, 1800.0),
    ]
    assert node_hours_by_stage(uses) == {"build": pytest.approx(480 / 3600), "train": 1.0}


def test_the_uses_of_all_drives_are_read_and_one_that_kept_none_counts_nothing(run: Storage):
    for number, hours in ((1, 1), (3, 2)):
        write_uses(run, number, [NodeUse("train", 4, 1.0, hours * 3600.0)])
    assert sum(use.node_hours for use in read_uses(run, [1, 2, 3])) == 12.0


def test_a_drive_keeps_what_it_holds_while_it_goes_on_and_says_one_node_where_a_stage_tells_none(run: Storage):
    drive = begin_drive(run, "train")
    with AppendLog(run, "log.txt") as log:
        keeper = Keeper(run, drive, log, Path("logs"))
        for found in (snapshot("evaluate"), snapshot("train", 2), snapshot("train", 2), snapshot("train", 1)):
            keeper.take(found)
        keeper.keep()  # and no word more: as a kill leaves it
    uses = read_uses(run, [drive.number])
    assert [(use.stage, use.nodes) for use in uses] == [("evaluate", 1), ("train", 2), ("train", 1)]
    assert all(0 <= use.seconds < 60 for use in uses)


def test_status_has_all_of_a_stage_in_columns_and_the_cost_of_all_drives(run: Storage):
    for _ in range(2):
        drive = begin_drive(run, "train")
        write_uses(run, drive.number, [NodeUse("train", 2, 1.0, 900.0)])
    run.write_bytes(
        f"drives/{drive.number:04d}/progress.json",
        json.dumps({"stages": {"train": snapshot("train", 2).to_json() | {"at": 5.0}}}).encode(),
    )
    with hold(run, print):
        lines = status_lines(read_status(run))
        found = json.loads(CliRunner().invoke(cli, ["status", run.url, "--json"]).stdout)
    assert lines[2] == "stage  state    progress        rate         time  left  node-hours"
    assert lines[3] == "train  running  3/9 steps  33%  1.5 steps/s  2 s   4 s   1.00        loss 2.1"
    assert lines[-1] == "cost        1.00 node-hours"
    assert found["node_hours"] == found["stages"][0]["node_hours"] == 1.0
    assert found["stages"][0]["snapshot"]["eta_s"] == 4.0 and found["stages"][0]["snapshot"]["rate"] == 1.5
