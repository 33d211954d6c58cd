"""What a submission hands to a cluster, and when it hands over nothing; the cluster takes jobs and runs none."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from job_server import JobServer
from small_datasets import make_dataset

from infra.errors import MachineError
from orchestrator.config import RunConfig, load_config
from orchestrator.records import begin_drive, end_drive
from orchestrator.run import read_identity
from orchestrator.run_state import RunState
from orchestrator.submit import Submission, submit_run


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with JobServer() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = make_dataset(tmp_path / "shapes", shards=2, rows=10)
    (tmp_path / "birds.yaml").write_text(
        f"storage: {tmp_path}/runs\ncurate: {{data: {data}, view: red, where: {{color: red}}}}\n"
    )
    return load_config(tmp_path / "birds.yaml")


def submit(config: RunConfig, cluster: JobServer) -> Submission:
    return submit_run(config, cluster.url, shared_folder=str(Path(config.storage).parent))


def test_a_run_that_is_said_to_be_done_and_lacks_a_result_is_submitted(config: RunConfig, cluster: JobServer):
    assert submit(config, cluster).job
    again = submit(config, cluster)
    assert (again.state, again.job) == (RunState.QUEUED, None)
    for state in (RunState.PARTIAL, RunState.DONE):  # as a version without the state partial called it
        end_drive(config.folder, begin_drive(config.folder, "build"), state, "all of it is done")
        assert submit(config, cluster).job
    assert [name.rpartition("-")[2] for name in cluster.status] == ["1", "2", "3"]


def test_after_jobs_that_died_before_they_drove_one_of_eight_gets_the_next_name(config: RunConfig, cluster: JobServer):
    first = submit(config, cluster).job
    assert first is not None and first.endswith(f"{read_identity(config.folder)['id']}-1")
    for expected in (f"{first}.2", f"{first}.3"):
        cluster.status = dict.fromkeys(cluster.status, "FAILED")
        with ThreadPoolExecutor(8) as pool:
            submitted = list(pool.map(lambda _: submit(config, cluster), range(8)))
        assert [each.job for each in submitted if each.job] == [expected]
        assert {each.state for each in submitted} == {RunState.QUEUED}
        late = [each for each in submitted if each.job is None]
        assert all("(queued): another submission was faster" in each.lines()[0] for each in late)
    assert list(cluster.status) == [first, f"{first}.2", f"{first}.3"]


@pytest.mark.parametrize("address", ["https://me:planted@ray.example", "10.0.0.7:8265"])
def test_an_address_that_is_refused_leaves_no_run_and_no_secret_behind(config: RunConfig, address: str):
    with pytest.raises(MachineError) as caught:
        submit_run(config, address, shared_folder=str(Path(config.storage).parent))
    assert "planted" not in str(caught.value) and not Path(config.storage).exists()
