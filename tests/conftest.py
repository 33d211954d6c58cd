"""What the tests of several floors share."""

from collections.abc import Iterator

import pytest

from infra.cluster import Cluster, connect


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A local Ray cluster of four logical cores, shared by all tests of the session."""
    with connect(tmp_path_factory.mktemp("ray-logs"), cpus=4) as cluster:
        yield cluster
