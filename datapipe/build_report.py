"""Tells how a build goes while it runs: rows, yield, failures by reason, speed, and advice when much fails."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from datapipe.advice import Adviser
from datapipe.marker import ShardStats
from datapipe.shard_task import ShardProgress
from datapipe.status import SampleStatus
from infra.progress import NODES_FACT, Progress


class BuildReport:
    """Feeds the progress display. `found` are the shards that were finished before."""

    def __init__(
        self,
        progress: Progress,
        found: Iterable[ShardStats],
        shards: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._shards = shards
        self._committed = Counter[str]()
        self._shards_done = 0
        for stats in found:
            self.on_shard(stats)
        self._found_samples = self._committed[SampleStatus.SUCCESS.value]
        self._adviser = Adviser()
        self._clock = clock
        self._began = clock()

    def on_shard(self, stats: ShardStats) -> None:
        """One more shard is committed."""
        self._committed.update(stats.status_counts)
        self._shards_done += 1

    def on_progress(self, done: ShardProgress, nodes: int = 1) -> None:
        """The sum over the shards that are under way, on so many nodes."""
        counts = self._committed + done.status_counts
        rows, samples = counts.total(), counts[SampleStatus.SUCCESS.value]
        share = samples / rows if rows else 0.0
        seconds = max(1e-9, self._clock() - self._began)
        self._progress.set_facts(
            {
                "images": samples,
                "shards_done": self._shards_done,
                "shards": self._shards,
                "images_per_second": round((samples - self._found_samples) / seconds, 1),
                "downloaded_mb_per_second": round(done.downloaded_bytes / 1e6 / seconds, 2),
                "yield": round(share, 4),
                NODES_FACT: max(1, nodes),
                "failures": {key: count for key, count in sorted(counts.items()) if key != SampleStatus.SUCCESS},
            }
        )
        speed = f"{done.downloaded_bytes / 1e6 / seconds:,.1f} MB/s"
        shown = f"{100 * share:.1f}% ok{_most_frequent_failure(counts)}"
        self._progress.update(rows, f"{shown}  {speed}  {self._shards_done}/{self._shards} shards")
        self._advise(counts)

    def end(self) -> None:
        """All shards are committed: what has not been said yet is said now."""
        self._advise(self._committed)

    def _advise(self, counts: Counter[str]) -> None:
        for advice in self._adviser.new(counts):
            self._progress.note(f"! {advice.line()}")


def _most_frequent_failure(counts: Counter[str]) -> str:
    """`, 1.9% http_404`; empty when nothing failed."""
    failures = Counter({key: count for key, count in counts.items() if key != SampleStatus.SUCCESS})
    if not failures.total():
        return ""
    ((status, count),) = failures.most_common(1)
    return f", {100 * count / counts.total():.1f}% {status}"
