"""Fixtures of the training tests."""

from collections.abc import Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="module")  # engines of DeepSpeed leave some memory behind
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(tmp_path_factory.mktemp("ranks")) as started:
        yield started
