"""Writes checkpoints in the background while the training goes on: each rank its part, rank 0 the marker."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from infra.errors import DiptychError, StageFailed
from infra.patience import persist
from infra.storage import Storage
from training.best import best_checkpoint
from training.checkpoint import CheckpointState, checkpoint_path, write_marker
from training.checkpoint_keep import KeepRule, prune_checkpoints, sweep_checkpoint
from training.checkpoint_part import CheckpointPart, PartName, read_receipts, write_part

LOOK_EVERY_S = 0.2
NICENESS = 10  # the training's own threads come first


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """patience_s: how long a storage may refuse a checkpoint, or a rank keep the others waiting.

    fence: a file of the run's folder; once it is there another driver has begun, and nothing is committed any more.
    """

    keep: KeepRule
    patience_s: float
    fence: str | None = None


class _Superseded(Exception):
    """Others write in this worker's place; trying again is of no use."""


class CheckpointWriter:
    """One rank's writer. One checkpoint at a time: ask `is_busy` before the next `begin`.

    A checkpoint that can't be written within the patience is given up, and `say` is told; the training goes on, and the
    one before it stays the newest. before_commit, after_commit: called by rank 0 before each marker, and after it with
    the step. is_superseded: whether a later start of the workers has begun, after which nothing may be committed.
    """

    def __init__(
        self,
        run: Storage,
        name: PartName,
        settings: WriterSettings,
        *,
        say: Callable[[str], None],
        before_commit: Callable[[], None] = lambda: None,
        after_commit: Callable[[int], None] = lambda _step: None,
        is_superseded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._run = run
        self._name = name
        self._settings = settings
        self._say = say
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._is_superseded = is_superseded
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, state: CheckpointState, part: CheckpointPart) -> None:
        """Starts to write this rank's part, and returns."""
        self.wait()
        self._failure = None
        self._thread = threading.Thread(target=self._write, args=(state, part), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits for the checkpoint that is being written, whatever becomes of it."""
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """Waits for the checkpoint that is being written. Raises StageFailed when the last one could not be."""
        self.wait()
        if self._failure is not None:
            raise StageFailed(
                f"The last checkpoint could not be written: {self._failure}",
                f"It was tried for {self._settings.patience_s:,.0f} s (train.checkpoint_patience_minutes). "
                "The checkpoint before it is kept.",
                "See to the storage and run the same command again: it goes on.",
            ) from self._failure

    def _write(self, state: CheckpointState, part: CheckpointPart) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        checkpoint = self._run.at(checkpoint_path(state.step))
        until = time.monotonic() + self._settings.patience_s
        told = False

        def on_trouble(error: Exception) -> None:
            nonlocal told
            if not told:
                self._say(f"the checkpoint of step {state.step:,} is delayed: {error}")
                told = True

        try:
            persist(lambda: write_part(checkpoint, self._name, part), until=until, on_trouble=on_trouble)
            if self._name.rank == 0:
                self._commit(checkpoint, state, until, on_trouble)
        except Exception as error:  # noqa: BLE001 - the thread's border: raised again by `finish`
            self._failure = error
            self._say(f"the checkpoint of step {state.step:,} is given up: {error}")
            return
        if told and self._name.rank == 0:
            self._say(f"the checkpoint of step {state.step:,} is written after all")

    def _commit(
        self, checkpoint: Storage, state: CheckpointState, until: float, on_trouble: Callable[[Exception], None]
    ) -> None:
        files = None
        while files is None:
            files = persist(lambda: read_receipts(checkpoint, self._name), until=until, on_trouble=on_trouble)
            if files is None and time.monotonic() > until:
                raise StageFailed("another rank's part did not arrive in time", "", "")
            if files is None:
                time.sleep(LOOK_EVERY_S)
        whole = files
        persist(self._before_commit, until=until, on_trouble=on_trouble)

        def write() -> None:
            # Before each try: the storage may have been away for long.
            self._require_its_turn()
            write_marker(checkpoint, state, whole)

        persist(write, until=until, on_trouble=on_trouble)
        # It is committed: what is in the way now costs storage, not the checkpoint.
        try:
            persist(lambda: self._after_commit(state.step), until=until, on_trouble=on_trouble)
            self._require_its_turn()
            sweep_checkpoint(checkpoint)
            prune_checkpoints(self._run, self._settings.keep, checkpoint_path(state.step), best_checkpoint(self._run))
        except (DiptychError, OSError, _Superseded) as error:
            self._say(f"after the checkpoint of step {state.step:,} not all was tidied up: {error}")

    def _require_its_turn(self) -> None:
        """Raises _Superseded when others have begun to write in this worker's place."""
        if self._is_superseded():
            raise _Superseded("the workers have been started again since")
        fence = self._settings.fence
        if fence is not None and self._run.exists(fence):
            raise _Superseded("another driver has taken the run over")
