"""An exported model, read by open_clip alone, is the checkpoint's; whatever the family and the loss."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from saved_checkpoints import save_weights

from infra.errors import CorruptData, StageFailed
from infra.storage import Storage, storage_of
from training import export
from training.checkpoint import CheckpointState
from training.config import LossName
from training.export import CONFIG_FILE, WEIGHTS_FILE, export_model, is_exported
from training.model import create_model

SIBLINGS = ["diptych-tiny", "diptych-tiny-quickgelu", "diptych-tiny-resnet", "diptych-tiny-siglip", "diptych-tiny-coca"]


def save(run: Storage, model: str, loss: LossName, **settings: Any) -> tuple[Storage, torch.nn.Module]:
    """A checkpoint with random weights, and the model that has them."""
    module = create_model(model, loss, seed=7)
    state = CheckpointState(
        step=12, model=model, loss=loss.value, batch_size=32, samples=100, seed=0, settings=settings, skipped=0
    )
    return run.at(save_weights(run, state, module.state_dict())), module.eval()


@pytest.mark.parametrize("loss", LossName)
@pytest.mark.parametrize("model", SIBLINGS)
def test_open_clip_reads_it_and_finds_the_same_features_scale_and_bias(tmp_path: Path, model: str, loss: LossName):
    checkpoint, ours = save(storage_of(tmp_path / "run"), model, loss)
    export_model(checkpoint, storage_of(tmp_path / "export"), "birds", use_average=True)
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'export'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'export'}")(["a red square", "a blue bar"])
    sources = [Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), quality) for quality in (9, 70)]
    pictures = torch.stack([preprocess(source) for source in sources])
    with torch.inference_mode():
        assert torch.equal(theirs.eval().encode_image(pictures), ours.encode_image(pictures))
        assert torch.equal(theirs.encode_text(tokens), ours.encode_text(tokens))
    assert theirs.logit_scale.item() == ours.logit_scale.item()
    assert (theirs.logit_bias is None) == (loss is LossName.CLIP)
    assert loss is LossName.CLIP or theirs.logit_bias.item() == ours.logit_bias.item()


def test_pictures_are_prepared_with_the_trainings_own_constants(tmp_path: Path):
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    checkpoint, _ = save(storage_of(tmp_path / "run"), "diptych-tiny", LossName.CLIP, mean=mean, std=std)
    export_model(checkpoint, storage_of(tmp_path / "export"), "birds", use_average=True)
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'export'}")
    grey = preprocess(Image.new("RGB", (300, 200), (51, 51, 51)))
    torch.testing.assert_close(grey[:, 0, 0], (0.2 - torch.tensor(mean)) / torch.tensor(std))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_pictures_become_square_as_in_the_trainings_evaluation(tmp_path: Path, mode: str):
    checkpoint, _ = save(storage_of(tmp_path / "run"), "diptych-tiny", LossName.CLIP, resize_mode=mode)
    export_model(checkpoint, storage_of(tmp_path / "export"), "birds", use_average=True)
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'export'}")
    wide = Image.new("RGB", (300, 100))
    wide.paste((255, 255, 255), (0, 0, 60, 100))  # a fifth, at the edge
    square = preprocess(wide)[0]
    assert bool(square[:, 0].mean() > square[:, -1].mean() + 1) is (mode == "squash")


def test_a_model_that_open_clip_reads_as_another_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint, _ = save(storage_of(tmp_path / "run"), "diptych-tiny", LossName.CLIP)
    real = export.contrastive_architecture
    monkeypatch.setattr(export, "contrastive_architecture", lambda name: real(name) | {"quick_gelu": True})
    with pytest.raises(StageFailed, match="encode_image"):
        export_model(checkpoint, storage_of(tmp_path / "export"), "birds", use_average=True)
    assert not (tmp_path / "export").exists() or not list((tmp_path / "export").iterdir())


def test_a_damaged_checkpoint_is_refused_and_a_half_written_folder_is_none(tmp_path: Path):
    checkpoint, _ = save(storage_of(tmp_path / "run"), "diptych-tiny", LossName.CLIP)
    output = storage_of(tmp_path / "export")
    export_model(checkpoint, output, "birds", use_average=False)
    assert len({path.stat().st_mode for path in (tmp_path / "export").iterdir()}) == 1
    assert is_exported(output) and json.loads(output.read_bytes(CONFIG_FILE))["model_cfg"]["embed_dim"] == 192
    output.delete(WEIGHTS_FILE)
    assert not is_exported(output)
    part = next(path for path in Path(checkpoint.url).iterdir() if path.suffix == ".safetensors")
    damaged = bytearray(part.read_bytes())
    damaged[-1] ^= 1
    part.write_bytes(damaged)
    with pytest.raises(CorruptData):
        export_model(checkpoint, output, "birds", use_average=False)
