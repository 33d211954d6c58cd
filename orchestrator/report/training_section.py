"""The section on training: loss, logit scale, throughput and learning rate over the steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from infra.progress import duration
from orchestrator.report.dataset_facts import spread
from orchestrator.report.facts import TrainingFacts
from orchestrator.report.ledger_part import ledger_part
from orchestrator.report.line_chart import Guide, LineChart, line_chart, moving_mean
from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import figure, folded, missing, section, table
from orchestrator.report.scales import Scale, rounded_scale
from orchestrator.report.validation_part import validation_part
from training.records import StepMetrics

MAX_POINTS = 400  # more than a chart has pixels to show
MIN_TREND_POINTS = 30
TABLE_ROWS = 12

Quantity = Callable[[StepMetrics], float]


@dataclass(frozen=True, slots=True)
class _Curve:
    """A quantity over the steps. `form` writes one value; a noisy one gets its moving mean drawn over it."""

    title: str
    note: str | None
    quantity: Quantity
    y_scale: Scale
    form: str
    guide: Guide | None = None
    is_noisy: bool = False


def training_section(training: TrainingFacts | None) -> Html:
    """The course of training, with its restarts."""
    if training is None:
        return section("training", "Training", None, missing("No training step yet: the curves appear with the first."))
    points = thinned(training.metrics, MAX_POINTS)
    curves = (
        _loss(training, points),
        _logit_scale(training, points),
        _throughput(training, points),
        _learning_rate(points),
    )
    figures = [*(_figure(training, points, curve) for curve in curves), validation_part(training)]
    charts = el("div", *(each for each in figures if each), class_="charts two")
    return section(
        "training",
        "Training",
        _lead(training),
        _restarts(training),
        charts,
        ledger_part(training.ledger),
        _table(training),
    )


def thinned(metrics: Sequence[StepMetrics], most: int) -> list[StepMetrics]:
    """At most `most` points: each the mean of consecutive steps, named by the last of them."""
    size = math.ceil(len(metrics) / most)
    return [_mean(metrics[start : start + size]) for start in range(0, len(metrics), size)]


def _mean(steps: Sequence[StepMetrics]) -> StepMetrics:
    last = steps[-1]
    if len(steps) == 1:
        return last
    return StepMetrics(
        step=last.step,
        loss=fmean(step.loss for step in steps),
        logit_scale=fmean(step.logit_scale for step in steps),
        lr=fmean(step.lr for step in steps),
        samples_per_s=fmean(step.samples_per_s for step in steps),
        epoch=last.epoch,
        attempt=last.attempt,
        time=last.time,
    )


def _lead(training: TrainingFacts) -> str:
    first, last = training.metrics[0], training.metrics[-1]
    seen = f", {last.step * training.batch_size:,} pairs" if training.batch_size else ""
    took = f" in {duration(last.time - first.time)}" if last.time - first.time >= 1 else ""
    text = f"{last.step:,} steps{seen}, {last.epoch:.1f} passes over the data{took}."
    size = math.ceil(len(training.metrics) / MAX_POINTS)
    return text if size == 1 else f"{text} Each point is the mean of {size:,} steps."


def _restarts(training: TrainingFacts) -> Html | None:
    restarts = training.restarts
    if not restarts:
        return None
    steps = ", ".join(f"{step.step:,}" for step in restarts[:12]) + (" …" if len(restarts) > 12 else "")
    word = "step" if len(restarts) == 1 else "steps"
    times = "once" if len(restarts) == 1 else f"{len(restarts)} times"
    text = f"The workers were started again {times} and went on from a checkpoint: at {word} {steps}."
    return el("p", el("i", "▼", aria_hidden="true"), f" {text}", class_="restarts")


def _loss(training: TrainingFacts, points: Sequence[StepMetrics]) -> _Curve:
    guide = None
    if training.loss == "clip" and training.batch_size:
        guide = Guide(math.log(training.batch_size), f"guessing among {training.batch_size:,}")
    note = f"{training.metrics[0].loss:.2f} → {training.metrics[-1].loss:.3f}"
    scale = rounded_scale([0.0, *_finite(points, _loss_of), *([guide.value] if guide else [])])
    return _Curve("Loss", note, _loss_of, scale, ".4f", guide, is_noisy=True)


def _logit_scale(training: TrainingFacts, points: Sequence[StepMetrics]) -> _Curve:
    first, last = training.metrics[0].logit_scale, training.metrics[-1].logit_scale
    note = f"temperature {1 / first:.3f} → {1 / last:.3f}" if first and last else None
    return _Curve("Logit scale", note, _scale_of, rounded_scale(_finite(points, _scale_of) or [1.0]), ".2f")


def _throughput(training: TrainingFacts, points: Sequence[StepMetrics]) -> _Curve:
    rates = _finite(training.metrics, _rate_of)
    note = f"median {median(rates):,.0f} pairs a second" if rates else None
    scale = rounded_scale([0.0, *_finite(points, _rate_of)])
    return _Curve("Throughput", note, _rate_of, scale, ",.0f", is_noisy=True)


def _learning_rate(points: Sequence[StepMetrics]) -> _Curve:
    highest = max(_finite(points, _lr_of), default=0.0)
    return _Curve("Learning rate", f"highest {highest:.3g}", _lr_of, rounded_scale([0.0, highest]), ".3g")


def _figure(training: TrainingFacts, points: Sequence[StepMetrics], curve: _Curve) -> Html:
    finite = [step for step in points if math.isfinite(curve.quantity(step))]
    if not finite:
        return figure(curve.title, curve.note, missing("No finite value was recorded."))
    line = [(float(step.step), curve.quantity(step)) for step in finite]
    label = f"{curve.title} over {len(training.metrics):,} steps"
    chart = LineChart(
        label=f"{label}: {curve.note}" if curve.note else label,
        points=line,
        notes=[f"step {step.step:,}: {curve.quantity(step):{curve.form}}" for step in finite],
        y_scale=curve.y_scale,
        trend=moving_mean(line) if curve.is_noisy and len(line) >= MIN_TREND_POINTS else (),
        marks=[step.step for step in training.restarts],
        guide=curve.guide,
    )
    return figure(curve.title, curve.note, line_chart(chart))


def _table(training: TrainingFacts) -> Html:
    metrics = training.metrics
    chosen = sorted({0, len(metrics) - 1, *spread(len(metrics), TABLE_ROWS - 2)})
    rows = [_row(metrics[index]) for index in chosen]
    headings = ("Step", "Loss", "Logit scale", "Pairs/s", "Learning rate", "Start")
    return folded("The curves as numbers", table(headings, rows))


def _row(step: StepMetrics) -> tuple[str, ...]:
    return (
        f"{step.step:,}",
        f"{step.loss:.4f}",
        f"{step.logit_scale:.2f}",
        f"{step.samples_per_s:,.0f}",
        f"{step.lr:.3g}",
        f"{step.attempt}",
    )


def _finite(steps: Sequence[StepMetrics], quantity: Quantity) -> list[float]:
    return [quantity(step) for step in steps if math.isfinite(quantity(step))]


def _loss_of(step: StepMetrics) -> float:
    return step.loss


def _scale_of(step: StepMetrics) -> float:
    return step.logit_scale


def _rate_of(step: StepMetrics) -> float:
    return step.samples_per_s


def _lr_of(step: StepMetrics) -> float:
    return step.lr
