"""The report's parts alone: axes, charts, words, markup and thumbnails."""

import base64
import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from datapipe.decode import open_image
from datapipe.status import SampleStatus
from orchestrator.report.dataset_facts import spread
from orchestrator.report.histogram import Distribution, bin_edges, histogram
from orchestrator.report.line_chart import LineChart, line_chart, moving_mean
from orchestrator.report.markup import Html, el, join, void
from orchestrator.report.pictures import thumbnail_uri
from orchestrator.report.scales import exact_scale, rounded_scale, size_scale, tick_labels
from orchestrator.report.wording import (
    FAILURES,
    failure_group,
    failure_words,
    file_size,
    headline_score,
    percent,
    score_words,
    shortened,
    times_chance,
)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 5.55], ["0", "2", "4", "6"]),
        ([0, 5e-4], ["0.0000", "0.0001", "0.0002", "0.0003", "0.0004", "0.0005"]),
        ([0, 260], ["0", "100", "200", "300"]),
        ([14.3, 23.1], ["14", "16", "18", "20", "22", "24"]),
        ([0, 1e-9], ["0", "2e-10", "4e-10", "6e-10", "8e-10", "1e-09"]),
    ],
)
def test_an_axis_has_round_ticks_that_hold_the_values(values, labels):
    scale = rounded_scale(values)
    assert tick_labels(scale.ticks) == labels
    assert scale.low <= min(values) and scale.high >= max(values)


@pytest.mark.parametrize("values", [[0.0], [7.0], [-3.0, -3.0], [1e-30], [1e12, 1e12 + 1]])
def test_a_single_value_still_has_an_axis(values):
    for scale in (rounded_scale(values), exact_scale(values)):
        assert scale.low < scale.high
        assert 0 <= scale.place(values[0]) <= 1


@pytest.mark.parametrize(("low", "high"), [(16, 4000), (5, 80), (1, 1e9), (300, 310), (64, 64)])
def test_size_axes_are_few_ticks_in_order_and_inside(low, high):
    scale = size_scale([low, high])
    assert 2 <= len(scale.ticks) <= 9
    assert all(a < b for a, b in itertools.pairwise(scale.ticks))
    assert scale.low <= scale.ticks[0] and scale.ticks[-1] <= scale.high


def test_bins_cover_the_axis_and_bars_count_every_value():
    values = np.array([16.0, 17.0, 64.0, 64.0, 4000.0])
    assert len(bin_edges(size_scale(list(values)))) == 27
    chart = histogram("sizes", "px", [Distribution("stored", values, "median 64 px")])
    counts = [int(text.split(": ")[1].split()[0]) for text in chart.split("<title>")[1:]]
    assert sum(counts) == 5


def test_a_moving_mean_keeps_the_ends_and_a_straight_line():
    line = [(float(step), 3.0 * step) for step in range(50)]
    smooth = moving_mean(line)
    assert len(smooth) == 50
    assert all(math.isclose(a[1], b[1], abs_tol=1e-9) for a, b in zip(line, smooth, strict=True))


def test_a_chart_has_a_note_for_every_point_and_escapes_them():
    chart = line_chart(LineChart('a "b" <c>', [(1, 2.0), (2, 1.0)], ["one", '"><two>'], rounded_scale([0, 2])))
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in chart
    assert "<two>" not in chart and "&quot;one&quot;" in chart


def test_every_status_has_its_words_and_its_group():
    reasons = [str(status) for group in FAILURES.values() for status in group]
    assert len(reasons) == len(set(reasons))
    assert {status.value for status in SampleStatus if not status.is_success} <= set(reasons)
    assert failure_words("http_404") == "Not found (404)" and failure_group("http_404") == "Answer"
    assert failure_words("some_day") == "some day" and failure_group("some_day") == "Other"


def test_numbers_are_written_for_people():
    assert [percent(share) for share in (0, 0.00227, 0.0994, 0.384, 0.9999, 1)] == [
        "0%",
        "0.23%",
        "9.94%",
        "38.4%",
        "99.9%",
        "100%",
    ]
    assert [times_chance(*pair) for pair in ((0.384, 0.00227), (0.5, 0.1), (0.5, 0))] == ["169×", "5.0×", "—"]
    assert [file_size(size) for size in (812, 3400, 26_800_000, 999_700)] == ["812 B", "3.4 KB", "26.8 MB", "1.0 MB"]
    assert shortened("a  b\nc" + "d" * 100, 8) == "a b cdd…"


def test_scores_are_named_and_the_headline_is_text_to_image():
    assert score_words("image_to_text_recall@5") == "Image → text, recall@5"
    assert score_words("zero_shot_accuracy") == "Zero-shot accuracy"
    assert headline_score(["zero_shot", "text_to_image_recall@10", "text_to_image_recall@1"]) == 2
    assert headline_score(["zero_shot"]) == 0 and headline_score([]) is None


def test_markup_escapes_all_but_markup():
    assert (
        el("p", "<b>&", Html("<i>"), None, class_="a", data_x='"')
        == '<p class="a" data-x="&quot;">&lt;b&gt;&amp;<i></p>'
    )
    assert void("img", alt="'", hidden=True, width=None, x=1.5) == '<img alt="&#x27;" hidden x="1.5">'
    assert isinstance(join("a", el("b")), Html)


def test_indices_are_spread_evenly():
    assert spread(10, 3) == [1, 5, 8]
    assert spread(2, 5) == [0, 1]
    assert spread(0, 5) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_thumbnail_is_small_and_carries_nothing_of_the_original(kind):
    image = Image.new(
        "RGBA" if kind == "PNG" else "RGB", (900, 300), (0, 0, 0, 0) if kind == "PNG" else (255, 255, 255)
    )
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=b"SECRET" * 1000)
    with pytest.raises(Image.DecompressionBombError):
        open_image(buffer.getvalue(), 1000)  # a lower limit, set before in the same process, is not the report's
    uri = thumbnail_uri(buffer.getvalue(), 100)
    small = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))
    assert small.size == (100, 33)
    assert small.convert("RGB").getpixel((50, 15)) == (255, 255, 255)
    assert b"SECRET" not in base64.b64decode(uri.split(",")[1])


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"\xff\xd8\xff", b"GIF89a\x01\x00\x01\x00", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_bytes_that_are_no_picture_give_none(data):
    assert thumbnail_uri(data, 64) is None


def test_a_picture_of_too_many_pixels_is_not_decoded():
    buffer = io.BytesIO()
    Image.new("1", (40_000, 30_000)).save(buffer, "PNG")
    assert thumbnail_uri(buffer.getvalue(), 64) is None
