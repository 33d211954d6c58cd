"""Makes the annotations that the config names, one after the other."""

from collections.abc import Mapping

from datapipe.annotate import Annotator, Pool, annotate
from datapipe.annotation import annotation_folder
from datapipe.columns import holds_texts
from datapipe.curate_config import PHASH
from datapipe.dataset import Dataset
from datapipe.phash import PerceptualHash
from infra.cluster import Cluster
from infra.errors import ConfigError
from infra.progress import Progress
from training.annotate_config import AnnotateConfig
from training.clip_score import ClipScore, Device
from training.room import CPUS_PER_MODEL
from training.scoring_model import as_training, told_as


def annotators_of(config: AnnotateConfig, device: Device | None = None) -> dict[str, Annotator]:
    """The annotators by the name of their column. Raises ConfigError for weights that are not there."""
    device = device or Device(use_gpu=False, threads=1, batch_size=config.batch_size)
    found: dict[str, Annotator] = {PHASH: PerceptualHash()} if config.phash else {}
    return found | {column: ClipScore(each, column, device) for column, each in config.clip_scores.items()}


def check_annotation(config: AnnotateConfig, *, dataset_is_ready: bool) -> None:
    """Finds what a user can have got wrong, before anything is started. Raises UserError."""
    from training.model_names import check_hub_packages, check_model_name
    from training.weight_facts import facts_of_weights

    for column, each in config.clip_scores.items():
        with told_as(f"annotate.clip_scores.{column}"):
            model = as_training(each).model
            check_model_name(model)
            check_hub_packages(model)
            facts_of_weights(each.pretrained, model)
    annotators = annotators_of(config)
    if dataset_is_ready:
        dataset = Dataset.open(config.data)
        _require_columns(dataset, annotators)
        for name in annotators:
            annotation_folder(dataset.storage, name).require_writable()


def annotate_dataset(config: AnnotateConfig, progress: Progress, cluster: Cluster) -> None:
    """Makes what is missing of all annotations. Ray is connected already. Raises as `datapipe.annotate` does."""
    dataset = Dataset.open(config.data)
    with_model = _pool_with_model(config, cluster)
    annotators = annotators_of(config, device_of(with_model, config.batch_size))
    _require_columns(dataset, annotators)
    for name, annotator in annotators.items():
        plain = Pool(processes=config.tasks or max(1, cluster.cpus))
        annotate(dataset, name, annotator, with_model if isinstance(annotator, ClipScore) else plain, progress)


def device_of(pool: Pool, batch_size: int) -> Device:
    """What each process of the pool computes on; a core that Ray does not count still runs one thread."""
    return Device(use_gpu=bool(pool.gpus), threads=max(1, pool.cpus), batch_size=batch_size)


def _pool_with_model(config: AnnotateConfig, cluster: Cluster) -> Pool:
    """Processes with a GPU each, if the cluster has any or may get some; or else with some cores each of one node."""
    import ray

    if config.use_gpu and not cluster.gpus:
        raise ConfigError(
            "annotate.use_gpu: got true.", "The cluster has no GPU.", "Set it to false, or leave it to the cluster."
        )
    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if cluster.gpus and config.use_gpu is not False:
        with_gpu = [int(room.get("CPU", 0)) // int(room["GPU"]) for room in rooms if room.get("GPU", 0) >= 1]
        # Nodes that are yet to come have a core for each GPU at least.
        return Pool(config.tasks or cluster.gpus, cpus=max(0, min([CPUS_PER_MODEL, *(with_gpu or [1])])), gpus=1)
    cores = [int(room.get("CPU", 0)) for room in rooms] or [1]
    each = max(1, min(CPUS_PER_MODEL, max(cores)))
    return Pool(config.tasks or max(1, sum(count // each for count in cores)), cpus=each)


def _require_columns(dataset: Dataset, annotators: Mapping[str, Annotator]) -> None:
    """Raises ConfigError for a name that the dataset has already, and for captions that are none.

    A column phash of the list's own is fine: the annotation has no other name, and counts before it.
    """
    columns = dataset.column_names(0) if dataset.manifest.shard_rows else []
    for name, annotator in annotators.items():
        if name in columns and name != PHASH:
            raise ConfigError(
                f"annotate: {dataset.storage.url} has a column {name!r} already.",
                f"Its own columns are {', '.join(columns)}.",
                "Give the annotation another name.",
            )
        for wanted in annotator.columns if columns else ():
            kind = dataset.find_columns([wanted]).get(wanted)
            if kind is None or not holds_texts(kind):
                raise ConfigError(
                    f"annotate.clip_scores.{name}.caption_col: got {wanted!r}{'' if kind is None else f', of {kind}'}.",
                    f"Captions are texts, or lists of them; {dataset.storage.url} has {', '.join(columns)}.",
                    "Name one with captions.",
                )
