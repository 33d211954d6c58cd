"""Records as the plain lines that a command prints."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from infra.progress import duration
from infra.terminal import printable
from orchestrator.keeper import LOGS_FOLDER
from orchestrator.status import RunStatus, StageState, StageStatus
from training.records import Evaluation

if TYPE_CHECKING:
    from datapipe.inspect import DatasetSummary
    from datapipe.survey import Survey
    from datapipe.verify import VerifyReport
    from orchestrator.garbage import RunGarbage
    from orchestrator.stage_state import StagePlan
    from orchestrator.status import RunLine
    from orchestrator.verify_run import RunVerdict
    from training.replay import Replay

MAX_REASONS = 40  # ours are fewer; img2dataset's are free text
HOST_WIDTH = 40
CAPTION_WIDTH = 60
MAX_RESTARTS = 10
NO_REASON = "no reason was given"
STAGE_HEADINGS = ("stage", "state", "progress", "rate", "time", "left", "node-hours")


def score_lines(evaluation: Evaluation) -> list[str]:
    """Each score beside chance: `text_to_image_recall@1   32.1%   chance 0.2%   142× chance   of 440`."""
    width = max((len(score.name) for score in evaluation.scores), default=0)
    return [
        f"{score.name:<{width}}  {100 * score.value:6.1f}%   chance {100 * score.chance:5.2f}%   "
        f"{score.value / score.chance:6.1f}× chance   of {score.samples:,}"
        for score in evaluation.scores
    ]


def status_lines(status: RunStatus) -> list[str]:
    """The run's state, a table of its stages, then restarts with their causes, training and checkpoint."""
    lines = [printable(f"{status.name}  {status.state}  ({first_line(status.reason)})")]
    lines += [f"  {printable(line)}" for line in status.reason.splitlines()[1:]]
    lines.append(f"folder      {status.folder}")
    if status.config_trouble is not None:
        lines.append(f"config      cannot be read by this version: {printable(status.config_trouble)}")
        lines.append(f"version     made by diptych {printable(status.version or 'of an unknown version')}")
    lines += stage_table(status.stages)
    if status.restarts:
        lines.append(f"restarts    {len(status.restarts):,}")
        lines += [
            f"  {_moment(restart.at)}  {first_line(restart.cause)}" for restart in status.restarts[-MAX_RESTARTS:]
        ]
    if status.step is not None and status.loss is not None:
        lines.append(f"training    step {status.step:,}, loss {status.loss:.4f}")
    if status.checkpoint is not None:
        lines.append(f"checkpoint  {status.checkpoint}")
    lines.append(f"cost        {status.node_hours:,.2f} node-hours")
    if status.state.exit_code:
        lines.append(f"logs        {status.folder}/{LOGS_FOLDER}")
    return lines


def first_line(reason: str) -> str:
    """What stands first in somebody's reason, which may be empty."""
    return printable(next(iter(reason.splitlines()), "")) or NO_REASON


def run_lines(runs: "list[RunLine]") -> list[str]:
    """One line a run: `birds   running   2026-01-01 12:00:00 UTC   build, train   driven by …`."""
    width = max((len(run.name) for run in runs), default=0)
    return [
        f"{printable(run.name):<{width}}  {run.state:<10} {_moment(run.created_at)}  "
        f"{', '.join(run.stages_done) or '-':<22} {first_line(run.reason)}"
        for run in runs
    ]


def plan_lines(plans: "list[StagePlan]") -> list[str]:
    """One line a stage: `train     stale   done with another settings`."""
    return [f"{plan.stage:<10}{plan.verdict:<7}{plan.why}" for plan in plans]


def garbage_lines(runs: "list[RunGarbage]", *, is_deleted: bool) -> list[str]:
    """What was found in each run, and how much that is."""
    lines = []
    for run in runs:
        lines.append(f"{run.run}: left alone, {printable(run.skipped)}" if run.skipped else run.run)
        lines += [f"  {item.kind:<22} {item.size_bytes / 1e6:>10,.1f} MB  {printable(item.path)}" for item in run.found]
    count, size = sum(len(run.found) for run in runs), sum(run.size_bytes for run in runs)
    verb = "removed" if is_deleted else "can go (--delete removes them)"
    lines.append(f"{count:,} things with {size / 1e6:,.1f} MB {verb}" if count else "nothing to remove")
    return lines


def stage_table(stages: Sequence[StageStatus]) -> list[str]:
    """A line a stage under one of headings, in columns; the words of the one that runs come last.

    `train  running  120/480 steps  25%  3.1 steps/s  38 s  1 min 56 s  0.02  loss 2.1`.
    """
    if not stages:
        return []
    rows = [STAGE_HEADINGS, *map(stage_cells, stages)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    details = ["", *(_detail(stage) for stage in stages)]
    return [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)), detail]).rstrip()
        for row, detail in zip(rows, details, strict=True)
    ]


def stage_cells(stage: StageStatus) -> tuple[str, ...]:
    """What stands under each of STAGE_HEADINGS; `-` for what is not known, or is no more."""
    found = stage.snapshot
    if found is None:
        return (stage.name, stage.state, *"----", _node_hours(stage))
    is_over = stage.state is StageState.DONE
    rate = "-" if is_over or not found.rate else f"{found.rate:,.1f} {found.unit}/s"
    left = "-" if is_over or found.eta_s is None else duration(found.eta_s)
    return (printable(stage.name), stage.state, printable(found.share), rate, found.took, left, _node_hours(stage))


def _node_hours(stage: StageStatus) -> str:
    return f"{stage.node_hours:,.2f}" if stage.node_hours else "-"


def _detail(stage: StageStatus) -> str:
    is_told = stage.snapshot is not None and stage.state is StageState.RUNNING
    return printable(stage.snapshot.detail) if is_told and stage.snapshot is not None else ""


def _moment(at: float | None) -> str:
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def replay_lines(replay: "Replay", top: int) -> list[str]:
    """The step's loss, with which weights, and its samples with the greatest losses."""
    weights = f"the weights of {replay.checkpoint}" if replay.checkpoint else "the weights that it began with"
    lines = [f"step {replay.step:,}: loss {replay.loss:.4f} of {len(replay.samples):,} samples with {weights}"]
    replaced = sum(sample.is_replaced for sample in replay.samples)
    if replaced:
        lines.append(f"{replaced:,} samples were broken or are excluded, and their neighbours took their place")
    if replay.is_as_recorded is False:
        lines.append(
            "! the training recorded other samples at this step: the dataset or train.exclude has changed since"
        )
    worst = sorted(replay.samples, key=lambda sample: -sample.loss)[:top]
    lines += [
        f"{sample.loss:9.4f}  {printable(sample.key):>12}  shard {sample.shard:05d} sample {sample.index}  "
        f"epoch {sample.epoch}  {_cell(sample.caption, CAPTION_WIDTH)}"
        for sample in worst
    ]
    return lines


def summary_lines(summary: "DatasetSummary") -> list[str]:
    """Counts, yield by reason, most frequent first, sizes, and what is unusual."""
    lines = [printable(summary.url)]
    if not summary.is_finished:
        lines.append("not finished (no dataset.json): all of this is of the shards that are in so far")
    lines += [f"{printable(name)} cannot be read: its shard is not counted" for name in summary.bad_markers]
    lines += [
        f"rows      {summary.rows:,} in {summary.shards:,} shards",
        f"samples   {summary.samples:,} ({_percent(summary.samples, summary.rows)})",
        f"size      {summary.total_bytes / 1e6:,.1f} MB",
    ]
    lines += [f"column    {printable(name)}: {values:,} values" for name, values in summary.annotations.items()]
    lines += [f"view      {printable(name)}: {samples:,} rows" for name, samples in summary.views.items()]
    counts = sorted(summary.status_counts.items(), key=lambda item: (-item[1], item[0]))
    lines += [
        f"  {_cell(status, 22)}{count:>12,}  {_percent(count, summary.rows):>6}"
        for status, count in counts[:MAX_REASONS]
    ]
    if len(counts) > MAX_REASONS:
        lines.append(f"  and {len(counts) - MAX_REASONS:,} further reasons")
    for advice in summary.advice:
        first, *further = advice.line().splitlines()
        lines += [f"! {first}", *(f"  {line}" for line in further)]
    return lines


def survey_lines(survey: "Survey") -> list[str]:
    """The hosts with most rows, then how large the pictures are and how long the captions."""
    from datapipe.tallies import QUANTILES
    from orchestrator.report.wording import measured

    lines = []
    if survey.hosts:
        counted = f"the {len(survey.hosts):,} with most rows of {survey.hosts_counted:,}"
        if survey.host_rows_missed_at_most:
            counted = f"those with most rows; each number may be too low by up to {survey.host_rows_missed_at_most:,}"
        lines += [f"hosts     {counted}", f"  {'':<{HOST_WIDTH}}{'rows':>12}   yield  most frequent failure"]
    for host in survey.hosts:
        worst = (
            "" if host.failure is None else f"  {_cell(host.failure, 22)}{_percent(host.failure_rows, host.rows):>6}"
        )
        name = _cell(host.host, HOST_WIDTH)
        lines.append(f"  {name}{host.rows:>12,}  {_percent(host.samples, host.rows):>6}{worst}".rstrip())
    if survey.distributions:
        lines += ["sizes     of the samples", f"  {'':<22}{''.join(f'{name:>10}' for name in QUANTILES)}"]
    for name, counted_values in survey.distributions.items():
        values = "".join(f"{measured(value):>10}" for value in counted_values.quantiles())
        lines.append(f"  {name.replace('_', ' '):<22}{values}")
    return lines


def inspection_record(summary: "DatasetSummary", survey: "Survey | None") -> dict[str, Any]:
    """All of it for JSON: the summary's fields, and `survey` with quantiles in place of the distributions."""
    record = asdict(summary) | {"survey": None}
    if survey is not None:
        from datapipe.tallies import QUANTILES

        record["survey"] = {
            "rows": survey.rows,
            "hosts_counted": survey.hosts_counted,
            "host_rows_missed_at_most": survey.host_rows_missed_at_most,
            "hosts": [asdict(host) for host in survey.hosts],
            "quantiles": {
                name: dict(zip(QUANTILES, counted.quantiles(), strict=True))
                for name, counted in survey.distributions.items()
            },
        }
    return record


def verify_lines(report: "VerifyReport") -> list[str]:
    """One line a mismatch, then the verdict."""
    verdict = "every hash is right" if report.is_intact else f"{len(report.problems):,} mismatches"
    annotations = f" and {report.annotations:,} annotations" if report.annotations else ""
    lines = [*map(str, report.problems), f"{report.shards:,} shards{annotations} checked: {verdict}"]
    if report.is_noted:
        lines.append("`diptych build` with the dataset's config makes these shards again.")
    if report.has_damaged_annotations:
        lines.append("Remove the damaged files of columns/, and `diptych annotate` makes them again.")
    return lines


def run_verdict_lines(verdict: "RunVerdict") -> list[str]:
    """One line a problem, then what was checked."""
    proof = verdict.samples
    used = (
        f"{proof.steps:,} steps ({proof.epochs:,.2f} epochs): each sample stood at its position of the planned order, "
        "which is once an epoch"
    )
    if proof.replaced:
        used += f"; {proof.replaced:,} positions had a neighbour's, as recorded"
    checkpoints = f"{verdict.checkpoints:,} checkpoints checked: "
    return [
        *(f"checkpoint {problem}" for problem in verdict.checkpoint_problems),
        *(f"samples: {problem}" for problem in proof.problems),
        checkpoints + ("some are damaged" if verdict.checkpoint_problems else "every hash is right"),
        f"{proof.steps:,} steps checked: the records do not agree with the order" if proof.problems else used,
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f}%"


def _cell(text: str, width: int) -> str:
    """Text from the data in a column: on one line, cut to `width` characters."""
    shown = printable(text)
    return f"{shown if len(shown) <= width else f'{shown[: width - 1]}…':<{width}}"
