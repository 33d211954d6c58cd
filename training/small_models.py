"""Small models of ours: one that learns on a laptop, and a tiny sibling of each family of CLIP models."""

from typing import Any

Architecture = dict[str, Any]

_TEXT: Architecture = {"context_length": 20, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3}
_TINY_TEXT: Architecture = _TEXT | {"width": 64, "heads": 2, "layers": 2}


def _with_timm(name: str, image_size: int, pool: str, projection: str | None) -> Architecture:
    return {
        "image_size": image_size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": projection,
    }


# In open_clip's form. The siblings are trained by the tests alone.
SMALL_ARCHITECTURES: dict[str, Architecture] = {
    # Learns a few thousand small pictures in minutes on two cores.
    "diptych-tiny": {
        "embed_dim": 192,
        "vision_cfg": {"image_size": 48, "layers": 6, "width": 128, "patch_size": 8, "head_width": 32},
        "text_cfg": _TEXT,
    },
    # Under a million parameters on pictures of full size: for measuring what a training spends beside its model.
    "diptych-nano": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "patch_size": 32, "head_width": 32},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2},
    },
    "diptych-tiny-quickgelu": {
        "embed_dim": 512,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": _TINY_TEXT,
    },
    "diptych-tiny-resnet": {
        "embed_dim": 1024,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 64},
        "text_cfg": _TINY_TEXT,
    },
    "diptych-tiny-convnext": {
        "embed_dim": 640,
        "vision_cfg": _with_timm("test_convnext", 64, "", "linear"),
        "text_cfg": _TINY_TEXT,
    },
    "diptych-tiny-siglip": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": _with_timm("test_vit", 160, "map", "none"),
        "text_cfg": _TINY_TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "diptych-tiny-eva": {
        "embed_dim": 512,
        "custom_text": True,
        "vision_cfg": _with_timm("eva02_tiny_patch14_224", 224, "token", None),
        "text_cfg": _TINY_TEXT,
    },
    "diptych-tiny-coca": {
        "embed_dim": 768,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "patch_size": 8,
            "head_width": 32,
            "attentional_pool": True,
            "attn_pooler_queries": 16,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": _TINY_TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": _TINY_TEXT | {"attn_pooler_heads": 2},
    },
    "diptych-tiny-mobileclip": {
        "embed_dim": 512,
        "custom_text": True,
        "vision_cfg": _with_timm("fastvit_t8", 64, "avg", None),
        "text_cfg": _TINY_TEXT | {"no_causal_mask": True},
    },
}
