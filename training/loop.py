"""The training itself, as each worker runs it: from the newest checkpoint to the last step."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
import torch.distributed as dist

from infra.append_log import AppendLog
from infra.storage import Storage
from training.agreement import StepFacts, any_rank, gather_facts, shared_out, total_digest
from training.bad_steps import BadStepJudge, BadStepRule, TrainingStopped
from training.best import write_best
from training.board import DATA_PHASE, Heartbeat
from training.cadence import Cadence, CadenceClock
from training.certificate import certify_loss
from training.checkpoint import CheckpointState
from training.checkpoint_keep import KeepRule, sweep_uncommitted
from training.checkpoint_part import PartName, take_part
from training.checkpoint_writer import CheckpointWriter, WriterSettings
from training.communication import communication_ns
from training.config import TrainConfig
from training.data_identity import require_same_data
from training.engine import Engine
from training.ledger import NANOSECONDS, Activity, Ledger, RankTimes, add_facts, write_ledger
from training.loader import Batch, Replacement, TrainingLoader
from training.mixture import Mixture
from training.model import ModelTraits, traits_of
from training.plan import Length, length_of
from training.preemption import Preempted, is_preempted
from training.profile import StepProfiler
from training.records import (
    CERTIFICATE_FILE,
    METRICS_FILE,
    REPLACEMENTS_FILE,
    VALIDATION_FILE,
    StepMetrics,
    metrics_line,
)
from training.samples import Samples, select_training
from training.schedule import Schedule, learning_rate
from training.start import start_or_resume
from training.step import StepPlace, StepResult, micro_batch_count, split_micro_batches, train_step
from training.validate import Validator

ATTEMPTS_FOLDER = "attempts"
LOADER_THREADS = 2  # at least: reading waits for the disk
SECONDS = 60.0
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Worker:
    """This process's place in the training.

    data: the identity of what is trained on. board: the actor that ranks report to, or None. fence: see its writer.
    """

    rank: int
    ranks: int
    use_gpu: bool
    data: str | None
    board: Any = None
    fence: str | None = None


def train_worker(config: TrainConfig, run: Storage, worker: Worker) -> None:
    """Trains on this rank's part of every global batch. The process group is initialised.

    Raises TrainingStopped and Preempted on all ranks at once.
    """
    if worker.rank == 0:
        sweep_uncommitted(run)
    samples, order = select_training(config, shared_out)
    require_same_data(config.training_sources(), worker.data)
    plan = length_of(config, order.places)
    attempt, token = _begin_attempt(run, worker)
    with Heartbeat(worker.board, attempt, worker.rank, config.hang_timeout_s) as heartbeat:
        state, engine = start_or_resume(config, plan, run, heartbeat.note)
        _certify(config, engine, run, worker)
        first = state.step if state else 0
        _record_attempt(run, worker, attempt, first)
        with _logs(run, worker) as logs, _loader(config, samples, order, worker) as loader:
            training = _Training(config, run, worker, plan, engine, heartbeat, logs, (attempt, token), state)
            training.run(loader, first)


class _Logs:
    """Rank 0's metrics, replaced pictures and validations; nothing on other ranks."""

    def __init__(
        self, metrics: AppendLog | None, replacements: AppendLog | None, validations: AppendLog | None
    ) -> None:
        self.metrics, self.replacements, self.validations = metrics, replacements, validations

    def flush(self) -> None:
        """Makes durable what a checkpoint is going to vouch for; replacements first, which the metrics count."""
        for log in (self.replacements, self.validations, self.metrics):
            if log is not None:
                log.flush()


class _Training:
    """The steps of one attempt on one rank."""

    def __init__(
        self,
        config: TrainConfig,
        run: Storage,
        worker: Worker,
        plan: Length,
        engine: Engine,
        heartbeat: Heartbeat,
        logs: _Logs,
        attempt: tuple[int, str],
        state: CheckpointState | None,
    ) -> None:
        self._config, self._run, self._worker, self._plan = config, run, worker, plan
        self._engine, self._heartbeat, self._logs = engine, heartbeat, logs
        self._attempt, token = attempt
        keep = KeepRule(config.keep_checkpoints, config.keep_checkpoint_every)
        self._writer = CheckpointWriter(
            run,
            PartName(token, worker.rank, worker.ranks),
            WriterSettings(keep, config.checkpoint_patience_minutes * SECONDS, worker.fence),
            say=heartbeat.note,
            before_commit=self._make_durable,
            after_commit=self._note_best,
            is_superseded=lambda: newest_attempt(run) > self._attempt,
        )
        self._traits: ModelTraits = traits_of(config)
        self._schedule = Schedule(
            config.schedule, config.lr, plan.steps, plan.warmup, config.cooldown_steps, config.rsqrt_timescale
        )
        cadence = Cadence(config.checkpoint_every, config.checkpoint_every_samples, config.checkpoint_every_minutes)
        self._clock = CadenceClock(cadence, config.global_batch_size, state.step if state else 0)
        rule = BadStepRule(config.on_bad_step, config.divergence_factor, config.max_bad_steps)
        self._judge = BadStepJudge(rule, state.losses if state else ())
        self._skipped = state.skipped if state else 0
        self._ledger = Ledger()
        self._times: list[RankTimes] | None = None
        self._validator = Validator(config, run, engine, self._traits, logs.validations, heartbeat.note)
        self._must_save = False

    def run(self, loader: TrainingLoader, first: int) -> None:
        """Trains from step `first` to the last one, or until it is asked to stop."""
        try:
            self._run_steps(loader, first)
        except TrainingStopped:
            # The checkpoint that is being written is of an earlier step, and all ranks are here.
            self._wait_for_writer()
            raise

    def _run_steps(self, loader: TrainingLoader, first: int) -> None:
        batches = loader.batches(first, self._plan.steps)
        with StepProfiler(self._config.profile_steps, self._run, self._worker.rank) as profiler:
            for step in range(first, self._plan.steps):
                began = time.monotonic()
                self._heartbeat.at(step + 1, DATA_PHASE)
                with self._ledger.time(Activity.WAIT):
                    batch = next(batches)
                self._heartbeat.at(step + 1, "computing")
                with profiler.step(step + 1):
                    done, rate = self._step(step, batch)
                self._heartbeat.at(step + 1, "agreeing with the other ranks")
                facts = self._agree(step, batch)
                self._record(step, done, rate, batch, facts, time.monotonic() - began)
                if self._finish_step(step + 1, facts):
                    return
        self._finish_writing()

    def _step(self, step: int, batch: Batch) -> tuple[StepResult, float]:
        rate = learning_rate(step, self._schedule)
        communicated = communication_ns()
        with self._ledger.time(Activity.TRANSFER):
            images = batch.images.to(self._engine.device, non_blocking=True)
            tokens = batch.tokens.to(self._engine.device, non_blocking=True)
        transferred = time.perf_counter_ns()
        done = train_step(
            self._engine,
            self._config.loss,
            self._traits,
            split_micro_batches(images, tokens, _micro_batches(self._config, self._worker)),
            rate,
            StepPlace(self._config.seed, step, self._worker.rank),
            self._judge,
        )
        self._skipped += not done.is_applied
        # What other threads communicate is nothing: only this one does.
        communicated = communication_ns() - communicated
        self._ledger.add(Activity.COMMUNICATION, communicated)
        self._ledger.add(Activity.COMPUTE, time.perf_counter_ns() - transferred - communicated)
        return done, rate

    def _agree(self, step: int, batch: Batch) -> list[StepFacts]:
        spent = self._ledger.take()
        is_preempted_here = is_preempted()
        return gather_facts(
            StepFacts(
                must_stop=int(self._heartbeat.must_stop or is_preempted_here),
                is_preempted=int(is_preempted_here),
                is_saving=int(self._writer.is_busy),
                is_time_to_save=int(self._worker.rank == 0 and self._clock.is_time()),
                digest=batch.digest & ((1 << 63) - 1),
                replaced=len(batch.replacements),
                **{activity.value: spent[activity] for activity in Activity},
                read=round(batch.read_s * NANOSECONDS),
                decode=round(batch.decode_s * NANOSECONDS),
            ),
            self._engine.device,
        )

    def _record(
        self, step: int, done: StepResult, rate: float, batch: Batch, facts: list[StepFacts], seconds: float
    ) -> None:
        replaced = sum(fact.replaced for fact in facts)
        replacements = self._gather_replacements(batch) if replaced else []
        self._times = add_facts(self._times, facts)
        if self._logs.metrics is None or self._logs.replacements is None:
            return
        place = {"step": step + 1, "attempt": self._attempt}
        for replacement in replacements:
            self._logs.replacements.write(json.dumps(place | asdict(replacement), ensure_ascii=False))
        metrics = StepMetrics(
            step=step + 1,
            loss=done.loss,
            logit_scale=done.logit_scale,
            lr=rate,
            samples_per_s=self._config.global_batch_size / seconds,
            epoch=(step + 1) * self._config.global_batch_size / self._plan.samples,
            attempt=self._attempt,
            time=time.time(),
            ranks=self._worker.ranks,
            digest=f"{total_digest(facts):016x}",
            replaced=replaced,
            saving=sum(fact.is_saving for fact in facts),
            gradient_norm=done.gradient_norm,
            is_skipped=not done.is_applied,
            seconds={
                activity.value: max(getattr(fact, activity.value) for fact in facts) / NANOSECONDS
                for activity in Activity
            },
        )
        line = metrics_line(metrics)
        self._logs.metrics.write(line)
        self._heartbeat.line(line)

    def _gather_replacements(self, batch: Batch) -> list[Replacement]:
        if self._worker.ranks == 1:
            return list(batch.replacements)
        gathered: list[tuple[Replacement, ...]] = [()] * self._worker.ranks
        dist.all_gather_object(gathered, batch.replacements)
        return [replacement for part in gathered for replacement in part]

    def _finish_step(self, step: int, facts: list[StepFacts]) -> bool:
        """Validates and saves where that is due; whether the training ends here. Every rank decides alike."""
        with self._ledger.time(Activity.VALIDATION):
            is_best = self._validator.is_due(step) and self._validate(step)
        must_stop = any(fact.must_stop for fact in facts)
        is_last = step == self._plan.steps
        self._must_save |= is_best or self._clock.is_step(step) or any(fact.is_time_to_save for fact in facts)
        if must_stop or is_last or is_best:
            # This very state is wanted: another one that is still being written is waited for.
            self._wait_for_writer()
            self._save(step)
        elif self._must_save and not any(fact.is_saving for fact in facts):
            self._save(step)
        if must_stop and not is_last:
            self._finish_writing()
            if any(fact.is_preempted for fact in facts):
                ranks = ", ".join(str(rank) for rank, fact in enumerate(facts) if fact.is_preempted)
                raise Preempted(f"Rank {ranks} was asked to go; the training was saved after step {step:,}.", "", "")
            return True
        return False

    def _validate(self, step: int) -> bool:
        self._heartbeat.at(step, "validating")
        return self._validator.validate(step)

    def _wait_for_writer(self) -> None:
        """Waits until no rank is writing any more, asking again and again: longer than one collective may take."""
        self._heartbeat.at(self._clock.saved, "waiting for the checkpoint before")
        with self._ledger.time(Activity.CHECKPOINT):
            while any_rank(self._writer.is_busy, self._engine.device):
                time.sleep(LOOK_EVERY_S)

    def _finish_writing(self) -> None:
        """Waits for the last checkpoint on all ranks: the first that ends may cost the others their process."""
        self._wait_for_writer()
        self._writer.finish()

    def _save(self, step: int) -> None:
        self._heartbeat.at(step, "taking a checkpoint")
        with self._ledger.time(Activity.CHECKPOINT):
            part = take_part(self._engine, self._worker.rank, self._worker.ranks)
        config = self._config
        state = CheckpointState(
            step=step,
            model=config.model,
            loss=config.loss.value,
            batch_size=config.global_batch_size,
            samples=self._plan.samples,
            seed=config.seed,
            settings=config.model_dump(mode="json", exclude_none=True),
            skipped=self._skipped,
            losses=self._judge.losses,
        )
        self._writer.begin(state, part)
        self._clock.saved_at(step)
        self._must_save = False

    def _note_best(self, step: int) -> None:
        """Remembers the best validation once its checkpoint is there; runs in the writer's thread."""
        best = self._validator.best
        if best is not None and best.step == step:
            write_best(self._run, best)

    def _make_durable(self) -> None:
        """Writes down what a checkpoint that is about to be committed vouches for; runs in the writer's thread."""
        self._logs.flush()
        if self._times is not None:
            write_ledger(self._run, self._attempt, self._times)


def _loader(config: TrainConfig, samples: Samples, order: Mixture, worker: Worker) -> TrainingLoader:
    return TrainingLoader(
        samples,
        order,
        traits_of(config),
        batch_size=config.global_batch_size,
        rank=worker.rank,
        ranks=worker.ranks,
        augment=config.augment,
        exclude=frozenset(config.exclude),
        feeds_gpu=worker.use_gpu,
        threads=max(LOADER_THREADS, torch.get_num_threads()),
    )


def _micro_batches(config: TrainConfig, worker: Worker) -> int:
    return micro_batch_count(-(-config.global_batch_size // worker.ranks), config.micro_batch_size)


def _certify(config: TrainConfig, engine: Engine, run: Storage, worker: Worker) -> None:
    """Checks the loss on these very workers, and writes down how exact it is."""
    certificate = certify_loss(config.loss, engine.device, engine.feature_dtype)
    if worker.rank == 0:
        run.write_bytes(CERTIFICATE_FILE, json.dumps({**asdict(certificate), "text": str(certificate)}).encode())


def _begin_attempt(run: Storage, worker: Worker) -> tuple[int, str]:
    """Numbers this start of the worker group, from 1, and gives it a name that no other has; the same on all ranks."""
    shared: list[Any] = [None]
    if worker.rank == 0:
        attempt = newest_attempt(run) + 1
        # Before anything can go wrong: a start that fails or hangs is one too.
        _record_attempt(run, worker, attempt, None)
        shared = [(attempt, f"{attempt:04d}{token_hex(3)}")]
    if worker.ranks > 1:
        device = torch.device("cuda", torch.cuda.current_device()) if worker.use_gpu else None
        dist.broadcast_object_list(shared, src=0, device=device)
    attempt, token = shared[0]
    return attempt, token


def newest_attempt(run: Storage) -> int:
    """The number of the last start of the workers; 0 before the first."""
    return max((int(Path(entry.path).stem) for entry in run.list_files(ATTEMPTS_FOLDER)), default=0)


def _record_attempt(run: Storage, worker: Worker, attempt: int, first: int | None) -> None:
    """Rank 0 writes down when this attempt was and at which step it began, once that is known."""
    if worker.rank == 0:
        facts = {"attempt": attempt, "started": time.time(), "first_step": first, "workers": worker.ranks}
        run.write_bytes(f"{ATTEMPTS_FOLDER}/{attempt:04d}.json", json.dumps(facts).encode())


@contextmanager
def _logs(run: Storage, worker: Worker) -> Iterator[_Logs]:
    if worker.rank != 0:
        yield _Logs(None, None, None)
        return
    with (
        AppendLog(run, METRICS_FILE) as metrics,
        AppendLog(run, REPLACEMENTS_FILE) as replacements,
        AppendLog(run, VALIDATION_FILE) as validations,
    ):
        yield _Logs(metrics, replacements, validations)
