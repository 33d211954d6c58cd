"""The rules of the house: floors, file heads, and a tree that the README draws as it is."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("infra", "datapipe", "training", "orchestrator")
HEAVY = {"torch", "ray", "deepspeed", "open_clip", "cv2", "pyarrow", "pydantic", "numpy", "rich", "yaml"}
COMMANDS = sorted((ROOT / "orchestrator").glob("*_commands.py"))
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path: Path):
    floor = FLOORS.index(path.relative_to(ROOT).parts[0])
    upward = imported_packages(path) & set(FLOORS[floor + 1 :])
    assert not upward, f"{path.name} is on floor {FLOORS[floor]} and imports {upward}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_its_job_in_its_first_line(path: Path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring and docstring.splitlines()[0].endswith("."), f"{path} has no first line that says its job"


@pytest.mark.parametrize("file", ["cli.py", "options.py", *(path.name for path in COMMANDS)])
def test_the_command_line_imports_nothing_heavy_to_show_its_help(file: str):
    tree = ast.parse((ROOT / "orchestrator" / file).read_text())
    top = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {(node.module or "").split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not top & HEAVY


def test_the_readme_draws_the_tree_as_it_is():
    readme = (ROOT / "README.md").read_text()
    for floor in FLOORS:
        block = re.search(rf"^    {floor}/ (.*(?:\n     .*)*)", readme, re.MULTILINE)
        assert block, f"the README's tree has no {floor}/"
        drawn = set(re.findall(r"([a-z0-9_]+(?:\.py|/))", block[1]))
        on_disk = {path.name for path in (ROOT / floor).glob("*.py")} - {"__init__.py"}
        on_disk |= {f"{path.parent.name}/" for path in (ROOT / floor).glob("*/__init__.py")}
        assert drawn == on_disk


def test_torch_and_torchvision_are_bounded_as_a_pair():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {name: text for text in dependencies for name in ("torch", "torchvision") if re.match(rf"{name}\W", text)}
    # torchvision 0.N is built against torch 2.(N-15).
    torch_minor = int(re.search(r">=2\.(\d+)", bounds["torch"])[1])
    vision_minor = int(re.search(r">=0\.(\d+)", bounds["torchvision"])[1])
    assert vision_minor - torch_minor == 15
    assert f"<2.{torch_minor + 1}" in bounds["torch"] and f"<0.{vision_minor + 1}" in bounds["torchvision"]
