"""How matrices are multiplied in this process."""

import torch


def multiply_in_full_precision() -> None:
    """Makes products of fp32 matrices fp32 products, as they are by default: train.precision says what they are.

    NVIDIA's images set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which makes them TF32 with its 10 bits.
    """
    torch.set_float32_matmul_precision("highest")
