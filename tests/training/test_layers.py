"""How deep a parameter lies in its tower, by its name, and what is refused where that is not known."""

from typing import Any

import pytest

from infra.errors import ConfigError
from training.config import TrainConfig
from training.layers import depths, require_blocks

# As transformers 4.57 names the parameters of these towers, under open_clip's HFTextEncoder: stem, blocks, head.
HUB_TOWERS = {
    "roberta, xlm-roberta": (
        ["embeddings.word_embeddings.weight", "embeddings.LayerNorm.bias"],
        "encoder.layer.{}.attention.self.query.weight",
        ["pooler.dense.weight"],
    ),
    "mt5": (["embed_tokens.weight"], "block.{}.layer.1.DenseReluDense.wo.weight", ["final_layer_norm.weight"]),
    "nllb": (["embed_tokens.weight"], "layers.{}.self_attn_layer_norm.weight", ["layer_norm.bias"]),
}


@pytest.mark.parametrize("kind", HUB_TOWERS)
def test_text_towers_of_the_hub_are_numbered_from_the_stem_to_the_head(kind: str):
    stem, block, head = HUB_TOWERS[kind]
    names = [*stem, *(block.format(number) for number in range(12)), *head]
    found = depths(["logit_scale", "text.proj.0.weight", *(f"text.transformer.{name}" for name in names)])
    layers = [found[f"text.transformer.{name}"].layer for name in names]
    assert layers == [*([0] * len(stem)), *range(1, 13), *([13] * len(head))]
    assert found["text.proj.0.weight"].from_the_top == 0 and found["text.proj.0.weight"].blocks == 12


NAMES = ["visual.trunk.unheard_of.0.weight", "transformer.resblocks.0.ln_1.weight", "logit_scale"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"layer_decay": 0.8}, r"train\.layer_decay: got 0\.8; the blocks of the image tower of ViT-B-32"),
        ({"lock": {"image": 0}}, r"train\.lock\.image: got 0; .*(\n.*)*train\.lock\.image=false"),
        ({"lock": {"image": 2, "text": True}}, r"train\.lock\.image: got 2"),
    ],
)
def test_what_tells_layers_apart_is_refused_for_a_tower_of_unknown_blocks(values: dict[str, Any], found: str):
    with pytest.raises(ConfigError, match=found):
        require_blocks(NAMES, TrainConfig(data="unused", steps=1, **values))


@pytest.mark.parametrize(
    "values", [{}, {"lock": {"image": True, "text": 1}}, {"lock": {"image": True}, "layer_decay": 0.8}]
)
def test_such_a_tower_is_trained_or_locked_as_a_whole(values: dict[str, Any]):
    require_blocks(NAMES, TrainConfig(data="unused", steps=1, **values))
