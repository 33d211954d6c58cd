"""Says in English what a picture shows, in several phrasings."""

import random
import re

from orchestrator.demo.catalog import Emoji
from orchestrator.demo.groups import PROMPT_NAMES, Group

# {a} is the subject with its article, {subject} without; {with_skin} and {comma_skin} may be empty. The first
# phrasing is the plain one, and the likeliest.
PHRASINGS = (
    "{a}{with_skin}",
    "{subject}{comma_skin}",
    "an emoji of {a}{with_skin}",
    "a drawing of {a}{with_skin}",
    "{a_group}: {subject}{comma_skin}",
    "{a_group}{with_skin}",  # as vague as captions of the web are; teaches what the group's name means
)
PHRASING_WEIGHTS = (5, 2, 1, 1, 1, 1)
PLURAL = re.compile(r"^(men|women|people|woman and man)\b|(hands|fingers|palms up together)$|^(thumbs|palms) ")


def plain_caption(emoji: Emoji) -> str:
    """The one caption that names the subject and its skin tone, and nothing else; no two emoji share it."""
    return PHRASINGS[0].format(**_parts(emoji))


def training_caption(emoji: Emoji, choose: random.Random) -> str:
    """One of several phrasings of what the emoji shows."""
    phrasing = choose.choices(PHRASINGS, PHRASING_WEIGHTS)[0]
    if emoji.group is Group.OTHER and "{a_group}" in phrasing:
        phrasing = PHRASINGS[0]
    return phrasing.format(**_parts(emoji))


def _parts(emoji: Emoji) -> dict[str, str]:
    skin = " and ".join(emoji.tones)
    return {
        "a": _with_article(emoji.subject),
        "subject": emoji.subject,
        "with_skin": f" with {skin} skin" if skin else "",
        "comma_skin": f", {skin} skin" if skin else "",
        "a_group": _with_article(PROMPT_NAMES[emoji.group]),
    }


def _with_article(subject: str) -> str:
    if PLURAL.search(subject):
        return subject
    if subject.startswith("flag of"):
        return f"the {subject}"
    return f"{'an' if subject[0] in 'aeiouAEIOU' else 'a'} {subject}"
