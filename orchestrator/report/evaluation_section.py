"""The sections on evaluation: scores against chance, and retrieval examples."""

from orchestrator.report.evaluation_facts import FOUND_SHOWN, AnsweredQuery, EvaluationFacts, FoundPicture
from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import bar, caption_text, missing, section, thumbnail
from orchestrator.report.wording import percent, score_words, times_chance
from training.records import Score

ORDINALS = ("1st", "2nd", "3rd", "4th", "5th")
NOT_EVALUATED = "Not evaluated yet: the scores appear here once there is a checkpoint and the evaluation has ended."


def scores_section(facts: EvaluationFacts | None) -> Html:
    """Each score beside what guessing would give."""
    if facts is None:
        return section("scores", "Scores against chance", None, missing(NOT_EVALUATED))
    headings = (
        ("Score", ""),
        ("", "bar-cell"),
        ("Reached", ""),
        ("Guessing", ""),
        ("Times chance", ""),
        ("Of", "minor"),
    )
    head = el("tr", *(el("th", text, scope="col", class_=class_ or None) for text, class_ in headings))
    body = el("tbody", *map(_score, facts.evaluation.scores))
    lead = f"Measured at step {facts.evaluation.step:,}. The mark in each bar is what guessing would reach."
    return section(
        "scores", "Scores against chance", lead, el("table", el("thead", head), body, class_="bars scores card")
    )


def retrieval_section(facts: EvaluationFacts | None) -> Html:
    """Captions, and the pictures that the model finds for them."""
    title = "What it finds"
    if facts is None or not facts.examples:
        text = NOT_EVALUATED if facts is None else "The evaluation kept no retrieval examples."
        return section("retrieval", title, None, missing(text))
    shown = len(facts.examples)
    first = sum(bool(example.found) and example.found[0].is_right for example in facts.examples)
    among = sum(example.missed is None for example in facts.examples)
    part = f"{shown} queries" if shown == facts.examples_kept else f"{shown} of {facts.examples_kept:,} kept queries"
    lead = (
        f"{part}, and the {FOUND_SHOWN} pictures found for each, best first. The right one is framed and ticked: "
        f"{first} in first place, {among} among the {FOUND_SHOWN}."
    )
    return section("retrieval", title, lead, el("ol", *map(_example, facts.examples), class_="examples"))


def _score(score: Score) -> Html:
    mark = el("span", style=f"--share:{min(max(score.chance, 0.0), 1.0):.4f}", class_="chance", aria_hidden="true")
    return el(
        "tr",
        el("th", score_words(score.name), scope="row"),
        el("td", bar(score.value), mark, class_="bar-cell"),
        el("td", el("b", percent(score.value))),
        el("td", percent(score.chance)),
        el("td", times_chance(score.value, score.chance), class_="times"),
        el("td", f"{score.samples:,}", class_="minor"),
    )


def _example(example: AnsweredQuery) -> Html:
    pictures = (_found("li", picture, "pic right" if picture.is_right else "pic") for picture in example.found)
    return el(
        "li",
        el("p", caption_text(example.caption), class_="query", dir="auto"),
        el("div", el("ol", *pictures, class_="found"), _verdict(example), class_="answer"),
        class_="card",
    )


def _found(name: str, picture: FoundPicture, class_: str) -> Html:
    caption = caption_text(picture.caption)
    image = thumbnail(picture.image, f"{caption} (the right one)" if picture.is_right else caption)
    tick = el("span", "✓", class_="tick", aria_hidden="true") if class_ == "pic right" else None
    similarity = el("small", f"{picture.similarity:.2f}") if picture.similarity is not None else None
    return el(name, image, tick, similarity, class_=class_, title=caption)


def _verdict(example: AnsweredQuery) -> Html:
    """The place of the right picture, or the picture itself when it is not among those shown."""
    if example.missed is not None:
        return el("div", _found("div", example.missed, "pic"), el("small", "not found"), class_="verdict")
    place = next(place for place, picture in enumerate(example.found, start=1) if picture.is_right)
    return el("div", el("b", ORDINALS[place - 1]), el("small", "place"), class_="verdict")
