"""Decides whether and when a failed request is tried again."""

import random
import re
import time
from email.utils import parsedate_to_datetime

from datapipe.status import SampleStatus

# Failures that may pass by themselves; the others would only be asked in vain.
PASSING = frozenset(
    {
        SampleStatus.DNS_FAILED,
        SampleStatus.TIMEOUT,
        SampleStatus.CONNECTION_FAILED,
        SampleStatus.PROTOCOL_ERROR,
        SampleStatus.HTTP_429,
        SampleStatus.HTTP_5XX,
    }
)
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 10.0  # also for a server's Retry-After: a shard's time stays bounded


def retry_delay_s(
    status: SampleStatus, tries: int, retries: int, retry_after: str | None, chance: random.Random
) -> float | None:
    """Seconds until the next try after `tries` failed ones; None when there is to be none."""
    if status not in PASSING or tries > retries:
        return None
    if (asked := asked_delay_s(retry_after)) is not None:
        return asked
    # Full jitter, so that the tries of many tasks do not fall together.
    doubled: float = FIRST_DELAY_S * 2 ** (tries - 1)
    return chance.uniform(0.5, 1.0) * min(doubled, MAX_DELAY_S)


def asked_delay_s(retry_after: str | None) -> float | None:
    """The seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3), at most MAX_DELAY_S; None without one."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]+", text := retry_after.strip()):
        return min(float(text[:6]), MAX_DELAY_S)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_DELAY_S)


def longest_url_s(timeout_s: float, retries: int) -> float:
    """The longest that one URL can take, all tries and waits included: also those for which its host is held."""
    return (retries + 1) * (timeout_s + MAX_DELAY_S)
