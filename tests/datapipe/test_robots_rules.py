"""What the rules of one robots.txt allow. Source: RFC 9309."""

import re
import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapipe.robots_rules import MAX_BYTES, MAX_WILDCARD_RULES, SiteRules

ALL = "User-agent: *\n"


def allows(text: str | bytes, path: str, agent: str = "diptych") -> bool:
    body = text if isinstance(text, bytes) else text.encode()
    return SiteRules.read(body, agent).allows(urlsplit("http://127.0.0.1" + path))


@pytest.mark.parametrize(
    ("rules", "path", "is_allowed"),
    [
        ("Allow: /\nDisallow: /private/", "/private/a.jpg", False),
        ("Disallow: /\nAllow: /pics/", "/pics/a.jpg", True),
        ("Disallow: /\nAllow: /pics/", "/", False),
        ("Disallow: /page\nAllow: /page", "/page", True),  # RFC 9309, 2.2.2: of two as long, the one that allows
        ("Disallow: /*.jpg$", "/pics/a.jpg", False),
        ("Disallow: /*.jpg$", "/pics/a.jpg?w=3", True),
        ("Disallow: /*?", "/a.jpg?w=3", False),
        ("Disallow: /*?", "/a.jpg", True),
        ("Disallow: /a*b*c", "/a-c-b", True),
        ("Disallow: /a*b*c", "/a-b-c-d", False),
        ("Disallow: /a*aba$", "/aba", True),
        ("Disallow: /a$", "/a", False),
        ("Disallow: /a$", "/ab", True),
        ("Disallow: /a$b", "/a$bc", False),
        ("Disallow: /*%2A", "/a*", False),
        ("Disallow: /*%2A", "/ab", True),
        ("Disallow: /%7ebird%2fa", "/~bird%2Fa", False),
        ("Disallow: /%7Ebird%2Fa", "/~bird/a", True),
        ("Disallow: /ä", "/%c3%a4/b.jpg", False),
        ("Disallow:", "/a", True),
        ("Disallow: /a # not /ab", "/ab", False),
        ("Disallow: /a\nSitemap: http://127.0.0.1/s\nCrawl-delay: 9\nDisallow: /b", "/b", False),
        ("Disallow: /longer-than-the-path", "/longer", True),
    ],
)
def test_the_longest_pattern_decides(rules: str, path: str, is_allowed: bool):
    assert allows(ALL + rules, path) is is_allowed


@pytest.mark.parametrize(
    "text",
    [
        "User-agent: *\nDisallow: /x\n\nUser-agent: *\nDisallow: /private/",
        "User-agent: *\n\nDisallow: /private/",
        "\ufeffUser-agent: *\nDisallow: /private/",
        "User-agent: *\rDisallow: /private/\r",
        "user-AGENT : *\nDISALLOW : /private/",
        "User-agent: other\nUser-agent: *\nDisallow: /private/",
        "User-agent: *\nUser-agent: other\nCrawl-delay: 5\nDisallow: /private/",
        "User-agent: Diptych/2.0\nDisallow: /private/\n\nUser-agent: *\nAllow: /",
        "User-agent: diptych\nDisallow: /x\n\nUser-agent: *\nAllow: /\n\nUser-agent: diptych\nDisallow: /private/",
    ],
)
def test_all_groups_for_us_hold_however_they_are_written(text: str):
    assert not allows(text, "/private/a.jpg")
    assert allows(text, "/public/a.jpg")


def test_rules_that_name_us_go_before_those_for_all_and_those_for_others_do_not_count():
    text = ALL + "Disallow: /\n\nUser-agent: bird\nAllow: /\n\nUser-agent: birds\nDisallow: /b\n\nUser-agent: shy\n"
    assert [allows(text, path, "Birds/1.0") for path in ("/a", "/b")] == [True, False]
    assert [allows(text, "/a", agent) for agent in ("bird", "shy", "diptych")] == [True, True, False]


def test_a_file_without_a_group_for_us_allows_all():
    assert allows("Disallow: /\n", "/a") and allows("User-agent: other\nDisallow: /\n", "/a") and allows(b"", "/a")


def test_bytes_that_are_no_utf8_are_compared_as_they_are():
    assert not allows(ALL.encode() + b"Disallow: /\xe4", "/%E4.jpg")


def test_what_is_past_the_limit_is_left_unread_and_no_line_is_cut():
    text = ALL + "#" * (MAX_BYTES - len(ALL) - len("\nDisallow: /")) + "\nDisallow: /private/\n"
    assert allows(text, "/private/a.jpg") and allows(text, "/a.jpg")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        # The table of RFC 9309, 2.2.2.
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        # More of what it says.
        ("/private/%40user", "/private/@user"),
        ("/a%5b1%5D", "/a[1]"),
        ("/a(1)", "/a%281%29"),
        ("/a%21%23%26%27%2B%2C%3A%3B%3D%40", "/a!%23&'+,:;=@"),
        ("/a?b?c", "/a?b%3Fc"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%2a%24b", "/a*$b"),
        ("/a$b", "/a%24b"),
        # With `*` and `$`.
        ("/*?baz=https://", "/foo?baz=https%3A%2F%2Ffoo.bar"),
        ("/*baz=https%3A%2F%2F", "/foo?baz=https://foo.bar"),
        ("/*?*=https%3A%2F%2F*/c", "/foo?baz=https://foo/b/c"),
        ("/*/thumb/", "/a?b=c%2Fthumb%2Fd"),
        ("/*(1)$", "/a%281%29"),
        ("/*%24$", "/a$"),
    ],
)
def test_a_character_is_the_same_however_it_is_written(pattern: str, path: str):
    assert not allows(f"{ALL}Disallow: {pattern}", path)
    if not set("*$") & set(pattern):
        assert not allows(f"{ALL}Disallow: {path.replace('*', '%2A')}", pattern)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/a%2Fb", "/a/b"),
        ("/a/b", "/a%2Fb"),
        ("/*%2Fb", "/a/b"),
        ("/*/b", "/a%2Fb"),
        ("/a%3Fb", "/a?b"),
        ("/a?b", "/a%3Fb"),
        ("/*?b", "/a%3Fb"),
        ("/a%252Fb", "/a%2Fb"),
        ("/a%2A", "/ab"),
        ("/a%24", "/a"),
    ],
)
def test_what_divides_a_path_is_not_what_is_encoded_in_it_and_no_more_are_wildcards(pattern: str, path: str):
    assert allows(f"{ALL}Disallow: {pattern}", path)


def plain_matches(pattern: str, path: str) -> bool:
    anchored = pattern.endswith("$")
    parts = map(re.escape, pattern.removesuffix("$").split("*"))
    return re.match(".*".join(parts) + ("$" if anchored else ""), path) is not None


RULES = st.lists(st.tuples(st.text("/ab*$", min_size=1, max_size=6).map("/".__add__), st.booleans()), max_size=6)


@given(RULES, st.text("/ab", max_size=8).map("/".__add__))
def test_every_decision_is_that_of_a_plain_reference(rules: list[tuple[str, bool]], path: str):
    # Here `$` within a pattern stands for itself, which a path of these letters never has.
    rules = [(re.sub(r"\*+", "*", pattern), is_allowed) for pattern, is_allowed in rules]
    rules = [rule for rule in rules if "$" not in rule[0][:-1]]
    matching = [(len(pattern), is_allowed) for pattern, is_allowed in rules if plain_matches(pattern, path)]
    text = ALL + "".join(f"{'Allow' if is_allowed else 'Disallow'}: {pattern}\n" for pattern, is_allowed in rules)
    assert allows(text, path) is max(matching, default=(0, True))[1]


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("".join(f"User-agent: {n}\n" for n in range(15_000)) + "".join(f"Allow: /{n}\n" for n in range(15_000)), True),
        (ALL + "".join(f"Disallow: /{number}\n" for number in range(25_000)), True),
        (ALL + "".join(f"Disallow: /{'*a' * 500}*{number}\n" for number in range(500)), False),
        (ALL + "Allow: /\n" + "User-agent: x\nDisallow: /*\n" * 15_000, True),
    ],
    ids=["names times rules", "prefixes", "wildcards in a row", "groups"],
)
def test_a_hostile_file_keeps_little(text: str, is_allowed: bool):
    rules = SiteRules.read(text.encode(), "diptych")
    assert rules.size <= 25_000
    assert rules.allows(urlsplit("http://127.0.0.1/" + "a" * 8_000)) is is_allowed


def test_a_url_whose_comparison_would_take_long_is_not_allowed_and_takes_none():
    slow = "".join(f"Disallow: /*{'a' * 47}X{'a' * 47}{number}\n" for number in range(MAX_WILDCARD_RULES))
    rules = SiteRules.read((ALL + slow).encode(), "diptych")
    began = time.thread_time()
    assert not rules.allows(urlsplit("http://127.0.0.1/" + "a" * 8_100))
    assert time.thread_time() - began < 0.1
    assert allows(ALL + slow, "/pictures/a.jpg")
    usual = "".join(f"Disallow: /*/{number}-private?*&sort=\n" for number in range(100))
    assert allows(ALL + usual, "/pictures/a.jpg?signature=" + "a" * 1_000)


def test_a_site_with_more_wildcards_than_are_tried_on_each_url_allows_nothing():
    lines = [f"Disallow: /{number}*\n" for number in range(MAX_WILDCARD_RULES + 1)]
    assert allows(ALL + "".join(lines[1:]), "/pictures/a.jpg")
    assert not allows(ALL + "".join(lines), "/pictures/a.jpg")
