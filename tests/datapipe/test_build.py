"""URL list → dataset, on a real Ray cluster and from a real server, whatever is killed in between."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb, Visit
from pictures import picture

from datapipe.build import BuildResult, build, check_build
from datapipe.config import BuildConfig
from datapipe.damage import note_damage
from datapipe.dataset import Dataset
from datapipe.identity import build_settings, write_settings
from datapipe.input_files import find_input_files
from datapipe.urls import open_url_list
from datapipe.verify import verify
from infra.cluster import Cluster
from infra.errors import ConfigError, InputError, OutputError
from infra.progress import Progress
from infra.storage import storage_of

ROWS = 130
ROWS_PER_SHARD = 30
BAD = {
    7: "missing",
    31: "html",
    45: "cut",
    60: "noai",
    75: "failure",
    90: "tiny",
    101: "loop",
}
EXPECTED = {
    "success": ROWS - len(BAD) - 2,
    "http_404": 1,
    "not_an_image": 1,
    "broken_image": 1,
    "opt_out": 1,
    "http_5xx": 1,
    "too_small": 1,
    "too_many_redirects": 1,
    "url_empty": 1,
    "address_refused": 1,
}


@pytest.fixture
def photos(web: HostileWeb, tmp_path: Path) -> HostileWeb:
    """A web of 130 pictures with some faults, and its URL list at `tmp_path/urls.parquet`."""
    urls: list[str | None] = [web.serve(f"/{number}", picture(number)) for number in range(ROWS)]
    for number, kind in BAD.items():
        urls[number] = f"{web.base}/{kind}"
    urls[110], urls[129] = None, f"http://127.0.0.2:{web.port}/1"
    web.serve("/html", b"<html>gone</html>", Content_Type="text/html")
    web.serve("/cut", picture(3)[:800])
    web.serve("/noai", picture(1), X_Robots_Tag="noai")
    web.at("/failure", lambda visit: visit.answer(status="500 Failed"))
    web.serve("/tiny", picture(0, 5, 5))
    web.at("/loop", lambda visit: visit.answer(status="302 Found", Location="/loop"))
    captions = [f"picture {number}, größer" for number in range(ROWS)]
    pq.write_table(pa.table({"url": urls, "caption": captions, "number": range(ROWS)}), tmp_path / "urls.parquet")
    return web


def config(folder: Path, output: str = "dataset", **values: object) -> BuildConfig:
    fixed = {
        "input": str(folder / "urls.parquet"),
        "output": str(folder / output),
        "number_sample_per_shard": ROWS_PER_SHARD,
        "image_size": 64,
        "min_image_size": 40,
        "timeout": 10,
        "retries": 0,
        "tasks": 2,
        "allow_private_addresses": ["127.0.0.1/32"],
    }
    return BuildConfig.model_validate(fixed | values)


def run(settings: BuildConfig) -> BuildResult:
    check_build(settings)
    with Progress(StringIO()) as progress:
        return build(settings, progress)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def test_a_build_takes_in_all_that_is_good_and_counts_all_that_is_not(
    photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster
):
    result = run(config(tmp_path))
    assert result.manifest.status_counts == EXPECTED
    assert result.manifest.shard_rows == (30, 30, 30, 30, 10)
    dataset = Dataset.open(str(tmp_path / "dataset"))
    assert (dataset.manifest.rows, dataset.manifest.samples) == (ROWS, EXPECTED["success"])
    rows = [row for shard in range(5) for row in dataset.read_rows(shard).to_pylist()]
    assert [row["number"] for row in rows] == list(range(ROWS))
    assert rows[7]["status"] == "http_404" and rows[8]["caption"] == "picture 8, größer"
    with dataset.open_shard(4, ["key", "caption"]) as reader:
        assert len(reader) == 9
        assert reader.image(0).startswith(b"\xff\xd8\xff")
    assert verify(str(tmp_path / "dataset")).is_intact


def test_any_number_of_tasks_gives_the_same_bytes(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    run(config(tmp_path, "one", tasks=1))
    run(config(tmp_path, "four", tasks=4, connections=8, connections_per_host=3))
    assert digests(tmp_path / "one") == digests(tmp_path / "four")


def test_a_worker_killed_in_the_middle_changes_nothing(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    run(config(tmp_path, "undisturbed"))
    killed = set[int]()

    def kill_who_asks(visit: Visit) -> None:
        if len(killed) < 2:
            killed.add(kill_client(visit))
        visit.answer(picture(40))

    photos.at("/40", kill_who_asks)
    run(config(tmp_path, "disturbed"))
    assert len(killed) == 2 and os.getpid() not in killed
    assert digests(tmp_path / "disturbed") == digests(tmp_path / "undisturbed")


def kill_client(visit: Visit) -> int:
    """Ends the process at the other end of the connection with SIGKILL."""
    address = visit.connection.getpeername()
    pids = [found.pid for found in psutil.net_connections("tcp4") if found.laddr and tuple(found.laddr) == address]
    assert len(pids) == 1 and pids[0] is not None
    os.kill(pids[0], signal.SIGKILL)
    return pids[0]


DRIVER = """
import sys
from pathlib import Path
from datapipe.build import build, check_build
from datapipe.config import BuildConfig
from infra.cluster import connect
from infra.progress import Progress
from infra.storage import storage_of

config = BuildConfig.model_validate_json(sys.argv[1])
check_build(config)
with connect(Path(sys.argv[2]), cpus=2), Progress() as progress:
    build(config, progress)
"""


def start_driver(settings: BuildConfig, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DRIVER, settings.model_dump_json(exclude_defaults=True), str(folder / "logs")]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/")


@pytest.mark.slow
def test_a_driver_killed_in_the_middle_goes_on_where_it_was(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    run(config(tmp_path, "undisturbed"))
    settings = config(tmp_path, "disturbed", tasks=1)
    in_the_last_shard = threading.Event()

    def stop_here(visit: Visit) -> None:
        in_the_last_shard.set()
        visit.hang()

    photos.at("/125", stop_here)
    driver = start_driver(settings, tmp_path)
    assert in_the_last_shard.wait(60)
    deadline = time.monotonic() + 60  # shards overlap: the first may end after the last has begun
    while not (tmp_path / "disturbed" / "00000_stats.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    photos.serve("/125", picture(125))
    asked_before = photos.asked["/1"]
    assert start_driver(settings, tmp_path).wait(90) == 0
    assert photos.asked["/1"] == asked_before  # a finished shard is not downloaded again
    assert digests(tmp_path / "disturbed") == digests(tmp_path / "undisturbed")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no marker": lambda folder: (folder / "00001_stats.json").unlink(),
    "no tar": lambda folder: (folder / "00001.tar").unlink(),
    "short tar": lambda folder: os.truncate(folder / "00001.tar", 1024),
    "bad marker": lambda folder: (folder / "00001_stats.json").write_text('{"count": '),
    "another's marker": lambda folder: (folder / "00001_stats.json").write_text('{"count": 30, "successes": 30}'),
}


def test_a_torn_shard_alone_is_done_again(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    whole = run(config(tmp_path))
    folder, before = tmp_path / "dataset", digests(tmp_path / "dataset")
    for damage, do in DAMAGES.items():
        do(folder)
        again = run(config(tmp_path))
        assert (again.shards_built, again.shards_found) == (1, 4), damage
        assert again.manifest == whole.manifest
        assert digests(folder) == before


def test_while_shards_are_made_again_no_manifest_vouches_for_them(
    photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster
):
    run(config(tmp_path))
    folder, before, seen = tmp_path / "dataset", digests(tmp_path / "dataset"), list[bool]()

    def look(visit: Visit) -> None:
        seen.append((folder / "dataset.json").exists())
        visit.answer(picture(40))

    photos.at("/40", look)
    for damage in (lambda: os.truncate(folder / "00001.tar", 1024), lambda: note_damage(storage_of(folder), [1])):
        damage()
        run(config(tmp_path))
        assert digests(folder) == before
    assert seen == [False, False]


def test_a_list_replaced_during_a_build_is_noticed(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    whole = run(config(tmp_path, "undisturbed")).manifest
    settings, place = config(tmp_path, tasks=1), tmp_path / "urls.parquet"
    rows, data = pq.read_table(place), place.read_bytes()

    def replace_the_list(visit: Visit) -> None:
        pq.write_table(rows.set_column(1, "caption", [["another"] * ROWS]), place)
        visit.answer(picture(125))

    photos.at("/125", replace_the_list)
    with pytest.raises(InputError, match="is not the list any more"):
        run(settings)
    with pytest.raises(InputError, match="no finished dataset"):
        Dataset.open(settings.output)
    place.write_bytes(data)
    photos.serve("/125", picture(125))
    again = run(settings)
    assert again.shards_built == 5 and again.manifest == whole
    assert digests(tmp_path / "dataset") == digests(tmp_path / "undisturbed")


def test_a_file_that_comes_to_the_list_during_a_build_is_told_and_harms_nothing(
    photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster
):
    run(config(tmp_path, "undisturbed"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "urls.parquet").rename(tmp_path / "lists" / "urls.parquet")
    settings, later = config(tmp_path, input=str(tmp_path / "lists")), tmp_path / "lists" / "later.csv"

    def add_a_file(visit: Visit) -> None:
        later.write_text("url,caption\nhttp://a.example/,x\n")
        visit.answer(picture(125))

    photos.at("/125", add_a_file)
    check_build(settings)
    stream = StringIO()
    with Progress(stream) as progress:
        build(settings, progress)
    assert "has 1 more" in stream.getvalue() and "later.csv" in stream.getvalue()
    assert digests(tmp_path / "dataset") == digests(tmp_path / "undisturbed")
    with pytest.raises(ConfigError, match="input_sha256"):
        check_build(settings)
    later.unlink()
    check_build(settings)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("lists/*.parquet", "lists"),
        ("lists", "lists"),
        ("lists/", "lists"),
        ("lists/**/*.parquet", "lists/out"),
        ("*/*.parquet", "out"),
        ("lists/*", "lists"),
        ("lists/00000.parquet", "lists"),
    ],
)
def test_an_output_whose_files_the_list_would_take_in_is_refused(tmp_path: Path, source: str, output: str):
    (tmp_path / "lists").mkdir()
    for name in ("00000.parquet", "urls.parquet"):
        pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "lists" / name)
    with pytest.raises(ConfigError, match=r"lies where build\.input looks"):
        check_build(config(tmp_path, output, input=f"{tmp_path}/{source}"))


@pytest.mark.parametrize(
    ("source", "output"),
    [("lists/*.parquet", "lists/out"), ("lists", "lists/out"), ("lists/urls*.parquet", "lists"), ("urls.csv", ".")],
)
def test_an_output_beside_its_list_or_below_it_is_fine(tmp_path: Path, source: str, output: str):
    (tmp_path / "lists").mkdir()
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "lists" / "urls.parquet")
    (tmp_path / "urls.csv").write_text("url,caption\nu,c\n")
    check_build(config(tmp_path, output, input=f"{tmp_path}/{source}"))


def test_other_settings_or_another_list_are_not_mixed_in(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    run(config(tmp_path))
    with pytest.raises(ConfigError, match="image_size 64 → 32"):
        check_build(config(tmp_path, image_size=32))
    check_build(config(tmp_path, tasks=2, connections=4))
    pq.write_table(pq.read_table(tmp_path / "urls.parquet").slice(1), tmp_path / "urls.parquet")
    with pytest.raises(ConfigError, match="input_sha256"):
        check_build(config(tmp_path))


def test_before_the_first_shard_settings_and_list_may_change(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    (tmp_path / "urls.csv").write_text('url,caption\nhttp://127.0.0.2/,"never closed\n')
    settings = config(tmp_path, input=str(tmp_path / "urls.csv"))
    with pytest.raises(InputError, match="line 2"):
        check_build(settings)
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://127.0.0.2/,x\n")
    files = find_input_files(settings.input)
    open_url_list(settings, files)  # as far as a build came that was stopped then
    write_settings(storage_of(settings.output), build_settings(settings, files))
    (tmp_path / "urls.csv").write_text(f"url,caption\n{photos.base}/1,x\n")
    result = run(settings.model_copy(update={"image_size": 32}))
    assert result.manifest.status_counts == {"success": 1}
    assert len(list((tmp_path / "dataset" / "_input").iterdir())) == 1


def test_the_shards_of_another_tool_are_not_overwritten(photos: HostileWeb, tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "00000_stats.json").write_text('{"count": 30}')
    with pytest.raises(ConfigError, match="holds shards"):
        check_build(config(tmp_path))


def test_too_little_disk_is_told_before_anything_starts(photos: HostileWeb, tmp_path: Path):
    urls = pa.array(["http://a.example/"]).take(pa.array([0] * 1_000_000))
    pq.write_table(pa.table({"url": urls, "caption": urls}), tmp_path / "urls.parquet")
    with pytest.raises(OutputError, match="MB free"):
        check_build(config(tmp_path, image_size=8192))
    assert not (tmp_path / "dataset").exists()


def test_a_finished_dataset_is_found_finished_without_a_request(
    photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster
):
    run(config(tmp_path))
    asked = sum(photos.asked.values())
    assert run(config(tmp_path)).shards_built == 0
    assert sum(photos.asked.values()) == asked


def test_a_list_in_csv_and_pictures_in_parquet(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    lines = [f'{photos.base}/{number},"picture {number}, small"\n' for number in range(40)]
    (tmp_path / "urls.csv").write_text("url,caption\n" + "".join(lines))
    result = run(config(tmp_path, input=str(tmp_path / "urls.csv"), output_format="parquet", encode_format="webp"))
    assert result.manifest.status_counts == {"success": 40}
    with Dataset.open(str(tmp_path / "dataset")).open_shard(0, ["caption"]) as reader:
        assert reader.samples["caption"][3].as_py() == "picture 3, small"
        assert reader.image(3)[8:12] == b"WEBP"
    assert verify(str(tmp_path / "dataset")).is_intact


def test_relative_paths_are_meant_from_where_the_command_runs(
    photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path, input="urls.parquet", number_sample_per_shard=200)
    run(settings.model_copy(update={"output": "here"}))
    assert Dataset.open(str(tmp_path / "here")).manifest.rows == ROWS


def test_a_build_that_loses_its_list_says_so_and_goes_on_when_it_is_back(
    photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster
):
    # Of 26 shards at most 8 are begun at once: at the 15th some are finished, and the last have not read their rows.
    settings = config(tmp_path, tasks=1, number_sample_per_shard=5)
    data = (tmp_path / "urls.parquet").read_bytes()

    def lose_the_list(visit: Visit) -> None:
        (tmp_path / "urls.parquet").unlink(missing_ok=True)
        visit.answer(picture(70))

    photos.at("/70", lose_the_list)
    with pytest.raises(InputError, match=r"urls\.parquet") as caught:
        run(settings)
    assert len(str(caught.value).splitlines()) <= 3
    (tmp_path / "urls.parquet").write_bytes(data)
    photos.serve("/70", picture(70))
    result = run(settings)
    assert result.shards_found >= 1 and result.manifest.status_counts == EXPECTED


def test_what_cannot_be_written_is_told_before_anything_starts(photos: HostileWeb, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        check_build(config(tmp_path, "file/dataset"))


def test_progress_is_told_in_rows_and_yield(photos: HostileWeb, tmp_path: Path, ray_cluster: Cluster):
    stream, settings = StringIO(), config(tmp_path)
    with Progress(stream) as progress:
        build(settings, progress)
    text = stream.getvalue()
    assert f"{EXPECTED['success']} samples of {ROWS} rows in 5 shards" in text.replace(",", "")
    marker = json.loads((tmp_path / "dataset" / "00000_stats.json").read_bytes())
    assert marker["count"] == 30
