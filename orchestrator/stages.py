"""The stages of a run, each done only if its result is not there yet for the inputs it has now."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.cluster import Cluster, connect
from infra.errors import ConfigError
from infra.progress import Progress
from infra.storage import Storage
from orchestrator.config import RunConfig, Stage
from orchestrator.driver import Driver
from orchestrator.records import AGAIN_EVENT, RETRY_EVENT, START_NAME, WENT_ON_EVENT, drive_path
from orchestrator.run import EVALUATION_FOLDER, EXPORT_FOLDER, REPORT_FILE, mark_stage_done
from orchestrator.same_data import keep_data, refuse_to_change_view
from orchestrator.stage_state import WITHOUT_LIST, inputs_of, is_built_without_list, is_done
from training.config import WhichCheckpoint

WITHOUT_CLUSTER = frozenset({Stage.CURATE})  # it reads a few columns, in the driver


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage works with."""

    config: RunConfig
    driver: Driver
    cluster: Cluster | None

    @property
    def folder(self) -> Storage:
        """The run's folder."""
        return self.driver.folder

    @property
    def progress(self) -> Progress:
        """Where the stage shows how far it is."""
        return self.driver.progress


def configured_stages(config: RunConfig) -> tuple[Stage, ...]:
    """The stages that the config names, in order. Raises ConfigError when it names none."""
    stages = tuple(stage for stage in Stage if getattr(config, stage.value) is not None)
    if not stages:
        raise ConfigError(
            "The config names no stage.",
            f"A stage is a section: {', '.join(Stage)}.",
            "Add one; the README has a ten-line example.",
        )
    return stages


def require_sections(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Raises ConfigError when a stage that was asked for has no section."""
    for stage in stages:
        if getattr(config, stage.value) is None:
            raise ConfigError(
                f"The config has no section {stage}.",
                f"`diptych {stage}` needs one.",
                "Add it; the README lists its keys.",
            )


def check_stages(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Finds what a user can have got wrong, before anything is written or started. Raises UserError."""
    check_last_stages(config, stages)
    if Stage.BUILD in stages and config.build is not None and not is_built_without_list(config):
        from datapipe.build import check_build

        check_build(config.build)
    if Stage.ANNOTATE in stages and config.annotate is not None:
        from training.annotators import check_annotation

        check_annotation(config.annotate, dataset_is_ready=Stage.BUILD not in stages)
    if Stage.CURATE in stages and config.curate is not None and not {Stage.BUILD, Stage.ANNOTATE} & set(stages):
        from datapipe.curate import check_curation

        check_curation(config.curate)
    if Stage.TRAIN in stages and config.train is not None:
        from training.launch import check_training

        check_training(config.train, dataset_is_ready=Stage.BUILD not in stages)


def check_last_stages(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Finds what the evaluation and the export would miss after all the training. Raises ConfigError."""
    if Stage.EVALUATE in stages and config.evaluate is not None:
        from training.evaluate import parts_to_score

        parts_to_score(config.evaluate, config.held_out)
    if Stage.EXPORT in stages and config.export is not None and config.export.checkpoint is WhichCheckpoint.BEST:
        from training.best import best_checkpoint

        validates = config.train is not None and config.train.validate_every is not None
        if not validates and best_checkpoint(config.folder) is None:
            raise ConfigError(
                f"export.checkpoint: got best; the run {config.name} validates nothing, so that none will be the best.",
                "The best one is known after a validation during training: train.validate_every.",
                "Set that, or export.checkpoint=last.",
            )


def run_stages(driver: Driver, config: RunConfig, stages: Sequence[Stage], *, address: str | None = None) -> None:
    """Does the stages in order on one Ray cluster, which is started only if a stage wants it.

    Raises ConfigError before the first for a login that one of those to do wants and this machine lacks.
    """
    folder = driver.folder
    # What comes after the first that is to do may have other inputs by then.
    first = next((place for place, stage in enumerate(stages) if not is_done(stage, config, folder)), len(stages))
    for stage in stages[:first]:
        why = f": {WITHOUT_LIST}" if stage is Stage.BUILD and is_built_without_list(config) else ""
        driver.progress.note(f"✓ {stage}  already done{why}")
    pending = stages[first:]
    if pending:
        _check_logins(config, pending)
        wants_cluster = any(stage not in WITHOUT_CLUSTER for stage in pending)
        with connect(driver.logs, address=address) if wants_cluster else nullcontext() as cluster:
            context = StageContext(config, driver, cluster)
            for stage in pending:
                if is_done(stage, config, folder):
                    driver.progress.note(f"✓ {stage}  already done")
                else:
                    driver.begin_stage(stage)
                    # Those of now: what changes while the stage is at work, it may not have seen.
                    inputs = inputs_of(stage, config, folder)
                    used = RUNNERS[stage](context)
                    mark_stage_done(driver, stage, inputs | used)
                    driver.tell("finished a stage", stage)


def _check_logins(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Finds what the machine that drives these stages must be logged in to. Raises ConfigError."""
    if Stage.TRAIN in stages and config.train is not None:
        from training.trackers import check_tracker_logins

        check_tracker_logins(config.train)


def write_run_report(config: RunConfig, driver: Driver, *, title: str | None = None, credit: str | None = None) -> None:
    """Writes the run's `report.html` from what there is by now."""
    from orchestrator.report import write_report

    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch, REPORT_FILE)
        write_report(_dataset_url(config), driver.folder, page, title or f"diptych · {config.name}", credit)
        driver.require_lease()
        driver.folder.put_file(page, REPORT_FILE)


def refresh_run_report(
    config: RunConfig, driver: Driver, *, title: str | None = None, credit: str | None = None
) -> None:
    """The same on the way: left out while another driver may have the run."""
    if driver.lease.is_held:
        write_run_report(config, driver, title=title, credit=credit)


def _build(context: StageContext) -> dict[str, str | None]:
    from datapipe.build import build

    assert context.config.build is not None
    build(context.config.build, context.progress, tell=partial(context.driver.tell, AGAIN_EVENT))
    return {}


def _annotate(context: StageContext) -> dict[str, str | None]:
    from training.annotators import annotate_dataset

    assert context.config.annotate is not None and context.cluster is not None
    annotate_dataset(context.config.annotate, context.progress, context.cluster)
    return {}


def _curate(context: StageContext) -> dict[str, str | None]:
    from datapipe.curate import curate

    config = context.config
    assert config.curate is not None
    curate(config.curate, context.progress, before_write=partial(refuse_to_change_view, config))
    return {}


def _train(context: StageContext) -> dict[str, str | None]:
    from training.launch import check_training, train

    assert context.config.train is not None and context.cluster is not None
    check_training(context.config.train, dataset_is_ready=True)
    keep_data(context.driver, context.config)
    # Once a later driver has begun, what is left of this one's workers commits nothing more.
    fence = drive_path(context.driver.drive.number + 1, START_NAME)

    def tell(is_retrying: bool, why: str) -> None:
        context.driver.tell(RETRY_EVENT if is_retrying else WENT_ON_EVENT, why)

    train(context.config.train, context.folder, context.progress, context.cluster, fence=fence, tell=tell)
    return {}


def _evaluate(context: StageContext) -> dict[str, str | None]:
    from training.checkpoint import identity_of, newest_whole_checkpoint
    from training.evaluate import evaluate

    config = context.config
    assert config.evaluate is not None
    checkpoint = newest_whole_checkpoint(context.folder)
    if checkpoint is None:
        raise ConfigError(
            f"The run {config.name} has no checkpoint to evaluate.",
            f"Looked in {context.folder.url}/checkpoints.",
            "Run `diptych train` with the same config first, or name one with --checkpoint.",
        )
    evaluate(
        config.evaluate,
        context.folder.at(checkpoint),
        config.held_out,
        context.progress,
        context.folder.at(EVALUATION_FOLDER),
    )
    return {"checkpoint": identity_of(context.folder, checkpoint)}


def _export(context: StageContext) -> dict[str, str | None]:
    from training.checkpoint import identity_of
    from training.export import export_model

    config = context.config
    assert config.export is not None
    checkpoint = _checkpoint_to_export(config, context.folder)
    if checkpoint is None:
        raise ConfigError(
            f"The run {config.name} has no {config.export.checkpoint} checkpoint to export.",
            "The best one is known after a validation during training: train.validate_every.",
            "Run `diptych train` with the same config first, or set export.checkpoint=last.",
        )
    context.progress.begin("export", total=1, unit="models")
    export_model(
        context.folder.at(checkpoint),
        context.folder.at(EXPORT_FOLDER),
        config.name,
        use_average=config.export.use_ema,
    )
    context.progress.update(1)
    context.progress.end(f"{context.folder.at(EXPORT_FOLDER).url}")
    return {"checkpoint": identity_of(context.folder, checkpoint)}


def _checkpoint_to_export(config: RunConfig, folder: Storage) -> str | None:
    from training.best import best_checkpoint
    from training.checkpoint import newest_whole_checkpoint

    assert config.export is not None
    is_best = config.export.checkpoint is WhichCheckpoint.BEST
    return best_checkpoint(folder) if is_best else newest_whole_checkpoint(folder)


# Each does its stage, and returns what it found to be other inputs than were noted before it: {} where it cannot.
RUNNERS: dict[Stage, Callable[[StageContext], dict[str, str | None]]] = {
    Stage.BUILD: _build,
    Stage.ANNOTATE: _annotate,
    Stage.CURATE: _curate,
    Stage.TRAIN: _train,
    Stage.EVALUATE: _evaluate,
    Stage.EXPORT: _export,
}


def _dataset_url(config: RunConfig) -> str | None:
    if config.build is not None:
        return config.build.output
    if config.train is not None:
        return config.train.training_sources()[0].path
    section = config.annotate or config.curate
    return section.data if section else None
