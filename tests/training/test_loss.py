"""The losses on 1 to 4 ranks against one process that holds the whole batch in float64."""

import ctypes
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exact_losses import Result, exact_result, of_sixty_digits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranks import Ranks
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from training import loss_tiles
from training.loss import clip_loss, siglip_loss
from training.loss_sweep import Place, Sweep

LOSSES = ("clip", "siglip")
BIAS = -3.0
KINDS = ("random", "copies", "matched", "near-duplicates")
# Elsewhere, gradients are small differences or tiny shares: of solved pairs, and of CLIP's that are all but equal.
MILLIONTH_KINDS = {"clip": ("random", "copies"), "siglip": ("random", "copies", "near-duplicates")}
by_property = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(tmp_path_factory.mktemp("four"), 4) as ranks:
        yield ranks


def plain(name: str, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The formulas as the papers write them, on the whole batch."""
    logits = scale * images @ texts.T
    if name == "clip":
        labels = torch.arange(len(images))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    signs = 2 * torch.eye(len(images), dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * (logits + bias)).sum() / len(images)


def ours(name: str, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    if name == "clip":
        return clip_loss(images, texts, scale, **options)
    return siglip_loss(images, texts, scale, bias, **options)


def taken(loss_of: Callable[..., Tensor], inputs: tuple[Any, ...], dtype: torch.dtype) -> Result:
    leaves = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in inputs]
    loss = loss_of(*leaves)
    loss.backward()
    images, texts, scale, bias = (
        np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.double().numpy() for leaf in leaves
    )
    return Result(loss.item(), images, texts, float(scale), float(bias))


def on_rank(group: Any, name: str, dtype: torch.dtype, tile: int, *inputs: Any) -> Result:
    return taken(partial(ours, name, group=group, tile=tile), inputs, dtype)


def on_ranks(
    ranks: Ranks, name: str, counts: list[int], inputs: tuple[Any, ...], dtype: torch.dtype, tile: int
) -> Result:
    """What DeepSpeed's and DDP's average over ranks makes of the ranks' gradients."""
    images, texts, *scalars = inputs
    cuts = np.cumsum(counts)[:-1]
    parts = zip(np.split(images, cuts), np.split(texts, cuts), strict=True)
    results = ranks.run(on_rank, [(name, dtype, tile, *part, *scalars) for part in parts])
    assert len({result.value for result in results}) == 1
    return Result(
        results[0].value,
        np.concatenate([result.images for result in results]) / len(counts),
        np.concatenate([result.texts for result in results]) / len(counts),
        float(np.mean([result.scale for result in results])),
        float(np.mean([result.bias for result in results])),
    )


def unit(values: np.ndarray) -> np.ndarray:
    # Rounded to fp32, so that in fp32 the loss alone errs and not its inputs.
    return np.float64(np.float32(values / np.linalg.norm(values, axis=1, keepdims=True)))


def features(kind: str, rows: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of both sides: independent ("random"), half of the pictures near-duplicates of others with captions of
    their own ("copies"), each pair alike ("matched"), or all rows near one of three places ("near-duplicates")."""
    chance = np.random.default_rng(seed)
    noise = [unit(chance.normal(size=(rows, width))) for _ in range(2)]
    if kind == "random":
        return noise[0], noise[1]
    if kind == "copies":
        copied = np.where(chance.random(rows) < 0.5, chance.integers(0, rows, rows), np.arange(rows))
        return unit(noise[0][copied] + 1e-3 * unit(chance.normal(size=(rows, width)))), noise[1]
    if kind == "matched":
        return noise[0], unit(noise[0] + 0.5 * noise[1])
    centers = unit(chance.normal(size=(3, width)))[chance.integers(0, 3, rows)]
    return unit(centers + 1e-3 * noise[0]), unit(centers + 1e-3 * noise[1])


def sizes(exact: Result, scale: float, rows: int) -> dict[str, float]:
    """What an error is measured against: the largest gradient.

    Where pairs are near-duplicates, gradients are small differences of terms of size s/N (for the scale: of the
    products' size, 1), which no order of summing brings out.
    """
    largest = max(np.abs(exact.images).max(), np.abs(exact.texts).max(), scale / rows)
    return {
        "value": max(1.0, abs(exact.value)),
        "images": largest,
        "texts": largest,
        "scale": max(1.0, abs(exact.scale)),
        "bias": max(1.0, abs(exact.bias)),
    }


@pytest.mark.parametrize("name", LOSSES)
@by_property(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    width=st.integers(1, 17),
    scale=st.floats(1, 100),
    tile=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
)
def test_value_and_gradients_are_those_of_one_process(
    four_ranks: Ranks, name: str, counts: list[int], width: int, scale: float, tile: int, kind: str, seed: int
):
    inputs = (*features(kind, sum(counts), width, seed), scale, BIAS)
    exact = taken(partial(plain, name), inputs, torch.float64)
    errors = on_ranks(four_ranks, name, counts, inputs, torch.float64, tile).errors(exact)
    for what, size in sizes(exact, scale, sum(counts)).items():
        assert errors[what] <= 1e-12 * size, what


def single_errors(
    four_ranks: Ranks, name: str, counts: list[int], inputs: tuple[Any, ...]
) -> Iterator[tuple[str, float, float]]:
    """Of the value and each gradient in fp32: our error and that of the formula on one matrix.

    Errors are shares of the largest gradient: of the features', or for the scalars of all; for the value, of 1.
    """
    exact = exact_result(name, *inputs)
    of_ours = on_ranks(four_ranks, name, counts, inputs, torch.float32, 16).errors(exact)
    of_plain = taken(partial(plain, name), inputs, torch.float32).errors(exact)
    of_features = max(np.abs(exact.images).max(), np.abs(exact.texts).max())
    of_all = max(of_features, abs(exact.scale), abs(exact.bias))
    largest = {"value": max(1.0, abs(exact.value)), "images": of_features, "texts": of_features}
    for what, error in of_ours.items():
        size = largest.get(what, of_all) or 1.0  # a single pair of CLIP has no gradient
        yield what, error / size, of_plain[what] / size


pairs_in_single_precision = {
    "counts": st.lists(st.integers(1, 20), min_size=1, max_size=4),
    "width": st.integers(2, 64),
    "scale": st.floats(1, 30, width=32),
    "seed": st.integers(0, 10**6),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in LOSSES for kind in MILLIONTH_KINDS[name]])
@by_property(max_examples=40, derandomize=True)
@given(**pairs_in_single_precision)
def test_in_single_precision_the_error_is_a_millionth_of_the_largest_gradient(
    four_ranks: Ranks, name: str, kind: str, counts: list[int], width: int, scale: float, seed: int
):
    inputs = (*features(kind, sum(counts), width, seed), scale, BIAS)
    for what, error, _ in single_errors(four_ranks, name, counts, inputs):
        assert error <= 1e-6, what


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_elsewhere_the_error_is_at_most_twice_the_plain_formulas(four_ranks: Ranks, name: str, kind: str):
    """Up to a scale of 100, and of CLIP's solved and nearly equal pairs from 10: their gradients are small differences
    or tiny shares, for which rounding a logit alone costs more than a millionth."""
    for scale in (10.0, 30.0, 40.0, 60.0, 100.0):
        # The worst of several batches: of one alone, either may be right by luck.
        worst: dict[str, list[tuple[float, float]]] = {}
        for seed in range(8):
            inputs = (*features(kind, 96, 48, seed), scale, BIAS)
            for what, error, of_plain in single_errors(four_ranks, name, [30, 26, 24, 16], inputs):
                worst.setdefault(what, []).append((error, of_plain))
        for what, errors in worst.items():
            of_ours, of_plain = (max(each) for each in zip(*errors, strict=True))
            rounding = 1e-6 if scale <= 30 else 2.4e-7
            assert of_ours <= max(rounding, 2 * of_plain), (what, scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_yardstick_is_right_where_float64_itself_cancels(name: str, kind: str):
    inputs = (*features(kind, 5, 4, 3), 100.0, BIAS)
    exact, digits = exact_result(name, *inputs), of_sixty_digits(name, *inputs)
    assert exact.value == pytest.approx(digits.value, rel=1e-12, abs=1e-300)
    for what, error in exact.errors(digits).items():
        assert error <= 1e-12 * max(1e-300, np.abs(digits.images).max(), abs(digits.value)), what
    assert np.abs(exact.images - digits.images).max() <= 1e-9 * np.abs(digits.images).max()


@pytest.mark.parametrize("rows", [4, 60])
def test_nearly_solved_pairs_keep_their_gradient(rows: int):
    """Where the softmax of a match rounds to 1, 1 − P is lost in the plain formula and not in ours."""
    inputs = (*features("matched", rows, 64, 7), 25.0, BIAS)
    exact = taken(partial(plain, "clip"), inputs, torch.float64)
    single = taken(partial(ours, "clip", tile=16), inputs, torch.float32)
    assert np.abs(exact.images).max() < 1e-6
    assert np.abs(single.images - exact.images).max() <= 2e-5 * np.abs(exact.images).max()
    assert single.value == pytest.approx(exact.value, rel=1e-5)


def test_equal_embeddings_give_the_logarithm_of_the_batch():
    rows = F.normalize(torch.ones(64, 8, dtype=torch.float64), dim=1)
    assert clip_loss(rows, rows, torch.tensor(10.0)).item() == pytest.approx(math.log(64), rel=1e-12)


@pytest.mark.slow
def test_equal_embeddings_of_clips_own_batch_give_its_logarithm():
    rows = F.normalize(torch.ones(32_768, 1), dim=1)
    assert clip_loss(rows, rows, torch.tensor(100.0)).item() == pytest.approx(10.397208, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("size", "golden"), [(8, 4.374115e-06), (1024, 6.390428e-04)])
def test_clip_of_orthonormal_pairs_is_the_published_value(size: int, golden: float, dtype: torch.dtype):
    rows = torch.eye(size, dtype=dtype)
    loss = clip_loss(rows, rows, torch.tensor(1 / 0.07, dtype=dtype), tile=100)
    assert loss.item() == pytest.approx(golden, rel=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("matched", "golden"), [(True, 0.693465), (False, 10.000363)])
def test_siglip_has_its_published_values(matched: bool, golden: float, dtype: torch.dtype):
    images = torch.eye(8, 16, dtype=dtype)
    texts = images if matched else torch.eye(16, dtype=dtype)[8:]
    loss = siglip_loss(images, texts, torch.tensor(10.0), torch.tensor(-10.0))
    assert loss.item() == pytest.approx(golden, rel=1e-6)


@pytest.mark.slow
def test_siglips_own_batch_at_its_start_has_the_published_value():
    rows = torch.zeros(32_768, 1)  # all logits are the bias
    assert siglip_loss(rows, rows, torch.tensor(10.0), torch.tensor(-10.0)).item() == pytest.approx(11.487631, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale", "golden"), [("clip", 1 / 0.07, 0.02026848), ("siglip", 10.0, 2.180733)])
def test_matched_pairs_of_a_batch_of_32768_have_the_published_value(
    name: str, scale: float, golden: float, monkeypatch: pytest.MonkeyPatch
):
    def orthonormal(_sweep: Sweep, place: Place) -> Tensor:
        """Products of as many orthonormal pairs; the features themselves would take 4 GiB a side."""
        sides = (part.stop - part.start for part in (place.rows, place.columns))
        return torch.eye(*sides) if place.is_diagonal else torch.zeros(*sides)

    monkeypatch.setattr(Sweep, "products", orthonormal)
    rows = torch.zeros(32_768, 1)
    assert ours(name, rows, rows, torch.tensor(scale), torch.tensor(-10.0)).item() == pytest.approx(golden, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_under_autocast_the_loss_is_the_same_to_the_bit(name: str):
    inputs = (*features("matched", 40, 16, 1), 30.0, BIAS)
    outside = taken(partial(ours, name, tile=16), inputs, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = taken(partial(ours, name, tile=16), inputs, torch.float32)
    assert not any(inside.errors(outside).values())


@pytest.mark.parametrize("name", LOSSES)
def test_features_that_autocast_left_in_two_precisions_are_taken_in_the_finer(name: str):
    images, texts = (torch.tensor(rows, dtype=torch.float32) for rows in features("matched", 12, 8, 1))
    half = images.bfloat16().requires_grad_()
    scalars = torch.tensor(10.0), torch.tensor(BIAS)
    loss = ours(name, half, texts, *scalars)
    loss.backward()
    assert loss.item() == ours(name, images.bfloat16().float(), texts, *scalars).item()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


WRONG = [
    ((4, 8), (3, 8), {}, "4 images and 3 texts"),
    ((4, 8), (4, 6), {}, "images of width 8 and texts of width 6"),
    ((4,), (4, 8), {}, "1 dimensions"),
    ((0, 8), (0, 8), {}, "no pairs"),
    ((4, 8), (4, 8), {"tile": 0}, "tile: got 0"),
]


@pytest.mark.parametrize(("images", "texts", "options", "found"), WRONG)
@pytest.mark.parametrize("name", LOSSES)
def test_features_that_are_no_pairs_are_refused(name: str, images: Any, texts: Any, options: Any, found: str):
    with pytest.raises(ValueError, match=found):
        ours(name, torch.ones(images), torch.ones(texts), torch.tensor(1.0), torch.tensor(1.0), **options)


def refusal(group: Any, name: str, images: Any, texts: Any) -> str:
    try:
        ours(name, torch.ones(images), torch.ones(texts), torch.tensor(1.0), torch.tensor(1.0), group=group)
    except ValueError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize(
    ("wrong", "found"),
    [(((4, 8), (3, 8)), "rank 1 has 4 images and 3"), (((2, 6), (2, 6)), "rank 1 has images of width 6")],
)
def test_what_is_wrong_on_one_rank_is_refused_on_all(four_ranks: Ranks, wrong: Any, found: str):
    right = ((2, 8), (2, 8))
    for text in four_ranks.run(refusal, [("clip", *right), ("clip", *wrong), ("clip", *right)]):
        assert found in text
    assert four_ranks.run(refusal, [("siglip", *right), ("siglip", (0, 8), (0, 8))]) == ["accepted"] * 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-7), (torch.float64, 1e-15)])
def test_siglips_value_of_a_single_pair_is_right_to_the_last_digits_at_any_logit(dtype: torch.dtype, tolerance: float):
    none = torch.zeros((), dtype=dtype)
    for logit in torch.linspace(-80, 80, 1601, dtype=dtype):
        value, _ = loss_tiles.sigmoid_tile(torch.zeros(1, 1, dtype=dtype), none, logit, False)
        exact = math.log1p(math.exp(-abs(logit))) + max(logit.item(), 0)
        assert value.item() == pytest.approx(exact, rel=tolerance, abs=0)


def test_siglip_is_exact_where_softplus_would_be_cut(four_ranks: Ranks):
    # Logits just above 20, where torch's softplus gives up its exponential.
    inputs = (*features("matched", 4, 10, 401712), 61.0, BIAS)
    exact = taken(partial(plain, "siglip"), inputs, torch.float64)
    assert on_ranks(four_ranks, "siglip", [4], inputs, torch.float64, 4).value == pytest.approx(exact.value, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [torch.zeros(5, 8), F.normalize(torch.ones(5, 8), dim=1)], ids=["zero", "equal"])
def test_degenerate_features_give_finite_losses_and_gradients(rows: Tensor, dtype: torch.dtype):
    scale, bias = torch.tensor(100.0), torch.tensor(-10.0)
    for loss in (clip_loss, partial(siglip_loss, logit_bias=bias)):
        leaf = rows.clone().to(dtype).requires_grad_()
        value = loss(leaf, leaf, scale, tile=2)
        value.backward()
        assert math.isfinite(value.item()) and leaf.grad is not None and bool(leaf.grad.isfinite().all())


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_features_are_multiplied_exactly_and_summed_in_fp32(four_ranks: Ranks, name: str):
    images, texts = (torch.tensor(rows).bfloat16().double().numpy() for rows in features("matched", 60, 32, 5))
    inputs = (images, texts, 100.0, BIAS)
    exact = taken(partial(plain, name), inputs, torch.float64)
    result = on_ranks(four_ranks, name, [20, 20, 20], inputs, torch.bfloat16, 16)
    # The value has no rounding of bf16 in it (a logit rounded to bf16 would be off by 0.4); gradients are rounded once,
    # and once more when they are multiplied by what comes from above.
    assert result.value == pytest.approx(exact.value, rel=1e-5, abs=1e-5)
    assert np.abs(result.images - exact.images).max() <= 2**-7 * np.abs(exact.images).max()
    assert np.abs(result.texts - exact.texts).max() <= 2**-7 * np.abs(exact.texts).max()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_without_gradients_is_the_same(name: str):
    images, texts = (torch.tensor(rows) for rows in features("matched", 12, 8, 1))
    scalars = torch.tensor(10.0), torch.tensor(BIAS)
    with_gradients = ours(name, images.requires_grad_(), texts, *scalars)
    with torch.no_grad():
        assert ours(name, images, texts, *scalars).item() == with_gradients.item()


@pytest.mark.parametrize("name", LOSSES)
def test_scale_and_bias_of_one_element_get_gradients_of_their_shape(name: str):
    images, texts = (torch.tensor(rows, requires_grad=True) for rows in features("matched", 6, 8, 1))
    scalars = [torch.tensor([value], requires_grad=True) for value in (10.0, BIAS)]
    (3 * ours(name, images, texts, *scalars)).backward()
    exact = taken(partial(plain, name), (*features("matched", 6, 8, 1), 10.0, BIAS), torch.float64)
    assert scalars[0].grad is not None and scalars[0].grad.shape == (1,)
    assert scalars[0].grad.item() == pytest.approx(3 * exact.scale, rel=1e-6)
    if name == "siglip":
        assert scalars[1].grad is not None and scalars[1].grad.item() == pytest.approx(3 * exact.bias, rel=1e-6)


def test_the_tiles_arithmetic_is_one_graph_for_a_compiler():
    """As it is fused on CUDA; here the graph is taken and run without a compiler."""

    images, texts = (torch.tensor(rows, dtype=torch.float32) for rows in features("matched", 10, 8, 1))
    scale, bias = torch.tensor(10.0), torch.tensor(BIAS)
    for is_diagonal in (False, True):
        whole = torch.compile(loss_tiles.sigmoid_tile, fullgraph=True, backend="aot_eager")
        for one, other in zip(
            whole(images @ texts.T, scale, bias, is_diagonal),
            loss_tiles.sigmoid_tile(images @ texts.T, scale, bias, is_diagonal),
            strict=True,
        ):
            torch.testing.assert_close(one, other)
        sums = [[torch.full((10,), -1e30), torch.zeros(10)] * 2 for _ in range(2)]
        folding = torch.compile(loss_tiles.add_to_softmax, fullgraph=True, backend="aot_eager")
        for fold, state in zip((folding, loss_tiles.add_to_softmax), sums, strict=True):
            state[:] = [tensor.clone() for tensor in state]
            fold(images @ texts.T, scale, *state, is_diagonal)
        for one, other in zip(*sums, strict=True):
            torch.testing.assert_close(one, other)
    row_max, row_weight, column_max, column_weight = sums[0]
    gradient = torch.compile(loss_tiles.softmax_gradient, fullgraph=True, backend="aot_eager")
    arguments = (scale, row_max, row_weight, column_max, column_weight)
    torch.testing.assert_close(
        gradient(images @ texts.T, *arguments), loss_tiles.softmax_gradient(images @ texts.T, *arguments)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_tiles_in_other_places_are_not_compiled_again(monkeypatch: pytest.MonkeyPatch, name: str):
    """The compiler gives up after eight; here it takes the graphs, and they run without it."""
    torch._dynamo.reset()
    compilers: dict[Any, CompileCounter] = {}

    def compiled(function: Any, _device: torch.device) -> Any:
        return loss_tiles.compiled(function, compilers.setdefault(function, CompileCounter()))

    monkeypatch.setattr("training.loss.fused", compiled)
    scalars = torch.tensor(10.0), torch.tensor(BIAS)
    for rows in (256 * 5 + 13, 256 * 3 + 140):  # edges of many shapes
        images, texts = (torch.tensor(each, dtype=torch.float32) for each in features("matched", rows, 8, 1))
        leaves = [side.requires_grad_() for side in (images, texts)]
        ours(name, *leaves, *scalars, tile=256).backward()
        assert leaves[0].grad is not None and leaves[0].grad.isfinite().all()
    assert compilers and all(1 <= compiler.frame_count <= 2 for compiler in compilers.values())


def peak_of(_group: Any, name: str, rows: int) -> int:
    """Extra memory of one loss with gradients, in bytes."""

    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    leaves = [F.normalize(torch.randn(rows, 256), dim=1).requires_grad_() for _ in range(2)]
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    scalars = torch.tensor(10.0), torch.tensor(BIAS)
    ours(name, leaves[0][:64], leaves[1][:64], *scalars, group=_group).backward()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    ours(name, *leaves, *scalars, group=_group).backward()
    return peak() - before


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_linear_in_the_batch_and_as_the_formula_says(tmp_path: Path, name: str):
    from training.loss_memory import loss_memory_bytes

    for rows in (8192, 16_384):
        # New processes: what earlier tests have freed would be used again, unseen.
        (tmp_path / str(rows)).mkdir()
        with Ranks(tmp_path / str(rows), 2) as two_ranks:
            measured = max(two_ranks.run(peak_of, [(name, rows // 2)] * 2))
        formula = loss_memory_bytes(rows, 2, 256, for_siglip=name == "siglip")
        assert 0.75 * formula <= measured <= 1.25 * formula, (measured, formula)
    # The logits alone would take n·N·4 bytes.
    assert measured < rows * rows // 2 * 4 / 4
