"""One build over a web, a list and captions that misbehave in every way: it ends in time and counts each rightly."""

import csv
import hashlib
import json
import re
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from commands import diptych
from hostile_kinds import BUSY, KINDS, MAX_BYTES, MAX_REDIRECTS, OUR_TOKEN, PHOTO, TARGETS
from hostile_rows import CAPTIONS, ESCAPES, JSON_CAPTIONS, expected_statuses, hostile_rows
from hostile_web import HostileWeb

from datapipe.build import BuildResult, build, check_build
from datapipe.config import BuildConfig
from datapipe.dataset import Dataset
from datapipe.fetch import Fetcher, FetchRequest
from datapipe.status import SampleStatus
from infra.cluster import Cluster
from infra.progress import Progress

EXPECTED = expected_statuses()
# What a build does not do yet as it should, with what it does.
BOUND = re.compile(r"(\d+) shards to do; each ends within (?:(\d+) h )?(?:(\d+) min )?(?:(\d+) s)?")
# Whatever a terminal would obey, but for what ends a line and rich's own colours.
OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[0-9;]*m)")
FILE_NAME = re.compile(r"dataset\.json|settings\.json|build\.json|_input|\d{5}(\.tar|\.parquet|_stats\.json)")
MEMBER_NAME = re.compile(r"\d+\.(jpg|txt|json)")


@dataclass(frozen=True)
class Built:
    """A finished hostile build, and all that it left and said."""

    folder: Path
    result: BuildResult
    output: str
    worker_logs: str
    seconds: float
    web: HostileWeb
    rows: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Cluster) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("hostile")
    with HostileWeb() as web, HostileWeb() as busy:
        for path, kind in {**TARGETS, **{f"/{name}": kind for name, kind in KINDS.items()}}.items():
            (busy if path[1:] in BUSY else web).at(path, kind.handler)
        write_lists(folder / "list", hostile_rows(web.base, busy.base, set(BUSY)), web.base)
        settings = config(folder)
        stream, started = StringIO(), time.monotonic()
        check_build(settings)
        with Progress(stream) as progress:
            result = build(settings, progress)
        seconds = time.monotonic() - started
        yield Built(folder, result, stream.getvalue(), worker_logs(), seconds, web, read_rows(folder))


def worker_logs() -> str:
    """What Ray's workers have printed and logged so far; their sockets lie beside their logs."""
    folder = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1] / "logs"
    paths = [path for pattern in ("worker-*", "ray-data/*") for path in folder.glob(pattern)]
    return "".join(path.read_text(errors="replace") for path in paths)


def config(folder: Path, **values: object) -> BuildConfig:
    fixed = {
        "input": str(folder / "list"),
        "output": str(folder / "dataset"),
        "number_sample_per_shard": 100,
        "timeout": 1.5,
        "retries": 1,
        "max_download_bytes": MAX_BYTES,
        "max_redirects": MAX_REDIRECTS,
        "user_agent_token": OUR_TOKEN,
        "allow_private_addresses": ["127.0.0.1/32"],
    }
    return BuildConfig.model_validate(fixed | values)


def write_lists(folder: Path, rows: list[dict[str, str | None]], base: str) -> None:
    """All rows as Parquet; captions also as JSON lines and as CSV."""
    folder.mkdir()
    schema = pa.schema([(name, pa.string()) for name in ("kind", "url", "caption")])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "1.parquet")
    captions = CAPTIONS | {name: written for name, (written, _) in JSON_CAPTIONS.items()}
    with (folder / "2.jsonl").open("w") as stream:
        for name, caption in captions.items():
            stream.write(json.dumps({"kind": f"json {name}", "url": f"{base}/plain", "caption": caption}) + "\n")
    with (folder / "3.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerow(["kind", "url", "caption"])
        writer.writerows([f"csv {name}", f"{base}/plain", caption or ""] for name, caption in CAPTIONS.items())


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    dataset = Dataset.open(str(folder / "dataset"))
    rows = [row for shard in range(len(dataset.manifest.shard_rows)) for row in dataset.read_rows(shard).to_pylist()]
    assert len({row["kind"] for row in rows}) == len(rows)
    return {row["kind"]: row for row in rows}


def expected_captions() -> dict[str, str | None]:
    """By kind of row, as the dataset must hold them."""
    return (
        {f"caption {name}": caption for name, caption in CAPTIONS.items()}
        | {f"json {name}": caption for name, caption in CAPTIONS.items()}
        | {f"json {name}": kept for name, (_, kept) in JSON_CAPTIONS.items()}
        | {f"csv {name}": caption or "" for name, caption in CAPTIONS.items()}
    )


def test_there_are_at_least_60_kinds_of_misbehaviour():
    assert sum(kind.status is not SampleStatus.SUCCESS for kind in KINDS.values()) >= 60


@pytest.mark.parametrize("name", EXPECTED)
def test_each_row_is_counted_under_its_own_status(name: str, built: Built):
    row = built.rows[name]
    assert row["status"] == EXPECTED[name].value, row["error_message"]


def test_the_build_ends_within_the_bound_that_it_prints(built: Built):
    shards, hours, minutes, seconds = (int(number or 0) for number in BOUND.search(built.output).groups())
    print(f"{built.seconds:.1f} s; {built.output.splitlines()[1]}")
    assert shards == len(built.result.manifest.shard_rows)
    assert built.seconds < hours * 3600 + minutes * 60 + seconds


def test_all_that_is_good_is_taken_in_as_it_was_sent(built: Built):
    good = {kind: row for kind, row in built.rows.items() if row["status"] == "success"}
    others = len(CAPTIONS) + len(CAPTIONS) + len(JSON_CAPTIONS)  # of the JSON lines and the CSV
    assert len(good) == sum(status.is_success for status in EXPECTED.values()) + others
    assert built.result.manifest.samples == len(good)
    for kind, row in good.items():
        answer = KINDS.get(kind.removeprefix("answer "))
        sent = answer.body if answer is not None and kind.startswith("answer ") else PHOTO
        assert row["sha256"] == hashlib.sha256(sent).hexdigest(), kind


def test_the_states_sum_up_to_the_rows(built: Built):
    manifest = built.result.manifest
    assert sum(manifest.status_counts.values()) == manifest.rows == len(built.rows)
    assert manifest.status_counts == Counter(row["status"] for row in built.rows.values())
    assert set(manifest.status_counts) <= {status.value for status in SampleStatus}
    assert all((row["error_message"] is None) == (row["status"] == "success") for row in built.rows.values())


def test_captions_are_carried_to_the_byte(built: Built):
    expected = expected_captions()
    assert {kind: built.rows[kind]["caption"] for kind in expected} == expected
    by_key = {built.rows[kind]["key"]: caption for kind, caption in expected.items()}
    seen = 0
    for path in (built.folder / "dataset").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if key in by_key and ending != "jpg":
                    data, seen = tar.extractfile(member).read(), seen + 1
                    if ending == "json":
                        assert json.loads(data)["caption"] == by_key[key]
                    else:
                        assert data == (by_key[key] or "").encode()
    assert seen == 2 * len(expected)


def test_no_cookie_secret_or_other_header_of_a_server_comes_back(built: Built):
    allowed = {"host", "user-agent", "accept", "accept-encoding"}
    assert all(headers.keys() <= allowed for headers in built.web.seen_headers)
    assert all(headers["accept-encoding"] == "identity" for headers in built.web.seen_headers)


def test_no_value_of_the_list_or_the_web_is_said_aloud_or_names_a_file(built: Built):
    assert not OBEYED.search(built.output), built.output
    values = [row[name] for row in built.rows.values() for name in ("url", "caption") if row[name]]
    for said in (built.output, built.worker_logs):
        assert not [value for value in values if len(value) > 6 and value in said]
        assert "owned" not in said and "\x1b]0;" not in said
    messages = {row["error_message"] for row in built.rows.values() if row["error_message"]}
    assert all(message.isprintable() and len(message) < 100 for message in messages)
    for path in (built.folder / "dataset").rglob("*"):
        if path.parent.name != "_input":
            assert FILE_NAME.fullmatch(path.name), path.name
    assert {path.name for path in built.folder.iterdir()} == {"list", "dataset"}
    assert not Path("owned").exists()
    for path in (built.folder / "dataset").glob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(MEMBER_NAME.fullmatch(name) for name in tar.getnames())


@pytest.mark.parametrize("name", ["localhost", "localhost.", "LOCALHOST", "ip6-localhost", "localhost6"])
def test_no_name_of_this_machine_leads_to_it_unless_allowed(name: str, web: HostileWeb, tmp_path: Path):
    url = f"http://{name}:{web.port}/a.jpg"
    with Fetcher(config(tmp_path, allow_private_addresses=[], retries=0)) as fetcher:
        (result,) = fetcher.fetch([FetchRequest(0, url)])
    # Which of these names there are is the machine's own affair.
    assert result.status in {
        SampleStatus.ADDRESS_REFUSED,
        SampleStatus.HOST_NOT_FOUND,
        SampleStatus.DNS_FAILED,
        SampleStatus.TIMEOUT,
    }
    assert not web.asked


HOSTILE_LISTS = {
    "column.csv": f'url,"{ESCAPES}"\na,b\n',
    "twice.csv": f'url,caption,"{ESCAPES}","{ESCAPES}"\na,b,c,d\n',
    "quote.csv": 'url,caption\na,"\x1b[31m\n',
    "object.jsonl": '"\x1b[31m"\n',
}


@pytest.mark.parametrize("name", HOSTILE_LISTS)
def test_an_error_about_a_list_has_nothing_that_a_terminal_obeys(name: str, tmp_path: Path):
    (tmp_path / name).write_text(HOSTILE_LISTS[name], newline="")
    (tmp_path / "config.yaml").write_text(f"build: {{input: {name}, output: dataset}}\n")
    done = diptych("build", "config.yaml", cwd=tmp_path)
    assert done.returncode == 2 and name in done.stderr
    assert not OBEYED.search(done.stderr)
