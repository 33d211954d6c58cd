"""The held-out emoji are combinations that training never sees, of parts that it does."""

from collections import Counter, defaultdict

import pytest

from orchestrator.demo.captions import plain_caption
from orchestrator.demo.catalog import Emoji, read_catalog
from orchestrator.demo.emoji_font import load_emoji_font
from orchestrator.demo.groups import Group
from orchestrator.demo.lookalikes import without_lookalikes
from orchestrator.demo.split import held_out_characters


@pytest.fixture(scope="module")
def drawable() -> list[Emoji]:
    catalog = read_catalog()
    return without_lookalikes(catalog, load_emoji_font(emoji.character for emoji in catalog))


def parts(drawable: list[Emoji], seed: int) -> tuple[list[Emoji], list[Emoji]]:
    held_out = held_out_characters(drawable, seed)
    training = [emoji for emoji in drawable if emoji.character not in held_out]
    return training, [emoji for emoji in drawable if emoji.character in held_out]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_least_four_hundred_emoji_are_held_out_of_some_3700(drawable: list[Emoji], seed: int):
    training, held_out = parts(drawable, seed)
    assert len(held_out) >= 400
    assert len(training) >= 3200


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_held_out_combination_is_trained_on(drawable: list[Emoji], seed: int):
    training, held_out = parts(drawable, seed)
    seen = {(emoji.activity, emoji.gender, emoji.tones) for emoji in training}
    assert not seen & {(emoji.activity, emoji.gender, emoji.tones) for emoji in held_out}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_part_of_a_held_out_combination_is_trained_on(drawable: list[Emoji], seed: int):
    training, held_out = parts(drawable, seed)
    seen = {(emoji.activity, emoji.gender) for emoji in training if emoji.tones}
    tones_of_gender = {(emoji.gender, tone) for emoji in training for tone in emoji.tones}
    sides = {(emoji.activity, side, tone) for emoji in training for side, tone in enumerate(emoji.tones)}
    genders_of = defaultdict(set)
    for emoji in training:
        genders_of[emoji.activity].add(emoji.gender)
    for emoji in held_out:
        assert (emoji.activity, emoji.gender) in seen
        assert all((emoji.gender, tone) in tones_of_gender for tone in emoji.tones)
        if len(genders_of[emoji.activity]) > 1 or len(emoji.tones) == 2:
            assert all((emoji.activity, side, tone) in sides for side, tone in enumerate(emoji.tones))


def test_the_split_depends_on_the_seed_alone(drawable: list[Emoji]):
    assert held_out_characters(drawable, 5) == held_out_characters(list(drawable), 5)
    assert held_out_characters(drawable, 5) != held_out_characters(drawable, 6)


def test_held_out_captions_are_distinct_and_no_drawing_has_two(drawable: list[Emoji]):
    captions = [plain_caption(emoji) for emoji in drawable]
    assert len(set(captions)) == len(captions)


def test_the_held_out_part_has_eight_groups_of_a_fair_size(drawable: list[Emoji]):
    _, held_out = parts(drawable, 0)
    groups = Counter(emoji.group for emoji in held_out)
    assert sum(count >= 20 for count in groups.values()) >= 8
    assert Group.OTHER not in groups


@pytest.mark.parametrize(
    ("character", "subject", "tones", "group"),
    [
        ("👩🏿‍🚀", "woman astronaut", ("dark",), Group.WORK),
        ("🧑‍🚀", "person astronaut", (), Group.WORK),
        ("👍🏽", "thumbs up", ("medium",), Group.HAND),
        ("👩🏻‍🤝‍👨🏾", "woman and man holding hands", ("light", "medium-dark"), Group.COUPLE),
        ("👬🏼", "men holding hands", ("medium-light", "medium-light"), Group.COUPLE),
        ("🧔🏽‍♂️", "man with beard", ("medium",), Group.PORTRAIT),
        ("👵🏽", "old woman", ("medium",), Group.PORTRAIT),
        ("🇯🇵", "flag of Japan", (), Group.FLAG),
        ("🥑", "avocado", (), Group.OTHER),
    ],
)
def test_names_are_read_as_facts(character: str, subject: str, tones: tuple[str, ...], group: Group):
    emoji = next(emoji for emoji in read_catalog() if emoji.character == character)
    assert (emoji.subject, emoji.tones, emoji.group) == (subject, tones, group)


def test_captions_read_as_english():
    by_character = {emoji.character: emoji for emoji in read_catalog()}
    said = {character: plain_caption(by_character[character]) for character in ("👩🏿‍🚀", "🙌🏽", "🇳🇱", "👩🏻‍🤝‍👨🏾")}
    assert said == {
        "👩🏿‍🚀": "a woman astronaut with dark skin",
        "🙌🏽": "raising hands with medium skin",
        "🇳🇱": "the flag of Netherlands",
        "👩🏻‍🤝‍👨🏾": "woman and man holding hands with light and medium-dark skin",
    }
