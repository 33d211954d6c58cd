"""Advice on unusual failures: what is said, when, and how often."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapipe.advice import RULES, UNKNOWN_ABOVE, Adviser, advise
from datapipe.status import SampleStatus

FAILURES = sorted({status.value for status in SampleStatus if not status.is_success} | {"dns_failed", "decoder_crash"})
STATUSES = st.sampled_from([*FAILURES, "success", "a status to come"])
COUNTS = st.dictionaries(STATUSES, st.integers(0, 10_000), max_size=12)


@pytest.mark.parametrize(
    ("counts", "reason", "words"),
    [
        (
            {"success": 900, "host_not_found": 100},
            "host_not_found",
            "DNS resolver is overloaded, or there is no network",
        ),
        ({"success": 950, "dns_failed": 50}, "dns_failed", "caching resolver"),
        ({"success": 4, "address_refused": 996}, "address_refused", "allow_private_addresses"),
        ({"success": 900, "tls_failed": 100}, "tls_failed", "CA certificates"),
        (
            {"success": 800, "timeout": 100, "connection_failed": 100},
            "timeout + low_speed + connection_failed",
            "Lower connections",
        ),
        ({"success": 800, "http_429": 200}, "http_403 + http_429", "connections_per_host"),
        ({"success": 800, "opt_out": 200}, "opt_out + robots_txt", "as it should be"),
        ({"success": 800, "not_an_image": 200}, "not_an_image", "url_col"),
        ({"success": 500, "too_small": 300, "aspect_ratio": 200}, "too_small + too_big + aspect_ratio", "filter"),
        ({"success": 900, "url_malformed": 100}, "url_empty + url_malformed", "url_col"),
        ({"success": 9, "decoder_crash": 1}, "decoder_crash", "report"),
    ],
)
def test_an_unusual_share_is_explained(counts: dict[str, int], reason: str, words: str):
    (advice,) = advise(counts)
    assert advice.reason == reason and words in advice.text
    assert advice.share == pytest.approx(1 - counts["success"] / sum(counts.values()))


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"success": 1000},
        {"success": 0},
        {"success": 0, "host_not_found": 199},  # too few rows to tell
        {"success": 95, "host_not_found": 5} | {"http_404": 100},  # a usual list of the web
        {SampleStatus.SUCCESS: 960, SampleStatus.HOST_NOT_FOUND: 40},
    ],
)
def test_nothing_is_said_of_what_is_usual(counts: dict[str, int]):
    assert advise(counts) == []


@pytest.mark.parametrize("status", [*FAILURES, "a status to come"])
def test_a_reason_that_takes_all_rows_is_always_explained(status: str):
    assert [advice.share for advice in advise({status: 200})] == [1.0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason)
def test_every_rule_is_a_line_or_two_on_statuses_of_its_own(rule):
    assert len(rule.text.splitlines()) <= 2 and all(len(line) <= 120 for line in rule.text.splitlines())
    assert set(rule.statuses) <= set(FAILURES)
    assert not [other for other in RULES if other is not rule and set(other.statuses) & set(rule.statuses)]


@given(COUNTS)
def test_shares_fall_are_right_and_above_their_rules_limit(counts: dict[str, int]):
    found, rows = advise(counts), sum(counts.values())
    limits = {rule.reason: rule.above for rule in RULES}
    assert [a.share for a in found] == sorted((a.share for a in found), reverse=True)
    for advice in found:
        assert limits.get(advice.reason, UNKNOWN_ABOVE) < advice.share <= 1
        assert advice.share * rows == pytest.approx(sum(counts.get(s, 0) for s in advice.reason.split(" + ")))


def test_an_advice_is_said_once_and_again_when_the_share_has_doubled():
    adviser = Adviser()
    shares = [0.10, 0.12, 0.02, 0.19, 0.20, 0.30, 0.40]
    said = [
        [a.share for a in adviser.new({"success": 1000 - int(1000 * s), "host_not_found": int(1000 * s)})]
        for s in shares
    ]
    assert said == [[0.10], [], [], [], [0.20], [], [0.40]]


@given(st.lists(COUNTS, max_size=30))
def test_no_reason_is_said_more_often_than_its_share_can_double(steps: list[dict[str, int]]):
    adviser, said = Adviser(), dict[str, list[float]]()
    for counts in steps:
        for advice in adviser.new(counts):
            said.setdefault(advice.reason, []).append(advice.share)
    for shares in said.values():
        assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(shares))


def test_an_advice_reads_as_a_line():
    (advice,) = advise({"success": 900, "http_403": 300})
    assert advice.line().startswith("http_403 + http_429, 25.0% of the rows: hosts refuse")
