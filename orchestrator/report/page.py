"""Turns the facts into the page."""

from orchestrator.report.course_section import course_section
from orchestrator.report.curation_section import curation_section, is_curated
from orchestrator.report.dataset_section import pictures_section, sizes_section, yield_section
from orchestrator.report.document import document, header, tile
from orchestrator.report.evaluation_facts import EvaluationFacts
from orchestrator.report.evaluation_section import retrieval_section, scores_section
from orchestrator.report.facts import ReportFacts, TrainingFacts
from orchestrator.report.markup import Html, el, join
from orchestrator.report.run_section import run_section
from orchestrator.report.training_section import training_section
from orchestrator.report.wording import file_size, headline_score, percent, score_words, times_chance

ANCHORS = {
    "dataset": "Dataset",
    "pictures": "Pictures",
    "sizes": "Sizes",
    "curation": "Choice",
    "training": "Training",
    "scores": "Scores",
    "retrieval": "What it finds",
    "course": "The run",
    "again": "Do it again",
}


def page_html(facts: ReportFacts) -> str:
    """The whole page, which loads nothing."""
    return document(facts.title, _header(facts), _main(facts), _footer(facts))


def _header(facts: ReportFacts) -> Html:
    tiles = [*_dataset_tiles(facts), _training_tile(facts.training), _score_tile(facts.evaluation)]
    # Not every run has a course to tell, or a dataset that was annotated or chosen from.
    shown = {"course": facts.course is not None, "curation": is_curated(facts.dataset)}
    anchors = {anchor: name for anchor, name in ANCHORS.items() if shown.get(anchor, True)}
    return header(facts.title, tiles, anchors)


def _dataset_tiles(facts: ReportFacts) -> list[Html]:
    if facts.dataset is None:
        return [tile(name, "—", "not built yet") for name in ("Pairs in", "Samples out", "Yield")]
    manifest = facts.dataset.manifest
    shards = len(manifest.shard_rows)
    return [
        tile("Pairs in", f"{manifest.rows:,}", f"in {shards:,} shard{'' if shards == 1 else 's'}"),
        tile("Samples out", f"{manifest.samples:,}", file_size(manifest.total_bytes)),
        tile(
            "Yield", percent(manifest.samples / max(1, manifest.rows)), f"{manifest.rows - manifest.samples:,} left out"
        ),
    ]


def _training_tile(training: TrainingFacts | None) -> Html:
    if training is None:
        return tile("Training steps", "—", "not trained yet")
    last = training.metrics[-1]
    return tile("Training steps", f"{last.step:,}", f"loss {last.loss:.3f}")


def _score_tile(facts: EvaluationFacts | None) -> Html:
    scores = facts.evaluation.scores if facts else ()
    index = headline_score([score.name for score in scores])
    if index is None:
        return tile("Text → image, recall@1", "—", "not evaluated yet", "main")
    score = scores[index]
    words = score_words(score.name)
    return tile(words, percent(score.value), f"{times_chance(score.value, score.chance)} chance", "main")


def _main(facts: ReportFacts) -> Html:
    return el(
        "main",
        yield_section(facts.dataset),
        pictures_section(facts.dataset, facts.credit),
        sizes_section(facts.dataset),
        curation_section(facts.dataset),
        training_section(facts.training),
        scores_section(facts.evaluation),
        retrieval_section(facts.evaluation),
        course_section(facts.course),
        run_section(facts.run, facts.dataset),
    )


def _footer(facts: ReportFacts) -> Html:
    version = facts.run.versions.get("diptych")
    made = f"Made by diptych {version}." if version else "Made by diptych."
    return el(
        "footer", join(el("p", facts.credit) if facts.credit else None, el("p", f"{made} This page loads nothing."))
    )
