"""Times the losses beside open_clip's on gloo ranks, and measures the memory that each takes beyond the features.

    python tests/benchmarks/loss_beside_open_clip.py [--sizes 4096,16384] [--ranks 1,2,4] [--width 512] [--rounds 3]

Both run forward and backward on the same features, in turn; times are the best of the rounds, of the slower rank.
open_clip: ClipLoss(local_loss=True, gather_with_grad=True) and SigLipLoss. A size whose logits would not fit into the
machine's free memory is left out for open_clip.
"""

import argparse
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training.loss import TILE, clip_loss, siglip_loss
from training.loss_memory import loss_memory_bytes

MIB = 1 << 20
SCALE, BIAS = 1 / 0.07, -10.0
# fp32 matrices that open_clip holds at once, as measured: for CLIP of n×N, for SigLIP of n×n.
PEER_MATRICES = {"clip": 5, "siglip": 9}


@dataclass(frozen=True, slots=True)
class Figure:
    """The best time and the greatest extra memory of one loss, of the worse rank."""

    seconds: float
    extra_bytes: int

    def growth_from(self, smaller: "Figure") -> str:
        """Both, as multiples."""
        return f"time ×{self.seconds / smaller.seconds:.1f}, memory ×{self.extra_bytes / smaller.extra_bytes:.1f}"


def main() -> None:
    """Prints a line for every number of ranks, loss and size, and how time and memory grow from line to line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="4096,8192,16384,32768", help="global batches")
    parser.add_argument("--ranks", default="2", help="numbers of ranks, on this machine's cores together")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--losses", default="clip,siglip")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    for ranks in map(int, options.ranks.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            arguments = (ranks, folder, options.losses.split(","), sizes, options.width, options.rounds)
            mp.spawn(run_rank, arguments, nprocs=ranks)


def run_rank(rank: int, ranks: int, folder: str, losses: list[str], sizes: list[int], width: int, rounds: int) -> None:
    """One rank of all measurements; rank 0 prints."""
    torch.set_num_threads(max(1, (psutil.cpu_count() or 1) // ranks))
    dist.init_process_group("gloo", init_method=f"file://{Path(folder, 'rendezvous')}", rank=rank, world_size=ranks)
    if rank == 0:
        print(f"{ranks} ranks of {torch.get_num_threads()} thread(s), D = {width}, fp32, tile {TILE}", flush=True)
        print(f"{'loss':8}{'N':>7}{'ours':>9}{'open_clip':>11}{'time':>7}{'extra memory, ours':>21}", end="")
        print(f"{'formula':>10}{'open_clip':>11}{'memory':>9}")
    for loss in losses:
        last: Line | None = None
        for size in sizes:
            line = measure_size(loss, size, rank, ranks, width, rounds)
            if rank == 0:
                print(line.text() + (line.growth_from(last) if last else ""), flush=True)
            last = line
    dist.barrier()
    dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: ours and open_clip's figures of one size, what the formula says, what open_clip needs."""

    loss: str
    size: int
    ours: Figure
    theirs: Figure | None
    formula_bytes: int
    needed_bytes: int

    def text(self) -> str:
        """The figures and their ratios."""
        ours, theirs = self.ours, self.theirs
        line = f"{self.loss:8}{self.size:7,}{ours.seconds:8.2f}s"
        line += f"{theirs.seconds:10.2f}s{ours.seconds / theirs.seconds:7.2f}" if theirs else f"{'-':>11}{'-':>7}"
        line += f"{ours.extra_bytes / MIB:17,.0f} MiB{self.formula_bytes / MIB:6,.0f} MiB"
        if theirs:
            return line + f"{theirs.extra_bytes / MIB:7,.0f} MiB{'1/':>6}{theirs.extra_bytes / ours.extra_bytes:<4.0f}"
        return line + f"  needs about {self.needed_bytes / MIB:,.0f} MiB a rank"

    def growth_from(self, smaller: "Line") -> str:
        """How time and memory grew while N did."""
        text = f"  N ×{self.size / smaller.size:.0f}: ours {self.ours.growth_from(smaller.ours)}"
        if self.theirs and smaller.theirs:
            text += f", open_clip {self.theirs.growth_from(smaller.theirs)}"
        return text


def measure_size(loss: str, size: int, rank: int, ranks: int, width: int, rounds: int) -> Line:
    """Both losses on one global batch, in turn."""
    rows = size // ranks
    chance = torch.Generator().manual_seed(rank)
    images = torch.nn.functional.normalize(torch.randn(rows, width, generator=chance), dim=1)
    texts = torch.nn.functional.normalize(images + 0.5 * torch.randn(rows, width, generator=chance), dim=1)
    needed = PEER_MATRICES[loss] * rows * (size if loss == "clip" else rows) * 4
    fits = torch.tensor([int(needed * ranks < 0.7 * psutil.virtual_memory().available)])
    dist.all_reduce(fits, op=dist.ReduceOp.MIN)
    few = slice(0, 256)
    for warm_up in (our_loss(loss), peer_loss(loss, rank, ranks)):
        measured(warm_up, images[few], texts[few])
    ours, theirs = None, None
    for _ in range(rounds):
        ours = better(ours, measured(our_loss(loss), images, texts))
        if fits:
            theirs = better(theirs, measured(peer_loss(loss, rank, ranks), images, texts))
    assert ours is not None
    formula = loss_memory_bytes(size, ranks, width, for_siglip=loss == "siglip")
    return Line(loss, size, ours, theirs, formula, needed)


def better(one: Figure | None, other: Figure) -> Figure:
    """The faster time and the greater memory."""
    if one is None:
        return other
    return Figure(min(one.seconds, other.seconds), max(one.extra_bytes, other.extra_bytes))


def our_loss(name: str) -> Callable[..., torch.Tensor]:
    """Ours, of images, texts, scale and bias."""
    if name == "clip":
        return lambda images, texts, scale, _bias: clip_loss(images, texts, scale)
    return siglip_loss


def peer_loss(name: str, rank: int, ranks: int) -> Callable[..., torch.Tensor]:
    """open_clip's, of the same arguments."""
    import open_clip.loss

    if name == "clip":
        clip = open_clip.loss.ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=ranks)
        return lambda images, texts, scale, _bias: clip(images, texts, scale)
    return open_clip.loss.SigLipLoss(rank=rank, world_size=ranks)


def measured(loss: Callable[..., torch.Tensor], images: torch.Tensor, texts: torch.Tensor) -> Figure:
    """Time and extra memory of one forward and backward, of the worse rank."""
    leaves: list[Any] = [leaf.clone().requires_grad_() for leaf in (images, texts)]
    leaves += [torch.tensor(value, requires_grad=True) for value in (SCALE, BIAS)]
    for leaf in leaves:
        # The gradients themselves are every loss's result, not its extra.
        leaf.grad = torch.zeros_like(leaf)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_bytes()
    started = time.perf_counter()
    loss(*leaves).backward()
    dist.barrier()
    worst = torch.tensor([time.perf_counter() - started, float(peak_bytes() - before)], dtype=torch.float64)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return Figure(float(worst[0]), int(worst[1]))


def peak_bytes() -> int:
    """The greatest resident size since it was reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
