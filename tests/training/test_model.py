"""Models by name: their sizes, their seeds and what they are fed."""

from typing import Any

import open_clip
import pytest
import torch

from infra.errors import ConfigError
from training import model_names
from training.architectures import architecture_of, build_without_memory
from training.config import LossName
from training.model import Tokenizer, check_tokenizer, create_model, model_traits
from training.model_names import check_hub_packages, check_model_name, open_clip_names
from training.small_models import SMALL_ARCHITECTURES


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


def texts_of(name: str) -> dict[str, Any]:
    text: dict[str, Any] = architecture_of(name)["text_cfg"]
    return text


def test_the_tokenizers_that_need_no_hub_fit_their_models():
    # One of each shape: the tokenizers differ in nothing else.
    of_shape = {
        (text.get("context_length"), text.get("vocab_size")): name
        for name in (*SMALL_ARCHITECTURES, *open_clip_names())
        if not (text := texts_of(name)).keys() & {"hf_tokenizer_name", "hf_model_name"}
    }
    assert len(of_shape) >= 6
    for name in of_shape.values():
        check_tokenizer(name)


def test_a_tokenizer_that_gives_more_tokens_than_the_model_takes_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda _name: open_clip.SimpleTokenizer(context_length=100))
    with pytest.raises(ConfigError, match="gives 100 tokens for each caption; its text tower takes 77"):
        check_tokenizer("ViT-B-32")


def test_a_tokenizer_with_more_words_than_the_model_is_refused(monkeypatch: pytest.MonkeyPatch):
    small = architecture_of("diptych-tiny")
    small["text_cfg"]["vocab_size"] = 1000
    monkeypatch.setitem(SMALL_ARCHITECTURES, "diptych-few-words", small)
    with pytest.raises(ConfigError, match="gives 49,408 different tokens; its text tower takes 1,000"):
        check_tokenizer("diptych-few-words")


OF_THE_HUB = [name for name in open_clip_names() if "hf_model_name" in texts_of(name)]


@pytest.mark.parametrize("name", [*OF_THE_HUB, "ViT-B-16-SigLIP"])
def test_what_comes_from_the_hub_is_refused_without_transformers(name: str, monkeypatch: pytest.MonkeyPatch):
    find = model_names.find_spec
    monkeypatch.setattr(model_names, "find_spec", lambda package: None if package == "transformers" else find(package))
    assert len(OF_THE_HUB) == 10
    checks = (check_hub_packages, check_tokenizer, *([build_without_memory] if name in OF_THE_HUB else []))
    for check in checks:
        with pytest.raises(ConfigError, match="pip install transformers"):
            check(name)


def test_a_model_with_all_its_own_parts_needs_no_hub():
    for name in ("ViT-B-32", "RN50", "MobileCLIP-B", "coca_ViT-B-32", "diptych-tiny"):
        check_hub_packages(name)
