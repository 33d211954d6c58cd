"""Records as the plain lines that a command prints."""

from typing import TYPE_CHECKING

from infra.progress import duration
from orchestrator.run import RunState, RunStatus
from training.records import Evaluation

if TYPE_CHECKING:
    from datapipe.inspect import DatasetSummary
    from datapipe.verify import VerifyReport


def score_lines(evaluation: Evaluation) -> list[str]:
    """Each score beside chance: `text_to_image_recall@1   32.1%   chance 0.2%   142× chance   of 440`."""
    width = max((len(score.name) for score in evaluation.scores), default=0)
    return [
        f"{score.name:<{width}}  {100 * score.value:6.1f}%   chance {100 * score.chance:5.2f}%   "
        f"{score.value / score.chance:6.1f}× chance   of {score.samples:,}"
        for score in evaluation.scores
    ]


def status_lines(status: RunStatus) -> list[str]:
    """The run's state, then what is known of its stage, training and checkpoint."""
    lines = [f"{status.name}  {status.state}  ({status.reason})", f"folder      {status.folder}"]
    lines.append(f"done        {', '.join(status.stages_done) or 'no stage yet'}")
    if status.state is RunState.RUNNING and status.progress is not None:
        lines.append(f"now         {status.progress.line()}")
        lines.append(f"since       {duration(status.progress.elapsed_s)}")
    if status.step is not None and status.loss is not None:
        lines.append(f"training    step {status.step:,}, loss {status.loss:.4f}")
    if status.checkpoint is not None:
        lines.append(f"checkpoint  {status.checkpoint}")
    return lines


def summary_lines(summary: "DatasetSummary") -> list[str]:
    """Counts, yield by reason, most frequent first, and sizes."""
    lines = [
        f"{summary.url}",
        f"rows      {summary.rows:,} in {summary.shards:,} shards",
        f"samples   {summary.samples:,} ({100 * summary.samples / max(1, summary.rows):.1f}%)",
        f"size      {summary.total_bytes / 1e6:,.1f} MB",
    ]
    counts = sorted(summary.status_counts.items(), key=lambda item: (-item[1], item[0]))
    return lines + [
        f"  {status:<22}{count:>12,}  {100 * count / max(1, summary.rows):5.1f}%" for status, count in counts
    ]


def verify_lines(report: "VerifyReport") -> list[str]:
    """One line a mismatch, then the verdict."""
    verdict = "every hash is right" if report.is_intact else f"{len(report.problems):,} mismatches"
    lines = [*map(str, report.problems), f"{report.shards:,} shards checked: {verdict}"]
    return [*lines, "`diptych build` with the dataset's config makes these shards again."] if report.is_noted else lines
