"""Builds the dataset of a config with the dying decoder; a program of the tests."""

import sys
from pathlib import Path

from dying_decoder import process_or_die

from datapipe.build import build
from infra.cluster import connect
from infra.progress import Progress
from orchestrator.config import load_config

if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]), []).build
    assert config is not None
    with connect(Path(sys.argv[2]), cpus=2), Progress() as progress:
        build(config, progress, process_or_die)
