"""Which parameters are decayed, and how fast each layer learns."""

import pytest

from training.architectures import build_without_memory
from training.config import TrainConfig, WeightDecayRule
from training.layers import depths
from training.locking import lock_towers
from training.parameter_groups import parameter_groups
from training.small_models import SMALL_ARCHITECTURES


def config(**values: object) -> TrainConfig:
    return TrainConfig.model_validate({"data": "unused", "steps": 1, **values})


def decayed(model: str, rule: WeightDecayRule) -> int:
    groups = parameter_groups(build_without_memory(model), config(weight_decay_rule=rule))
    return sum(parameter.numel() for group in groups if group["weight_decay"] for parameter in group["params"])


# By hand: ViT-B/32 has 50×768 + 77×512 positions; RN50 has (7² + 1)×2048 + 77×512.
@pytest.mark.parametrize(("model", "positions"), [("ViT-B-32", 50 * 768 + 77 * 512), ("RN50", 50 * 2048 + 77 * 512)])
def test_the_rules_differ_by_the_positional_embeddings(model: str, positions: int):
    by_openai, by_open_clip = (decayed(model, rule) for rule in WeightDecayRule)
    assert by_openai - by_open_clip == positions


def test_openais_rule_decays_all_matrices_and_no_vector():
    model = build_without_memory("ViT-B-32")
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim >= 2 and "ln" not in name)
    assert decayed("ViT-B-32", WeightDecayRule.OPENAI) == matrices
    groups = parameter_groups(model, config())
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(p.numel() for p in model.parameters())
    kept = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    assert any(p is model.logit_scale for p in kept)


@pytest.mark.parametrize(
    "name",
    [*SMALL_ARCHITECTURES, "ViT-B-32", "RN50", "convnext_base", "ViT-B-16-SigLIP", "swin_base_patch4_window7_224"],
)
def test_layers_are_numbered_from_the_stem_to_the_head_in_every_family(name: str):
    found = depths(parameter for parameter, _ in build_without_memory(name).named_parameters())
    for tower in ("visual.", ""):
        of_tower = {key: depth for key, depth in found.items() if key.startswith("visual.") == bool(tower)}
        layers = {depth.layer for key, depth in of_tower.items() if not key.startswith("logit_")}
        blocks = next(iter(of_tower.values())).blocks if tower else max(depth.blocks for depth in of_tower.values())
        assert blocks >= 2 and layers == set(range(blocks + 2)), (tower, layers)


def test_a_layer_learns_slower_the_deeper_it_lies():
    model = build_without_memory("ViT-B-32")
    scale_of = {
        id(parameter): group["lr_scale"]
        for group in parameter_groups(model, config(layer_decay=0.5))
        for parameter in group["params"]
    }
    scales = {name: scale_of[id(parameter)] for name, parameter in model.named_parameters()}
    assert scales["visual.proj"] == scales["text_projection"] == scales["logit_scale"] == 1
    assert scales["visual.transformer.resblocks.11.mlp.c_fc.weight"] == 0.5
    assert scales["visual.transformer.resblocks.0.mlp.c_fc.weight"] == 0.5**12
    assert scales["visual.conv1.weight"] == scales["token_embedding.weight"] == 0.5**13


def test_locked_parameters_are_in_no_group():
    model = build_without_memory("RN50")
    lock_towers(model, config(lock={"image": True}).lock)
    grouped = {id(parameter) for group in parameter_groups(model, config()) for parameter in group["params"]}
    assert not any(id(parameter) in grouped for parameter in model.visual.parameters())
    assert all(id(parameter) in grouped for parameter in model.transformer.parameters())
