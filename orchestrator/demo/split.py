"""Chooses which emoji are kept from training: combinations of who, what and skin tone, each part of which is seen.

A *cell* is one activity by one gender (woman astronaut; thumbs up), drawn in every skin tone. From each cell some
tones are held out and the rest are trained on, so that a model has met the woman astronaut, and dark skin on
others, yet never the two together.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum

from orchestrator.demo.catalog import TONES, Emoji

TONE_ORDER = tuple(TONES.values())
SECOND_TONE_EVERY = 3  # one cell in three holds out two of its five tones
PAIRS_HELD_OUT = 4  # of the 25 pairs of tones that a cell of couples has


class Split(StrEnum):
    """Which part of the set a picture belongs to."""

    TRAIN = "train"
    HELD_OUT = "held_out"


def held_out_characters(catalog: Iterable[Emoji], seed: int) -> frozenset[str]:
    """The characters to keep from training.

    Within an activity the genders hold out different tones, so every tone of every activity that has several
    genders is trained on; no emoji without a skin tone is held out.
    """
    activities: dict[str, dict[str, list[Emoji]]] = defaultdict(lambda: defaultdict(list))
    for emoji in catalog:
        if emoji.tones:
            activities[emoji.activity][emoji.gender].append(emoji)
    choose = random.Random(f"held out {seed}")
    held_out: set[str] = set()
    for activity in sorted(activities):
        start = choose.randrange(len(TONE_ORDER))
        for index, gender in enumerate(sorted(activities[activity])):
            cell = activities[activity][gender]
            if len(cell[0].tones) == 2:
                held_out |= _pairs_to_hold_out(cell, choose)
            else:
                second = choose.randrange(SECOND_TONE_EVERY) == 0
                held_out |= _tones_to_hold_out(cell, start + 2 * index, second)
    return frozenset(held_out)


def _tones_to_hold_out(cell: list[Emoji], start: int, second: bool) -> set[str]:
    chosen = {TONE_ORDER[(start + step) % len(TONE_ORDER)] for step in ((0, 1) if second else (0,))}
    return {emoji.character for emoji in cell if emoji.tones[0] in chosen}


def _pairs_to_hold_out(cell: list[Emoji], choose: random.Random) -> set[str]:
    """A few pairs of tones, no two of them with the same tone on the same side: each side keeps all its tones."""
    if len(cell) < len(TONE_ORDER) ** 2:
        return set()
    right = list(TONE_ORDER)
    choose.shuffle(right)
    chosen = set(list(zip(TONE_ORDER, right, strict=True))[:PAIRS_HELD_OUT])
    return {emoji.character for emoji in cell if emoji.tones in chosen}
