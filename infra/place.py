"""Says where a process of a cluster is, so that a failure can be explained with its node."""

import os
import socket
from dataclasses import dataclass

NODE_LETTERS = 12  # of Ray's 56 for a node: enough to find it in the dashboard and in its logs


@dataclass(frozen=True, slots=True)
class Place:
    """A process on a node: the node's host, Ray's name for the node, the process's number there."""

    host: str
    node: str
    process: int

    @property
    def node_words(self) -> str:
        """The node, for people: `node 3f2a91c07be4 (worker-7)`."""
        return f"node {self.node[:NODE_LETTERS]} ({self.host})"

    def __str__(self) -> str:
        return f"{self.node_words}, process {self.process}"


def this_place() -> Place:
    """Where this process is. Ray is connected already."""
    import ray

    return Place(socket.gethostname(), ray.get_runtime_context().get_node_id(), os.getpid())


def dead_nodes() -> frozenset[str]:
    """Ray's names of the nodes that the cluster has lost by now; none when it does not answer. Ray is connected."""
    import ray

    try:
        return frozenset(node["NodeID"] for node in ray.nodes() if not node["Alive"])
    except (ray.exceptions.RayError, RuntimeError):
        return frozenset()  # asked to explain a failure: no reason for another one
