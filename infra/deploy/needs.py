"""What a run needs of a cluster, and how many nodes that comes to."""

import math
from dataclasses import dataclass

CPUS_PER_WORKER = 8  # a training worker's loader decodes a few thousand pictures a second with them
BUILD_NODE_CPUS = 8
MAX_WORKERS_PER_NODE = 8  # the GPUs of the largest usual machines


@dataclass(frozen=True, slots=True)
class ClusterNeeds:
    """What one run asks of the cluster that it is to run on."""

    name: str
    """The name of all that is made for the run: lower-case letters, digits and dashes."""
    config: str
    """The run's config as YAML, resolved; it holds no secret."""
    min_workers: int
    """The fewest training workers; 0 when the run does not train."""
    max_workers: int
    """The most training workers."""
    use_gpu: bool
    """Whether each training worker has a GPU."""
    build_tasks: int
    """Shards that are built at once, one core each; 0 when the run does not build."""
    shared_folder: str | None
    """The folder that every node must see under this path; None when all lies in object storage."""
    workers_per_node: int
    """Training workers of one node."""

    @property
    def build_nodes(self) -> int:
        """The most nodes that build."""
        return math.ceil(self.build_tasks / BUILD_NODE_CPUS)

    @property
    def min_train_nodes(self) -> int:
        """The nodes without which no training starts."""
        return math.ceil(self.min_workers / self.workers_per_node)

    @property
    def max_train_nodes(self) -> int:
        """The most nodes that train."""
        return math.ceil(self.max_workers / self.workers_per_node)

    @property
    def train_node_cpus(self) -> int:
        """CPU cores of a node that trains."""
        return self.workers_per_node * CPUS_PER_WORKER

    @property
    def gpus(self) -> int:
        """The GPUs of all nodes that train."""
        return self.max_train_nodes * self.workers_per_node if self.use_gpu else 0


def usual_workers_per_node(max_workers: int) -> int:
    """As many as the cluster needs, in the sizes that machines come in: 1, 2, 4 or 8."""
    return min(MAX_WORKERS_PER_NODE, 1 << max(0, max_workers - 1).bit_length()) if max_workers else 1
