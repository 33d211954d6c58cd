"""Every recipe is a config that works, and its training can be planned on any machine."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from small_datasets import make_dataset

from infra.errors import ConfigError
from orchestrator.cli import cli
from orchestrator.config import load_config
from orchestrator.dry_run import plan_run
from orchestrator.recipe_list import recipe, recipes
from training import model_names
from training.plan import plan_training

NAMES = [each.name for each in recipes()]


def written(name: str, folder: Path) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(recipe(name).text)
    return path


def test_the_recipes_of_the_papers_are_there():
    papers = {"clip-rn50", "clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14", "clip-vit-l-14-336"}
    assert papers | {"openclip-vit-b-32", "siglip-vit-b-16", "fine-tune", "lit", "laptop"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_planned_without_its_dataset(name: str, tmp_path: Path):
    # Weights of the net are left out here; that they fit is shown with files below.
    config = load_config(written(name, tmp_path), ["train.pretrained=null"])
    # The tokenizer of SigLIP is the hub's: without it the parts are planned all the same.
    assert config.train is not None
    plan = plan_training(config.train, None) if name.startswith("siglip") else plan_run(config)
    text = "\n".join(plan.lines())
    assert (plan.model in text and "not built yet" in text) or plan.steps is not None
    assert plan.image_parameters > 1e6 and plan.memory.total > 0
    if name.startswith(("clip-", "openclip", "siglip")):
        assert plan.global_batch_size == 32_768
    if name == "lit":
        assert plan.locked_parameters == plan.image_parameters


def test_a_dry_run_says_that_siglips_tokenizer_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    find = model_names.find_spec
    monkeypatch.setattr(model_names, "find_spec", lambda package: None if package == "transformers" else find(package))
    config = load_config(written("siglip-vit-b-16", tmp_path))
    with pytest.raises(ConfigError, match=r"timm/ViT-B-16-SigLIP of the Hugging Face hub.*\n.*\n.*pip install transf"):
        plan_run(config)


def test_lit_starts_its_image_tower_from_weights_and_its_text_tower_afresh(tmp_path: Path):
    settings = load_config(written("lit", tmp_path)).train
    assert settings is not None and settings.pretrained is not None
    assert settings.pretrained_towers == "image" and settings.lock.image is True and settings.lock.text is False


def test_clips_own_hyper_parameters_are_in_its_recipes(tmp_path: Path):
    settings = {name: load_config(written(name, tmp_path)).train for name in NAMES if name.startswith("clip-")}
    assert all(each is not None and each.weight_decay == 0.2 and each.beta1 == 0.9 for each in settings.values())
    rates = {name: each.lr for name, each in settings.items() if each is not None}
    assert rates == {
        "clip-rn50": 5e-4,
        "clip-vit-b-32": 5e-4,
        "clip-vit-b-16": 5e-4,
        "clip-vit-l-14": 4e-4,
        "clip-vit-l-14-336": 2e-5,
    }
    resnet, transformer = settings["clip-rn50"], settings["clip-vit-b-32"]
    assert resnet is not None and (resnet.beta2, resnet.eps) == (0.999, 1e-8)
    assert transformer is not None and (transformer.beta2, transformer.eps) == (0.98, 1e-6)


def test_an_unknown_recipe_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="laptop"):
        recipe("desktop")


def test_the_command_lists_and_prints_them():
    listed = CliRunner().invoke(cli, ["recipes"])
    assert [line.split()[0] for line in listed.output.splitlines()] == NAMES
    assert CliRunner().invoke(cli, ["recipes", "laptop"]).output == recipe("laptop").text


def test_a_dry_run_knows_the_dataset_and_starts_nothing(tmp_path: Path):
    make_dataset(tmp_path / "data")
    path = written("laptop", tmp_path)
    overrides = [f"train.data={tmp_path / 'data'}", "train.steps=null", "train.epochs=3", f"storage={tmp_path}/runs"]
    result = CliRunner().invoke(cli, ["train", str(path), *overrides, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "diptych-tiny: image tower 1.24 M parameters" in result.output
    assert "global batch 128 = 2 workers × 64 pairs" in result.output and "epochs of" in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("train.warmup_steps=500000", "got 500,000 and 0; the training has"),
        ("train.micro_batch_size=48", "nearest that fit are 96 and 192"),
        ("train.lock.image=9", "the tower has 6"),
        ("train.model=diptych-tinny", "Did you mean diptych-tiny"),
        ("train.activation_checkpointing=7", "activation_checkpointing"),
    ],
)
def test_a_dry_run_finds_what_cannot_work(tmp_path: Path, override: str, found: str):
    result = CliRunner().invoke(cli, ["train", str(written("laptop", tmp_path)), override, "--dry-run"])
    assert result.exit_code != 0 and found in str(result.exception)


def test_a_dry_run_finds_weights_of_another_embedding_width(tmp_path: Path):
    from training.config import LossName
    from training.model import create_model

    save_file(create_model("diptych-tiny-quickgelu", LossName.CLIP, 0).state_dict(), tmp_path / "w.safetensors")
    override = f"train.pretrained={tmp_path / 'w.safetensors'}"
    result = CliRunner().invoke(cli, ["train", str(written("laptop", tmp_path)), override, "--dry-run"])
    assert result.exit_code != 0
    assert "64×512 and not 128×192" in str(result.exception) and "embeds into 192" in str(result.exception)
