"""Weights to start from: every source, and all that must be refused."""

import json
import logging
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from saved_checkpoints import save_weights
from test_engine import config as any_config
from torch import nn

from infra.errors import ConfigError
from infra.storage import Storage
from training.checkpoint import CheckpointState
from training.config import LossName, TrainConfig
from training.model import create_model, model_to_train
from training.model_size import tower_of


def config(stage: int, loss: str = "clip", **values: Any) -> TrainConfig:
    return any_config(stage, loss, **{"model": "diptych-tiny"} | values)


def trained(name: str = "diptych-tiny", loss: str = "clip") -> dict[str, torch.Tensor]:
    """Weights that no fresh model has."""
    return {key: value.clone() for key, value in create_model(name, config(1, loss).loss, seed=99).state_dict().items()}


def assert_started_from(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin"])
def test_a_file_of_weights_is_what_training_starts_from(tmp_path: Path, suffix: str):
    state, path = trained(), tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    assert_started_from(model_to_train(config(1, pretrained=str(path))), state)


def test_an_open_clip_training_checkpoint_is_read(tmp_path: Path):
    state = trained()
    state["logit_scale"] = torch.tensor(3.0)  # open_clip's has no dimensions
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(wrapped, tmp_path / "epoch_3.pt")
    model = model_to_train(config(1, pretrained=str(tmp_path / "epoch_3.pt")))
    assert torch.equal(model.visual.proj, state["visual.proj"]) and model.logit_scale.item() == 3.0


def test_half_precision_weights_become_fp32(tmp_path: Path):
    torch.save({name: value.half() for name, value in trained().items()}, tmp_path / "half.pt")
    model = model_to_train(config(1, pretrained=str(tmp_path / "half.pt")))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_configs_own_scale_is_kept(tmp_path: Path):
    torch.save(trained(), tmp_path / "w.pt")
    model = model_to_train(config(1, pretrained=str(tmp_path / "w.pt"), initial_logit_scale=42.0))
    assert model.logit_scale.exp().item() == pytest.approx(42.0)


@pytest.mark.parametrize(("given", "kept"), [(4.6052, math.log(100)), (9.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)])
def test_a_scale_out_of_bounds_is_clamped_at_the_start(tmp_path: Path, given: float, kept: float):
    torch.save(trained() | {"logit_scale": torch.tensor(given)}, tmp_path / "w.pt")
    assert model_to_train(config(1, pretrained=str(tmp_path / "w.pt"))).logit_scale.item() == pytest.approx(kept)


@pytest.mark.parametrize("name", ["logit_scale", "logit_bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_scalar_that_is_no_number_is_refused(tmp_path: Path, name: str, value: float):
    torch.save(trained(loss="siglip") | {name: torch.tensor([value])}, tmp_path / "w.pt")
    values: dict[str, Any] = {"loss": LossName.SIGLIP, "pretrained": str(tmp_path / "w.pt")}
    with pytest.raises(ConfigError, match=f"{name} = {value}"):
        model_to_train(config(1, **values))
    assert model_to_train(config(1, **values, **{f"initial_{name}": 2.0})) is not None


def test_a_checkpoint_of_ours_is_a_start(tmp_path: Path):
    state = trained()
    facts = CheckpointState(3, "diptych-tiny", "clip", 8, 8, 0, {})
    path = save_weights(Storage(str(tmp_path)), facts, state)
    assert_started_from(model_to_train(config(1, pretrained=str(tmp_path / path))), state)


def test_a_hugging_face_folder_is_a_start(tmp_path: Path):
    state = trained()
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 192}}))
    assert_started_from(model_to_train(config(1, pretrained=str(tmp_path))), state)


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that transformers' CLIPModel gives to the same weights."""
    part = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    top = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "visual.ln_post.bias": "vision_model.post_layernorm.bias",
        "logit_scale": "logit_scale",
    }
    result = {"text_projection.weight": state["text_projection"].T, "visual_projection.weight": state["visual.proj"].T}
    for name, value in state.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        if "resblocks" in name:
            number, _, rest = name.partition("resblocks.")[2].partition(".")
            layer = f"{tower}.encoder.layers.{number}"
            if "in_proj" in rest:
                for one, third in zip("qkv", value.chunk(3), strict=True):
                    result[f"{layer}.self_attn.{one}_proj.{rest.rpartition('_')[2]}"] = third
            else:
                key, _, kind = rest.rpartition(".")
                result[f"{layer}.{part.get(key, 'self_attn.out_proj')}.{kind}"] = value
        elif name in top:
            result[top[name]] = value
    return {name: value.contiguous() for name, value in result.items()}


def test_a_transformers_folder_is_a_start_and_says_its_activation(tmp_path: Path):
    state = trained("diptych-tiny-quickgelu")
    save_file(as_transformers(state), tmp_path / "model.safetensors")
    sections = {"vision_config": {"hidden_act": "quick_gelu"}, "text_config": {"hidden_act": "quick_gelu"}}
    (tmp_path / "config.json").write_text(json.dumps(sections))
    values: dict[str, Any] = {"model": "diptych-tiny-quickgelu", "pretrained": str(tmp_path)}
    assert_started_from(model_to_train(config(1, **values)), state)
    sections["vision_config"]["hidden_act"] = sections["text_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(sections))
    with pytest.raises(ConfigError, match="trained with GELU"):
        model_to_train(config(1, **values))


def test_weights_on_s3_are_a_start(use_store: Any, store: Any, tmp_path: Path):
    state = trained()
    save_file(state, tmp_path / "w.safetensors")
    Storage(store.url("weights")).put_file(tmp_path / "w.safetensors", "w.safetensors")
    assert_started_from(model_to_train(config(1, pretrained=store.url("weights/w.safetensors"))), state)


def test_weights_of_coca_start_its_contrastive_part(tmp_path: Path):
    state = trained("diptych-tiny-coca") | {"text_decoder.resblocks.0.attn.in_proj_weight": torch.zeros(3, 3)}
    torch.save(state, tmp_path / "coca.pt")
    model = model_to_train(config(1, model="diptych-tiny-coca", pretrained=str(tmp_path / "coca.pt")))
    assert torch.equal(model.visual.proj, state["visual.proj"])


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_tower_may_start_from_weights_and_the_other_afresh(tmp_path: Path, tower: str):
    """As in LiT; a file that holds that tower alone will do."""
    state = trained()
    state["logit_scale"] = torch.tensor([1.0])
    torch.save(state, tmp_path / "w.pt")
    torch.save({name: value for name, value in state.items() if tower_of(name) == tower}, tmp_path / "tower.pt")
    fresh = model_to_train(config(1)).state_dict()
    for file in ("w.pt", "tower.pt"):
        values: dict[str, Any] = {"pretrained": str(tmp_path / file), "pretrained_towers": tower}
        for name, value in model_to_train(config(1, **values)).state_dict().items():
            assert torch.equal(value, (state if tower_of(name) == tower else fresh)[name]), name
    with pytest.raises(ConfigError, match="missing"):
        model_to_train(config(1, pretrained=str(tmp_path / "tower.pt")))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {}, "preprocess_cfg": 1}'])
def test_a_folder_whose_description_is_broken_is_refused(tmp_path: Path, content: str):
    save_file(trained(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"open_clip_config\.json cannot be used"):
        model_to_train(config(1, pretrained=str(tmp_path)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_positions_are_interpolated_to_another_picture_size(tmp_path: Path, dtype: torch.dtype):
    state = {name: value.to(dtype) for name, value in trained().items()}
    positions = state["visual.positional_embedding"]  # 1 + 6×6
    smooth = torch.linspace(0, 1, 4)[:, None, None].expand(4, 4, positions.shape[1]).reshape(16, -1)
    state["visual.positional_embedding"] = torch.cat((positions[:1], smooth.to(dtype)))
    torch.save(state, tmp_path / "small.pt")
    found = model_to_train(config(1, pretrained=str(tmp_path / "small.pt"))).visual.positional_embedding
    assert found.shape == positions.shape and torch.equal(found[0], positions[0].float())
    column = found[1:].reshape(6, 6, -1)[:, 0, 0]
    assert bool((column.diff() > 0).all()) and math.isclose(float(column.detach().mean()), 0.5, abs_tol=0.02)


class Attack:
    """Unpickled, it would leave a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, by_torch: bool):
    mark, path = tmp_path / "mark", tmp_path / "weights.pt"
    if by_torch:
        torch.save({"visual.proj": Attack(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Attack(mark)))
    with pytest.raises(ConfigError, match="cannot be read as tensors"):
        model_to_train(config(1, pretrained=str(path)))
    assert not mark.exists()


def test_a_script_module_is_refused(tmp_path: Path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(ConfigError, match="TorchScript"):
        model_to_train(config(1, pretrained=str(tmp_path / "script.pt")))


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 not a zip", b'{"a": 1}'])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, suffix: str):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    with pytest.raises(ConfigError, match=r"train\.pretrained"):
        model_to_train(config(1, pretrained=str(tmp_path / f"w.{suffix}")))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s.pop("visual.proj"), "missing .1.: visual.proj"),
        (lambda s: s.update(extra=torch.zeros(1)), "of another model .1.: extra"),
        (lambda s: s.update({"text_projection": torch.zeros(128, 512)}), "text_projection is 128×512 and not 128×192"),
        (lambda s: s.update({"token_embedding.weight": torch.zeros(9, 128)}), "9×128 and not 49408×128"),
        (lambda s: s.update({"positional_embedding": torch.zeros(77, 128)}), "77×128 and not 20×128"),
    ],
)
def test_weights_of_another_shape_are_refused_with_both_shapes(tmp_path: Path, change: Any, found: str):
    state = trained()
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=found):
        model_to_train(config(1, pretrained=str(tmp_path / "w.pt")))


def test_weights_with_another_activation_are_refused_with_both_names(tmp_path: Path):
    save_file(trained("diptych-tiny-quickgelu"), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    values: dict[str, Any] = {"model": "diptych-tiny-quickgelu", "pretrained": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"with GELU, and diptych-tiny-quickgelu has QuickGELU") as refused:
        model_to_train(config(1, **values))
    assert "train.model=diptych-tiny," in str(refused.value) + ","
    model_to_train(config(1, **values, allow_activation_mismatch=True))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    model_to_train(config(1, **values))


@pytest.mark.parametrize(
    ("model", "tag", "found"),
    [("ViT-B-32", "laion400m", "no tag of ViT-B-32"), ("ViT-B-32", "weights.npz", "no tag of ViT-B-32")],
)
def test_an_unknown_tag_is_refused_with_those_there_are(model: str, tag: str, found: str):
    with pytest.raises(ConfigError, match=found) as refused:
        model_to_train(config(1, model=model, pretrained=tag))
    assert "laion2b_s34b_b79k" in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"gone\.pt is not there"):
        model_to_train(config(1, pretrained=str(tmp_path / "gone.pt")))


def test_unknown_activations_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.save(trained(), tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        model_to_train(config(1, pretrained=str(tmp_path / "w.pt")))
    assert "which activation" in caplog.text
