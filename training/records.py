"""What training and evaluation leave behind for people and programs to read: metrics, scores, examples."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from infra.append_log import read_log, read_tail
from infra.json_record import known_fields
from infra.storage import Storage

METRICS_FILE = "metrics.jsonl"
CERTIFICATE_FILE = "loss_certificate.json"
PLAN_FILE = "plan.json"
LEDGER_FILE = "ledger.json"
REPLACEMENTS_FILE = "replacements.jsonl"
VALIDATION_FILE = "validation.jsonl"
SCORES_FILE = "scores.json"
EXAMPLES_FILE = "examples.json"


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step. `attempt` counts the starts of the worker group, from 1; `time` is Unix seconds.

    `digest` proves which samples were used at which positions (see `order.digest_of`; hexadecimal). `replaced`
    positions had another sample than their own, which was broken or excluded: the replacements file names them.
    `saving` ranks were writing a checkpoint meanwhile.
    `gradient_norm` is of both towers before clipping, where DeepSpeed knows it. A bad step is skipped. `seconds` are
    those of the slowest rank by activity (see `ledger.Activity`).
    """

    step: int
    loss: float
    logit_scale: float
    lr: float
    samples_per_s: float
    epoch: float
    attempt: int
    time: float
    ranks: int = 1
    digest: str = ""
    replaced: int = 0
    saving: int = 0
    gradient_norm: float | None = None
    is_skipped: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validation:
    """The scores of a validation in the middle of a training."""

    step: int
    scores: tuple["Score", ...]


@dataclass(frozen=True, slots=True)
class Score:
    """One figure beside what guessing would give; both as shares from 0 to 1. `samples` were scored."""

    name: str
    value: float
    chance: float
    samples: int


@dataclass(frozen=True, slots=True)
class SampleRef:
    """A sample of a dataset: its shard's number, its place among the shard's good samples, key and caption."""

    shard: int
    index: int
    key: str
    caption: str


@dataclass(frozen=True, slots=True)
class RetrievalExample:
    """A caption, the picture that it belongs to, and the pictures found for it, best first."""

    query: SampleRef
    found: tuple[SampleRef, ...]
    similarities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All scores of one checkpoint. `data` is the dataset's folder that the examples' pictures lie in."""

    step: int
    checkpoint: str
    data: str
    scores: tuple[Score, ...]


def read_metrics(run: Storage) -> list[StepMetrics]:
    """The metrics of every step that counts, in order: of a step that was done again, the last doing."""
    by_step: dict[int, StepMetrics] = {}
    for metrics in parse_metrics(read_log(run, METRICS_FILE)):
        # Lines of two machines come in the order of their clocks, which may differ.
        if metrics.step not in by_step or metrics.attempt >= by_step[metrics.step].attempt:
            by_step[metrics.step] = metrics
    return [by_step[step] for step in sorted(by_step)]


def newest_metrics(run: Storage) -> StepMetrics | None:
    """Of the step that was done last; a training of weeks is not read whole for it."""
    newest = parse_metrics(read_tail(run, METRICS_FILE))
    return max(newest, key=lambda metrics: (metrics.attempt, metrics.step), default=None)


def parse_metrics(lines: bytes) -> Iterator[StepMetrics]:
    """The records of whole lines; a line without its end was cut by a kill, and its step is done again."""
    for line in lines.split(b"\n"):
        if line.endswith(b"}"):
            raw = json.loads(line)
            yield known_fields(StepMetrics, {**raw, "loss": math.nan if raw["loss"] is None else raw["loss"]})


def metrics_line(metrics: StepMetrics) -> str:
    """The record as a line of the metrics file."""
    raw = asdict(metrics)
    raw["loss"] = metrics.loss if math.isfinite(metrics.loss) else None  # JSON has no other numbers
    raw["seconds"] = {name: round(value, 6) for name, value in metrics.seconds.items()}
    return json.dumps(raw)


def read_validations(run: Storage) -> list[Validation]:
    """The validations of the training, by step; of one that was done again, the last doing."""
    found = {}
    for line in read_log(run, VALIDATION_FILE).split(b"\n"):
        if line.endswith(b"}"):
            raw = json.loads(line)
            found[raw["step"]] = Validation(raw["step"], tuple(known_fields(Score, score) for score in raw["scores"]))
    return [found[step] for step in sorted(found)]


def write_evaluation(folder: Storage, evaluation: Evaluation, examples: list[RetrievalExample]) -> None:
    """Writes examples first and scores last, so that scores exist only when all does."""
    folder.write_bytes(EXAMPLES_FILE, _json([asdict(example) for example in examples]))
    folder.write_bytes(SCORES_FILE, _json(asdict(evaluation)))


def read_evaluation(folder: Storage) -> Evaluation:
    """Reads what `write_evaluation` wrote. Raises FileNotFoundError when there is none."""
    raw = json.loads(folder.read_bytes(SCORES_FILE))
    scores = tuple(known_fields(Score, score) for score in raw["scores"])
    return Evaluation(raw["step"], raw["checkpoint"], raw["data"], scores)


def read_examples(folder: Storage) -> list[RetrievalExample]:
    """Reads the retrieval examples. Raises FileNotFoundError when there are none."""
    return [
        RetrievalExample(
            SampleRef(**raw["query"]),
            tuple(SampleRef(**found) for found in raw["found"]),
            tuple(raw["similarities"]),
        )
        for raw in json.loads(folder.read_bytes(EXAMPLES_FILE))
    ]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
