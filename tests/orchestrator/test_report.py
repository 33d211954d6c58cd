"""The report as a reader's browser gets it: sections, pictures, escaping, and nothing from the network."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_datasets import make_dataset, write_annotation

from datapipe.curate import curate
from datapipe.curate_config import CurateConfig
from datapipe.dataset import Dataset, Manifest
from infra.errors import OutputError
from infra.progress import Progress, StageSnapshot
from infra.storage import Storage
from orchestrator.node_hours import NodeUse, write_uses
from orchestrator.records import RETRY_EVENT, Event, begin_drive, record_event
from orchestrator.report import write_report
from training.ledger import RankTimes, write_ledger
from training.records import (
    VALIDATION_FILE,
    Evaluation,
    RetrievalExample,
    SampleRef,
    Score,
    StepMetrics,
    write_evaluation,
)

HOSTILE = "<script>alert('x')</script> \"quoted\" & <img src=http://evil.example/a.png onerror=1> </script>"
SECTIONS = ["dataset", "pictures", "sizes", "training", "scores", "retrieval", "again"]


@dataclass
class Row:
    """One input row; `image` is None for one that failed."""

    caption: str
    status: str = "success"
    image: bytes | None = None
    original: tuple[int, int] | None = None


def picture(seed: int, side: int = 96) -> bytes:
    """A JPEG of coloured waves, another for each seed."""
    across, down = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    waves = [np.sin((seed % 7 + channel + 2) * across + (seed % 5 + 1) * down * 3 + channel) for channel in range(3)]
    buffer = io.BytesIO()
    Image.fromarray(((np.stack(waves, axis=-1) + 1) * 127).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def good_rows(count: int, caption: str = "waves number") -> list[Row]:
    return [
        Row(f"{caption} {seed}", image=picture(seed), original=(300 + 37 * seed, 200 + 11 * seed))
        for seed in range(count)
    ]


def write_dataset(folder: Path, shards: list[list[Row]]) -> None:
    """Writes the layout of DESIGN §4, as a build leaves it."""
    folder.mkdir(parents=True)
    for shard, rows in enumerate(shards):
        ranges = write_tar(folder / f"{shard:05d}.tar", shard, rows)
        pq.write_table(shard_table(shard, rows, ranges), folder / f"{shard:05d}.parquet")
        stats = {"count": len(rows), "status_dict": Counter(row.status for row in rows)}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
    every = [row for rows in shards for row in rows]
    manifest = Manifest(
        format_version=1,
        settings={"output_format": "webdataset", "encode_format": "jpg", "image_size": 96, "input_sha256": "ab12"},
        shard_rows=tuple(map(len, shards)),
        shard_samples=tuple(sum(row.image is not None for row in rows) for rows in shards),
        status_counts=dict(Counter(row.status for row in every)),
        total_bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )
    (folder / "dataset.json").write_bytes(manifest.to_json())


def write_tar(path: Path, shard: int, rows: list[Row]) -> list[tuple[int, int] | None]:
    ranges: list[tuple[int, int] | None] = []
    with tarfile.open(path, "w") as tar:
        for index, row in enumerate(rows):
            if row.image is None:
                ranges.append(None)
                continue
            member = tarfile.TarInfo(f"{shard:05d}{index:04d}.jpg")
            member.size = len(row.image)
            ranges.append((tar.offset + tarfile.BLOCKSIZE, member.size))
            tar.addfile(member, io.BytesIO(row.image))
    return ranges


def shard_table(shard: int, rows: list[Row], ranges: list[tuple[int, int] | None]) -> pa.Table:
    sizes = [size_of(row.image) for row in rows]
    originals = [row.original or (None, None) for row in rows]
    return pa.table(
        {
            "key": [f"{shard:05d}{index:04d}" for index in range(len(rows))],
            "url": [f"http://web.example/{shard}/{index}" for index in range(len(rows))],
            "caption": [row.caption for row in rows],
            "status": [row.status for row in rows],
            "width": pa.array([size[0] for size in sizes], pa.int32()),
            "height": pa.array([size[1] for size in sizes], pa.int32()),
            "original_width": pa.array([size[0] for size in originals], pa.int32()),
            "original_height": pa.array([size[1] for size in originals], pa.int32()),
            "image_offset": pa.array([place and place[0] for place in ranges], pa.int64()),
            "image_length": pa.array([place and place[1] for place in ranges], pa.int64()),
        }
    )


def size_of(data: bytes | None) -> tuple[int | None, int | None]:
    try:
        return Image.open(io.BytesIO(data or b"")).size
    except OSError:
        return None, None


def steps(first: int, last: int, attempt: int) -> list[StepMetrics]:
    return [
        StepMetrics(
            step=step,
            loss=5.5 / (1 + step / 40) + 0.08 * np.sin(step * 2.1),
            logit_scale=14.3 + step / 20,
            lr=5e-4 * min(1.0, step / 20),
            samples_per_s=240 + 20 * float(np.cos(step)),
            epoch=step / 30,
            attempt=attempt,
            time=1_700_000_000.0 + 1.2 * step + 60 * attempt,
        )
        for step in range(first, last + 1)
    ]


def write_metrics(run: Storage, metrics: list[StepMetrics]) -> None:
    lines = "".join(json.dumps(asdict(step)) + "\n" for step in metrics)
    run.write_bytes("metrics.jsonl", lines.encode())


def sample(index: int, caption: str) -> SampleRef:
    return SampleRef(shard=0, index=index, key=f"00000{index:04d}", caption=caption)


def write_scores(run: Storage, data: Path, examples: list[RetrievalExample]) -> None:
    scores = (
        Score("text_to_image_recall@1", 0.384, 0.00227, 440),
        Score("image_to_text_recall@10", 0.91, 0.0227, 440),
        Score("zero_shot_accuracy", 0.62, 0.1, 440),
    )
    write_evaluation(run.at("evaluation"), Evaluation(180, "checkpoints/step_00000180", str(data), scores), examples)


def example(query: int, found: list[int], captions: list[str]) -> RetrievalExample:
    refs = tuple(sample(index, captions[index]) for index in found)
    return RetrievalExample(sample(query, captions[query]), refs, tuple(0.4 - 0.03 * i for i in range(len(found))))


class Page(HTMLParser):
    """What a browser makes of the file: elements with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.script_starts = 0
        self._raw = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._raw = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, class_: str | None = None) -> list[dict[str, str | None]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if class_ is None or class_ in (a.get("class") or "").split()]


@dataclass
class Made:
    """The places of a finished run, and its page."""

    data: Path
    run: Storage
    target: Path

    def page(self, **changes) -> Page:
        arguments = {"dataset_url": str(self.data), "title": "diptych · waves", "credit": "Pictures: nobody, CC0"}
        arguments |= changes
        write_report(arguments["dataset_url"], self.run, self.target, arguments["title"], arguments["credit"])
        return Page(self.target.read_text())


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A dataset with failures and a hostile caption, a training with a restart, and an evaluation."""
    rows = good_rows(24)
    rows[5] = replace(rows[5], caption=HOSTILE)
    failed = [Row("gone", "http_404")] * 3 + [Row("page", "not_an_image"), Row("slow", "timeout")]
    write_dataset(tmp_path / "data", [rows[:12] + failed, rows[12:]])
    run = Storage(str(tmp_path / "run"))
    write_metrics(run, steps(1, 130, attempt=1) + steps(126, 180, attempt=2))
    captions = [row.caption for row in rows]
    hit, miss = example(5, [5, 1, 2, 3, 4, 6], captions), example(0, [1, 2, 3, 4, 6], captions)
    second = example(3, [7, 3, 1, 2, 4], captions)
    write_scores(run, tmp_path / "data", [hit, miss, second])
    run.write_bytes("run.yaml", b"name: waves\ntrain:\n  global_batch_size: 256\n  loss: clip\n")
    run.write_bytes("run.json", json.dumps({"created": 0, "python": "3.11.7", "versions": {"diptych": "9.8"}}).encode())
    return Made(tmp_path / "data", run, tmp_path / "report.html")


def test_a_finished_run_has_every_section_filled(made: Made):
    page = made.page()
    assert [element["id"] for element in page.all("section")] == SECTIONS
    assert not page.all("p", "missing")
    for words in (
        "24 of 29 pairs became samples",
        "Not found (404)",
        "38.4%",
        "169× chance",
        "Image → text, recall@10",
    ):
        assert words in page.text
    assert "diptych 9.8" in page.text and "global_batch_size: 256" in page.text and "CC0" in page.text


def test_the_course_of_a_run_has_its_stages_its_cost_and_each_restart_with_its_cause(made: Made):
    """While it goes on, too: the second drive is not through."""
    made.run.write_bytes("run.yaml", b"name: waves\ntrain: {data: data, model: diptych-tiny, steps: 300}\n")
    for who in ("ann", "bob"):
        drive = begin_drive(made.run, "train")
        record_event(made.run, Event(drive.at, who, "began to drive", "train", drive.number))
        write_uses(made.run, drive.number, [NodeUse("train", 3, 1_700_000_000.0, 600.0)])
    lost = f"rank 1 on node 3f2a: its node died {HOSTILE}"
    record_event(made.run, Event(drive.at + 1, "bob", RETRY_EVENT, lost, drive.number))
    told = StageSnapshot("train", "steps", 180, 300, 2.5, 48.0, "", 72.0).to_json() | {"at": 1_700_000_072.0}
    made.run.write_bytes(f"drives/{drive.number:04d}/progress.json", json.dumps({"stages": {"train": told}}).encode())
    page = made.page()
    assert [element["id"] for element in page.all("section")] == [*SECTIONS[:-1], "course", "again"]
    assert "1.00 node-hours as of 2023-11-14 22:14 UTC." in page.text
    assert "train unfinished 180/300 steps 60% 2.5 steps/s 1 min 12 s 48 s 1.00" in page.text
    assert "Restarts: 2" in page.text and "driven again by bob (the driver before died)" in page.text
    assert " ".join(lost.split()) in page.text
    assert page.text.count("train 3 10 min 00 s 0.500") == 2
    assert {a["href"] for a in page.all("a")} >= {"#course"}


def test_the_page_loads_nothing(made: Made):
    page = made.page()
    sources = [a[name] for _, a in page.elements for name in ("src", "href", "srcset", "action", "data") if a.get(name)]
    assert sources and all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)
    style = (Path(write_report.__code__.co_filename).parent / "style.css").read_text()
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe-inline'; script-src 'sha256-" in policy


def test_captions_stay_text(made: Made):
    page = made.page()
    assert HOSTILE in page.text
    assert len(page.all("script")) == 1
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert "evil.example" not in json.dumps([a.get("src") for a in page.all("img")])


def test_title_credit_statuses_and_config_stay_text(made: Made):
    manifest = json.loads((made.data / "dataset.json").read_text())
    manifest["status_counts"] = {"success": 24, HOSTILE: 5}
    (made.data / "dataset.json").write_text(json.dumps(manifest))
    made.run.write_bytes("run.yaml", b"name: '</pre><script>1</script>'\n")
    page = made.page(title=HOSTILE, credit=HOSTILE)
    assert len(page.all("script")) == 1 and len(page.all("pre")) == 1
    assert "onerror" not in {name for _, a in page.elements for name in a}


def test_the_right_pictures_are_framed_and_ticked(made: Made):
    page = made.page()
    assert len(page.all("li", "right")) == 2  # first in one example, second in another
    assert len(page.all("span", "tick")) == 2
    assert len(page.all("div", "verdict")) == 3
    assert "not found" in page.text and "2nd" in page.text
    assert "1 in first place, 2 among the 5" in page.text
    assert sum("(the right one)" in (image["alt"] or "") for image in page.all("img")) == 3


def test_every_picture_and_chart_has_words_for_those_who_do_not_see_it(made: Made):
    page = made.page()
    assert all(image.get("alt") for image in page.all("img"))
    assert len(page.all("svg", "plot")) == 7
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in page.all("svg", "plot"))


def test_where_the_time_goes_and_the_validations_are_shown(made: Made):
    assert "Mend first" not in made.page().text
    times = [RankTimes(rank, 10, wait, 0.1, 4.0, 0.5, 0.0, 0.0, 0.2, 6.0) for rank, wait in ((0, 3.0), (1, 5.0))]
    write_ledger(made.run, 2, times)
    lines = [
        json.dumps({"step": step, "scores": [asdict(Score("text_to_image_recall@1", value, 0.01, 100))]})
        for step, value in ((60, 0.31), (120, 0.52), (180, 0.45))
    ]
    made.run.write_bytes(VALIDATION_FILE, "\n".join(lines).encode() + b"\n")
    page = made.page()
    assert "47 % of the time is waiting for data, most of it decoding" in page.text
    assert "rank 1" in page.text and "0.5000" in page.text
    assert "best 52.0% at step 120" in page.text and "45.0%" in page.text
    assert len(page.all("svg", "plot")) == 8


def test_a_restart_is_marked_in_every_curve(made: Made):
    page = made.page()
    assert len(page.all("path", "mark-head")) == 4
    assert "started again once and went on from a checkpoint: at step 126." in page.text


def test_parts_that_are_not_there_yet_are_named(tmp_path: Path):
    made = Made(tmp_path / "none", Storage(str(tmp_path / "run")), tmp_path / "report.html")
    page = made.page(credit=None)
    assert [element["id"] for element in page.all("section")] == SECTIONS
    assert len(page.all("p", "missing")) == 6
    for words in ("No finished dataset yet", "No training step yet", "Not evaluated yet", "not trained yet"):
        assert words in page.text
    assert "not built yet" in made.page(dataset_url=None).text


def test_the_same_inputs_give_the_same_bytes(made: Made):
    made.page()
    before = made.target.read_bytes()
    made.page()
    assert made.target.read_bytes() == before


def test_broken_pictures_and_a_dataset_that_changed_leave_a_tile(made: Made, tmp_path: Path):
    rows = [Row("broken", image=b"\xff\xd8 no picture", original=(9, 9)), Row("odd", image=b"<svg/>", original=(9, 9))]
    rows[0].image = picture(1)[:300]
    write_dataset(tmp_path / "other", [rows])
    page = made.page(dataset_url=str(tmp_path / "other"))
    assert len([tile for tile in page.all("span", "no-picture") if "missing" in (tile["aria-label"] or "")]) == 2
    write_scores(made.run, tmp_path / "gone", [example(0, [1, 2], ["a", "b", "c"])])
    assert len(made.page().all("span", "no-picture")) == 3
    write_scores(
        made.run, made.data, [RetrievalExample(SampleRef(9, 9, "x", "y"), (SampleRef(0, 3, "z", "z"),), (0.1,))]
    )
    assert len(made.page().all("span", "no-picture")) == 2


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1 half"), lambda path: path.write_bytes(b"")]
)
def test_shards_that_are_gone_or_damaged_leave_the_counts(damage: Callable[[Path], object], made: Made, tmp_path: Path):
    write_dataset(tmp_path / "other", [good_rows(3), good_rows(2, "kept number")])
    damage(tmp_path / "other" / "00000.parquet")
    page = made.page(dataset_url=str(tmp_path / "other"))
    assert "5 of 5 pairs became samples" in page.text and "kept number 1" in page.text
    damage(tmp_path / "other" / "00001.parquet")
    page = made.page(dataset_url=str(tmp_path / "other"))
    assert "5 of 5 pairs became samples" in page.text and page.text.count("diptych verify tells what is wrong") == 2


def test_empty_dataset_and_wild_numbers_do_not_break_it(made: Made, tmp_path: Path):
    write_dataset(tmp_path / "empty", [[Row("gone", "http_404")]])
    wild = [replace(step, loss=float("nan"), lr=0.0) for step in steps(1, 3, attempt=1)]
    write_metrics(made.run, [*wild, replace(wild[0], step=4, samples_per_s=float("inf"), logit_scale=float("nan"))])
    page = made.page(dataset_url=str(tmp_path / "empty"))
    assert "0 of 1 pairs became samples" in page.text and "holds no samples" in page.text
    assert "No finite value was recorded" in page.text
    write_metrics(made.run, steps(1, 1, attempt=1))
    assert len(made.page().all("path", "line")) == 4


def test_a_dataset_without_captions_and_sizes_is_shown_without_them(made: Made):
    for shard in ("00000", "00001"):
        table = pq.read_table(made.data / f"{shard}.parquet")
        bare = table.drop_columns(["caption", "width", "height", "original_width", "original_height"])
        pq.write_table(bare, made.data / f"{shard}.parquet")
    page = made.page()
    assert "(no caption)" in page.text and "File size in KB" in page.text
    assert "Width in pixels" not in page.text


def test_annotations_and_views_are_shown_with_the_steps_that_led_to_them(made: Made, tmp_path: Path):
    place = make_dataset(tmp_path / "shapes")
    assert "curation" not in [attributes.get("id") for attributes in made.page(dataset_url=place).all("section")]
    dataset = Dataset.open(place)
    counts = dataset.manifest.shard_rows
    write_annotation(dataset, "clip_score", [[row / 100 for row in range(count)] for count in counts], pa.float32())
    write_annotation(dataset, "phash", [list(range(count)) for count in counts], pa.uint64())
    with Progress(io.StringIO()) as progress:
        curate(CurateConfig(data=place, view="best", where={"clip_score": {"min": 0.02}}), progress)
    page = made.page(dataset_url=place)
    assert "curation" in [attributes.get("id") for attributes in page.all("section")]
    assert "views/best.parquet" in page.text and "0.02 ≤ clip_score" in page.text
    assert f"phash of {sum(counts):,} rows" in page.text
    drawn = [attributes.get("aria-label") or "" for attributes in page.all("svg")]
    assert len([label for label in drawn if label.startswith("clip_score: median")]) == 1
    assert not [label for label in drawn if "phash" in label]
    dataset.storage.write_bytes("columns/clip_score/00000.parquet", b"damaged")
    assert "views/best.parquet" in made.page(dataset_url=place).text


def test_a_large_run_stays_small_in_the_page(made: Made, tmp_path: Path):
    noise = np.random.default_rng(0)
    images = []
    for _ in range(12):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (400, 400, 3), np.uint8)).save(buffer, "JPEG")
        images.append(buffer.getvalue())
    rows = [Row("x" * 5000, image=images[index % 12], original=(400, 400)) for index in range(60)]
    write_dataset(tmp_path / "noise", [rows[:4]] * 30)
    write_metrics(made.run, steps(1, 20_000, attempt=1))
    captions = [row.caption for row in rows]
    write_scores(made.run, tmp_path / "noise", [example(0, [1, 2, 3, 0, 1], captions)] * 40)
    page = made.page(dataset_url=str(tmp_path / "noise"))
    assert made.target.stat().st_size < 2_000_000
    assert "Of 48 sampled rows of 120" in page.text and "mean of 50 steps" in page.text
    assert len(page.all("ul", "pictures")) == 1 and "18 of 120 samples" in page.text
    assert "12 of 40 kept queries" in page.text


def test_an_unwritable_target_is_the_users_error(made: Made, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(None, made.run, tmp_path / "file" / "report.html", "t")
