"""Decides whether a request to S3 that failed is sent again, and after which pause."""

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 120.0  # an outage or throttling of a whole minute, and the pauses on its way, cost nothing
HASTY_ATTEMPTS = 2
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
TROUBLE_STATUSES = frozenset({429, 500, 502, 503, 504})
# With other statuses than these; the first comes with 400, after a body that was sent too slowly.
TROUBLE_CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"})
FAILED_AT = "diptych_failed_at"  # among botocore's notes on a request


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How long one request is tried: `attempts` times; where that is None, until it has failed for `patience_s`.

    botocore's own rules give up too soon for an outage of a minute (within half a minute at their pauses), and lose
    patience with all requests of a process that fail at the same time.
    """

    attempts: int | None = None
    patience_s: float = PATIENCE_S

    def pause_s(self, attempt: int, failing_s: float) -> float | None:
        """The pause after this attempt, counted from 1, which failed `failing_s` after the first; None: no other."""
        if failing_s >= self.patience_s if self.attempts is None else attempt >= self.attempts:
            return None
        # Many that fail together must not come back together.
        return random.uniform(0.5, 1.0) * min(FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16), LONGEST_PAUSE_S)

    def __str__(self) -> str:
        return f"tried for {self.patience_s:,.0f} s" if self.attempts is None else f"tried {self.attempts} times"


def retry_rule(*, is_hasty: bool = False) -> RetryRule:
    """The rule of this process: AWS_MAX_ATTEMPTS attempts, where that is set, or enough for a minute of trouble.

    Raises ValueError for what is no such number.
    """
    if is_hasty:
        return RetryRule(HASTY_ATTEMPTS)
    attempts = os.environ.get("AWS_MAX_ATTEMPTS")
    if attempts and int(attempts) < 1:
        raise ValueError(f"no request is tried {attempts} times")
    return RetryRule(int(attempts) if attempts else None)


class Resending:
    """The rule as what a client of botocore asks after each attempt."""

    def __init__(self, rule: RetryRule) -> None:
        self._rule = rule

    def answer(
        self,
        *,
        attempts: int,
        response: tuple[Any, Mapping[str, Any]] | None,
        caught_exception: Exception | None,
        request_dict: dict[str, Any],
        **_: Any,
    ) -> float | None:
        """Handles `needs-retry`: the pause before the request is sent again, or None when it is not."""
        if not _is_trouble(response, caught_exception):
            return None
        now = time.monotonic()
        return self._rule.pause_s(attempts, now - request_dict["context"].setdefault(FAILED_AT, now))


def _is_trouble(response: tuple[Any, Mapping[str, Any]] | None, error: Exception | None) -> bool:
    """Whether the failure may pass by itself."""
    from botocore.exceptions import ConnectionError as BotoConnectionError
    from botocore.exceptions import HTTPClientError

    if response is None:
        return isinstance(error, BotoConnectionError | HTTPClientError)
    http, parsed = response
    return http.status_code in TROUBLE_STATUSES or parsed.get("Error", {}).get("Code") in TROUBLE_CODES
