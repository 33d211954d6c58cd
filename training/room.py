"""Decides whether the workers train on GPUs, and finds out whether the cluster has room for them."""

from infra.cluster import Cluster
from infra.errors import ConfigError
from training.config import TrainConfig

CPUS_PER_MODEL = 4  # of a process that scores with a model; more, smaller processes would each hold the weights


def uses_gpu(config: TrainConfig, cluster: Cluster) -> bool:
    """Whether each worker gets a GPU. Raises ConfigError where nobody said so and some workers would have none."""
    if config.use_gpu is not None:
        return config.use_gpu
    if 0 < cluster.gpus < config.min_workers:
        raise ConfigError(
            f"train.workers: got {config.min_workers}; the GPUs of the cluster are {cluster.gpus}.",
            "Each worker takes a GPU, or all of them train on CPU cores.",
            f"Set train.workers={cluster.gpus}, or train.use_gpu=false for the CPU cores.",
        )
    return cluster.gpus > 0


def require_room(config: TrainConfig, cluster: Cluster, use_gpu: bool) -> None:
    """Raises ConfigError for workers that don't fit: Ray would wait for them for ever. Ray is connected already."""
    kind, has = ("GPUs", cluster.gpus) if use_gpu else ("CPU cores", cluster.cpus)
    if config.min_workers > has:
        raise ConfigError(
            f"train.workers: got {config.min_workers}; the cluster has {has} {kind}.",
            "Each worker takes one.",
            "Lower train.workers or join a larger cluster with --address.",
        )
    if use_gpu:
        _require_cores_for_gpus(config.min_workers)


def _require_cores_for_gpus(workers: int) -> None:
    import ray

    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, both = (sum(int(count) for count in counts) for counts in zip(*map(_gpus_and_places, rooms), strict=True))
    if gpus >= workers > both:  # with fewer GPUs than workers, others are yet to come
        raise ConfigError(
            f"train.workers: got {workers}; the nodes with the cluster's {gpus} GPUs have cores for {both} workers.",
            "Each worker takes a GPU and a core of the same node.",
            "Start the nodes with as many cores as GPUs (ray start --num-cpus), or lower train.workers.",
        )


def _gpus_and_places(room: dict[str, float]) -> tuple[float, float]:
    """A node's GPUs, and how many workers find a GPU and a core there."""
    return room.get("GPU", 0), min(room.get("GPU", 0), room.get("CPU", 0))
