"""Scores a checkpoint: retrieval both ways and zero-shot classification, each beside its chance level."""

from collections.abc import Iterator
from typing import Any

from infra.errors import ConfigError
from infra.progress import Progress
from infra.storage import Storage
from training.config import DataSource, EvaluateConfig, RetrievalConfig, TrainConfig
from training.records import Evaluation, RetrievalExample, Score, write_evaluation
from training.room import CPUS_PER_MODEL
from training.selection import select

TELL_AFTER_S = 10.0  # longer than a process takes to start where there is room


def evaluate(
    config: EvaluateConfig, checkpoint: Storage, held_out: DataSource | None, progress: Progress, out: Storage
) -> Evaluation:
    """Scores the checkpoint in a Ray task and writes scores and examples to `out`. Ray is connected already.

    Raises ConfigError when no samples are named or found, CorruptData for a checkpoint that is not whole.
    """
    import ray

    from infra.remote_errors import unwrapped

    parts = parts_to_score(config, held_out)
    total = sum(len(select(source)) for source in parts.values())
    progress.begin("evaluate", total=total, unit="samples")
    cpus, gpus = room_for_a_model(ray.nodes())
    task = ray.remote(_evaluate_remotely).options(num_cpus=cpus, num_gpus=gpus, num_returns="streaming")
    try:
        stream = task.remote(config.model_dump_json(), checkpoint, parts, cpus, bool(gpus))
        if not ray.wait([stream], timeout=TELL_AFTER_S)[0]:
            progress.note(f"evaluate  not begun yet: it wants {_room_words(cpus, gpus)}, which other work may have")
            progress.set_detail("waiting for room on the cluster")
        ray.get(next(stream))
        progress.set_detail("")
        evaluation: Evaluation
        evaluation, examples, notes = ray.get(next(stream))
    except ray.exceptions.RayError as error:
        raise unwrapped(error) or error from error
    write_evaluation(out, evaluation, examples)
    for note in notes:
        progress.note(f"evaluate  {note}")
    progress.update(total)
    progress.end(", ".join(f"{score.name} {100 * score.value:.1f}%" for score in evaluation.scores[:4]))
    return evaluation


def validation_of(config: TrainConfig) -> tuple[EvaluateConfig, DataSource | None]:
    """What a validation during the training scores, and the samples that training keeps for it."""
    return config.validation or EvaluateConfig(retrieval=RetrievalConfig()), config.held_out_source()


def parts_to_score(config: EvaluateConfig, held_out: DataSource | None) -> dict[str, DataSource]:
    """The samples of each kind of score that the config names. Raises ConfigError."""
    parts: dict[str, DataSource] = {}
    for name in ("retrieval", "zero_shot"):
        section = getattr(config, name)
        if section is None:
            continue
        data = section.data if section.data is not None else held_out
        if data is None:
            raise ConfigError(
                f"evaluate.{name}.data is missing, and train.held_out keeps no samples for evaluation.",
                "A score wants samples that were not trained on.",
                "Set train.held_out before training, or name the samples in evaluate.",
            )
        parts[name] = DataSource(path=data) if isinstance(data, str) else data
    if not parts:
        raise ConfigError(
            "evaluate names nothing to score.",
            "Allowed are the keys retrieval and zero_shot.",
            "Write for example evaluate: {retrieval: {}}.",
        )
    return parts


def require_score(name: str | None, config: EvaluateConfig) -> None:
    """Raises ConfigError when `name`, of train.best_score, is none of the scores that the config gives."""
    retrieval, zero_shot = config.retrieval, config.zero_shot
    ways = ("text_to_image", "image_to_text") if retrieval else ()
    given = [f"{way}_recall@{k}" for way in ways for k in (retrieval.k if retrieval else [])]
    if zero_shot is not None:
        given += ["zero_shot_accuracy", "zero_shot_mean_per_class"]
        given += [f"zero_shot: {label}" for label in zero_shot.classes or []]
    is_some_class = zero_shot is not None and zero_shot.classes is None and str(name).startswith("zero_shot: ")
    if name is not None and name not in given and not is_some_class:
        raise ConfigError(
            f"train.best_score: got {name!r}.",
            f"The validation gives {', '.join(given)}.",
            "Name one of them.",
        )


def room_for_a_model(nodes: list[dict[str, Any]]) -> tuple[int, int]:
    """Cores and GPUs for the task, which runs on one node, with a GPU if one has any: few, so that it finds them soon.

    nodes: as Ray tells them.
    """
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    best = max(rooms, key=lambda room: (room.get("GPU", 0) >= 1, room.get("CPU", 0)))
    cores, gpus = int(best.get("CPU", 0)), int(best.get("GPU", 0))
    # A node with more GPUs than cores may have none to spare.
    return (min(CPUS_PER_MODEL, cores // gpus), 1) if gpus else (max(1, min(CPUS_PER_MODEL, cores)), 0)


def _room_words(cpus: int, gpus: int) -> str:
    cores = f"{cpus} CPU core{'s' if cpus > 1 else ''}"
    return f"{cores} and a GPU of one node" if gpus else f"{cores} of one node"


def _free_cores_here() -> int:
    """Those of this node that nobody has taken. Runs in a Ray task."""
    import ray
    from ray._private.state import available_resources_per_node

    here = ray.get_runtime_context().get_node_id()
    return int(available_resources_per_node().get(here, {}).get("CPU", 0))


def _evaluate_remotely(
    settings: str, checkpoint: Storage, parts: dict[str, DataSource], cpus: int, use_gpu: bool
) -> Iterator[tuple[Evaluation, list[RetrievalExample], list[str]] | None]:
    """Runs in a Ray task, so that torch and the model stay out of the driver.

    Gives None once it runs, and then the scores, examples and sentences for the user.
    """
    yield None
    import torch

    from training.precision import multiply_in_full_precision

    multiply_in_full_precision()
    # What is free of the node stands idle otherwise; what others take of it later is shared with them.
    torch.set_num_threads(max(1, cpus + (0 if use_gpu else _free_cores_here())))
    yield _evaluated(settings, checkpoint, parts, use_gpu)


def _evaluated(
    settings: str, checkpoint: Storage, parts: dict[str, DataSource], use_gpu: bool
) -> tuple[Evaluation, list[RetrievalExample], list[str]]:
    from training.encode import Encoder
    from training.retrieval import score_retrieval
    from training.zero_shot import only_labelled, score_zero_shot

    config = EvaluateConfig.model_validate_json(settings)
    encoder = Encoder(checkpoint, use_gpu=use_gpu, batch_size=config.batch_size, use_average=config.use_ema)
    scores: list[Score] = []
    examples: list[RetrievalExample] = []
    notes: list[str] = []
    if config.retrieval is not None:
        found, examples = score_retrieval(config.retrieval, select(parts["retrieval"]), encoder)
        scores += found
    if config.zero_shot is not None:
        labelled = only_labelled(config.zero_shot, select(parts["zero_shot"]), notes.append)
        scores += score_zero_shot(config.zero_shot, labelled, encoder)
    data = parts["retrieval" if "retrieval" in parts else "zero_shot"].path
    return Evaluation(encoder.state.step, checkpoint.url, data, tuple(scores)), examples, notes
