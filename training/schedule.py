"""The learning rate at each step: a linear rise, then one of three ways down."""

import math
from dataclasses import dataclass

from training.config import ScheduleName


@dataclass(frozen=True, slots=True)
class Schedule:
    """All in optimizer steps but `peak`. `cooldown` and `timescale` are the other schedules', not the cosine's."""

    name: ScheduleName
    peak: float
    steps: int
    warmup: int
    cooldown: int
    timescale: int


def learning_rate(step: int, schedule: Schedule) -> float:
    """The rate of the step (from 0).

    cosine: half a cosine down to zero (Radford et al. 2021, arXiv 2103.00020, in open_clip's form). constant: the peak.
    rsqrt: peak·√(timescale / (timescale + steps since the warm-up)). The latter two end in a linear cooldown to zero
    (Zhai et al. 2022, arXiv 2106.04560, section 3.5).
    """
    if step < schedule.warmup:
        return schedule.peak * (step + 1) / schedule.warmup
    since = step - schedule.warmup
    if schedule.name is ScheduleName.COSINE:
        progress = since / max(1, schedule.steps - schedule.warmup)
        return 0.5 * schedule.peak * (1 + math.cos(math.pi * progress))
    rate = schedule.peak
    if schedule.name is ScheduleName.RSQRT:
        rate *= math.sqrt(schedule.timescale / (schedule.timescale + since))
    left = schedule.steps - step
    return rate * left / schedule.cooldown if left < schedule.cooldown else rate
