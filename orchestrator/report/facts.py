"""Gathers what the report shows: values only, nothing about how they look."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import yaml

from datapipe.dataset import Dataset
from infra.errors import InputError
from infra.storage import Storage
from orchestrator.node_hours import NodeUse, read_uses
from orchestrator.records import RUN_FILE, drive_numbers, read_events
from orchestrator.report.dataset_facts import DatasetFacts, gather_dataset
from orchestrator.report.evaluation_facts import EvaluationFacts, gather_evaluation
from orchestrator.run import CONFIG_FILE, EVALUATION_FOLDER, stages_done
from orchestrator.status import Restart, StageStatus, read_configured_stages, read_stages, restarts_of
from training.ledger import LedgerRecord, read_ledger
from training.records import SCORES_FILE, StepMetrics, Validation, read_metrics, read_validations


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """The training so far. `batch_size` and `loss` are the config's, where there is one."""

    metrics: tuple[StepMetrics, ...]
    batch_size: int | None
    loss: str | None
    validations: tuple[Validation, ...] = ()
    ledger: LedgerRecord | None = None

    @property
    def restarts(self) -> tuple[StepMetrics, ...]:
        """The first step that counts of each later start of the worker group."""
        return tuple(step for before, step in pairwise(self.metrics) if step.attempt > before.attempt)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What another person needs to do the run again. Empty where the run's folder lacks it."""

    created: str
    python: str
    versions: dict[str, str]
    config_yaml: str


@dataclass(frozen=True, slots=True)
class CourseFacts:
    """How far the stages are, what was started again and why, and the nodes that were held, as of `at`."""

    at: str
    stages: tuple[StageStatus, ...]
    restarts: tuple[Restart, ...]
    uses: tuple[NodeUse, ...]


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """All that the report shows. None stands for a part that is not there yet."""

    title: str
    credit: str | None
    dataset: DatasetFacts | None
    training: TrainingFacts | None
    evaluation: EvaluationFacts | None
    run: RunFacts
    course: CourseFacts | None = None


def gather_facts(dataset_url: str | None, run: Storage, title: str, credit: str | None) -> ReportFacts:
    """Reads the dataset and the run's folder."""
    config_yaml = run.read_bytes(CONFIG_FILE).decode() if run.exists(CONFIG_FILE) else ""
    evaluation = run.at(EVALUATION_FOLDER)
    return ReportFacts(
        title=title,
        credit=credit,
        dataset=_dataset(dataset_url),
        training=_training(run, yaml.safe_load(config_yaml) or {}),
        evaluation=gather_evaluation(evaluation) if evaluation.exists(SCORES_FILE) else None,
        run=_run(run, config_yaml),
        course=_course(run),
    )


def _dataset(url: str | None) -> DatasetFacts | None:
    if url is None:
        return None
    try:
        return gather_dataset(Dataset.open(url))
    except InputError:
        return None  # not finished yet


def _training(run: Storage, config: dict[str, Any]) -> TrainingFacts | None:
    metrics = tuple(read_metrics(run))
    if not metrics:
        return None
    section = config.get("train") or {}
    return TrainingFacts(
        metrics,
        section.get("global_batch_size"),
        section.get("loss"),
        tuple(read_validations(run)),
        read_ledger(run),
    )


def _course(run: Storage) -> CourseFacts | None:
    numbers = drive_numbers(run)
    if not numbers:
        return None
    stages = tuple(read_stages(run, numbers, stages_done(run), read_configured_stages(run), is_live=False))
    told_at = [stage.at for stage in stages if stage.at is not None]
    return CourseFacts(
        at=_moment(max(told_at)) if told_at else "",
        stages=stages,
        restarts=tuple(restarts_of(read_events(run))),
        uses=tuple(read_uses(run, numbers)),
    )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _run(run: Storage, config_yaml: str) -> RunFacts:
    identity = json.loads(run.read_bytes(RUN_FILE)) if run.exists(RUN_FILE) else {}
    return RunFacts(
        created=_moment(identity["created"]) if "created" in identity else "",
        python=identity.get("python", ""),
        versions=identity.get("versions", {}),
        config_yaml=config_yaml,
    )
