"""The part on the validations during a training: the deciding score over the steps, and all of them as numbers."""

from orchestrator.report.facts import TrainingFacts
from orchestrator.report.line_chart import Guide, LineChart, line_chart
from orchestrator.report.markup import Html
from orchestrator.report.pieces import figure, folded, table
from orchestrator.report.scales import rounded_scale
from orchestrator.report.wording import headline_score, percent, score_words


def validation_part(training: TrainingFacts) -> Html | None:
    """The course of the first retrieval score, or of the first score there is; None without a validation."""
    validations = training.validations
    if not validations:
        return None
    names = [score.name for score in validations[-1].scores]
    shown = names[headline_score(names) or 0]
    by_step = [
        (validation.step, score) for validation in validations for score in validation.scores if score.name == shown
    ]
    best_step, best = max(by_step, key=lambda each: (each[1].value, -each[0]))
    chart = LineChart(
        label=f"{score_words(shown)} over {len(by_step)} validations",
        points=[(float(step), 100 * score.value) for step, score in by_step],
        notes=[f"step {step:,}: {percent(score.value)}" for step, score in by_step],
        y_scale=rounded_scale([0.0, *(100 * score.value for _, score in by_step)]),
        marks=[step.step for step in training.restarts],
        guide=Guide(100 * best.chance, "guessing"),
    )
    rows = [
        (f"{validation.step:,}", *(percent(score.value) for score in validation.scores)) for validation in validations
    ]
    return figure(
        f"Validation: {score_words(shown)}, %",
        f"best {percent(best.value)} at step {best_step:,}",
        line_chart(chart),
        folded("All validations", table(("Step", *map(score_words, names)), rows)),
    )
