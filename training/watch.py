"""The driver's view of a running training: reads the board, shows progress, feeds the trackers."""

import contextlib
import json
import threading
from collections.abc import Sequence
from typing import Any

from infra.errors import DiptychError
from infra.place import Place
from infra.progress import NODES_FACT, Progress
from infra.storage import Storage
from training.board import BoardView
from training.records import CERTIFICATE_FILE, StepMetrics, parse_metrics
from training.trackers import MetricsTracker, explained

LOOK_TIMEOUT_S = 10.0
PERCENT = 100


class TrainingWatch:
    """Shows what has come in since the last look.

    `failure`: why all ranks stopped, if they did. `places`: of the ranks of the last group that was started.
    """

    def __init__(self, board: Any, run: Storage, progress: Progress, trackers: Sequence[MetricsTracker]) -> None:
        self._board, self._run, self._progress, self._trackers = board, run, progress, list(trackers)
        self._lock = threading.Lock()  # who explains a failure looks too
        self._attempt: int | None = None
        self._facts: dict[str, float] = {}
        self.places: tuple[Place, ...] = ()
        self.failure: DiptychError | None = None

    @property
    def attempt(self) -> int | None:
        """The number of the worker group that did the last step, counted from 1."""
        return self._attempt

    def look(self) -> None:
        """Asks the board once."""
        import ray

        with self._lock:
            try:
                view: BoardView = ray.get(self._board.look.remote(), timeout=LOOK_TIMEOUT_S)
            except ray.exceptions.RayError:
                return  # the display is not worth a training; its errors come out of its own calls
            self._take(view)

    def _take(self, view: BoardView) -> None:
        self.failure = view.failure
        if view.places != self.places:
            self.places = view.places
            self._progress.set_facts(self._facts | self._nodes())
            self._progress.set_detail("the workers are there: they load the model and the data")
        for note in view.notes:
            self._progress.note(f"train  {note}")
        for metrics in parse_metrics("".join(f"{line}\n" for line in view.lines).encode()):
            self._show(metrics, view)

    def _nodes(self) -> dict[str, float]:
        """How many nodes the ranks are on."""
        return {NODES_FACT: len({place.node for place in self.places})} if self.places else {}

    def _log(self, tracker: MetricsTracker, last: StepMetrics) -> None:
        try:
            tracker.log(last)
        except Exception as error:  # noqa: BLE001 - another program's border: its server is not worth a training
            self._trackers.remove(tracker)
            who = type(tracker).__name__.lstrip("_")
            self._progress.note(f"train  metrics are no longer sent to {who}: {explained(error)}")

    def _show(self, last: StepMetrics, view: BoardView) -> None:
        if last.attempt != self._attempt:
            if self._attempt is None:
                with contextlib.suppress(DiptychError, OSError):  # shown for information alone
                    self._progress.note(f"train  {json.loads(self._run.read_bytes(CERTIFICATE_FILE))['text']}")
            else:
                why = f": {'; '.join(view.silent)}" if view.silent else ""
                workers = f"{last.ranks} worker{'s' if last.ranks > 1 else ''}"
                self._progress.note(
                    f"train  the workers were started again{why}; from the last checkpoint it goes on at step "
                    f"{last.step:,} with {workers}"
                )
            self._attempt = last.attempt
            self._progress.restart_rate(last.step)
        if last.is_skipped:
            self._progress.note(f"train  step {last.step:,} was skipped: its loss was {last.loss}, or its gradient bad")
        for tracker in list(self._trackers):
            self._log(tracker, last)
        self._facts = _facts(last)
        self._progress.set_facts(self._facts | self._nodes())
        self._progress.update(last.step, _detail(last))


def _detail(last: StepMetrics) -> str:
    each = f" ({last.samples_per_s / last.ranks:,.0f} a worker)" if last.ranks > 1 else ""
    return (
        f"loss {last.loss:.3f} · scale {last.logit_scale:.1f} · {last.samples_per_s:,.0f} pairs/s{each} · "
        f"data wait {PERCENT * wait_share(last):.0f}%"
    )


def _facts(last: StepMetrics) -> dict[str, float]:
    return {
        "loss": last.loss,
        "logit_scale": last.logit_scale,
        "samples_per_s": last.samples_per_s,
        "samples_per_s_per_worker": last.samples_per_s / last.ranks,
        "data_wait_share": wait_share(last),
        "epoch": last.epoch,
    }


def wait_share(metrics: StepMetrics) -> float:
    """The share of a step that its slowest rank waited for data."""
    total = sum(metrics.seconds.values())
    return metrics.seconds.get("wait", 0.0) / total if total else 0.0
