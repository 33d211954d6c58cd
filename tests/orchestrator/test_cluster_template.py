"""`diptych cluster template` writes files that are filled with the config's needs, and never with a secret."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from commands import diptych

from infra.deploy.needs import ClusterNeeds
from infra.errors import ConfigError
from orchestrator.cli import cli
from orchestrator.cluster_needs import autoscaled_needs, fixed_needs
from orchestrator.config import load_config

CONFIG = """\
storage: {root}/runs
build: {{input: '{root}/urls/*.parquet', output: '{root}/datasets/birds', compute_hash: null}}
train: {{data: '${{build.output}}', steps: 100, workers: [4, 20]}}
evaluate: {{retrieval: {{data: '{root}/flickr'}}}}
"""
TARGETS: dict[str, tuple[str, ...]] = {
    "kuberay": ("--image", "registry.example/diptych:1"),
    "kuberay-cluster": ("--image", "registry.example/diptych:1"),
    "aws": ("--image", "registry.example/diptych:1", "--machine-image", "ami-1", "--export", "files.example:/birds"),
    "gcp": ("--image", "i:1", "--machine-image", "m", "--project", "p", "--export", "files.example:/birds"),
    "slurm": (),
}
PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEYID0000",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "RAY_AUTH_TOKEN": "planted-ray-token",
    "HF_TOKEN": "planted-hub-token",
    "WANDB_API_KEY": "planted-tracker-key",
    "REDIS_PASSWORD": "planted-redis-password",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "Birds_2.yaml"
    path.write_text(CONFIG.format(root="/shared/birds"))
    return path


def write(target: str, config: Path, *more: object, env: dict[str, str] | None = None) -> str:
    arguments = ["cluster", "template", target, config, *TARGETS[target], *more]
    done = CliRunner(env=env).invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0 and done.stderr == "", done.stderr
    return done.stdout


def embedded(target: str, text: str) -> dict[str, Any]:
    """The run's config in the file."""
    if target == "slurm":
        return dict(yaml.safe_load(text.split("<<'END_OF_CONFIG'\n")[1].split("END_OF_CONFIG\n")[0]))
    documents = list(yaml.safe_load_all(text))
    if target == "kuberay":
        return dict(yaml.safe_load(documents[0]["data"]["run.yaml"]))
    return dict(documents[0]["metadata"]["run"])


@pytest.mark.parametrize("target", TARGETS)
def test_no_secret_of_the_environment_gets_into_a_file(target: str, config: Path):
    text = write(target, config, env=PLANTED)
    assert not [name for name, secret in PLANTED.items() if secret in text]


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "kuberay-cluster"])
def test_the_file_holds_the_config_as_it_was_meant(target: str, config: Path, tmp_path: Path):
    found = embedded(target, write(target, config, "train.lr=1.0e-3"))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(found))
    again, before = load_config(tmp_path / "again.yaml"), load_config(config, ["train.lr=1.0e-3"])
    assert again.train and again.build and before.train and before.build
    assert again.name == "Birds_2" and again.evaluate == before.evaluate and again.storage == before.storage
    assert again.train.use_gpu is True and again.build.compute_hash is None
    free = {"use_gpu", "threads_per_worker"}
    assert again.train.model_dump(exclude=free) == before.train.model_dump(exclude=free)
    assert again.build.model_dump(exclude={"tasks"}) == before.build.model_dump(exclude={"tasks"})


@pytest.mark.parametrize("target", TARGETS)
def test_output_goes_to_a_file(target: str, config: Path, tmp_path: Path):
    assert write(target, config, "--output", tmp_path / "new" / "file") == ""
    assert (tmp_path / "new" / "file").read_text() == write(target, config)


@pytest.mark.parametrize("target", TARGETS)
def test_help_has_an_example(target: str):
    done = CliRunner().invoke(cli, ["cluster", "template", target, "--help"])
    assert done.exit_code == 0 and f"  diptych cluster template {target}" in done.stdout.partition("Example")[2]


def needs_of(tmp_path: Path, text: str, *overrides: str) -> ClusterNeeds:
    (tmp_path / "birds.yaml").write_text(text)
    return autoscaled_needs(load_config(tmp_path / "birds.yaml", overrides))


def test_needs_follow_from_the_config(config: Path):
    needs = autoscaled_needs(load_config(config))
    assert needs.name.startswith("birds-2-") and needs.shared_folder == "/shared/birds"
    assert (needs.min_workers, needs.max_workers, needs.workers_per_node, needs.use_gpu) == (4, 20, 8, True)
    assert (needs.min_train_nodes, needs.max_train_nodes, needs.gpus, needs.build_tasks) == (1, 3, 24, 32)


def name_of(tmp_path: Path, run: str, storage: str = "s3://b/runs") -> str:
    return needs_of(tmp_path, "evaluate: {retrieval: {data: s3://b/o}}\n", f"name='{run}'", f"storage={storage}").name


@pytest.mark.parametrize("run", ["birds", "birds-2", "b" * 40])
def test_a_run_whose_name_clusters_can_have_gives_it_to_its_own(tmp_path: Path, run: str):
    assert name_of(tmp_path, run) == run


def test_different_runs_have_clusters_of_different_names(tmp_path: Path):
    long = "b" * 99
    runs = ["Birds_1", "birds.1", "birds_1", "birds-1", "birds-1-", "1", "run-1", "1.", f"{long}1", f"{long}2"]
    names = {run: name_of(tmp_path, run) for run in runs}
    assert len(set(names.values())) == len(runs)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{,38}[a-z0-9])?", name) for name in names.values()), names
    assert names["Birds_1"].startswith("birds-1-") and names["1"].startswith("run-1-")
    assert name_of(tmp_path, "Birds_1") == names["Birds_1"] != name_of(tmp_path, "Birds_1", "s3://b/others")


@pytest.mark.parametrize(("workers", "per_node", "nodes"), [(1, 1, 1), (2, 2, 1), (3, 4, 1), (8, 8, 1), (9, 8, 2)])
def test_nodes_are_as_large_as_the_training_fills(tmp_path: Path, workers: int, per_node: int, nodes: int):
    config = CONFIG.format(root="/shared/birds").replace("[4, 20]", str(workers))
    needs = needs_of(tmp_path, config)
    assert (needs.workers_per_node, needs.max_train_nodes) == (per_node, nodes)


def test_a_run_that_only_builds_needs_no_training_nodes(tmp_path: Path):
    needs = needs_of(tmp_path, "storage: /d/runs\nbuild: {input: /d/u.csv, output: s3://b/o, tasks: 9}\n")
    assert (needs.max_train_nodes, needs.gpus, needs.build_nodes, needs.shared_folder) == (0, 0, 2, "/d")


def test_the_value_of_a_condition_is_no_place(tmp_path: Path):
    text = "storage: s3://b/runs\ntrain: {data: {path: s3://b/data, where: {folder: /birds}}, steps: 1}\n"
    assert needs_of(tmp_path, text).shared_folder is None


def test_a_run_that_only_evaluates_has_one_place_to_do_it(tmp_path: Path):
    needs = needs_of(tmp_path, "storage: /d/runs\nevaluate: {retrieval: {data: /d/o}}\n")
    assert (needs.max_train_nodes, needs.gpus) == (1, 1)


def test_places_without_a_folder_of_their_own_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"only / in common: /datasets/o, /runs"):
        needs_of(tmp_path, "storage: /runs\nevaluate: {retrieval: {data: /datasets/o}}\n")


def test_slurm_nodes_are_all_there_so_the_build_takes_their_cores(config: Path):
    assert "tasks" not in yaml.safe_load(fixed_needs(load_config(config)).config)["build"]


@pytest.mark.parametrize(
    "override", ["build.proxy=http://me:planted@proxy:3128", "train.data=s3://me:planted@bucket/d"]
)
def test_a_config_with_credentials_is_refused_without_showing_them(override: str, config: Path):
    done = diptych("cluster", "template", "kuberay", config, override, *TARGETS["kuberay"], cwd=config.parent)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert override.partition("=")[0] in done.stderr and "planted" not in done.stderr


def test_local_places_in_a_cloud_need_a_file_system_that_holds_them(config: Path):
    without = TARGETS["aws"][:-2]
    done = diptych("cluster", "template", "aws", config, *without, cwd=config.parent)
    assert done.returncode == 2 and "/shared/birds" in done.stderr and "--export SERVER:/PATH" in done.stderr
