"""Builds HTML and SVG in which all text is escaped, unless it is markup made here."""

from html import escape

Attribute = str | int | float | bool | None


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def el(name: str, /, *children: str | None, **attributes: Attribute) -> Html:
    """One element. Plain text in `children` and attribute values are escaped; None is left out.

    Names are written with `_` for `-`, and with `_` at the end where Python has the word (`class_`).
    """
    inner = join(*children)
    return Html(f"<{name}{_attributes(attributes)}>{inner}</{name}>")


def void(name: str, /, **attributes: Attribute) -> Html:
    """One element that has no content, such as `img`."""
    return Html(f"<{name}{_attributes(attributes)}>")


def join(*children: str | None) -> Html:
    """The children one after another, plain text escaped."""
    return Html("".join(_markup(child) for child in children if child is not None))


def _markup(child: str) -> str:
    return child if isinstance(child, Html) else escape(child, quote=False)


def _attributes(attributes: dict[str, Attribute]) -> str:
    written = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    return "".join(_attribute(name, value) for name, value in written if value is not None and value is not False)


def _attribute(name: str, value: Attribute) -> str:
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
