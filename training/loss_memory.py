"""Says what the loss takes of a worker's memory, by formula."""

from training.loss import TILE
from training.loss_tiles import CACHED_ROWS

# What matrix products pack their operands into, and the allocator keeps of tiles that were freed: measured on CPUs,
# where it is 12 to 40 MiB; cuBLAS sets aside 8 to 32.
KEPT_BYTES = 16 << 20


def loss_memory_bytes(
    rows: int, ranks: int, width: int, *, feature_bytes: int = 4, tile: int = TILE, for_siglip: bool = False
) -> int:
    """The greatest extra memory of one loss with its gradients, over this rank's features, in bytes.

    rows: the global batch N, spread evenly over the ranks; width: D; feature_bytes: of one feature's value, 4 or 2.
    """
    own = -(-rows // ranks)
    gathered = ranks * own * width * feature_bytes if ranks > 1 else 0
    gradients = (ranks * own + own) * width * 4
    # What a gradient is scattered into, and then its copy in the features' precision.
    scattered = own * width * 4 if ranks > 1 else 0
    # What the backend sends from and receives into (measured with gloo).
    sent = 2 * own * width * 4 if ranks > 1 else 0
    returned = 0 if feature_bytes == 4 else 2 * own * width * feature_bytes
    side = min(tile, own)
    # SigLIP's other temporaries are of a few rows.
    tiles = (side + 3 * CACHED_ROWS if for_siglip else 3 * side) * side * 4
    sums = 0 if for_siglip else (4 * ranks * own + 5 * own) * 4
    sweep = gathered + gradients + scattered + sent + returned + tiles + sums
    # SigLIP's gradients are kept from the forward pass, and multiplied by what comes from above into new ones.
    backward = 2 * 2 * own * width * feature_bytes if for_siglip else 0
    return KEPT_BYTES + max(sweep, backward)
