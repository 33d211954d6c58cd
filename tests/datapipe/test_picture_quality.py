"""Stored pictures are as near to an exact resize as img2dataset's."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "picture_quality.py"


@pytest.mark.parametrize("size", [(500, 375), (2000, 1500), (360, 480)])
def test_the_psnr_is_no_worse_than_img2datasets_by_half_a_decibel(size: tuple[int, int]):
    pytest.importorskip("img2dataset")
    spec = importlib.util.spec_from_file_location("picture_quality", BENCHMARK)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for mode, tools in benchmark.measure(benchmark.made_photographs(8, size)).items():
        assert tools["diptych"] >= tools["img2dataset"] - 0.5, (mode, tools)
