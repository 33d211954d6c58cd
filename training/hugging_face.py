"""Turns the weights of a transformers CLIPModel into open_clip's form."""

import re
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

_LAYER = re.compile(r"^(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")
_IN_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_BLOCKS = {"text": "transformer.resblocks", "vision": "visual.transformer.resblocks"}
_RENAMED = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    # Spelled so in transformers.
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}


def is_transformers_clip(state: State) -> bool:
    """Whether the weights are named as transformers names those of its CLIPModel."""
    return "vision_model.embeddings.class_embedding" in state and "visual_projection.weight" in state


def from_transformers(state: State) -> State:
    """The same weights by open_clip's names; what is unknown keeps its name."""
    result: State = {}
    for name, value in state.items():
        layer = _LAYER.match(name)
        if name.endswith("position_ids"):
            continue
        if name in _TRANSPOSED:
            result[_TRANSPOSED[name]] = value.T.contiguous()
        elif layer is None:
            result[_RENAMED.get(name, name)] = value
        else:
            tower, number, part, kind = layer.groups()
            prefix = f"{_BLOCKS[tower]}.{number}"
            if part in _IN_LAYER:
                result[f"{prefix}.{_IN_LAYER[part]}.{kind}"] = value
            elif part == "self_attn.q_proj":
                # open_clip keeps queries, keys and values in one matrix.
                others = [state[name.replace("q_proj", other)] for other in ("k_proj", "v_proj")]
                result[f"{prefix}.attn.in_proj_{kind}"] = torch.cat((value, *others))
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                result[name] = value
    return result


def transformers_has_quick_gelu(config: dict[str, Any]) -> bool | None:
    """Whether a transformers config says QuickGELU; None when it says nothing of the activation."""
    sections = [config.get(section) or {} for section in ("vision_config", "text_config")]
    activations = {section["hidden_act"] for section in sections if "hidden_act" in section}
    return None if not activations else activations == {"quick_gelu"}
