"""Reads one robots.txt and says which paths its rules for us allow. Source: RFC 9309."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult

MAX_BYTES = 500 << 10  # RFC 9309, 2.5: what comes after may be left unread
MAX_WILDCARD_RULES = 1000  # each is tried on each URL; a site with more has not written them for us to read
# Octets of wildcard patterns times octets of the URL: some 5 ms, where a usual site and URL need a hundredth of it.
MAX_COMPARISONS = 5_000_000
UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"  # RFC 3986, 2.3
RESERVED = ":/?#[]@!&'()+,;="  # RFC 3986, 2.2, without `*` and `$`, to which rules give a meaning
# The RFC compares all of these encoded, and what is equal so is equal plain. A path's `%2F` and `%3F` stay: they are
# part of a name, and not what divides the path or ends it.
PLAIN_IN_QUERY = frozenset(UNRESERVED + RESERVED)
PLAIN_IN_PATH = PLAIN_IN_QUERY - frozenset("/?")
LINE_END = re.compile(r"\r\n|\r|\n")
QUERY_BEGINS = re.compile(r"\?")
AFTER_WILDCARD = re.compile(r"[?=&]")  # a `*` may have matched the `?`; the other two are hardly found before it
ENCODED = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^%{re.escape(UNRESERVED + RESERVED)}]")

Rule = tuple[str, bool]  # the pattern, and whether it allows
# Of the rules that match the heaviest decides: the longest, or of two as long the one that allows (RFC 9309, 2.2.2).
Weight = tuple[int, bool]


@dataclass(frozen=True, slots=True)
class _Wildcards:
    """A pattern with `*` or a `$` at its end."""

    length: int
    is_allowed: bool
    parts: tuple[str, ...]
    is_anchored: bool

    @property
    def weight(self) -> Weight:
        """How it stands to other rules that match."""
        return self.length, self.is_allowed

    def matches(self, path: str) -> bool:
        """Whether the path is of this pattern: the first place of each part is the best.

        Takes time as the product of both lengths at worst: so does `str.find`.
        """
        first, *others = self.parts
        if not path.startswith(first):
            return False
        end = len(first)
        last = others.pop() if self.is_anchored and others else None
        for part in others:
            found = path.find(part, end)
            if found < 0:
                return False
            end = found + len(part)
        if last is not None:
            return len(path) - len(last) >= end and path.endswith(last)
        return end == len(path) or not self.is_anchored


class SiteRules:
    """What one site allows us. `size` is the number of rules that are kept."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._prefixes: dict[str, bool] = {}
        wildcards: set[_Wildcards] = set()
        for pattern, is_allowed in rules:
            if "*" in pattern or pattern.endswith("$"):
                wildcards.add(_compiled(pattern, is_allowed))
            else:
                path = _normal(pattern)
                self._prefixes[path] = is_allowed or self._prefixes.get(path, False)
        self._allows_nothing = len(wildcards) > MAX_WILDCARD_RULES
        ordered = sorted(wildcards, key=lambda pattern: pattern.weight, reverse=True)
        self._wildcards = [] if self._allows_nothing else ordered
        self._lengths = sorted({len(path) for path in self._prefixes}, reverse=True)
        self.size = len(self._prefixes) + len(self._wildcards)

    @classmethod
    def read(cls, body: bytes, agent: str) -> "SiteRules":
        """The rules of a robots.txt for the crawler of this name."""
        return cls(_rules_for(_product(agent), _lines(body)))

    def allows(self, url: SplitResult) -> bool:
        """Whether the URL may be asked for: the rule with the most weight says. No, if that takes too long to find."""
        if self._allows_nothing:
            return False
        path = _normal((url.path or "/") + ("?" + url.query if url.query else ""))
        lengths = (length for length in self._lengths if length <= len(path))
        found = next((length for length in lengths if path[:length] in self._prefixes), -1)
        best: Weight = (found, found < 0 or self._prefixes[path[:found]])
        comparisons = 0
        for wildcards in self._wildcards:
            if wildcards.weight <= best:
                break
            comparisons += wildcards.length * len(path)
            if comparisons > MAX_COMPARISONS:
                return False
            if wildcards.matches(path):
                return wildcards.is_allowed
        return best[1]


def _lines(body: bytes) -> Iterator[tuple[str, str]]:
    """Each line's key, in small letters, and its value; a line that is cut off is none."""
    if len(body) > MAX_BYTES:
        body = body[: max(body.rfind(b"\n", 0, MAX_BYTES), body.rfind(b"\r", 0, MAX_BYTES), 0)]
    for line in LINE_END.split(body.decode("utf-8-sig", "surrogateescape")):
        key, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield key.strip().lower(), value.strip()


def _rules_for(agent: str, lines: Iterable[tuple[str, str]]) -> list[Rule]:
    """The rules of all groups for this crawler; of those for all where none names it."""
    ours: list[Rule] = []
    for_all: list[Rule] = []
    groups: set[str] = set()  # of those two, the ones that the lines being read are for
    is_named, had_rule = False, False
    for key, value in lines:
        if key == "user-agent":
            groups = (set() if had_rule else groups) | ({agent, "*"} & {_product(value)})
            is_named, had_rule = is_named or agent in groups, False
        elif key in ("allow", "disallow"):
            had_rule = True
            if value and agent in groups:
                ours.append((value, key == "allow"))
            if value and "*" in groups:
                for_all.append((value, key == "allow"))
    return ours if is_named else for_all


def _product(agent: str) -> str:
    """A crawler's name without its version, in small letters."""
    return re.split(r"[/\s]", agent.strip(), maxsplit=1)[0].lower()


def _compiled(pattern: str, is_allowed: bool) -> _Wildcards:
    is_anchored = pattern.endswith("$")
    # Of `**` one says as much.
    first, *others = re.split(r"\*+", pattern.removesuffix("$"))
    parts = [_normal(first)]
    is_query = "?" in first
    for part in others:
        parts.append(_spelled(part, PLAIN_IN_QUERY) if is_query else _normal(part, AFTER_WILDCARD))
        is_query = is_query or AFTER_WILDCARD.search(part) is not None
    return _Wildcards(sum(map(len, parts)) + len(others) + is_anchored, is_allowed, tuple(parts), is_anchored)


def _normal(text: str, query_begins: re.Pattern[str] = QUERY_BEGINS) -> str:
    """A path and its query in one spelling: RFC 9309, 2.2.2. A `*` or `$` that stands for itself is encoded."""
    found = query_begins.search(text)
    end = len(text) if found is None else found.end()
    return _spelled(text[:end], PLAIN_IN_PATH) + _spelled(text[end:], PLAIN_IN_QUERY)


def _spelled(text: str, plain: frozenset[str]) -> str:
    """The text with what is in `plain` as it is, and all other octets encoded."""
    octets = text.encode("utf-8", "surrogateescape").decode("latin-1")
    return ENCODED.sub(lambda found: _octet(found[0], plain), octets)


def _octet(found: str, plain: frozenset[str]) -> str:
    character = chr(int(found[1:], 16)) if found.startswith("%") else found
    return character if character in plain else f"%{ord(character):02X}"
