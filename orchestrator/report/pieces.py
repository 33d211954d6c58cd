"""The pieces that several sections of the page are made of."""

from collections.abc import Sequence

from orchestrator.report.markup import Html, el, void
from orchestrator.report.wording import shortened

MAX_CAPTION = 180  # characters; the rest of a hostile caption is not worth its bytes


def section(anchor: str, title: str, lead: str | None, *body: str | None) -> Html:
    """A section with its heading and one sentence that says what to see."""
    heading = el("h2", title, id=f"{anchor}-title")
    paragraph = el("p", lead, class_="lead") if lead else None
    return el("section", heading, paragraph, *body, id=anchor, aria_labelledby=f"{anchor}-title")


def missing(text: str) -> Html:
    """In place of a section's content that is not there yet."""
    return el("p", text, class_="missing")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A plain table: the first column holds names, the others values."""
    head = el("tr", *(el("th", heading, scope="col") for heading in headings))
    body = [el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:])) for row in rows]
    return el("table", el("thead", head), el("tbody", *body), class_="plain")


def folded(summary: str, *body: str) -> Html:
    """Content that opens on a click, without a script."""
    return el("details", el("summary", summary), el("div", *body, class_="folded"))


def figure(title: str, note: str | None, *body: str | None) -> Html:
    """A chart in its card, under its title and a note."""
    caption = el("figcaption", el("b", title), el("span", note) if note else None)
    return el("figure", caption, *body, class_="card")


def bar(share: float, class_: str = "") -> Html:
    """A horizontal bar over `share` of its place. Its number stands beside it, so it is hidden from readers."""
    fill = el("span", style=f"--share:{min(max(share, 0.0), 1.0):.4f}")
    return el("span", fill, class_=f"track {class_}".strip(), aria_hidden="true")


def thumbnail(image: str | None, alt: str) -> Html:
    """A picture, or a tile that says that there is none."""
    if image is None:
        return el("span", "no picture", class_="no-picture", role="img", aria_label=f"Picture missing: {alt}")
    return void("img", src=image, alt=alt, loading="lazy", decoding="async")


def caption_text(caption: str) -> str:
    """A caption as it is shown: one line of bounded length."""
    return shortened(caption, MAX_CAPTION) or "(no caption)"
