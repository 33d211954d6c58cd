"""Prints the configuration reference from the config's own words: `python -m orchestrator.reference`."""

from collections.abc import Iterator
from enum import StrEnum
from typing import get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.config import RunConfig, section_in

HEAD = """\
# Configuration

One YAML file, or parts of it on the command line as `section.key=value`. Unknown keys are refused. `${build.output}`
stands for the value of another key. Relative paths are meant from the folder in which the command runs.

This page is made from the config's own words by `python -m orchestrator.reference > docs/configuration.md`.
"""


def reference() -> str:
    """The reference as Markdown: one table a section."""
    return "\n".join([HEAD, *_section("", RunConfig)])


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## {path or 'The run'}\n"
    if model.__doc__:
        yield f"{model.__doc__.splitlines()[0]}\n"
    yield "| key | default | meaning |\n|---|---|---|"
    inner = []
    for name, field in model.model_fields.items():
        section = section_in(field.annotation)
        yield f"| `{name}` | {_default(field)} | {field.description or ''} |"
        if section is not None:
            named = ".NAME" if get_origin(field.annotation) is dict else ""
            inner.append((f"{path}.{name}{named}".lstrip("."), section))
    yield ""
    for inner_path, section in inner:
        yield from _section(inner_path, section)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    if value is None:
        return "null"
    if isinstance(value, StrEnum):
        return f"`{value.value}`"
    return f"`{value}`" if value != float("inf") else "`.inf`"


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - its output is the page
