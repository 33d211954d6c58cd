"""Says when so many rows fail for one reason that something is wrong, with the likely cause and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass

from datapipe.status import SampleStatus
from infra.terminal import printable

MAX_REASON = 120  # characters
LEAST_ROWS = 200  # below this a share says nothing
SAID_AGAIN_AT = 2.0  # times the share at which it was last said


@dataclass(frozen=True, slots=True)
class Advice:
    """One or two lines for the user: `text` says the likely cause, then what to do. `share` is of all rows so far."""

    reason: str
    share: float
    text: str

    def line(self) -> str:
        """As it is printed: `host_not_found, 7.2% of the rows: …`."""
        return f"{self.reason}, {100 * self.share:.1f}% of the rows: {self.text}"


@dataclass(frozen=True, slots=True)
class Rule:
    """From which share of the rows on the failures of these statuses, taken together, are unusual."""

    statuses: tuple[str, ...]
    above: float
    text: str
    least_rows: int = LEAST_ROWS

    @property
    def reason(self) -> str:
        """The statuses in one line, for people and as a key; a foreign dataset's may hold anything."""
        return printable(" + ".join(self.statuses))[:MAX_REASON]


# Shares: lists of the web lose some per cent to dead hosts and a third or more to dead links as they age;
# the other reasons stay below a few per cent unless something is set wrongly. Only tasks, connections and
# connections_per_host may change on an output that was begun; the words for a new output say so.
RULES: tuple[Rule, ...] = (
    Rule(
        ("url_empty", "url_malformed"),
        0.05,
        "many rows hold no URL.\nurl_col names perhaps another column than the pictures'; look at the list.",
    ),
    Rule(
        ("scheme_refused",),
        0.05,
        "only http and https are asked.\nurl_col names perhaps another column; take other addresses out of the list.",
    ),
    Rule(
        ("address_refused",),
        0.5,
        "the URLs lie on private addresses, or a filtering resolver answers with such.\n"
        "If the server is your own, add allow_private_addresses with its range, e.g. [10.0.0.0/8].",
    ),
    Rule(
        ("dns_failed",),
        0.01,
        "the DNS resolver answers that it cannot answer now: it is overloaded or cut off.\n"
        "Lower tasks or connections, or set up a caching resolver on this machine.",
    ),
    Rule(
        ("host_not_found",),
        0.05,
        "the DNS resolver is overloaded, or there is no network (an old list also has dead hosts).\n"
        "Try one of the hosts by hand; if it is found, lower tasks or connections, or use a caching resolver.",
    ),
    Rule(
        ("timeout", "low_speed", "connection_failed"),
        0.15,
        "too many connections for this line, or no way to the hosts.\n"
        "Lower connections or tasks; on a new output a larger timeout helps too.",
    ),
    Rule(
        ("tls_failed",),
        0.05,
        "certificates are not accepted: this machine's CA certificates are missing or old, or its clock is wrong.\n"
        "Update the ca-certificates package and check the date.",
    ),
    Rule(
        ("too_many_redirects",),
        0.1,
        "hosts send requests round in circles, often to a login or consent page.\n"
        "Open one such URL in a browser; on a new output max_redirects can be raised.",
    ),
    Rule(
        ("protocol_error",),
        0.05,
        "answers are no proper HTTP: something between here and the web may be changing them.\n"
        "Try one URL by hand from this machine; look for a proxy, firewall or sign-in page.",
    ),
    Rule(
        ("http_403", "http_429"),
        0.15,
        "hosts refuse: they are asked too often, or don't know who asks.\n"
        "Lower connections_per_host; on a new output set user_agent_token, so that they can tell who it is.",
    ),
    Rule(
        ("http_404", "http_410"),
        0.5,
        "most pictures are gone: the list is old.\nNothing is wrong here; a newer list has a better yield.",
    ),
    Rule(
        ("http_5xx",),
        0.15,
        "servers fail, perhaps under our requests.\nLower connections_per_host.",
    ),
    Rule(
        ("http_4xx", "http_other"),
        0.15,
        "hosts refuse the requests for a rare reason.\nThe column error_message of the shards' Parquet files names it.",
    ),
    Rule(
        ("opt_out", "robots_txt"),
        0.1,
        "many publishers opt out of machine learning.\nThis is as it should be; other sources have a better yield.",
    ),
    Rule(
        ("too_large",),
        0.05,
        "answers have more bytes than max_download_bytes.\nIf they are pictures, raise it on a new output.",
    ),
    Rule(
        ("empty_body",),
        0.05,
        "hosts answer with nothing, often to turn robots away.\nLower connections_per_host; try one URL by hand.",
    ),
    Rule(
        ("not_an_image",),
        0.1,
        "answers are no pictures.\n"
        "url_col is perhaps the column of the pages and not of the pictures; or a sign-in page answers for all.",
    ),
    Rule(
        ("broken_image",),
        0.05,
        "pictures arrive damaged or cut off.\nTry one by hand; a proxy or a full line cuts downloads short.",
    ),
    Rule(
        ("too_many_pixels",),
        0.05,
        "pictures are larger than max_image_pixels, or have over 100 million pixels and would not be resized.\n"
        "On a new output raise it if memory allows (3 bytes a pixel), and let larger pictures be resized.",
    ),
    Rule(
        ("too_small", "too_big", "aspect_ratio"),
        0.3,
        "the filter is strict.\n"
        "On a new output change min_image_size, max_image_area or max_aspect_ratio if that is too much.",
    ),
    Rule(
        ("resize_failed",),
        0.01,
        "pictures that were decoded could not be resized or stored.\n"
        "Please report it with one of the URLs; error_message in the shards' Parquet files says more.",
    ),
    Rule(
        ("decoder_crash",),
        0.0,
        "a picture crashed the process that decoded it; only that picture is lost.\n"
        "Please report it with its URL, which the shards' Parquet files hold.",
        least_rows=1,
    ),
)
UNKNOWN_ABOVE = 0.2
UNKNOWN_TEXT = "an unusual share.\nThe column error_message of the shards' Parquet files says more."
_IN_A_RULE = frozenset(status for rule in RULES for status in rule.statuses)


def advise(status_counts: Mapping[str, int]) -> list[Advice]:
    """What is unusual about these counts (status → rows), the largest share first; empty when nothing is."""
    counts = {str(status): count for status, count in status_counts.items()}
    rows = sum(counts.values())
    others = sorted(counts.keys() - _IN_A_RULE - {SampleStatus.SUCCESS.value})
    rules = (*RULES, *(Rule((status,), UNKNOWN_ABOVE, UNKNOWN_TEXT) for status in others))
    found = [advice for rule in rules if (advice := _advice(rule, counts, rows)) is not None]
    return sorted(found, key=lambda advice: (-advice.share, advice.reason))


class Adviser:
    """Decides when to say an advice while a build runs: once a reason, and again when its share has doubled."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}

    def new(self, status_counts: Mapping[str, int]) -> list[Advice]:
        """The advice to say now, of the counts so far; each is taken as said."""
        fresh = [
            advice
            for advice in advise(status_counts)
            if advice.share >= SAID_AGAIN_AT * self._said_at.get(advice.reason, 0.0)
        ]
        self._said_at.update({advice.reason: advice.share for advice in fresh})
        return fresh


def _advice(rule: Rule, counts: Mapping[str, int], rows: int) -> Advice | None:
    failed = {status: counts[status] for status in rule.statuses if counts.get(status, 0) > 0}
    share = sum(failed.values()) / rows if rows else 0.0
    if rows < rule.least_rows or share <= rule.above:
        return None
    return Advice(rule.reason, share, rule.text)
