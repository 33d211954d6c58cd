"""Says which columns of a URL list go into its dataset and of what type, and refuses those that cannot."""

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from datapipe.config import BuildConfig
from datapipe.input_files import ListFile
from datapipe.plan import InputFile, plan_shards
from datapipe.promotion import Extremes, common_type, is_exact
from infra.errors import ConfigError

# Columns that a build writes itself; one of the list with such a name would be lost.
OWN_COLUMNS = frozenset(
    {
        "key",
        "url",
        "caption",
        "status",
        "error_message",
        "width",
        "height",
        "original_width",
        "original_height",
        "md5",
        "sha256",
        "sha512",
        "exif",
        "image_offset",
        "image_length",
        "jpg",
        "png",
        "webp",
    }
)


@dataclass(frozen=True, slots=True)
class FileColumns:
    """One file of the list: its rows, the columns that go into the dataset with their types there, their extremes."""

    source: ListFile
    rows: int
    columns: pa.Schema
    extremes: Mapping[str, Extremes]


def columns_of(
    source: ListFile,
    schema: pa.Schema,
    rows: int,
    config: BuildConfig,
    extremes: Callable[[pa.Schema], Mapping[str, Extremes]],
) -> FileColumns:
    """Of the file's columns those that are used. Raises ConfigError for missing ones and such as cannot be used."""
    if not rows:
        return FileColumns(source, 0, pa.schema([]), {})
    _check_names(schema.names, source.url, config)
    _check_text(schema, source, config)
    used = [(name, stored_type(schema.field(name).type)) for name in additional_columns(schema.names, config)]
    columns = pa.schema(used)
    return FileColumns(source, rows, columns, extremes(columns))


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type in the dataset: each slice of a dictionary-encoded column would carry the whole dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def additional_columns(names: Iterable[str], config: BuildConfig) -> list[str]:
    """The list's further columns that go into the dataset, in their order."""
    kept = config.save_additional_columns
    chosen = {config.url_col, config.caption_col}
    return [name for name in names if name not in chosen and (kept is None or name in kept)]


def types_of_empty(files: Sequence[FileColumns]) -> pa.Schema:
    """The types of the columns that a text file of the list has no value of: those of the other files, or else text."""
    empty = (
        field.name
        for file in files
        if file.source.format != "parquet"
        for field in file.columns
        if pa.types.is_null(field.type)
    )
    found = {name: common_type(_types_by_file(files, name).values()) for name in dict.fromkeys(empty)}
    texts, none = pa.string(), pa.null()  # none is for what the other files don't agree on
    return pa.schema([(name, texts if kind == none else kind or none) for name, kind in found.items()])


def refuse_mixed_types(files: Sequence[FileColumns], config: BuildConfig) -> None:
    """Raises ConfigError when the files of one shard have a column in types that do not go together.

    They go together when they have a type in which each value that is there stays what it is.
    """
    if all(file.columns.equals(files[0].columns) for file in files):
        return
    by_place = {file.source.url: file for file in files}
    inputs = [InputFile(place, file.rows) for place, file in by_place.items()]
    for plan in plan_shards(inputs, config.number_sample_per_shard):
        meeting = [by_place[piece.path] for piece in plan.pieces]
        if not all(file.columns.equals(meeting[0].columns) for file in meeting):
            _refuse_mixed(meeting)


def _refuse_mixed(files: Sequence[FileColumns]) -> None:
    names = list(dict.fromkeys(name for file in files for name in file.columns.names))
    for name in names:
        having = [file for file in files if name in file.columns.names]
        common = common_type(file.columns.field(name).type for file in having)
        if common is None:
            one, other = next(pair for pair in itertools.combinations(having, 2) if _joined(pair, name) is None)
            allowed = (
                "In all files a column has one type, or types that go together, such as whole numbers and fractions."
            )
        elif inexact := [file for file in having if not _is_exact(file, name, common)]:
            one = inexact[0]
            pairs = ((file, _joined((one, file), name)) for file in having)
            other = next((file for file, kind in pairs if kind is None or not _is_exact(one, name, kind)), having[-1])
            allowed = (
                f"In a shard with rows of both it would be {common}, which does not have every value of {one.source} "
                f"as it is{_values(one, name)}."
            )
        else:
            continue
        types = [file.columns.field(name).type for file in (one, other)]
        others = ", ".join(kept for kept in names if kept != name)
        raise ConfigError(
            f"build.input: the column {name!r} is {types[0]} in {one.source}, and {types[1]} in {other.source}.",
            allowed,
            "Write one of them anew in the other's type (in pandas, Int64 holds whole numbers with gaps), or leave the "
            f"column out: set build.save_additional_columns to [{others}].",
        )


def _joined(files: Iterable[FileColumns], name: str) -> pa.DataType | None:
    return common_type(file.columns.field(name).type for file in files)


def _is_exact(file: FileColumns, name: str, common: pa.DataType) -> bool:
    return is_exact(file.columns.field(name).type, common, file.extremes.get(name))


def _values(file: FileColumns, name: str) -> str:
    """What is known of a column of whole numbers."""
    if not pa.types.is_integer(file.columns.field(name).type):
        return ""
    if name not in file.extremes:
        return " (its statistics do not say how large they are)"
    return " (from {:,} to {:,})".format(*file.extremes[name])


def _types_by_file(files: Iterable[FileColumns], name: str) -> dict[str, pa.DataType]:
    return {file.source.url: file.columns.field(name).type for file in files if name in file.columns.names}


def _check_names(names: list[str], where: str, config: BuildConfig) -> None:
    """Raises ConfigError when a configured column is missing, one is there twice, or a further one has our name."""
    wanted = [("url_col", config.url_col), ("caption_col", config.caption_col)]
    wanted += [("save_additional_columns", name) for name in config.save_additional_columns or []]
    for key, name in wanted:
        if name is not None and name not in names:
            near = _nearest(name, names)
            raise ConfigError(
                f"build.{key}: {where} has no column {name!r}.",
                f"Its columns are: {', '.join(names)}.",
                f"Set build.{key}={near or 'one of them'}"
                + (", or caption_col=null for a list without captions." if key == "caption_col" else "."),
            )
    used = [name for name in names if name in (config.url_col, config.caption_col)]
    used += additional_columns(names, config)
    twice = list(dict.fromkeys(name for name in used if used.count(name) > 1))
    if twice:
        raise ConfigError(
            f"build.input: {where} names a column twice: {', '.join(twice)}.",
            "Columns that go into the dataset have names of their own.",
            "Rename one of them, or list the columns to keep in save_additional_columns.",
        )
    for name in additional_columns(names, config):
        if name in OWN_COLUMNS:
            raise ConfigError(
                f"build.save_additional_columns: {where} has a column {name!r} besides the one for it.",
                f"The dataset has its own columns {', '.join(sorted(OWN_COLUMNS))}.",
                "Rename it, or list the columns to keep in save_additional_columns.",
            )


def _nearest(name: str, names: Sequence[str]) -> str | None:
    by_lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    return by_lower[near[0]] if near else None


def _check_text(schema: pa.Schema, source: ListFile, config: BuildConfig) -> None:
    for key, name in (("url_col", config.url_col), ("caption_col", config.caption_col)):
        kind = schema.field(name).type if name is not None else pa.string()
        value = stored_type(kind)
        if pa.types.is_nested(value) or pa.types.is_binary(value) or pa.types.is_large_binary(value):
            raise ConfigError(
                f"build.{key}: column {name!r} of {source} holds {kind}.",
                "A column of text is needed.",
                f"Convert it, or set build.{key} to another column: {', '.join(schema.names)}.",
            )
