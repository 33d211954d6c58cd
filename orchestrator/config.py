"""The whole config of a run: loads it, fills in its defaults and explains what is wrong with it."""

import difflib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from datapipe.config import BuildConfig
from datapipe.curate_config import CurateConfig
from infra.errors import ConfigError
from infra.secret_values import secret_path
from infra.settings import Place, Settings
from infra.storage import Storage, storage_of
from orchestrator.yaml_source import KeyPath, YamlSource, apply_overrides, read_yaml, resolve_references
from training.annotate_config import AnnotateConfig
from training.config import DataSource, EvaluateConfig, ExportConfig, TrainConfig

MAX_SHOWN_VALUE = 60


class Stage(StrEnum):
    """A step of the pipeline, and its section of the config; in their order."""

    BUILD = "build"
    ANNOTATE = "annotate"
    CURATE = "curate"
    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"


class RunConfig(Settings):
    """A run: what it is called, where its folder lies, and its stages."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The run's name: letters, digits, dot, dash and underscore. Default: the config file's name."""
    storage: Annotated[Place, Field(validate_default=True)] = "runs"
    """The folder in which run folders lie: s3://bucket/runs, or one of a local or mounted file system."""
    build: BuildConfig | None = None
    """URL list → dataset."""
    annotate: AnnotateConfig | None = None
    """Dataset → columns: perceptual hashes and CLIP scores, beside its shards."""
    curate: CurateConfig | None = None
    """Dataset → view: which of its samples are used."""
    train: TrainConfig | None = None
    """Dataset → checkpoint."""
    evaluate: EvaluateConfig | None = None
    """Checkpoint → scores."""
    export: ExportConfig | None = None
    """Checkpoint → a folder that open_clip and the Hugging Face hub read, export/ in the run's."""

    @property
    def folder(self) -> Storage:
        """The run's folder."""
        return storage_of(self.storage).at(self.name)

    @property
    def held_out(self) -> DataSource | None:
        """The samples that the training keeps for evaluation, if it keeps any."""
        return self.train.held_out_source() if self.train is not None else None

    def to_yaml(self) -> bytes:
        """The resolved config, as it is kept in the run's folder."""
        values = self.model_dump(mode="json")  # nulls too: where the default is another, null says something
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads, overrides, resolves and validates a config. Raises ConfigError that names the key and its line."""
    source = read_yaml(path)
    source.values.setdefault("name", path.stem)
    return config_of(source, overrides)


def config_of(source: YamlSource, overrides: Sequence[str] = ()) -> RunConfig:
    """Overrides, resolves and validates what was read. Raises ConfigError that names the key and its line."""
    apply_overrides(source, list(overrides))
    resolve_references(source)
    _refuse_secrets(source)
    try:
        return RunConfig.model_validate(source.values)
    except ValidationError as error:
        raise explain(error, source, RunConfig) from error


def _refuse_secrets(source: YamlSource) -> None:
    """Raises ConfigError for a password, a key or a signature: a config is stored, shown and sent to a cluster."""
    path = secret_path(source.values)
    if path is not None:
        raise ConfigError(
            f"{'.'.join(map(str, path))}: holds a password, a key or a signature ({source.place(path)}).",
            "A config is stored with its run, so secrets come from environment variables and are never written down.",
            "Take it out: AWS_… variables open S3, DIPTYCH_PROXY_LOGIN=user:password the proxy.",
        )


def explain(error: ValidationError, source: YamlSource, model: type[BaseModel]) -> ConfigError:
    """The first problem as an error for the user, and the names of the others."""
    problems = [(_path_of(details, source), details) for details in error.errors()]
    # Of a union's alternatives each complains; the deepest complaint is about what the user wrote.
    path, details = max(problems, key=lambda problem: (problem[1]["type"] == "extra_forbidden", len(problem[0])))
    key = ".".join(map(str, path)) or "The config"
    others = sorted({".".join(map(str, other)) for other, _ in problems} - {key})
    more = f" Also wrong: {', '.join(others)}." if others else ""
    if details["type"] == "extra_forbidden":
        return _unknown_key(path, source, model, more)
    if details["type"] == "missing":
        return ConfigError(
            f"{key} is missing ({source.place(path)}).", "It has no default.", f"Add it to the config.{more}"
        )
    return ConfigError(
        f"{key}: got {_shown(details['input'])} ({source.place(path)}).",
        f"{_allowed(path, model)}{_sentence(details['msg'])}",
        f"Correct that value.{more}",
    )


def _unknown_key(path: KeyPath, source: YamlSource, model: type[BaseModel], more: str) -> ConfigError:
    section = _model_at(path[:-1], model)
    known = sorted(section.model_fields) if section else []
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    return ConfigError(
        f"{'.'.join(map(str, path))} is not a key of the config ({source.place(path)}).",
        f"The nearest key there is {near[0]}." if near else f"Allowed there: {', '.join(known)}.",
        (f"Did you mean {near[0]}?" if near else "Remove or rename it.") + more,
    )


def _path_of(details: ErrorDetails, source: YamlSource) -> KeyPath:
    """The error's place without the names of union members, which pydantic puts between the keys."""
    path: KeyPath = ()
    value: Any = source.values
    for part in details["loc"]:
        present = isinstance(value, dict | list) and _has(value, part)
        if present:
            value = value[part]
        elif details["type"] != "missing" or part != details["loc"][-1]:
            continue
        path = (*path, part)
    return path


def _has(value: dict[str, Any] | list[Any], part: str | int) -> bool:
    return part in value if isinstance(value, dict) else isinstance(part, int) and part < len(value)


def _model_at(path: KeyPath, model: type[BaseModel]) -> type[BaseModel] | None:
    is_name = False  # of one section among several that the user names
    for part in path:
        if is_name or isinstance(part, int):
            is_name = False
            continue
        field = model.model_fields.get(part)
        inner = None if field is None else section_in(field.annotation)
        if field is None or inner is None:
            return None
        model, is_name = inner, get_origin(field.annotation) is dict
    return model


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The config section among a field's types, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (section_in(member) for member in get_args(annotation))
    return next((section for section in found if section is not None), None)


def _allowed(path: KeyPath, model: type[BaseModel]) -> str:
    section = _model_at(path[:-1], model)
    field = section.model_fields.get(str(path[-1])) if section and path else None
    return f"{field.description} " if field and field.description else ""


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ").rstrip(".")
    return text[:1].upper() + text[1:] + "."


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_VALUE else f"{text[:MAX_SHOWN_VALUE]}…"
