"""Makes this process a client of an object store, as a user does: by the AWS variables."""

from collections.abc import Mapping

import pytest

from infra.conditions import honours_conditions
from infra.s3_client import s3_client


class UseStore:
    """Call it with a store's `environment()`; calls add up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, environment: Mapping[str, str]) -> None:
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        forget_clients()


def forget_clients() -> None:
    s3_client.cache_clear()
    honours_conditions.cache_clear()
