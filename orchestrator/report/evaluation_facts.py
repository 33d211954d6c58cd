"""Reads an evaluation with the pictures of its retrieval examples."""

from dataclasses import dataclass

from datapipe.dataset import Dataset
from infra.errors import InputError
from infra.storage import Storage
from orchestrator.report.dataset_facts import spread
from orchestrator.report.pictures import EXAMPLE_SIDE, thumbnail_uri
from training.records import Evaluation, RetrievalExample, SampleRef, read_evaluation, read_examples

EXAMPLES = 12
FOUND_SHOWN = 5


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture in answer to a query. `image` is a data URI, or None when it is not to be had."""

    caption: str
    image: str | None
    is_right: bool
    similarity: float | None


@dataclass(frozen=True, slots=True)
class AnsweredQuery:
    """A query and the first pictures found, best first. `missed` is the right picture when it is not among them."""

    caption: str
    found: tuple[FoundPicture, ...]
    missed: FoundPicture | None


@dataclass(frozen=True, slots=True)
class EvaluationFacts:
    """The scores, and some of the `examples_kept` examples."""

    evaluation: Evaluation
    examples: tuple[AnsweredQuery, ...]
    examples_kept: int


def gather_evaluation(folder: Storage) -> EvaluationFacts:
    """Reads the scores, the examples and their pictures. A dataset that is gone leaves the pictures out."""
    evaluation = read_evaluation(folder)
    kept = read_examples(folder)
    shown = [kept[index] for index in spread(len(kept), EXAMPLES)]
    images = _images(evaluation.data, [ref for example in shown for ref in (example.query, *_first(example))])
    answered = tuple(_answered(example, images) for example in shown)
    return EvaluationFacts(evaluation, answered, len(kept))


def _first(example: RetrievalExample) -> tuple[SampleRef, ...]:
    return example.found[:FOUND_SHOWN]


def _answered(example: RetrievalExample, images: dict[SampleRef, str | None]) -> AnsweredQuery:
    query = example.query
    found = tuple(
        # As the scores count: pictures of one caption can't be told apart by it.
        FoundPicture(ref.caption, images.get(ref), ref.caption == query.caption, similarity)
        for ref, similarity in zip(_first(example), example.similarities, strict=False)
    )
    hit = any(picture.is_right for picture in found)
    missed = None if hit else FoundPicture(query.caption, images.get(query), True, None)
    return AnsweredQuery(query.caption, found, missed)


def _images(url: str, refs: list[SampleRef]) -> dict[SampleRef, str | None]:
    try:
        dataset = Dataset.open(url)
    except InputError:
        return {}
    images: dict[SampleRef, str | None] = {}
    for shard in sorted({ref.shard for ref in refs}):
        images |= _images_of_shard(dataset, shard, {ref for ref in refs if ref.shard == shard})
    return images


def _images_of_shard(dataset: Dataset, shard: int, refs: set[SampleRef]) -> dict[SampleRef, str | None]:
    if not 0 <= shard < len(dataset.manifest.shard_samples):
        return {}
    with dataset.open_shard(shard, ["key"]) as reader:
        keys = reader.samples["key"].to_pylist()
        # A dataset that was built anew since may hold another picture there.
        there = [ref for ref in refs if 0 <= ref.index < len(keys) and keys[ref.index] == ref.key]
        return {ref: thumbnail_uri(reader.image(ref.index), EXAMPLE_SIDE) for ref in there}
