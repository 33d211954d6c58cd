"""Processes that begin with torch and DeepSpeed imported, which takes each ten seconds otherwise."""

import multiprocessing
from multiprocessing.context import ForkServerContext

IMPORTED = ["torch", "deepspeed", "training.loop", "training.engine"]


def warm_context() -> ForkServerContext:
    """Its processes are forks of one that has these modules and nothing else: no thread, no group, no seed.

    The environment is that of the first call in this process; what a test changes in it must be passed on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context
