"""Checks a run: every byte of its checkpoints, and the record of the samples that it used."""

from dataclasses import dataclass

from infra.storage import Storage
from orchestrator.run import read_training
from training.checkpoint import committed_checkpoints, hash_problem, size_problem
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
    checkpoints = committed_checkpoints(run)
    found = ((path, size_problem(run.at(path)) or hash_problem(run.at(path))) for path in checkpoints)
    problems = tuple(f"{path}: {problem}" for path, problem in found if problem)
    return RunVerdict(len(checkpoints), problems, prove_samples(config, run))
