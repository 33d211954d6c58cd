"""What a build tells while it runs."""

import json
from collections import Counter
from io import StringIO

from datapipe.build_report import BuildReport
from datapipe.marker import ShardStats
from datapipe.shard_task import ShardProgress
from infra.progress import Progress
from infra.progress_display import ProgressForm


def told(*steps: tuple[dict[str, int], int], found: dict[str, int] | None = None) -> list[dict[str, object]]:
    """The JSON lines of a build of 10,000 rows whose shards under way stand as the steps say, a second apart."""
    stream, now = StringIO(), [0.0]
    with Progress(stream, form=ProgressForm.JSON, clock=lambda: now[0]) as progress:
        progress.begin("build", total=10_000, unit="rows")
        shards = [ShardStats(0, sum(found.values()), found, {})] if found else []
        report = BuildReport(progress, shards, 10, clock=lambda: now[0])
        for counts, downloaded_bytes in steps:
            now[0] += 2.0
            report.on_progress(ShardProgress(Counter(counts), downloaded_bytes))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_rows_yield_speed_and_failures_are_told():
    last = told(({"success": 900, "http_404": 90, "timeout": 10}, 8_000_000), found={"success": 500})[-1]
    assert last["done"] == 1500
    assert last["detail"] == "93.3% ok, 6.0% http_404  4.0 MB/s  1/10 shards"
    assert last["facts"] == {
        "images": 1400,
        "shards_done": 1,
        "shards": 10,
        "images_per_second": 450.0,
        "downloaded_mb_per_second": 4.0,
        "yield": 0.9333,
        "nodes": 1,
        "failures": {"http_404": 90, "timeout": 10},
    }


def test_what_fails_in_the_last_moment_is_explained_at_the_end():
    stream = StringIO()
    with Progress(stream) as progress:
        progress.begin("build", total=300, unit="rows")
        report = BuildReport(progress, [], 1)
        report.on_shard(ShardStats(0, 300, {"success": 299, "decoder_crash": 1}, {}))
        assert "decoder_crash" not in stream.getvalue()
        report.end()
    assert "decoder_crash" in stream.getvalue()


def test_unusual_failures_are_explained_once():
    bad = {"success": 100, "dns_failed": 900}
    notes = [line for line in told((bad, 0), (bad, 0), (bad, 0)) if line["event"] == "note"]
    assert len(notes) == 1 and "dns_failed, 90.0% of the rows" in str(notes[0]["text"])
