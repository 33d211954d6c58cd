"""Traces some steps with torch's profiler, when asked to."""

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch

from infra.storage import Storage

PROFILE_FOLDER = "profile"


class StepProfiler:
    """Traces the steps from the first to the last given, and writes `profile/rank_N_steps_A-B.json.gz`.

    A `with` block ends a trace that is under way.
    """

    def __init__(self, steps: tuple[int, int] | None, run: Storage, rank: int) -> None:
        self._steps = steps
        self._run = run
        self._rank = rank
        self._profile: torch.profiler.profile | None = None

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """The block is step `number`, from 1."""
        if self._steps is None or not self._steps[0] <= number <= self._steps[1]:
            yield
            return
        if self._profile is None:
            self._profile = torch.profiler.profile(record_shapes=True)
            self._profile.start()
        with torch.profiler.record_function(f"step {number}"):
            yield
        if number == self._steps[1]:
            self._end()

    def _end(self) -> None:
        if self._profile is None or self._steps is None:
            return
        profile, self._profile = self._profile, None
        profile.stop()
        with tempfile.TemporaryDirectory() as scratch:
            trace = Path(scratch, "trace.json")
            profile.export_chrome_trace(str(trace))
            name = f"rank_{self._rank}_steps_{self._steps[0]}-{self._steps[1]}.json.gz"
            self._run.write_bytes(f"{PROFILE_FOLDER}/{name}", gzip.compress(trace.read_bytes(), 4))
