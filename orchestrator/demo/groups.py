"""Sorts what emoji show into a dozen groups, the classes of the demo's zero-shot classification."""

import re
from enum import StrEnum


class Group(StrEnum):
    """What kind of thing a picture shows. The value is the label; `PROMPT_NAMES` says it in words.

    The held-out pictures are of the first nine; the names of these occur in some training captions.
    """

    WORK = "work"
    SPORT = "sport"
    GESTURE = "gesture"
    PORTRAIT = "portrait"
    FANTASY = "fantasy"
    MOBILITY = "mobility"
    COUPLE = "couple"
    HAND = "hand"
    BODY_PART = "body_part"
    FACE = "face"
    FLAG = "flag"
    OTHER = "other"


PROMPT_NAMES = {
    Group.WORK: "person at work",
    Group.SPORT: "person doing sport",
    Group.GESTURE: "person making a gesture",
    Group.PORTRAIT: "portrait of a person",
    Group.FANTASY: "fantasy figure",
    Group.MOBILITY: "person on foot, on wheels or with a cane",
    Group.COUPLE: "couple",
    Group.HAND: "hand sign",
    Group.BODY_PART: "part of the body",
    Group.FACE: "face",
    Group.FLAG: "flag",
    Group.OTHER: "thing",
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


WORK = _names(
    "artist|astronaut|construction worker|cook|detective|factory worker|farmer|firefighter|guard|health worker|judge|"
    "mechanic|office worker|pilot|police officer|scientist|singer|student|teacher|technologist|ninja"
)
FANTASY = _names("elf|fairy|mage|merperson|superhero|supervillain|vampire|Santa Claus|baby angel|genie|zombie|troll")
SPORT = _names(
    "biking|mountain biking|bouncing ball|cartwheeling|climbing|golfing|juggling|lifting weights|playing handball|"
    "playing water polo|rowing boat|surfing|swimming|in lotus position|dancing|ballet dancer|horse racing|snowboarder|"
    "skier|fencing|in suit levitating|running|running facing right"
)
GESTURE = _names(
    "bowing|facepalming|frowning|gesturing NO|gesturing OK|pouting|raising hand|shrugging|tipping hand|deaf|"
    "getting haircut|getting massage|in steamy room|taking bath|in bed"
)
PORTRAIT = _names(
    "bald|with beard|with blond hair|with curly hair|with red hair|with white hair|old|baby|boy|girl|child|"
    "with crown|with veil|in tuxedo|wearing turban|with skullcap|with headscarf|pregnant|breast-feeding|feeding baby"
)
BODY_PART = _names("ear|ear with hearing aid|foot|leg|nose|flexed biceps")
BY_NAME = (
    (WORK, Group.WORK),
    (FANTASY, Group.FANTASY),
    (SPORT, Group.SPORT),
    (GESTURE, Group.GESTURE),
    (PORTRAIT, Group.PORTRAIT),
    (BODY_PART, Group.BODY_PART),
)
MOBILITY_WORDS = ("wheelchair", "cane", "walking", "kneeling", "standing")
HAND_WORDS = re.compile(
    r"hands?$|hand with|handshake|fist|fingers?\b|thumb|pointing (?:up|down|left|right|at)|palms? (?:up|down)|salute|"
    r"sign of the horns|love-you gesture|selfie|nail polish"
)
COUPLE_GENDERS = ("men", "women", "people", "woman and man")


def group_of(gender: str, activity: str) -> Group:
    """The group of one emoji; `gender` is "" where it has no variants by gender."""
    if activity.startswith("flag of "):
        return Group.FLAG
    if gender in COUPLE_GENDERS or activity.startswith("family"):
        return Group.COUPLE
    for names, group in BY_NAME:
        if activity in names:
            return group
    if gender:
        return Group.MOBILITY if any(word in activity for word in MOBILITY_WORDS) else Group.PORTRAIT
    if re.search(r"\bface\b", activity):
        return Group.FACE
    return Group.HAND if HAND_WORDS.search(activity) else Group.OTHER
