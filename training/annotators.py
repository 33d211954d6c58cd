"""Makes the annotations that the config names, one after the other."""

from collections.abc import Iterator, Mapping

from datapipe.annotate import Annotator, Pool, annotate
from datapipe.curate_config import PHASH
from datapipe.dataset import Dataset
from datapipe.phash import PerceptualHash
from infra.errors import ConfigError
from infra.progress import Progress
from training.annotate_config import AnnotateConfig
from training.clip_score import ClipScore, Device
from training.scoring_model import as_training, told_as

CPUS_PER_MODEL = 4  # more, smaller processes would each hold the weights


def annotators_of(config: AnnotateConfig, device: Device | None = None) -> dict[str, Annotator]:
    """The annotators by the name of their column. Raises ConfigError for weights that are not there."""
    device = device or Device(use_gpu=False, threads=1, batch_size=config.batch_size)
    found: dict[str, Annotator] = {PHASH: PerceptualHash()} if config.phash else {}
    return found | {column: ClipScore(each, column, device) for column, each in config.clip_scores.items()}


def check_annotation(config: AnnotateConfig, *, dataset_is_ready: bool) -> None:
    """Finds what a user can have got wrong, before anything is started. Raises UserError."""
    from training.model_names import check_hub_packages, check_model_name

    for column, each in config.clip_scores.items():
        with told_as(f"annotate.clip_scores.{column}"):
            model = as_training(each).model
            check_model_name(model)
            check_hub_packages(model)
    annotators_of(config)
    if dataset_is_ready:
        dataset = Dataset.open(config.data)
        _require_new_names(dataset, annotators_of(config))


def annotate_dataset(config: AnnotateConfig, progress: Progress) -> None:
    """Makes what is missing of all annotations. Ray is connected already. Raises as `datapipe.annotate` does."""
    dataset = Dataset.open(config.data)
    pools = dict(_pools(config))
    device = Device(use_gpu=bool(pools["model"].gpus), threads=pools["model"].cpus, batch_size=config.batch_size)
    annotators = annotators_of(config, device)
    _require_new_names(dataset, annotators)
    for name, annotator in annotators.items():
        pool = pools["model" if isinstance(annotator, ClipScore) else "cpu"]
        annotate(dataset, name, annotator, pool, progress)


def _pools(config: AnnotateConfig) -> Iterator[tuple[str, Pool]]:
    """The processes for pictures alone, and those with a model: one a GPU, or some cores each."""
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    yield "cpu", Pool(processes=cpus)
    if config.use_gpu and not gpus:
        raise ConfigError(
            "annotate.use_gpu: got true.", "The cluster has no GPU.", "Set it to false, or leave it to the cluster."
        )
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    each = max(1, min(CPUS_PER_MODEL, largest))
    if gpus and config.use_gpu is not False:
        each = max(1, min(each, cpus // gpus))
        yield "model", Pool(processes=gpus, cpus=each, gpus=1)
    else:
        yield "model", Pool(processes=max(1, cpus // each), cpus=each)


def _require_new_names(dataset: Dataset, annotators: Mapping[str, Annotator]) -> None:
    columns = dataset.column_names(0) if dataset.manifest.shard_rows else []
    for name, annotator in annotators.items():
        if name in columns:
            raise ConfigError(
                f"annotate: {dataset.storage.url} has a column {name!r} already.",
                f"Its own columns are {', '.join(columns)}.",
                "Give the annotation another name.",
            )
        for wanted in annotator.columns:
            if wanted not in columns:
                raise ConfigError(
                    f"annotate.clip_scores.{name}.caption_col: got {wanted!r}.",
                    f"The columns of {dataset.storage.url} are {', '.join(columns)}.",
                    "Name one of them.",
                )
