"""The section with what another person needs to do the run again."""

import json

from orchestrator.report.dataset_facts import DatasetFacts
from orchestrator.report.facts import RunFacts
from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import folded, section, table
from orchestrator.report.wording import file_size


def run_section(run: RunFacts, dataset: DatasetFacts | None) -> Html:
    """Versions, the config and the dataset's settings."""
    lead = (
        "The same pictures and settings give the same dataset byte for byte, "
        "and a training that sees the same samples in the same order."
    )
    blocks = [_versions(run), _config(run), _dataset(dataset)]
    return section("again", "Do it again", lead, *blocks)


def _versions(run: RunFacts) -> Html | None:
    versions = {"Python": run.python, **run.versions} if run.python else run.versions
    facts = {"Run created": run.created, **versions} if run.created else versions
    if not facts:
        return None
    return el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in facts.items()), class_="facts")


def _config(run: RunFacts) -> Html | None:
    if not run.config_yaml:
        return None
    hint = el("p", "Saved as run.yaml, ", el("code", "diptych run run.yaml"), " does the same.")
    return folded("The run's config, all defaults filled in", hint, el("pre", run.config_yaml))


def _dataset(dataset: DatasetFacts | None) -> Html | None:
    if dataset is None:
        return None
    manifest = dataset.manifest
    facts = [
        ("shards", f"{len(manifest.shard_rows):,}"),
        ("bytes", file_size(manifest.total_bytes)),
        ("format version", str(manifest.format_version)),
    ]
    settings = [(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(manifest.settings.items())]
    return folded("The dataset's settings", table(("Setting", "Value"), facts + settings))
