"""What the tests of this floor share: this process as a client of the object store."""

from collections.abc import Iterator, Mapping

import pytest
from object_store import ObjectStore

from infra.conditions import honours_conditions
from infra.s3_client import s3_client


@pytest.fixture
def use_store(monkeypatch: pytest.MonkeyPatch) -> Iterator["UseStore"]:
    """Points this process at a store, as a user does: by the AWS variables."""
    yield UseStore(monkeypatch)
    forget_clients()


@pytest.fixture
def store(object_store: ObjectStore, use_store: "UseStore") -> ObjectStore:
    """The shared store, which this process is a client of."""
    use_store(object_store.environment())
    return object_store


class UseStore:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, environment: Mapping[str, str]) -> None:
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        forget_clients()


def forget_clients() -> None:
    s3_client.cache_clear()
    honours_conditions.cache_clear()
