"""Counts the nodes that a run holds, over time: its cost, whatever became of its drivers."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.json_record import known_fields, read_record
from infra.storage import Storage
from orchestrator.records import drive_path

NODES_NAME = "nodes.json"
SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class NodeUse:
    """So many nodes, held for a stage from `began` (Unix seconds) on."""

    stage: str
    nodes: int
    began: float
    seconds: float

    @property
    def node_hours(self) -> float:
        """Nodes × hours."""
        return self.nodes * self.seconds / SECONDS_AN_HOUR


class NodeMeter:
    """Measures one drive: each stretch of time in which it holds the same number of nodes for the same stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._measured_at = clock()
        self._uses: list[NodeUse] = []

    def hold(self, stage: str, nodes: int) -> None:
        """From now on so many nodes are held for this stage, and none for the one before."""
        self.measure()
        if not self._uses or (self._uses[-1].stage, self._uses[-1].nodes) != (stage, nodes):
            self._uses.append(NodeUse(stage, nodes, time.time(), 0.0))

    def measure(self) -> tuple[NodeUse, ...]:
        """What has been held until now."""
        now = self._clock()
        if self._uses:
            last = self._uses[-1]
            self._uses[-1] = replace(last, seconds=last.seconds + now - self._measured_at)
        self._measured_at = now
        return tuple(self._uses)


def write_uses(folder: Storage, number: int, uses: Iterable[NodeUse]) -> None:
    """Keeps what a drive has held until now, in place of what was kept before. Raises OutputError, StorageFailed."""
    folder.write_bytes(drive_path(number, NODES_NAME), json.dumps({"uses": [asdict(use) for use in uses]}).encode())


def read_uses(folder: Storage, numbers: Iterable[int]) -> list[NodeUse]:
    """What these drives have held, in order; of one that was killed, until it last kept it."""
    uses: list[NodeUse] = []
    for number in numbers:
        try:
            uses += read_record(folder, drive_path(number, NODES_NAME), _uses_in)
        except FileNotFoundError:
            continue  # killed before its first stage, or of an older version
    return uses


def _uses_in(raw: dict[str, Any]) -> list[NodeUse]:
    return [known_fields(NodeUse, use) for use in raw["uses"]]


def node_hours_by_stage(uses: Iterable[NodeUse]) -> dict[str, float]:
    """Stage → node-hours."""
    hours: dict[str, float] = {}
    for use in uses:
        hours[use.stage] = hours.get(use.stage, 0.0) + use.node_hours
    return hours
