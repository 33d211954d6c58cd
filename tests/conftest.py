"""What the tests of several floors share."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from object_store import ObjectStore
from PIL import Image
from store_client import UseStore, forget_clients

from infra.cluster import Cluster, connect

PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS

# Shared machines stall for longer than hypothesis would allow an example.
settings.register_profile("diptych", deadline=None)
settings.load_profile("diptych")

# A shell's background jobs begin with Ctrl-C ignored, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-runs", type=int, default=1, help="runs of whole pipelines with that many kills each")
    parser.addoption("--kill-rounds", type=int, default=2, help="kills of each stress test")
    parser.addoption(
        "--kill-seed", type=int, default=None, help="seed of the stress tests' moments; random if not given"
    )


def pytest_runtest_teardown() -> None:
    """Reading a picture sets Pillow's limit for the whole process, which the next test is not about."""
    Image.MAX_IMAGE_PIXELS = PILLOWS_LIMIT


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A local Ray cluster of four logical cores, shared by all tests of the session."""
    with connect(tmp_path_factory.mktemp("ray-logs"), cpus=4) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """A running SeaweedFS, shared by all tests of the session: each uses a prefix of its own and leaves it running."""
    with ObjectStore() as store:
        yield store


@pytest.fixture
def use_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[UseStore]:
    """Points this process at a store."""
    yield UseStore(monkeypatch)
    forget_clients()


@pytest.fixture
def store(object_store: ObjectStore, use_store: UseStore) -> ObjectStore:
    """The shared store, which this process is a client of."""
    use_store(object_store.environment())
    return object_store


@pytest.fixture
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's package, in a home without its key."""
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
