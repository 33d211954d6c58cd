"""Writes tensors as a safetensors file one after the other, so that no second copy of them is made in memory.

Format: https://github.com/huggingface/safetensors (a length, a JSON header, the bytes); read by the library itself.
"""

import json
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8


class Appendable(Protocol):
    """What bytes can be appended to."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Appends the bytes."""
        ...


def write_tensors(tensors: Mapping[str, Tensor], stream: Appendable) -> None:
    """Writes the tensors, which are on the CPU. Equal tensors give equal bytes."""
    header, offset = {}, 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in sorted(tensors):
        if tensors[name].numel():
            stream.write(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
