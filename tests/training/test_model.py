"""Models by name: their sizes, their seeds and what they are fed."""

import open_clip
import pytest
import torch

from infra.errors import ConfigError
from training.config import LossName
from training.model import Tokenizer, create_model, model_traits
from training.model_names import check_model_name, open_clip_names


def test_the_known_names_are_those_of_open_clip():
    assert list(open_clip_names()) == sorted(open_clip.list_models())


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(ConfigError, match="ViT-B-32"):
        check_model_name("ViT-B/32")


def test_the_weights_depend_on_the_seed_alone():
    torch.manual_seed(99)
    one = create_model("diptych-tiny", LossName.CLIP, seed=1).state_dict()
    two = create_model("diptych-tiny", LossName.CLIP, seed=1).state_dict()
    other = create_model("diptych-tiny", LossName.CLIP, seed=2).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["text_projection"], other["text_projection"])


@pytest.mark.parametrize("loss", list(LossName))
def test_scale_and_bias_start_at_the_papers_values(loss: LossName):
    model = create_model("diptych-tiny", loss, seed=0)
    outputs = model(torch.zeros(2, 3, 48, 48), Tokenizer("diptych-tiny")(["a", "b"]))
    assert outputs[0].norm(dim=1).allclose(torch.ones(2)) and outputs[1].norm(dim=1).allclose(torch.ones(2))
    assert outputs[2].item() == pytest.approx(1 / 0.07 if loss is LossName.CLIP else 10)
    if loss is LossName.SIGLIP:
        assert outputs[3].item() == -10


def test_an_open_clip_model_has_its_published_size_and_traits():
    model = create_model("ViT-B-32", LossName.CLIP, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313
    assert model_traits("ViT-B-32").image_size == 224
    assert model_traits("ViT-B-16-SigLIP").mean == (0.5, 0.5, 0.5)
