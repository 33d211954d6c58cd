"""The demo as the README gives it reaches what the project promises."""

import json
from pathlib import Path

import pytest
from commands import diptych

pytestmark = pytest.mark.slow

TIMES_CHANCE = 60
HELD_OUT = 400


def test_held_out_retrieval_is_at_least_sixty_times_chance(tmp_path: Path):
    done = diptych("demo", "--workdir", "demo", "--json", cwd=tmp_path, timeout_s=1500)
    assert done.returncode == 0, done.stderr
    scores = {score["name"]: score for score in json.loads((tmp_path / "demo" / "scores.json").read_text())["scores"]}
    assert scores == {score["name"]: score for score in json.loads(done.stdout)["scores"]}
    recall = scores["text_to_image_recall@1"]
    assert recall["samples"] >= HELD_OUT
    assert recall["value"] >= TIMES_CHANCE * recall["chance"]
    zero_shot = scores["zero_shot_accuracy"]
    assert zero_shot["value"] > 1.5 * zero_shot["chance"]
