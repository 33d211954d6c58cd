"""Decides whether and when a failed request is tried again."""

import random
import re

from datapipe.status import SampleStatus

# Failures that may pass by themselves; the others would only be asked in vain.
PASSING = frozenset(
    {
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
    if retry_after is not None and re.fullmatch(r"[0-9]+", retry_after.strip()):
        return min(float(retry_after), MAX_DELAY_S)
    # Full jitter, so that the tries of many tasks do not fall together.
    doubled: float = FIRST_DELAY_S * 2 ** (tries - 1)
    return chance.uniform(0.5, 1.0) * min(doubled, MAX_DELAY_S)


def longest_url_s(timeout_s: float, retries: int) -> float:
    """The longest that one URL can take, all tries and waits included."""
    return (retries + 1) * timeout_s + retries * MAX_DELAY_S
