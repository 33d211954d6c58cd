"""Checks a run: every byte of its checkpoints, and the record of the samples that it used."""

from dataclasses import dataclass

from infra.storage import Storage
from orchestrator.run import read_training
from training.checkpoint import MARKER_FILE, committed_checkpoints, problem_of
from training.proof import SampleProof, prove_samples


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """What was found; `checkpoint_problems` name the checkpoints that are not as they were written."""

    checkpoints: int
    checkpoint_problems: tuple[str, ...]
    samples: SampleProof

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.checkpoint_problems and not self.samples.problems


def verify_run(run: Storage) -> RunVerdict:
    """Checks the run in a folder. Raises ConfigError when it holds no training."""
    config = read_training(run)
    problems, checked = [], 0
    for path in committed_checkpoints(run):
        problem = _problem(run.at(path))
        # One that a training has removed meanwhile was not damaged.
        if run.at(path).exists(MARKER_FILE):
            checked += 1
            problems += [f"{path}: {problem}"] if problem else []
    return RunVerdict(checked, tuple(problems), prove_samples(config, run))


def _problem(checkpoint: Storage) -> str | None:
    try:
        return problem_of(checkpoint)
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
