"""The sections on the dataset: yield and failures, pictures, sizes."""

import numpy as np

from orchestrator.report.dataset_facts import DatasetFacts, Numbers, PictureSample, SizeSample
from orchestrator.report.histogram import Distribution, histogram
from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import caption_text, figure, folded, missing, section, table, thumbnail
from orchestrator.report.reasons import failures, reasons_table, way
from orchestrator.report.wording import file_size

NOT_BUILT = "No finished dataset yet: it appears here once the build has ended."
NO_SHARD_READ = "None of the shards that were looked at can be read: diptych verify tells what is wrong."
QUARTILES = ("least", "first quarter", "median", "third quarter", "greatest")


def yield_section(dataset: DatasetFacts | None) -> Html:
    """How many rows became samples, and why the others did not."""
    if dataset is None:
        return section("dataset", "From pairs to samples", None, missing(NOT_BUILT))
    manifest = dataset.manifest
    failed = failures(manifest.status_counts)
    lead = f"{manifest.samples:,} of {manifest.rows:,} pairs became samples. "
    lead += "Every other one is counted by its reason." if failed else "None was left out."
    return section(
        "dataset",
        "From pairs to samples",
        lead,
        way(manifest.rows, manifest.samples, failed),
        reasons_table(failed, manifest.rows) if failed else None,
    )


def pictures_section(dataset: DatasetFacts | None, credit: str | None) -> Html:
    """A grid of pictures as training sees them."""
    if dataset is None or not dataset.pictures:
        text = _why_nothing(dataset)
        return section("pictures", "Pictures and their captions", None, missing(text))
    lead = f"{len(dataset.pictures)} of {dataset.manifest.samples:,} samples, evenly spaced over the dataset."
    grid = el("ul", *map(_picture, dataset.pictures), class_="pictures")
    return section(
        "pictures", "Pictures and their captions", lead, grid, el("p", credit, class_="note") if credit else None
    )


def sizes_section(dataset: DatasetFacts | None) -> Html:
    """Sizes on the web and in the dataset."""
    if dataset is None or not dataset.sizes.rows:
        text = _why_nothing(dataset)
        return section("sizes", "Sizes", None, missing(text))
    sizes, samples = dataset.sizes, dataset.manifest.samples
    part = f"All {sizes.rows:,} samples" if sizes.rows == samples else f"Of {sizes.rows:,} sampled rows of {samples:,}"
    lead = f"{part}: above as found on the web, below as stored. Each row is scaled to its highest bar."
    cards = [card for card in (_pixels(sizes, "width"), _pixels(sizes, "height"), _stored_bytes(sizes)) if card]
    return section("sizes", "Sizes", lead, el("div", *cards, class_="charts three"))


def _why_nothing(dataset: DatasetFacts | None) -> str:
    if dataset is None:
        return NOT_BUILT
    return NO_SHARD_READ if dataset.manifest.samples else "The dataset holds no samples."


def _picture(picture: PictureSample) -> Html:
    caption = caption_text(picture.caption)
    sizes = " →\N{NO-BREAK SPACE}".join(size for size in (picture.original_size, picture.size) if size)
    return el(
        "li",
        thumbnail(picture.image, caption),
        el("p", caption, dir="auto", title=caption),
        el("small", sizes) if sizes else None,
    )


def _pixels(sizes: SizeSample, side: str) -> Html | None:
    original, stored = sizes.columns.get(f"original_{side}"), sizes.columns.get(side)
    rows = {"original": original, "stored": stored}
    present = {name: values for name, values in rows.items() if values is not None}
    if not present:
        return None
    medians = {name: f"median {np.median(values):,.0f} px" for name, values in present.items()}
    label = f"{side.title()} in pixels: " + ", ".join(f"{name} {median}" for name, median in medians.items())
    drawn = [Distribution(name, values.astype(np.float64), medians[name]) for name, values in present.items()]
    cells = [(name, *_quartiles(values, "{:,.0f} px")) for name, values in present.items()]
    return figure(f"{side.title()} in pixels", None, histogram(label, "px", drawn), _numbers(cells))


def _stored_bytes(sizes: SizeSample) -> Html | None:
    values = sizes.columns.get("image_length")
    if values is None:
        return None
    median = f"median {file_size(float(np.median(values)))}"
    rows = [Distribution("stored", values / 1000, median)]
    chart = histogram(f"Stored bytes a picture: {median}", "KB", rows)
    cells = [("stored", *(file_size(value) for value in np.percentile(values, (0, 25, 50, 75, 100))))]
    return figure("File size in KB", None, chart, _numbers(cells))


def _quartiles(values: Numbers, form: str) -> list[str]:
    return [form.format(value) for value in np.percentile(values, (0, 25, 50, 75, 100))]


def _numbers(cells: list[tuple[str, ...]]) -> Html:
    return folded("As numbers", table(("", *(row[0] for row in cells)), _turned(cells)))


def _turned(cells: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    columns = zip(*(row[1:] for row in cells), strict=True)
    return [(name, *values) for name, values in zip(QUARTILES, columns, strict=True)]
