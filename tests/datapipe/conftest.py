"""What the tests of this floor share: a web of their own and pictures to put on it."""

from collections.abc import Iterator

import pytest
from hostile_web import HostileWeb


@pytest.fixture
def web() -> Iterator[HostileWeb]:
    with HostileWeb() as running:
        yield running
