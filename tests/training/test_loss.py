"""The losses on 1, 2 and 3 ranks against one process that holds the whole batch in float64."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranks import Ranks
from torch import Tensor

from training.loss import clip_loss, siglip_loss

LOSSES = ("clip", "siglip")


def reference(name: str, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The formulas as the papers write them, on the whole batch."""
    logits = scale * images @ texts.T
    if name == "clip":
        labels = torch.arange(len(images))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    signs = 2 * torch.eye(len(images), dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * (logits + bias)).sum() / len(images)


def loss_and_gradients(loss_of: Callable[..., Tensor], inputs: tuple[Any, ...], dtype: torch.dtype):
    leaves = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in inputs]
    loss = loss_of(*leaves)
    loss.backward()
    return loss.item(), [None if leaf.grad is None else leaf.grad.double().numpy() for leaf in leaves]


def on_rank(group: Any, name: str, dtype: str, *inputs: Any):
    def loss_of(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if name == "clip":
            return clip_loss(images, texts, scale, group=group)
        return siglip_loss(images, texts, scale, bias, group=group)

    return loss_and_gradients(loss_of, inputs, getattr(torch, dtype))


def unit_rows(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    values = rng.normal(size=(rows, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def compare(
    ranks: Ranks, name: str, counts: list[int], width: int, scale: float, seed: int, dtype: str, tolerance: float
) -> None:
    rng = np.random.default_rng(seed)
    images = unit_rows(rng, sum(counts), width)
    # Texts near their pictures, as in training: else the softmax is flat and hides errors.
    texts = images + 0.5 * unit_rows(rng, sum(counts), width)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    bias = -3.0
    value, whole = loss_and_gradients(partial(reference, name), (images, texts, scale, bias), torch.float64)
    cuts = np.cumsum(counts)[:-1]
    parts = zip(np.split(images, cuts), np.split(texts, cuts), strict=True)
    results = ranks.run(on_rank, [(name, dtype, i, t, scale, bias) for i, t in parts])
    for rank_value, _ in results:
        assert rank_value == pytest.approx(value, rel=tolerance, abs=tolerance)
    # Where the softmax is saturated the gradient s/2N·(P + Q − 2I)·y is the small difference of terms of size s/N.
    size = max(np.abs(whole[0]).max(), scale / sum(counts))
    for place in (0, 1):
        # Each rank holds W times its gradient, which the average over ranks divides by W again.
        gathered = np.concatenate([gradients[place] for _, gradients in results]) / len(counts)
        assert np.abs(gathered - whole[place]).max() <= tolerance * size
    for place in (2, 3) if name == "siglip" else (2,):
        mean = np.mean([gradients[place] for _, gradients in results])
        assert mean == pytest.approx(whole[place], rel=tolerance, abs=tolerance * size)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    width=st.integers(1, 17),
    scale=st.floats(1, 100),
    seed=st.integers(0, 10**6),
)
def test_value_and_gradients_are_those_of_one_process(
    ranks: Ranks, name: str, counts: list[int], width: int, scale: float, seed: int
):
    compare(ranks, name, counts, width, scale, seed, "float64", 1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("counts", [[48], [24, 24], [16, 16, 16], [20, 17, 11]], ids=str)
def test_in_single_precision_the_error_is_rounding(ranks: Ranks, name: str, counts: list[int]):
    # Rounding one logit alone costs scale · 6e-8, here 9e-7.
    compare(ranks, name, counts, 64, 1 / 0.07, 1, "float32", 1e-6)


def test_equal_embeddings_give_the_logarithm_of_the_batch():
    rows = F.normalize(torch.ones(64, 8, dtype=torch.float64), dim=1)
    assert clip_loss(rows, rows, torch.tensor(10.0)).item() == pytest.approx(math.log(64), rel=1e-12)


@pytest.mark.parametrize(("size", "golden"), [(8, 4.374115e-06), (1024, 6.390428e-04)])
def test_clip_of_orthonormal_pairs_is_the_published_value(size: int, golden: float):
    rows = torch.eye(size, dtype=torch.float64)
    assert clip_loss(rows, rows, torch.tensor(1 / 0.07, dtype=torch.float64)).item() == pytest.approx(golden, rel=1e-6)


@pytest.mark.parametrize(("matched", "golden"), [(True, 0.693465), (False, 10.000363)])
def test_siglip_has_its_published_values(matched: bool, golden: float):
    images = torch.eye(8, 16, dtype=torch.float64)
    texts = images if matched else torch.eye(16, dtype=torch.float64)[8:]
    loss = siglip_loss(images, texts, torch.tensor(10.0), torch.tensor(-10.0))
    assert loss.item() == pytest.approx(golden, rel=1e-6)


def test_siglip_is_exact_where_softplus_would_be_cut(ranks: Ranks):
    # Logits just above 20, where torch's softplus gives up its exponential.
    compare(ranks, "siglip", [4], 10, 61.0, 401712, "float64", 1e-12)


@pytest.mark.parametrize("rows", [torch.zeros(4, 8), F.normalize(torch.ones(4, 8), dim=1)], ids=["zero", "equal"])
def test_degenerate_features_give_finite_losses_and_gradients(rows: Tensor):
    scale, bias = torch.tensor(100.0), torch.tensor(-10.0)
    for loss in (clip_loss, partial(siglip_loss, logit_bias=bias)):
        leaf = rows.clone().requires_grad_()
        value = loss(leaf, leaf, scale)
        value.backward()
        assert math.isfinite(value.item()) and leaf.grad is not None and bool(leaf.grad.isfinite().all())
