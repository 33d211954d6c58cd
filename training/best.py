"""Remembers which checkpoint scored best in the validation during training."""

import json
from dataclasses import asdict, dataclass

from infra.json_record import known_fields
from infra.storage import Storage
from training.checkpoint import MARKER_FILE, checkpoint_path

BEST_FILE = "best.json"


@dataclass(frozen=True, slots=True)
class Best:
    """The step whose weights scored best, by which score, and how well."""

    step: int
    score: str
    value: float


def read_best(run: Storage) -> Best | None:
    """The best validation by now, or None."""
    return known_fields(Best, json.loads(run.read_bytes(BEST_FILE))) if run.exists(BEST_FILE) else None


def write_best(run: Storage, best: Best) -> None:
    """Remembers a new best one."""
    run.write_bytes(BEST_FILE, json.dumps(asdict(best)).encode())


def best_checkpoint(run: Storage) -> str | None:
    """The path of the best one's checkpoint, or None when there is none."""
    best = read_best(run)
    path = checkpoint_path(best.step) if best else None
    return path if path and run.exists(f"{path}/{MARKER_FILE}") else None
