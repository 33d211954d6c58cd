"""Reads a deployment file of the package and writes the filled-in one, with its head of comments."""

from importlib.resources import files
from typing import Any

import yaml

PACKAGE = "infra.deploy"
LINE_WIDTH = 120

Document = dict[str, Any]


def template_text(path: str) -> str:
    """The file at `path` below infra/deploy/."""
    return files(PACKAGE).joinpath(path).read_text(encoding="utf-8")


def template_documents(path: str) -> list[Document]:
    """The YAML documents of the file at `path` below infra/deploy/; the caller may change them."""
    return list(yaml.safe_load_all(template_text(path)))


def head_comment(path: str) -> str:
    """The comments that the file begins with: what it is, and how it is used."""
    lines: list[str] = []
    for line in template_text(path).splitlines(keepends=True):
        if not line.startswith("#"):
            break
        lines.append(line)
    return "".join(lines)


def to_yaml(documents: list[Document]) -> str:
    """The documents as block-style YAML, in the order of their keys, with texts of several lines as such."""
    return yaml.dump_all(
        documents,
        Dumper=_ReadableDumper,
        sort_keys=False,
        allow_unicode=True,
        width=LINE_WIDTH,
        default_flow_style=False,
    )


class _ReadableDumper(yaml.SafeDumper):
    """Repeats what occurs twice, where YAML would write an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_ReadableDumper.add_representer(str, _represent_text)
