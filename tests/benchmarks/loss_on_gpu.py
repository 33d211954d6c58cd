"""Says how near the losses come to a device's greatest rate of matrix products, beside open_clip's.

    python tests/benchmarks/loss_on_gpu.py [--device cuda] [--sizes 8192,32768] [--width 1024]

One process, bf16 features, forward and backward. FLOP/s: of the four (CLIP) or three (SigLIP) products of 2·N²·D that
the method needs, so that work done twice does not count. The device's rate is that of a large product of its own.
"""

import argparse
import time
from collections.abc import Callable

import open_clip.loss
import torch
import torch.nn.functional as F

from training.loss import clip_loss, siglip_loss

PRODUCTS = {"clip": 4, "siglip": 3}
REPEATS = 5
MIB = 1 << 20


def main() -> None:
    """Prints the device's rate, then a line for every loss and size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", default="8192,16384,32768", help="batches")
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    device = torch.device(options.device)
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * side**3 / seconds_of(lambda: left @ right, device)
    print(f"{device}: {peak / 1e12:.2f} TFLOP/s in a product of {side}×{side} in bf16")
    print(f"{'loss':8}{'N':>8}{'ours':>10}{'of peak':>9}{'memory':>12}{'open_clip':>11}{'time':>7}{'memory':>12}")
    for loss in PRODUCTS:
        for size in map(int, options.sizes.split(",")):
            measure(loss, size, options.width, device, peak)


def measure(loss: str, size: int, width: int, device: torch.device, peak: float) -> None:
    """One line of the table."""
    images = F.normalize(torch.randn(size, width, device=device), dim=1).bfloat16().requires_grad_()
    texts = F.normalize(torch.randn(size, width, device=device), dim=1).bfloat16().requires_grad_()
    scale, bias = (torch.tensor(value, device=device, requires_grad=True) for value in (1 / 0.07, -10.0))
    peers = {"clip": open_clip.loss.ClipLoss(), "siglip": open_clip.loss.SigLipLoss()}

    def ours() -> None:
        value = clip_loss(images, texts, scale) if loss == "clip" else siglip_loss(images, texts, scale, bias)
        torch.autograd.backward(value)

    def theirs() -> None:
        # Its logits take the scale's dtype along, so that it too multiplies in bf16.
        scalars = (scale.bfloat16(),) if loss == "clip" else (scale.bfloat16(), bias.bfloat16())
        torch.autograd.backward(peers[loss](images, texts, *scalars))

    seconds, memory = seconds_of(ours, device), extra_memory(ours, device)
    rate = PRODUCTS[loss] * 2 * size**2 * width / seconds
    line = f"{loss:8}{size:8,}{1000 * seconds:8.1f}ms{rate / peak:9.2f}{memory:>12}"
    try:
        other, other_memory = seconds_of(theirs, device), extra_memory(theirs, device)
    except torch.OutOfMemoryError:
        print(line + "  out of memory", flush=True)
        return
    print(line + f"{1000 * other:9.1f}ms{seconds / other:7.2f}{other_memory:>12}", flush=True)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The best of a few repeats, after one that warms up and compiles."""
    best = float("inf")
    for repeat in range(REPEATS + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        if repeat:
            best = min(best, time.perf_counter() - started)
    return best


def extra_memory(work: Callable[[], object], device: torch.device) -> str:
    """The greatest memory beyond what was held before; not known on a CPU."""
    if device.type != "cuda":
        return "-"
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return f"{(torch.cuda.max_memory_allocated() - before) / MIB:,.0f} MiB"


def synchronize(device: torch.device) -> None:
    """Waits for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
