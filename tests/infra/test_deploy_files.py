"""The Dockerfile and the Slurm script pass their linters, and all deployment files come with the package."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from deploy_needs import needs
from packaging.requirements import Requirement

from infra.deploy.slurm import slurm_job
from infra.deploy.template_file import template_text

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "infra" / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
SLURM_NEEDS = {
    "all": needs(),
    "build": needs(min_workers=0, max_workers=0, use_gpu=False),
    "curate": needs(min_workers=0, max_workers=0, use_gpu=False, build_tasks=0),
    "cpu": needs(use_gpu=False, min_workers=2, max_workers=2, workers_per_node=1),
}
SCRIPTS = {"as it lies": template_text("slurm/job.sbatch")}
SCRIPTS |= {name: slurm_job(each) for name, each in SLURM_NEEDS.items()}


def lint(program: str, *arguments: object) -> None:
    """Runs a linter of the tests' environment; what it says is the failure."""
    found = shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_slurm_script_is_clean_bash(name: str, tmp_path: Path):
    script = tmp_path / "job.sbatch"
    script.write_text(SCRIPTS[name])
    subprocess.run(["bash", "-n", script], check=True)
    lint("shellcheck", "--shell=bash", script)


def directives(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))


def test_the_slurm_script_asks_for_the_runs_nodes():
    asked = directives(SCRIPTS["all"])
    assert (asked["job-name"], asked["nodes"], asked["cpus-per-task"]) == ("birds", "1-3", "64")
    assert asked["gpus-per-node"] == "8"
    without = directives(SCRIPTS["cpu"])
    assert without["nodes"] == "2" and "gpus-per-node" not in without
    assert directives(SCRIPTS["build"])["nodes"] == "3"
    assert directives(SCRIPTS["curate"])["nodes"] == "1"


def test_the_slurm_script_holds_the_runs_config():
    assert f"<<'END_OF_CONFIG'\n{needs().config}END_OF_CONFIG\n" in SCRIPTS["all"]


def test_slurm_reads_all_directives():
    for text in SCRIPTS.values():
        lines = text.splitlines()
        first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
        assert not any(line.startswith("#SBATCH") for line in lines[first_command:])


def test_the_dockerfile_passes_its_linter():
    lint("hadolint", "--failure-threshold", "style", DOCKERFILE)


def test_the_image_is_pinned_and_not_roots():
    instructions = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith(("#", " "))]
    (base,) = [line for line in instructions if line.startswith("FROM ")]
    assert re.fullmatch(r"FROM nvidia/cuda:[\w.-]+@sha256:[0-9a-f]{64}", base)
    users = [line for line in instructions if line.startswith("USER ")]
    assert users == ["USER 1000:1000"] and instructions.index(users[0]) > instructions.index(base)
    assert not any("ENV" in line and re.search("KEY|TOKEN|SECRET|PASSWORD", line) for line in instructions)


def test_the_image_gets_what_it_copies():
    for sources in re.findall(r"^COPY (.*) /\S+$", DOCKERFILE.read_text(), re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_the_images_versions_fulfil_the_packages_bounds():
    lines = [line for line in template_text("docker/constraints.txt").splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    wanted = [Requirement(text) for text in requires("diptych") or []]
    for requirement in wanted:
        if requirement.marker is None:
            name = requirement.name.lower().replace("_", "-")
            assert requirement.specifier.contains(pins[name]), f"{requirement} is not fulfilled by {pins[name]}"


def test_every_deployment_file_comes_with_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["infra.deploy"]
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            name = path.relative_to(DEPLOY).as_posix()
            assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), f"{name} is not in the wheel"
