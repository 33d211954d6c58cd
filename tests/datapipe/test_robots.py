"""Opt-outs by `X-Robots-Tag`."""

import pytest

from datapipe.robots import is_opt_out

DISALLOWED = ["noai", "noimageai", "noindex", "noimageindex"]


@pytest.mark.parametrize(
    "value",
    [
        "noai",
        "NoAI",
        "follow, noai",
        "all , noimageindex",
        "ourbot: noai",
        "OurBot:nofollow, noindex",
        "unavailable_after: 25 Jun 2010 15:00:00 PST, noai",
    ],
)
def test_a_refusal_to_all_or_to_us_is_an_opt_out(value: str):
    assert is_opt_out([value], DISALLOWED, "ourbot")


@pytest.mark.parametrize("value", ["", "all", "nofollow", "otherbot: noai", "max-snippet: 20", "noaifoo", ":"])
def test_anything_else_is_none(value: str):
    assert not is_opt_out([value], DISALLOWED, "ourbot")


def test_one_of_several_headers_is_enough():
    assert is_opt_out(["otherbot: noindex", "follow", "noimageai"], DISALLOWED, None)
    assert not is_opt_out(["otherbot: noindex", "follow"], DISALLOWED, None)


def test_without_disallowed_directives_nothing_is_an_opt_out():
    assert not is_opt_out(["noai"], [], None)
