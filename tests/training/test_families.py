"""Every family of CLIP models: published sizes without memory, and a tiny sibling that really trains."""

from typing import Any

import pytest
import torch
from ranks import Ranks
from test_engine import config, make_engine, make_model, state

from infra.errors import ConfigError
from training.model_size import size_of
from training.small_models import SMALL_ARCHITECTURES

# image, text, total (with one scalar, or two for SigLIP), embedding width.
EXACT = {
    "RN50": (38_316_896, 63_690_240, 102_007_137, 1024),
    "RN101": (56_259_936, 63_428_096, 119_688_033, 512),
    "RN50x4": (87_137_080, 91_163_520, 178_300_601, 640),
    "RN50x16": (167_328_912, 123_650_304, 290_979_217, 768),
    "RN50x64": (420_380_352, 202_877_952, 623_258_305, 1024),
    "ViT-B-32": (87_849_216, 63_428_096, 151_277_313, 512),
    "ViT-B-16": (86_192_640, 63_428_096, 149_620_737, 512),
    "ViT-L-14": (303_966_208, 123_650_304, 427_616_513, 768),
    "ViT-L-14-336": (304_293_888, 123_650_304, 427_944_193, 768),
    "ViT-H-14": (632_076_800, 354_032_640, 986_109_441, 1024),
    "ViT-g-14": (1_012_645_632, 354_032_640, 1_366_678_273, 1024),
    "ViT-bigG-14": (1_844_907_264, 694_659_840, 2_539_567_105, 1280),
    "ViT-B-16-SigLIP": (92_884_224, 110_271_744, 203_155_970, 768),
    "ViT-SO400M-14-SigLIP-384": (428_225_600, 449_734_896, 877_960_498, 1152),
    "ViT-B-16-SigLIP2": (92_884_224, 282_303_744, 375_187_970, 768),
    "convnext_base": (88_090_752, 63_428_096, 151_518_849, 512),
    "convnext_base_w": (88_221_824, 91_163_520, 179_385_345, 640),
    "convnext_xxlarge": (846_543_744, 354_032_640, 1_200_576_385, 1024),
}
# Millions: image tower, total, embedding width. Of CoCa the published total counts the decoder of captions too.
ROUNDED = {
    "convnext_large_d": (199.77, 351.77, 768),
    "EVA02-B-16": (86.26, 149.69, 512),
    "EVA02-L-14": (304.11, 427.76, 768),
    "coca_ViT-B-32": (89.16, None, 512),
    "coca_ViT-L-14": (306.72, None, 768),
    "MobileCLIP-S1": (21.54, 84.97, 512),
}
SIBLINGS = sorted(set(SMALL_ARCHITECTURES) - {"diptych-tiny"})


@pytest.mark.parametrize("name", EXACT)
def test_a_model_has_its_published_number_of_parameters(name: str):
    size = size_of(name)
    assert (size.image, size.text, size.total, size.embedding_width) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_a_model_has_its_published_millions_of_parameters(name: str):
    image, total, width = ROUNDED[name]
    size = size_of(name)
    assert size.image / 1e6 == pytest.approx(image, abs=0.01) and size.embedding_width == width
    assert total is None or size.total / 1e6 == pytest.approx(total, abs=0.01)


def test_an_unknown_model_has_no_size():
    with pytest.raises(ConfigError, match="ViT-B-32"):
        size_of("ViT-B32")


def two_steps(_group: Any, name: str, stage: int, loss: str):
    """Losses, the features' width, and the towers whose parameters all stood still."""
    from training.architectures import architecture_of
    from training.bad_steps import BadStepJudge, BadStepRule
    from training.model import model_traits
    from training.model_size import tower_of
    from training.step import StepPlace, split_micro_batches, train_step

    settings = config(stage, loss, model=name, micro_batch_size=2)
    start = {key: value.detach().clone() for key, value in make_model(settings).named_parameters()}
    engine = make_engine(settings)
    traits = model_traits(name)
    rank = torch.distributed.get_rank()
    judge = BadStepJudge(BadStepRule(settings.on_bad_step, settings.divergence_factor, settings.max_bad_steps))
    losses = []
    for step in range(2):
        chance = torch.Generator().manual_seed(10 * step + rank)
        shape = (4, 3, traits.image_size, traits.image_size)
        images = torch.randint(0, 256, shape, generator=chance, dtype=torch.uint8)
        tokens = torch.randint(1, 49000, (4, architecture_of(name)["text_cfg"]["context_length"]), generator=chance)
        parts = split_micro_batches(images, tokens, 2)
        losses.append(train_step(engine, settings.loss, traits, parts, 1e-3, StepPlace(0, step, rank), judge).loss)
    masters, _ = state(engine)
    moved = {tower_of(key) for key, value in masters.items() if not torch.equal(value, start[key])}
    still = [key for key, value in masters.items() if torch.equal(value, start[key])]
    return losses, moved, still, set(masters) == set(start)


def assert_it_trains(ranks: Ranks, name: str, stage: int, loss: str) -> None:
    results = ranks.run(two_steps, [(name, stage, loss)] * 3)
    for losses, moved, still, is_whole in results:
        assert losses == results[0][0] and all(map(torch.isfinite, map(torch.tensor, losses)))
        assert moved == {"image", "text", "scalars"} and is_whole
        # Rows of tokens that did not occur aside, every weight has a gradient.
        assert still == [], still


@pytest.mark.parametrize(
    ("name", "stage"),
    # Every day each at one stage in turn.
    [
        pytest.param(name, stage, marks=() if stage == 1 + number % 3 else pytest.mark.slow)
        for number, name in enumerate(SIBLINGS)
        for stage in (1, 2, 3)
    ],
)
def test_a_tiny_sibling_of_each_family_trains_at_every_zero_stage(ranks: Ranks, name: str, stage: int):
    assert_it_trains(ranks, name, stage, "siglip" if "siglip" in name else "clip")


@pytest.mark.parametrize(("name", "total"), [("coca_ViT-B-32", 253.56), ("coca_ViT-L-14", 638.45)])
def test_cocas_published_total_is_its_contrastive_part_and_the_decoder(name: str, total: float):
    import open_clip
    from open_clip.coca_model import CoCa

    architecture = open_clip.get_model_config(name)
    architecture.pop("custom_text")
    with torch.device("meta"):
        whole = CoCa(**architecture)
    decoder = sum(parameter.numel() for parameter in whole.text_decoder.parameters())
    assert (size_of(name).total + decoder) / 1e6 == pytest.approx(total, abs=0.01)
