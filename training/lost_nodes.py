"""Learns which nodes a group of workers has lost, and has Ray Train see what nodes there are."""

import contextlib
from collections.abc import Sequence

from infra.place import Place, dead_nodes

ANSWER_WITHIN_S = 30.0  # Ray calls a silent node dead after some fifteen


def lost_nodes(places: Sequence[Place]) -> frozenset[str]:
    """Ray's names of the nodes that are dead, once each node of a failed group is known to live or to be dead.

    A node that was killed counts as alive for a while. Ray is connected already.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    ask = ray.remote(num_cpus=0, max_retries=0)(_answer)
    answers = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in sorted({place.node for place in places} - {here})
    ]
    if answers:
        with contextlib.suppress(ray.exceptions.RayError):
            # A dead one's answer is an error, and comes as soon as Ray knows.
            ray.wait(answers, num_returns=len(answers), timeout=ANSWER_WITHIN_S)
    return dead_nodes()


def recount_room() -> None:
    """Has the room for an elastic training counted anew.

    Ray Train asks an actor that looks at the nodes every 20 seconds: for so long a node that comes is not used, and a
    group of workers that is begun on one which has died waits for a minute in vain.
    """
    import ray
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    with contextlib.suppress(ray.exceptions.RayError):  # then it counts a little later
        coordinator = get_or_create_autoscaling_coordinator()
        ray.get(coordinator.get_reserved_resources.remote("", recompute=True), timeout=ANSWER_WITHIN_S)


def _answer() -> None:
    """Runs on the node that is asked."""
