"""Writes a checkpoint's model as a folder that open_clip and the Hugging Face hub read, and reads it again as a proof.

The form is open_clip's own: `open_clip.create_model_and_transforms("local-dir:FOLDER")`, or `hf-hub:NAME` once the
folder is uploaded. Source: open_clip 3.3, `push_to_hf_hub.py`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from torch import Tensor, nn

from infra.errors import StageFailed
from infra.storage import Storage
from training.architectures import contrastive_architecture
from training.model import Tokenizer
from training.trained_model import TrainedModel, load_model

CONFIG_FILE = "open_clip_config.json"  # written last: with it the folder is whole
WEIGHTS_FILE = "open_clip_model.safetensors"
CARD_FILE = "README.md"
SCALARS = ("logit_scale", "logit_bias")
PROBE_TEXTS = ("a photo of a bird", "two red squares on a blue table", "")

CARD = """\
---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags: [clip]
---
# {name}

{model} after {step:,} steps over global batches of {batch_size:,} pairs with the {loss} loss, trained with diptych.

```python
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:FOLDER")  # or "hf-hub:OWNER/NAME"
tokenize = open_clip.get_tokenizer("local-dir:FOLDER")
```
"""


def export_model(checkpoint: Storage, output: Storage, name: str, *, use_average: bool) -> None:
    """Writes weights, config and a model card into `output`, and the tokenizer's files where it has some.

    use_average: the weights' moving average, where the checkpoint has one. Raises CorruptData for a damaged
    checkpoint, StageFailed when open_clip's model of the folder gives other features than ours.
    """
    trained = load_model(checkpoint, use_average=use_average)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write(folder, name, trained)
        _require_same_features(folder, trained)
        if output.exists(CONFIG_FILE):
            output.delete(CONFIG_FILE)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_FILE):
            output.put_file(path, path.name)


def is_exported(output: Storage) -> bool:
    """Whether the folder is whole."""
    return output.exists(CONFIG_FILE) and output.exists(WEIGHTS_FILE)


def _write(folder: Path, name: str, trained: TrainedModel) -> None:
    state, weights = trained.state, trained.module.state_dict()
    # Ours are vectors of one element, for DeepSpeed's sake.
    in_their_form = {key: value.reshape(()) if key in SCALARS else value for key, value in weights.items()}
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in in_their_form.items()}, folder / WEIGHTS_FILE, {"format": "pt"}
    )
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it to its owner alone
    architecture = contrastive_architecture(state.model)
    architecture.pop("nonscalar_logit_scale", None)
    # What the model has of a bias depends on the loss that it was trained with, not on its name.
    architecture.pop("init_logit_bias", None)
    if "logit_bias" in weights:
        architecture["init_logit_bias"] = float(weights["logit_bias"])
    preprocessing = {
        "mean": list(trained.traits.mean),
        "std": list(trained.traits.std),
        "interpolation": "bicubic",
        "resize_mode": trained.traits.resize_mode.value,
    }
    text = json.dumps({"model_cfg": architecture, "preprocess_cfg": preprocessing}, indent=2)
    (folder / CONFIG_FILE).write_text(text)
    card = CARD.format(name=name, model=state.model, step=state.step, batch_size=state.batch_size, loss=state.loss)
    (folder / CARD_FILE).write_text(card)
    Tokenizer(state.model).save(folder)


def _require_same_features(folder: Path, trained: TrainedModel) -> None:
    place = f"local-dir:{folder}"
    # A tower of the hub whose weights are in our file needs none from there.
    theirs: Any = open_clip.create_model(place, pretrained_hf=False)
    generator = torch.Generator().manual_seed(0)
    side = trained.traits.image_size
    pictures = torch.rand(2, 3, side, side, generator=generator)
    tokens = open_clip.get_tokenizer(place)(list(PROBE_TEXTS))
    for what, inputs in (("encode_image", pictures), ("encode_text", tokens)):
        expected, found = (_features(model, what, inputs) for model in (trained.module, theirs))
        if not torch.equal(expected, found):
            error = (expected - found).abs().max()
            raise StageFailed(
                f"open_clip's {what} of the exported {trained.state.model} is off by {error:.1e}.",
                "An exported model gives the very features of the checkpoint's. Nothing was written.",
                "Report it with the open_clip version; the checkpoint is as good as before.",
            )


# Both models are made outside of it: torch computes otherwise with weights that were made inside.
@torch.inference_mode()
def _features(model: nn.Module, what: str, inputs: Tensor) -> Tensor:
    features: Tensor = getattr(model.eval(), what)(inputs, normalize=True)
    return features
