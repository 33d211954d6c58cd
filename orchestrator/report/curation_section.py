"""The section on what was annotated and chosen: the values, and the steps that led to each view."""

import numpy as np

from datapipe.view_file import Curation
from orchestrator.report.dataset_facts import AnnotationSample, DatasetFacts
from orchestrator.report.histogram import Distribution, histogram
from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import figure, section, table
from orchestrator.report.wording import percent


def is_curated(dataset: DatasetFacts | None) -> bool:
    """Whether there are annotations or views to show."""
    return dataset is not None and bool(dataset.annotations or dataset.views)


def curation_section(dataset: DatasetFacts | None) -> Html | None:
    """Annotations and views; None for a dataset that has neither."""
    if dataset is None or not is_curated(dataset):
        return None
    named = [f"{found.name} of {found.values:,} rows" for found in dataset.annotations]
    lead = f"Annotated: {', '.join(named)}." if named else None
    charts = [_values(found) for found in dataset.annotations if len(found.sample)]
    return section(
        "curation",
        "Annotations and views",
        lead,
        el("div", *charts, class_="charts three") if charts else None,
        *(_steps(view, dataset.manifest.samples) for view in dataset.views),
    )


def _values(found: AnnotationSample) -> Html:
    median = f"median {np.median(found.sample):.3g}"
    chart = histogram(f"{found.name}: {median}", "", [Distribution(found.name, found.sample, median)])
    return figure(found.name, f"{len(found.sample):,} sampled values", chart)


def _steps(view: Curation, samples: int) -> Html:
    rows = [("all samples", f"{samples:,}", percent(1.0))]
    rows += [(step.name, f"{step.left:,}", percent(step.left / max(1, samples))) for step in view.steps]
    return figure(view.path, f"{view.samples:,} samples", table(("", "left", "of all"), rows))
