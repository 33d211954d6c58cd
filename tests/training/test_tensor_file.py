"""Files of tensors: read back by the safetensors library itself, equal for equal tensors."""

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from training.tensor_file import NAMES, write_tensors


def written(tensors: dict[str, Tensor]) -> bytes:
    stream = io.BytesIO()
    write_tensors(tensors, stream)
    return stream.getvalue()


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("dtype", NAMES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (0,), (4, 0, 2)], ids=str)
def test_every_type_and_shape_comes_back_to_the_bit(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path):
    values = torch.rand(shape, dtype=torch.float64) * 200 - 50
    tensor = (values > 0) if dtype is torch.bool else values.to(dtype)
    (tmp_path / "x").write_bytes(written({"one": tensor, "another": torch.ones(3)}))
    with safe_open(tmp_path / "x", "pt") as file:
        found = file.get_tensor("one")
        assert sorted(file.keys()) == ["another", "one"]
    assert found.dtype == dtype and found.shape == tensor.shape and bits(found) == bits(tensor)


def test_what_is_no_number_keeps_its_bits():
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    assert bits(load(written({"x": tensor}))["x"]) == bits(tensor)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 9), max_size=6), st.randoms())
def test_equal_tensors_give_equal_bytes_in_whatever_order_they_come(sizes: dict[str, int], chance: object):
    tensors = {name: torch.arange(size, dtype=torch.float32) for name, size in sizes.items()}
    names = list(tensors)
    chance.shuffle(names)  # type: ignore[attr-defined]
    data = written({name: tensors[name] for name in names})
    assert data == written(tensors)
    found = load(data)
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("view", [lambda x: x.t(), lambda x: x[1:, ::2], lambda x: x.expand(3, 4, 6)[1]])
def test_a_tensor_that_does_not_lie_in_one_piece_is_written_as_it_reads(view: object):
    tensor = view(torch.arange(24, dtype=torch.float32).view(4, 6))  # type: ignore[operator]
    assert torch.equal(load(written({"x": tensor}))["x"], tensor)


def test_values_begin_at_a_multiple_of_eight_bytes():
    for name in ("a", "ab", "abc", "ä", "…" * 5):
        data = written({name: torch.ones(2)})
        length = int.from_bytes(data[:8], "little")
        assert length % 8 == 0 and json.loads(data[8 : 8 + length])[name]["data_offsets"] == [0, 8]


def test_no_tensors_are_a_file_too():
    assert load(written({})) == {}
