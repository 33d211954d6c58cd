"""Works out from a run's config what it needs of a cluster."""

import hashlib
import os
import re

import yaml

from infra.deploy.needs import BUILD_NODE_CPUS, CPUS_PER_WORKER, ClusterNeeds, usual_workers_per_node
from infra.errors import ConfigError
from orchestrator.config import RunConfig
from orchestrator.places import local_places

AUTOSCALED_BUILD_TASKS = 32  # what `build.tasks: null` stands for where nodes come only when tasks wait for them
MAX_NAME_LENGTH = 40  # KubeRay allows a RayJob 47, and what belongs to it has a longer name
HASH_LETTERS = 8
# A folder mounted there would hide what the image itself has in it.
FOLDERS_OF_THE_IMAGE = {"/", "/bin", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/sys", "/tmp", "/usr"}


def autoscaled_needs(config: RunConfig, *, workers_per_node: int | None = None) -> ClusterNeeds:
    """Needs of a cluster whose nodes come when work waits for them, all with one folder mounted.

    The config that it gets says what it would otherwise read off the nodes that are there at its start.
    Raises ConfigError for a config whose local folders have no folder of their own above.
    """
    build, train = config.build, config.train
    if build is not None:
        build = build.model_copy(update={"tasks": build.tasks or AUTOSCALED_BUILD_TASKS})
    if train is not None:
        train = train.model_copy(
            update={
                "use_gpu": train.use_gpu is not False,
                "threads_per_worker": train.threads_per_worker or CPUS_PER_WORKER,
            }
        )
    annotate = config.annotate
    if annotate is not None:
        annotate = annotate.model_copy(update={"tasks": annotate.tasks or AUTOSCALED_BUILD_TASKS})
    resolved = config.model_copy(update={"build": build, "train": train, "annotate": annotate})
    return _needs(resolved, workers_per_node, _shared_folder(config))


def fixed_needs(config: RunConfig, *, workers_per_node: int | None = None) -> ClusterNeeds:
    """Needs of a cluster whose nodes are all there from its start, with the file system that this machine has."""
    train = config.train
    if train is not None:
        train = train.model_copy(update={"use_gpu": train.use_gpu is not False})
    return _needs(config.model_copy(update={"train": train}), workers_per_node, None)


def require_export(needs: ClusterNeeds, export: str | None) -> None:
    """Raises ConfigError when the config has local places, and no file system is named that holds them."""
    if needs.shared_folder is not None and export is None:
        raise ConfigError(
            f"The config has local places under {needs.shared_folder}, and --export names no file system for them.",
            "On this cluster they lie on a network file system that every node mounts there.",
            "Give --export SERVER:/PATH, or put all places on S3.",
        )


def _needs(config: RunConfig, workers_per_node: int | None, shared_folder: str | None) -> ClusterNeeds:
    build, train = config.build, config.train
    # An evaluation or CLIP scores alone want one worker's place.
    evaluates = config.evaluate is not None or bool(config.annotate and config.annotate.clip_scores)
    most = train.max_workers if train else int(evaluates)
    return ClusterNeeds(
        name=_label(config),
        config=_resolved(config),
        min_workers=train.min_workers if train else int(evaluates),
        max_workers=most,
        use_gpu=bool(train.use_gpu) if train else evaluates,
        build_tasks=max(
            0 if build is None else build.tasks or BUILD_NODE_CPUS,
            0 if config.annotate is None else config.annotate.tasks or BUILD_NODE_CPUS,
        ),
        shared_folder=shared_folder,
        workers_per_node=workers_per_node or usual_workers_per_node(most),
    )


def _resolved(config: RunConfig) -> str:
    """The config with its references, overrides and paths resolved, and without what is as by default."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _label(config: RunConfig) -> str:
    """The run's name as all clusters take one: lower-case letters, digits and dashes, a letter first.

    Where that is another than the run's, it ends with a hash, or several runs would have one cluster's name.
    """
    label = re.sub(r"[^a-z0-9]+", "-", config.name.lower()).strip("-")
    label = label if label[:1].isalpha() else f"run-{label}"
    if label == config.name and len(label) <= MAX_NAME_LENGTH:
        return label
    digest = hashlib.sha256(config.folder.url.encode()).hexdigest()[:HASH_LETTERS]
    return f"{label[: MAX_NAME_LENGTH - HASH_LETTERS - 1].strip('-')}-{digest}"


def _shared_folder(config: RunConfig) -> str | None:
    """The one folder that holds all local places of the config; None when it has none."""
    places = [place for _, place in local_places(config)]
    if not places:
        return None
    folder = os.path.commonpath([_parent(place) for place in places])
    if folder in FOLDERS_OF_THE_IMAGE:
        raise ConfigError(
            f"The config's local places have only {folder} in common: {', '.join(sorted(set(places)))}.",
            "On a cluster they lie on one shared volume, which is mounted as one folder, for example /data.",
            "Put them under one folder, or on S3.",
        )
    return folder


def _parent(place: str) -> str:
    """The folder that holds a place; of a pattern, the last one that is no pattern itself."""
    return os.path.dirname(re.split(r"[*?\[]", place, maxsplit=1)[0])
