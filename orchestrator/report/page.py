"""Turns the facts into the page."""

import base64
import hashlib
from importlib.resources import files

from orchestrator.report.dataset_section import pictures_section, sizes_section, yield_section
from orchestrator.report.evaluation_facts import EvaluationFacts
from orchestrator.report.evaluation_section import retrieval_section, scores_section
from orchestrator.report.facts import ReportFacts, TrainingFacts
from orchestrator.report.markup import Html, el, join, void
from orchestrator.report.run_section import run_section
from orchestrator.report.training_section import training_section
from orchestrator.report.wording import file_size, headline_score, percent, score_words, times_chance

ANCHORS = {
    "dataset": "Dataset",
    "pictures": "Pictures",
    "sizes": "Sizes",
    "training": "Training",
    "scores": "Scores",
    "retrieval": "What it finds",
    "again": "Do it again",
}
LOGO = Html(
    '<svg class="logo" viewBox="0 0 40 32" aria-hidden="true">'
    '<rect x="1" y="2" width="18" height="28" rx="3"/><rect x="21" y="2" width="18" height="28" rx="3"/>'
    '<circle cx="7.5" cy="10" r="2.6"/><path d="M3 26l6-8 4 5 2-2.5 3 5.5z"/>'
    '<path class="text" d="M25 10h10M25 16h10M25 22h6"/></svg>'
)


def page_html(facts: ReportFacts) -> str:
    """The whole page. It loads nothing: style, script and pictures are in it, and its policy forbids the rest."""
    style, script = _resource("style.css"), _resource("script.js")
    head = el(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        el("title", facts.title),
        el("style", style),
    )
    body = el("body", _header(facts), _main(facts), _footer(facts), el("script", script))
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _resource(name: str) -> Html:
    return Html(files("orchestrator.report").joinpath(name).read_text(encoding="utf-8"))


def _policy(script: str) -> str:
    """Only our script runs, known by its hash: text from the web stays text, even past a hole in the escaping."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _header(facts: ReportFacts) -> Html:
    tiles = [*_dataset_tiles(facts), _training_tile(facts.training), _score_tile(facts.evaluation)]
    links = (el("a", name, href=f"#{anchor}") for anchor, name in ANCHORS.items())
    return el(
        "header",
        el("div", LOGO, el("h1", facts.title), class_="title"),
        el("dl", *tiles, class_="tiles"),
        el("nav", *links, aria_label="Sections"),
    )


def _dataset_tiles(facts: ReportFacts) -> list[Html]:
    if facts.dataset is None:
        return [_tile(name, "—", "not built yet") for name in ("Pairs in", "Samples out", "Yield")]
    manifest = facts.dataset.manifest
    shards = len(manifest.shard_rows)
    return [
        _tile("Pairs in", f"{manifest.rows:,}", f"in {shards:,} shard{'' if shards == 1 else 's'}"),
        _tile("Samples out", f"{manifest.samples:,}", file_size(manifest.total_bytes)),
        _tile(
            "Yield", percent(manifest.samples / max(1, manifest.rows)), f"{manifest.rows - manifest.samples:,} left out"
        ),
    ]


def _training_tile(training: TrainingFacts | None) -> Html:
    if training is None:
        return _tile("Training steps", "—", "not trained yet")
    last = training.metrics[-1]
    return _tile("Training steps", f"{last.step:,}", f"loss {last.loss:.3f}")


def _score_tile(facts: EvaluationFacts | None) -> Html:
    scores = facts.evaluation.scores if facts else ()
    index = headline_score([score.name for score in scores])
    if index is None:
        return _tile("Text → image, recall@1", "—", "not evaluated yet", "main")
    score = scores[index]
    words = score_words(score.name)
    return _tile(words, percent(score.value), f"{times_chance(score.value, score.chance)} chance", "main")


def _tile(name: str, value: str, note: str, class_: str | None = None) -> Html:
    return el("div", el("dt", name), el("dd", value), el("dd", note, class_="sub"), class_=class_)


def _main(facts: ReportFacts) -> Html:
    return el(
        "main",
        yield_section(facts.dataset),
        pictures_section(facts.dataset, facts.credit),
        sizes_section(facts.dataset),
        training_section(facts.training),
        scores_section(facts.evaluation),
        retrieval_section(facts.evaluation),
        run_section(facts.run, facts.dataset),
    )


def _footer(facts: ReportFacts) -> Html:
    version = facts.run.versions.get("diptych")
    made = f"Made by diptych {version}." if version else "Made by diptych."
    return el(
        "footer", join(el("p", facts.credit) if facts.credit else None, el("p", f"{made} This page loads nothing."))
    )
