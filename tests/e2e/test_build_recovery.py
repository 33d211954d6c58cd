"""Builds that meet trouble other than kills: a second builder, damage, a dying decoder, a storage that is away."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import diptych, family, kill_all, start_diptych
from counting_web import CountingWeb, picture
from dataset_files import contents
from dying_decoder import MARK
from fault_proxy import FaultProxy
from object_store import ObjectStore
from store_keys import give_key, key_environment, take_key

from datapipe.marker import STATS_SUFFIX
from infra.storage import Storage, storage_of

pytestmark = pytest.mark.slow

ROWS, ROWS_PER_SHARD = 60, 10
OUTAGE_S = 60


@pytest.fixture
def web() -> Iterator[CountingWeb]:
    with CountingWeb() as running:
        yield running


@pytest.fixture
def urls(tmp_path: Path, web: CountingWeb) -> Path:
    links = [web.url(number) for number in range(ROWS)]
    pq.write_table(
        pa.table({"url": links, "caption": [f"picture {n}" for n in range(ROWS)]}), tmp_path / "urls.parquet"
    )
    return tmp_path / "urls.parquet"


def write_config(folder: Path, urls: Path, output: str, name: str = "build", **settings: object) -> str:
    config = {
        "input": str(urls),
        "output": output,
        "number_sample_per_shard": ROWS_PER_SHARD,
        "tasks": 2,
        "allow_private_addresses": ["127.0.0.0/8"],
        **settings,
    }
    (folder / f"{name}.yaml").write_text(json.dumps({"build": config}))
    return f"{name}.yaml"


def test_what_verify_finds_is_repaired_and_nothing_else_is_downloaded(tmp_path: Path, urls: Path, web: CountingWeb):
    config = write_config(tmp_path, urls, str(tmp_path / "dataset"))
    assert diptych("build", config, cwd=tmp_path).returncode == 0
    before, asked = contents(storage_of(tmp_path / "dataset")), web.asked.copy()
    damaged = bytearray((tmp_path / "dataset" / "00003.tar").read_bytes())
    damaged[700] ^= 1
    (tmp_path / "dataset" / "00003.tar").write_bytes(damaged)
    (tmp_path / "dataset" / "00005.parquet").unlink()

    verified = diptych("verify", tmp_path / "dataset", cwd=tmp_path)
    assert verified.returncode == 1
    assert "00003.tar has another SHA-256" in verified.stdout and "00005.parquet is missing" in verified.stdout
    assert diptych("build", config, cwd=tmp_path).returncode == 0
    assert contents(storage_of(tmp_path / "dataset")) == before
    again = {number // ROWS_PER_SHARD for number in range(ROWS) if web.asked[number] > asked[number]}
    assert again == {3, 5}
    assert diptych("verify", tmp_path / "dataset", cwd=tmp_path).returncode == 0


def test_a_second_builder_says_who_is_first_and_takes_over_when_that_one_dies(
    tmp_path: Path, urls: Path, web: CountingWeb
):
    web.delay_s = 3.0
    output = str(tmp_path / "dataset")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = start_diptych("build", write_config(tmp_path / "a", urls, output, connections=1), cwd=tmp_path / "a")
    deadline = time.monotonic() + 120
    while not web.asked:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    second = start_diptych("build", write_config(tmp_path / "b", urls, output, connections=1), cwd=tmp_path / "b")
    said = tmp_path / "b" / "output.txt"
    while f"another diptych (process {first.pid} on" not in said.read_text():
        assert time.monotonic() < deadline and second.poll() is None, said.read_text()
        time.sleep(0.05)
    assert ", since 20" in said.read_text()
    web.delay_s = 0.0
    kill_all(family(first.pid))
    first.wait(30)
    assert second.wait(120) == 0, said.read_text()
    assert diptych("verify", output, cwd=tmp_path).returncode == 0
    assert not (tmp_path / "dataset" / "lease.json").exists()


def test_a_picture_that_kills_its_decoder_costs_only_itself(tmp_path: Path, urls: Path, web: CountingWeb):
    web.pictures[23] = picture(23) + MARK
    config = write_config(tmp_path, urls, str(tmp_path / "dataset"))
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, here / "build_with_dying_decoder.py", config, tmp_path / "logs"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (here, here.parents[1])))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = {}
    for shard in range(ROWS // ROWS_PER_SHARD):
        table = pq.read_table(tmp_path / "dataset" / f"{shard:05d}.parquet")
        counts |= {row["url"]: row["status"] for row in table.select(["url", "status"]).to_pylist()}
    expected = {web.url(number): "decoder_crash" if number == 23 else "success" for number in range(ROWS)}
    assert counts == expected
    assert "decoder_crash" in done.stderr  # and it is said


def test_a_build_gets_over_a_storage_that_throttles_resets_and_loses_replies(
    tmp_path: Path, urls: Path, web: CountingWeb, store: ObjectStore, use_store: object
):
    with FaultProxy(store.endpoint) as proxy:
        environment = store.environment(endpoint=proxy.endpoint)
        config = write_config(tmp_path, urls, store.url("trouble/dataset"))
        proxy.slow_down(4)
        proxy.reset(3, method="PUT", key_contains=".tar")
        proxy.lose_reply(method="PUT", key_contains="_stats.json", times=3)
        proxy.lose_reply(method="PUT", key_contains="lease.json")
        proxy.cut_body(3)
        done = diptych("build", config, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert len(proxy.met) >= 11
    assert diptych("verify", store.url("trouble/dataset"), cwd=tmp_path).returncode == 0
    assert max(web.asked.values()) == 1 and store.uploads() == []


def test_a_storage_that_stays_away_stops_the_build_with_one_message_and_it_goes_on(
    tmp_path: Path, urls: Path, web: CountingWeb, store: ObjectStore
):
    with FaultProxy(store.endpoint) as proxy:
        environment = store.environment(endpoint=proxy.endpoint) | {"AWS_MAX_ATTEMPTS": "2"}
        config = write_config(tmp_path, urls, store.url("away/dataset"))
        proxy.reset(1000, method="PUT", key_contains="00004.tar")
        done = diptych("build", config, cwd=tmp_path, env=environment)
        assert done.returncode == 1
        assert done.stderr.count("the storage does not answer") == 1 and "Traceback" not in done.stderr
        proxy.no_faults()
        done = diptych("build", config, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    assert diptych("verify", store.url("away/dataset"), cwd=tmp_path).returncode == 0


@pytest.mark.long
def test_a_minute_without_the_storage_costs_a_build_nothing(
    tmp_path: Path, urls: Path, web: CountingWeb, store: ObjectStore
):
    """Longer than its lease lasts, and than botocore would try."""
    web.delay_s, output = 1.0, storage_of(store.url("outage/dataset"))
    with FaultProxy(store.endpoint) as proxy:
        outage = at_the_first_shard(output, lambda: proxy.refuse(OUTAGE_S))
        config = write_config(tmp_path, urls, output.url, connections=2)
        began = time.monotonic()
        done = diptych("build", config, cwd=tmp_path, env=store.environment(endpoint=proxy.endpoint))
        outage.join()
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began > OUTAGE_S
    assert diptych("verify", output.url, cwd=tmp_path).returncode == 0
    assert max(web.asked.values()) == 1 and store.uploads() == []


@pytest.mark.long
def test_a_key_that_ends_in_the_middle_ends_the_build_with_one_message_and_it_goes_on(
    tmp_path: Path, urls: Path, web: CountingWeb, store: ObjectStore
):
    web.delay_s, output, key = 1.0, storage_of(store.url("key/dataset")), give_key(store)
    end = at_the_first_shard(output, lambda: take_key(store, key))
    config = write_config(tmp_path, urls, output.url, connections=2)
    done = diptych("build", config, cwd=tmp_path, env=key_environment(store.endpoint, key))
    end.join()
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("refuses the credentials") == 1 and "Traceback" not in done.stderr
    assert "`diptych resume" in done.stderr and key.secret_key not in done.stderr
    done = diptych("build", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert diptych("verify", output.url, cwd=tmp_path).returncode == 0


def at_the_first_shard(output: Storage, do: Callable[[], None]) -> threading.Thread:
    """Does it, in a thread that has begun, once a shard is committed."""

    def look() -> None:
        deadline = time.monotonic() + 300
        while not [entry for entry in output.list_files() if entry.path.endswith(STATS_SUFFIX)]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        do()

    thread = threading.Thread(target=look)
    thread.start()
    return thread


def test_a_list_and_a_dataset_on_s3_work_as_on_disk(tmp_path: Path, urls: Path, web: CountingWeb, store: ObjectStore):
    folder = storage_of(store.url("lists"))
    rows = [f'{{"url": "{web.url(number)}", "caption": "picture {number}", "n": {number}}}' for number in range(ROWS)]
    folder.write_bytes("a.jsonl", "\n".join(rows[:25]).encode())
    folder.write_bytes("b.jsonl", "\n".join(rows[25:]).encode())
    for name, place, output in (
        ("remote", store.url("lists") + "/*.jsonl", store.url("both/dataset")),
        ("local", tmp_path / "lists", str(tmp_path / "dataset")),
    ):
        if name == "local":
            (tmp_path / "lists").mkdir()
            for entry in folder.list_files():
                (tmp_path / "lists" / entry.path).write_bytes(folder.read_bytes(entry.path))
        config = write_config(tmp_path, Path("unused"), output, name, input=str(place))
        done = diptych("build", config, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    remote, local = contents(storage_of(store.url("both/dataset"))), contents(storage_of(tmp_path / "dataset"))
    tables = [name for name in local if name.endswith((".tar", ".parquet"))]
    assert len(tables) == 2 * 6 + 2 and {name: remote[name] for name in tables} == {
        name: local[name] for name in tables
    }
    inspected = diptych("inspect", store.url("both/dataset"), "--json", cwd=tmp_path)
    assert json.loads(inspected.stdout)["samples"] == ROWS
