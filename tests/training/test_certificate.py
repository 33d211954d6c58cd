"""The loss certificate: passes on sound workers, and finds each way in which a global loss is usually wrong."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import Ranks
from torch import Tensor

from infra.errors import StageFailed
from training import loss_tiles, tile_check
from training.certificate import LossCertificate, certify_loss
from training.config import LossName
from training.loss import clip_loss, siglip_loss

CPU = torch.device("cpu")


def certify(group: Any, name: str, dtype: str) -> LossCertificate:
    return certify_loss(LossName(name), CPU, getattr(torch, dtype), group=group)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("name", list(LossName))
def test_the_runs_losses_pass_on_any_number_of_workers(ranks: Ranks, name: LossName, workers: int):
    for certificate in ranks.run(certify, [(name.value, "float32")] * workers):
        assert 0 < certificate.error < 2e-6 < certificate.tolerance
        assert certificate.ranks == workers and f"{workers} worker" in str(certificate)


@pytest.mark.parametrize("name", list(LossName))
def test_bf16_features_pass_within_their_rounding(ranks: Ranks, name: LossName):
    for certificate in ranks.run(certify, [(name.value, "bfloat16")] * 2):
        assert 0 < certificate.error < certificate.tolerance


def test_without_a_process_group_it_is_one_worker():
    assert certify_loss(LossName.CLIP, CPU, torch.float32).ranks == 1


def local_only(group: Any, images: Tensor, texts: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
    """Each rank's own batch, as if it were the whole."""
    labels = torch.arange(len(images))
    logits = scale * images @ texts.T
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def averaged(group: Any, images: Tensor, texts: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
    """The right value, with gradients that are averaged once too often."""
    loss = clip_loss(images, texts, scale, group=group)
    return loss.detach() + (loss - loss.detach()) / dist.get_world_size(group)


def without_texts(group: Any, images: Tensor, texts: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
    """No gradient through the gathered side."""
    return clip_loss(images, texts.detach(), scale, group=group)


def frozen_scale(group: Any, images: Tensor, texts: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
    return clip_loss(images, texts, scale.detach(), group=group)


def frozen_bias(group: Any, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return siglip_loss(images, texts, scale, bias.detach(), group=group)


def not_a_number(group: Any, images: Tensor, texts: Tensor, scale: Tensor, _bias: Tensor) -> Tensor:
    return clip_loss(images * math.nan, texts, scale, group=group)


def verdict(group: Any, name: str, wrong: Any) -> str:
    try:
        certify_loss(LossName(name), CPU, torch.float32, group=group, loss=lambda *leaves: wrong(group, *leaves))
    except StageFailed as error:
        return str(error)
    return "passed"


@pytest.mark.parametrize("wrong", [local_only, averaged, without_texts, frozen_scale, not_a_number])
def test_a_wrong_clip_loss_stops_every_worker(ranks: Ranks, wrong: Any):
    for text in ranks.run(verdict, [("clip", wrong)] * 2):
        assert "clip loss over 2 workers is off by" in text


def test_a_wrong_siglip_loss_stops_every_worker(ranks: Ranks):
    for text in ranks.run(verdict, [("siglip", frozen_bias)] * 3):
        assert "siglip loss over 3 workers is off by" in text


def off_by_a_tenth(function: Any) -> Any:
    def run(products: Tensor, *others: Any) -> Any:
        results = function(products, *others)
        if results is None:
            others[1].mul_(1.1)  # it works in place
            return None
        return tuple(1.1 * each for each in results) if isinstance(results, tuple) else 1.1 * results

    return run


@pytest.mark.parametrize("name", list(LossName))
def test_the_compiled_arithmetic_of_a_tile_is_compared_with_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, name: LossName
):
    monkeypatch.setattr(tile_check, "TILE", 256)
    torch._dynamo.reset()
    assert tile_check.compiled_error(name, CPU) == 0  # on a CPU nothing is compiled
    monkeypatch.setattr(tile_check, "fused", lambda function, _device: loss_tiles.compiled(function, "aot_eager"))
    assert tile_check.compiled_error(name, CPU) < 1e-5
    assert certify_loss(name, CPU, torch.float32).error < 1e-5
    monkeypatch.setattr(tile_check, "fused", lambda function, _device: off_by_a_tenth(function))
    with pytest.raises(StageFailed, match=r"is off by 1.0e-01"):
        certify_loss(name, CPU, torch.float32)
