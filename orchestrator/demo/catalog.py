"""Reads the emoji's names as facts: who, of which skin tone, does what."""

import re
from dataclasses import dataclass

import emoji as emoji_names

from orchestrator.demo.groups import COUPLE_GENDERS, FANTASY, WORK, Group, group_of

FULLY_QUALIFIED = 2  # the status of an emoji in its complete spelling, in Unicode's emoji-test.txt
NEWEST_VERSION = 17  # of the Emoji standard; the font draws no later ones, and the set stays the same
TONES = {"🏻": "light", "🏼": "medium-light", "🏽": "medium", "🏾": "medium-dark", "🏿": "dark"}
TONE_IN_NAME = re.compile(r"_(?:light|medium-light|medium|medium-dark|dark)_skin_tone")
ADJECTIVES = ("bald", "deaf", "old", "pregnant")  # they go before man or woman
COUPLES = {"kiss": "kissing", "couple with heart": "with a heart between them"}
COUPLE_WORDS = {
    "man man": "men",
    "woman woman": "women",
    "woman man": "woman and man",
    "person person": "people",
    "": "people",
}
# Names that carry the gender inside, as (gender, activity).
GENDER_INSIDE = {
    "mermaid": ("woman", "merperson"),
    "merman": ("man", "merperson"),
    "merperson": ("person", "merperson"),
    "older person": ("person", "old"),
    "Santa Claus": ("man", "Santa Claus"),
    "Mrs. Claus": ("woman", "Santa Claus"),
    "Mx Claus": ("person", "Santa Claus"),
    "prince": ("man", "with crown"),
    "princess": ("woman", "with crown"),
    "man": ("man", ""),
    "woman": ("woman", ""),
    "person": ("person", ""),
}


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji and what its name says of it.

    `gender` is man, woman or person (for couples men, women, people or "woman and man") where the activity has
    such variants, else "". `tones` holds the skin tones named: none, one, or two for a couple or a handshake.
    """

    character: str
    name: str
    gender: str
    activity: str
    tones: tuple[str, ...]
    group: Group

    @property
    def subject(self) -> str:
        """Who does what, in words and without the skin tone: `woman astronaut`, `thumbs up`, `flag of Japan`."""
        words = (self.activity, self.gender) if self.activity in ADJECTIVES else (self.gender, self.activity)
        return " ".join(part for part in words if part)


def read_catalog() -> list[Emoji]:
    """All fully-qualified emoji of the `emoji` package, in the order of their names."""
    rows = [
        (facts["en"].strip(":"), character)
        for character, facts in emoji_names.EMOJI_DATA.items()
        if facts["status"] == FULLY_QUALIFIED and facts["E"] <= NEWEST_VERSION
    ]
    return [_emoji(name, character) for name, character in sorted(rows)]


def _emoji(name: str, character: str) -> Emoji:
    gender, activity = _gender_and_activity(TONE_IN_NAME.sub("", name).replace("_", " "), character)
    tones = tuple(TONES[part] for part in character if part in TONES)
    if len(tones) == 1 and (gender in COUPLE_GENDERS or activity == "handshake"):
        tones = tones * 2
    return Emoji(character, name, gender, activity, tones, group_of(gender, activity))


def _gender_and_activity(words: str, character: str) -> tuple[str, str]:
    if _is_flag(character):
        return "", f"flag of {words}"
    if words in GENDER_INSIDE:
        return GENDER_INSIDE[words]
    for prefix, activity in COUPLES.items():
        if words.startswith(prefix) and (who := words.removeprefix(prefix).strip()) in COUPLE_WORDS:
            return COUPLE_WORDS[who], activity
    if first := re.fullmatch(r"(woman and man|women|woman|men|man|people|person) (.+)", words):
        return first[1], re.sub(r"^(?=beard|\w+ hair$)", "with ", first[2])
    if last := re.fullmatch(r"(deaf|old|pregnant) (woman|man|person)", words):
        return last[2], last[1]
    return ("person", words) if words in WORK | FANTASY else ("", words)


def _is_flag(character: str) -> bool:
    """A pair of regional indicators, or a black flag with tag letters (England, Scotland, Wales)."""
    return "\U0001f1e6" <= character[0] <= "\U0001f1ff" or "\U000e007f" in character
