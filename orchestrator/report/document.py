"""The frame of a page that loads nothing: head, policy, style, script, and the header with its tiles."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

from orchestrator.report.markup import Html, el, void

LOGO = Html(
    '<svg class="logo" viewBox="0 0 40 32" aria-hidden="true">'
    '<rect x="1" y="2" width="18" height="28" rx="3"/><rect x="21" y="2" width="18" height="28" rx="3"/>'
    '<circle cx="7.5" cy="10" r="2.6"/><path d="M3 26l6-8 4 5 2-2.5 3 5.5z"/>'
    '<path class="text" d="M25 10h10M25 16h10M25 22h6"/></svg>'
)


def document(title: str, *body: Html) -> str:
    """The whole page of these parts. Style, script and pictures are in it, and its policy forbids the rest."""
    style, script = _resource("style.css"), _resource("script.js")
    head = el(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", style),
    )
    return f"<!DOCTYPE html>\n{el('html', head, el('body', *body, el('script', script)), lang='en')}\n"


def header(title: str, tiles: Sequence[Html], anchors: Mapping[str, str]) -> Html:
    """The heading, the page's main numbers, and links to its sections (anchor → name)."""
    links = (el("a", name, href=f"#{anchor}") for anchor, name in anchors.items())
    return el(
        "header",
        el("div", LOGO, el("h1", title), class_="title"),
        el("dl", *tiles, class_="tiles"),
        el("nav", *links, aria_label="Sections"),
    )


def tile(name: str, value: str, note: str, class_: str | None = None) -> Html:
    """One main number with its name and a note."""
    return el("div", el("dt", name), el("dd", value), el("dd", note, class_="sub"), class_=class_)


def _resource(name: str) -> Html:
    return Html(files("orchestrator.report").joinpath(name).read_text(encoding="utf-8"))


def _policy(script: str) -> str:
    """Only our script runs, known by its hash: text from the web stays text, even past a hole in the escaping."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
