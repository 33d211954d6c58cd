"""Puts all that a cluster needs of ours into one folder: the four packages, their version, and a run's config."""

import shutil
from importlib.metadata import version
from pathlib import Path

DISTRIBUTION = "diptych"
PACKAGES = ("infra", "datapipe", "training", "orchestrator")
CONFIG_NAME = "run.yaml"


def write_package(folder: Path, config_yaml: bytes) -> None:
    """Fills an empty folder. What is not ours (torch, ray, …) is the cluster's to have."""
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    number = version(DISTRIBUTION)
    facts = folder / f"{DISTRIBUTION}-{number}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {number}\n")
    (folder / CONFIG_NAME).write_bytes(config_yaml)
