"""Reads a YAML config into plain values, remembering the line that each key stands on."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.errors import ConfigError
from infra.secret_values import is_secret_name, is_secret_value

KeyPath = tuple[str | int, ...]
MAX_DEPTH = 100
MAX_VALUES = 100_000  # with aliases written out, of which a few lines can stand for billions
REFERENCE = re.compile(r"\$\{([^}]*)\}")


@dataclass(slots=True)
class YamlSource:
    """The values of a config and where each stands, for error messages."""

    values: dict[str, Any]
    origin: str
    lines: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """`config.yaml, line 9`, of the key or of its nearest parent that is written down."""
        for length in range(len(path), 0, -1):
            if place := self.lines.get(path[:length]):
                return place
        return self.origin


def read_yaml(path: Path) -> YamlSource:
    """Reads the file. Raises ConfigError when it is missing, is not YAML, or gives a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"The config {path} cannot be read ({reason}).",
            "A config is a YAML file.",
            "Check the path.",
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str) -> YamlSource:
    """Reads the text of a file at `origin`. Raises ConfigError when it is not YAML, or gives a key twice."""
    source = YamlSource({}, origin)
    values = _read(text, source)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(
            f"{origin} holds a {type(values).__name__}.",
            "A config is a mapping with the keys name, storage, build, train, evaluate.",
            "See the README for a ten-line example.",
        )
    source.values = values
    return source


def apply_overrides(source: YamlSource, overrides: list[str]) -> None:
    """Applies `train.lr=1e-3` from the command line. Raises ConfigError for one that is not key=value."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"Got {'a secret' if is_secret_value(text) else repr(text)} on the command line.",
                "After the config come overrides of the form section.key=value.",
                "Write for example train.steps=500.",
            )
        *parents, last = key.split(".")
        target = source.values
        for parent in parents:
            child = target.setdefault(parent, {})
            if child is None or not isinstance(child, dict):
                child = target[parent] = {}
            target = child
        try:
            target[last] = _read(value, YamlSource({}, "command line"))
        except ConfigError as error:
            shown = "a secret" if is_secret_name(last) or is_secret_value(value) else repr(value)
            raise ConfigError(
                f"{key}: got {shown} on the command line.", "A value is written as in YAML.", "Quote it."
            ) from error
        source.lines[(*parents, last)] = "command line"


def resolve_references(source: YamlSource) -> None:
    """Replaces `${build.output}` by that key's value. Raises ConfigError for unknown keys and for circles."""
    source.values = _resolved(source.values, (), source, ())


def _read(text: str, source: YamlSource) -> Any:
    """The values of the text; the source takes the lines of their keys. None for a text without any."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_small(node, source, {})
        return _plain(loader, node, (), source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise _not_yaml(source, mark.line if mark else None, f"{error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise _not_yaml(source, line, f"the character #x{ord(text[error.position]):04x} may not be there") from error
    except RecursionError as error:
        raise _not_yaml(source, None, f"it is nested more than {MAX_DEPTH} deep") from error


def _not_yaml(source: YamlSource, line: int | None, problem: str) -> ConfigError:
    where = source.origin if line is None else f"{source.origin}, line {line + 1}"
    return ConfigError(f"{where}: {problem}.", "A config is a YAML file.", "Correct that line.")


def _require_small(node: yaml.Node, source: YamlSource, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values the node stands for and how deep they lie; each is looked at once, however often it is named.

    Raises ConfigError for a node within itself, and for too many or too deep ones.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1, 0
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise _not_yaml(source, node.start_mark.line, "the value that begins here holds itself")
        return measured
    known[id(node)] = None
    inner = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
    measures = [_require_small(item, source, known) for item in inner]
    count = 1 + sum(values for values, _ in measures)
    depth = 1 + max((below for _, below in measures), default=0)
    if count > MAX_VALUES or depth > MAX_DEPTH:
        what = f"more than {MAX_VALUES:,} values" if count > MAX_VALUES else f"values nested more than {MAX_DEPTH} deep"
        raise _not_yaml(source, node.start_mark.line, f"what begins here holds {what}")
    known[id(node)] = count, depth
    return count, depth


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, source: YamlSource) -> Any:
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(_scalar(loader, key_node, source))
            here = f"{source.origin}, line {key_node.start_mark.line + 1}"
            if key in result:
                raise ConfigError(
                    f"{'.'.join(map(str, (*path, key)))} is given twice ({source.lines[(*path, key)]} and {here}).",
                    "Each key may be given once.",
                    "Remove one of them.",
                )
            source.lines[(*path, key)] = here
            result[key] = _plain(loader, value_node, (*path, key), source)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), source) for index, item in enumerate(node.value)]
    return _scalar(loader, node, source)


def _scalar(loader: yaml.SafeLoader, node: yaml.Node, source: YamlSource) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # a date that no calendar has
        raise _not_yaml(source, node.start_mark.line, str(error)) from error


def _resolved(value: Any, path: KeyPath, source: YamlSource, seen: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, (*path, key), source, seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, (*path, index), source, seen) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    whole = REFERENCE.fullmatch(value)
    if whole:
        return _look_up(whole[1], path, source, seen)
    return REFERENCE.sub(lambda match: str(_look_up(match[1], path, source, seen)), value)


def _look_up(name: str, path: KeyPath, source: YamlSource, seen: tuple[str, ...]) -> Any:
    where = f"{'.'.join(map(str, path))}: got ${{{name}}} ({source.place(path)})"
    if name in seen:
        raise ConfigError(
            f"{where}, which refers to itself through {' → '.join(seen)}.",
            "References may not go in a circle.",
            "Write one of them out.",
        )
    value: Any = source.values
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ConfigError(
                f"{where}, but the config has no key {name}.",
                "A reference names another key of the same config, e.g. ${build.output}.",
                "Add that key or correct the name.",
            )
        value = value[part]
    return _resolved(value, path, source, (*seen, name))
