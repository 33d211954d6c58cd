"""What the tests of whole runs share: a web, and the run that nobody disturbs."""

from collections.abc import Iterator

import pytest
from commands import diptych
from counting_web import CountingWeb
from pipelines import write_pipeline

from infra.storage import Storage, storage_of


@pytest.fixture(scope="session")
def web() -> Iterator[CountingWeb]:
    with CountingWeb() as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, web: CountingWeb) -> Storage:
    """The run's folder of a pipeline on local disk, which nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = diptych("run", write_pipeline(folder, web, str(folder), "quiet"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return storage_of(folder / "runs" / "quiet")
