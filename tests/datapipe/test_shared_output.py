"""A dataset is finished only where its driver sees what the nodes have written."""

from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from datapipe import ray_flow
from datapipe.build import build, is_complete
from datapipe.config import BuildConfig
from datapipe.image import process_image
from datapipe.marker import FileFacts, ShardStats
from datapipe.plan import ShardPlan
from datapipe.shared_output import mark_of, require_all_seen, require_same_folder
from infra.errors import OutputError, StageFailed
from infra.lease import hold
from infra.progress import Progress
from infra.storage import Storage, storage_of


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datapipe.shared_output.SEEN_WITHIN_S", 0.0)


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    (tmp_path / "urls.csv").write_text("url,caption\n" + "http://127.0.0.1:1/1,a bird\n" * 30)
    return BuildConfig.model_validate(
        {"input": str(tmp_path / "urls.csv"), "output": str(tmp_path / "dataset"), "number_sample_per_shard": 10}
    )


def on_a_node_of_its_own_disk(plans: Sequence[ShardPlan], *_: Any) -> Iterator[ShardStats]:
    for plan in plans:
        files = {f"{plan.shard:05d}.tar": FileFacts(10, "0" * 64)}
        yield ShardStats(plan.shard, plan.rows, {"success": plan.rows}, files)


def test_shards_that_only_another_node_sees_make_no_dataset(config: BuildConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_flow, "run_shard_tasks", on_a_node_of_its_own_disk)
    with (
        Progress(StringIO()) as progress,
        pytest.raises(StageFailed, match=r"of 3 written shards 3 are not in") as caught,
    ):
        build(config, progress)
    assert "s3://" in str(caught.value) and "mount at the same path" in str(caught.value)
    assert not Path(config.output, "dataset.json").exists() and not is_complete(storage_of(config.output))


def test_a_node_with_a_folder_of_its_own_writes_no_shard(config: BuildConfig, tmp_path: Path):
    driver = storage_of(tmp_path / "the-driver's")
    with hold(driver, print):
        mark = mark_of(driver)
        assert mark is not None
        require_same_folder(driver, mark)
        worker = ray_flow._RayShardWorker(config, None, process_image, 1, mark)
        plan = '{"shard": 0, "pieces": []}'
        with pytest.raises(OutputError, match=r"the node .* does not see the driver's folder"):
            worker({"plan": plan})
        with hold(storage_of(config.output), print), pytest.raises(OutputError, match="does not see"):
            worker({"plan": plan})  # another driver's
    assert not list(Path(config.output).iterdir())


def test_what_a_network_file_system_shows_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datapipe.shared_output.SEEN_WITHIN_S", 60.0)
    output = storage_of(tmp_path)
    looks = 0

    class Late(Storage):
        def list_files(self, folder: str = "", *, recursive: bool = False) -> Any:
            nonlocal looks
            looks += 1
            if looks == 3:
                output.write_bytes("00001_stats.json", b"{}")
            return Storage.list_files(self, folder, recursive=recursive)

    output.write_bytes("00000_stats.json", b"{}")
    require_all_seen(Late(output.url), 2)
    assert looks == 3


def test_an_output_in_a_bucket_is_one_for_all():
    assert mark_of(storage_of("s3://bucket/dataset")) is None
    require_same_folder(storage_of("s3://bucket/dataset"), None)
