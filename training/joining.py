"""Tells what unlocking in the middle of a training does: Adam's moments begin empty, and its step count does not.

The optimizer counts the steps of all parameters together, so that nothing corrects the bias of moments that begin at
zero: after k steps with one gradient g, the update is (1 - beta1^k) / sqrt(1 - beta2^k) of the learning rate, where a
new optimizer's is 1. Source of both: Kingma and Ba 2015 (arXiv 1412.6980), section 3.
"""

import math

from training.config import LockConfig

LARGEST_UPDATE = 2.0  # of the learning rate; 1.55 with the usual beta2 of 0.98, 6.6 with 0.999
STEPS = 10_000  # by then it is 1 for every beta in use


def unlocked_towers(before: LockConfig, after: LockConfig) -> list[str]:
    """The towers of which more is trained after than before."""
    locks = (("image", before.image, after.image), ("text", before.text, after.text))
    return [tower for tower, old, new in locks if _trained(new) > _trained(old)]


def largest_update(beta1: float, beta2: float) -> float:
    """The most that an update of an unlocked parameter is, as a multiple of the learning rate."""
    return max((1 - beta1**k) / math.sqrt(1 - beta2**k) for k in range(1, STEPS))


def _trained(lock: bool | int) -> float:
    """How much of a tower is trained, from nothing over its head and each block to all of it."""
    if isinstance(lock, bool):
        return -1.0 if lock else float("inf")
    return float(lock)
