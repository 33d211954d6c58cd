"""The learning rate at each step: a linear rise, then half a cosine down to zero."""

import math


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """The rate of the step (from 0). Source: Radford et al. 2021, section 2.5, in open_clip's form."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * progress))
