"""Recall@k from text to image and from image to text."""

import random
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from training.config import RetrievalConfig
from training.encode import FeatureEncoder
from training.records import RetrievalExample, SampleRef, Score
from training.selection import Selection, columns_of
from training.team import Team

EXAMPLES = 12
SHOWN = 5
QUERIES_AT_ONCE = 1024


def score_retrieval(
    config: RetrievalConfig, selection: Selection, encoder: FeatureEncoder
) -> tuple[list[Score], list[RetrievalExample]]:
    """Recall at each k both ways, and some examples for people to look at.

    A hit is any sample with the query's caption: two pictures with one caption can't be told apart by it.
    """
    refs = sample_refs(selection)
    captions = [ref.caption for ref in refs]
    texts, pictures = encoder.encode_texts(captions), encoder.encode_pictures(selection)
    ids = caption_ids(captions)
    scores = []
    for name, queries, answers in (("text_to_image", texts, pictures), ("image_to_text", pictures, texts)):
        recalls = recalls_at(queries, answers, ids, config.k, encoder.team)
        for k, value in zip(config.k, recalls, strict=True):
            scores.append(Score(f"{name}_recall@{k}", value, chance_at(captions, k), len(refs)))
    return scores, _examples(texts, pictures, refs)


def recalls_at(queries: Tensor, answers: Tensor, ids: Tensor, ks: Sequence[int], team: Team) -> list[float]:
    """For each k the share of queries with a true answer among their k best, in memory linear in their number.

    queries, answers: (N, D) unit rows; ids: (N,), equal where an answer is true for a query. Every rank of the team has
    all of them, looks up its part of the queries, and gets the same shares.
    """
    most = min(max(ks), len(answers))
    hits = torch.zeros(len(ks), dtype=torch.int64)
    for part in team.share(-(-len(queries) // QUERIES_AT_ONCE)):
        rows = slice(part * QUERIES_AT_ONCE, (part + 1) * QUERIES_AT_ONCE)
        best = (queries[rows] @ answers.T).topk(most, dim=1).indices
        is_true = ids[best] == ids[rows, None]  # (queries, most)
        hits += torch.stack([is_true[:, :k].any(dim=1).sum() for k in ks])
    return (team.total(hits) / len(queries)).tolist()


def chance_at(captions: Sequence[str], k: int) -> float:
    """The recall that guessing reaches: for a caption that m of N share, one less the chance of k misses."""
    total, result = len(captions), 0.0
    for count in Counter(captions).values():
        misses = 1.0
        for drawn in range(min(k, total)):
            misses *= max(0, total - count - drawn) / (total - drawn)
        result += count * (1 - misses)
    return result / total


def caption_ids(captions: Sequence[str]) -> Tensor:
    """(N,) numbers, equal for samples that have one caption."""
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    return torch.tensor([numbers[caption] for caption in captions])


def sample_refs(selection: Selection) -> list[SampleRef]:
    """Where each sample of the selection lies, with key and caption."""
    return [
        SampleRef(shard, index, key, _first(captions))
        for shard, index, (key, *captions) in columns_of(selection, ["key", *selection.captions])
    ]


def _first(captions: Sequence[str | list[str] | None]) -> str:
    """The first caption that is not empty, of columns of texts or of lists of texts; a selection has one."""
    texts = [text for value in captions for text in (value if isinstance(value, list) else [value])]
    return next(text for text in texts if text)


def _examples(texts: Tensor, pictures: Tensor, refs: Sequence[SampleRef]) -> list[RetrievalExample]:
    chosen = sorted(random.Random(0).sample(range(len(refs)), min(EXAMPLES, len(refs))))
    examples = []
    for query in chosen:
        values, found = (pictures @ texts[query]).topk(min(SHOWN, len(refs)))
        top = tuple(refs[int(place)] for place in found)
        examples.append(RetrievalExample(refs[query], top, tuple(round(float(value), 4) for value in values)))
    return examples
