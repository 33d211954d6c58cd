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

EXAMPLES = 12
SHOWN = 5


def score_retrieval(
    config: RetrievalConfig, selection: Selection, encoder: FeatureEncoder
) -> tuple[list[Score], list[RetrievalExample]]:
    """Recall at each k both ways, and some examples for people to look at.

    A hit is any sample with the query's caption: two pictures with one caption can't be told apart by it.
    """
    refs = sample_refs(selection)
    captions = [ref.caption for ref in refs]
    similarity = encoder.encode_texts(captions) @ encoder.encode_pictures(selection).T  # (texts, pictures)
    same = same_caption(captions)
    scores = []
    for name, matrix in (("text_to_image", similarity), ("image_to_text", similarity.T)):
        for k in config.k:
            value = recall_at(matrix, same, k)
            scores.append(Score(f"{name}_recall@{k}", value, chance_at(captions, k), len(refs)))
    return scores, _examples(similarity, refs)


def recall_at(similarity: Tensor, same: Tensor, k: int) -> float:
    """The share of rows with a true column among their k best. similarity: (N, N); same: (N, N) bool."""
    best = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return float(same.gather(1, best).any(dim=1).float().mean())


def chance_at(captions: Sequence[str], k: int) -> float:
    """The recall that guessing reaches: for a caption that m of N share, one less the chance of k misses."""
    total, result = len(captions), 0.0
    for count in Counter(captions).values():
        misses = 1.0
        for drawn in range(min(k, total)):
            misses *= max(0, total - count - drawn) / (total - drawn)
        result += count * (1 - misses)
    return result / total


def same_caption(captions: Sequence[str]) -> Tensor:
    """(N, N) bool: which samples have one caption."""
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([numbers[caption] for caption in captions])
    return ids[:, None] == ids[None, :]


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


def _examples(similarity: Tensor, refs: Sequence[SampleRef]) -> list[RetrievalExample]:
    chosen = sorted(random.Random(0).sample(range(len(refs)), min(EXAMPLES, len(refs))))
    examples = []
    for query in chosen:
        values, found = similarity[query].topk(min(SHOWN, len(refs)))
        top = tuple(refs[int(place)] for place in found)
        examples.append(RetrievalExample(refs[query], top, tuple(round(float(value), 4) for value in values)))
    return examples
