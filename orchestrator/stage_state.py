"""What each stage of a run is made from, whether its result is there, and so what a start would do with it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from datapipe.config import BuildConfig
from infra.errors import InputError, UserError
from infra.storage import Storage, storage_of
from orchestrator.config import RunConfig, Stage
from orchestrator.run import EVALUATION_FOLDER, EXPORT_FOLDER, result_keys, stage_facts
from training.config import WhichCheckpoint
from training.records import SCORES_FILE

WITHOUT_LIST = "its dataset is complete; the URL list is not there any more"


class Verdict(StrEnum):
    """What would become of a stage."""

    DONE = "done"
    TO_DO = "to do"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a dry run; a stale one is done again."""

    stage: Stage
    verdict: Verdict
    why: str


def plan_stages(config: RunConfig, stages: Sequence[Stage]) -> list[StagePlan]:
    """What a start would do with each stage now, and why; reads only."""
    plans: list[StagePlan] = []
    for stage in stages:
        before = [plan.stage for plan in plans if plan.verdict is not Verdict.DONE]
        plans.append(_plan_stage(stage, config, before))
    return plans


def _plan_stage(stage: Stage, config: RunConfig, before: list[Stage]) -> StagePlan:
    folder = config.folder
    facts = stage_facts(folder, stage)
    if facts is None:
        begun = stage is Stage.TRAIN and _has_result(stage, config, folder)
        return StagePlan(
            stage, Verdict.TO_DO, "begun; it goes on from its last checkpoint" if begun else "not done yet"
        )
    inputs = inputs_of(stage, config, folder)
    changed = sorted(name for name in facts.keys() | inputs.keys() if facts.get(name) != inputs.get(name))
    if changed:
        return StagePlan(stage, Verdict.STALE, f"done with another {' and '.join(changed)}")
    if not _has_result(stage, config, folder):
        return StagePlan(stage, Verdict.TO_DO, "it was done, but its result is not there any more")
    if stage is Stage.BUILD and is_built_without_list(config):
        return StagePlan(stage, Verdict.DONE, WITHOUT_LIST)
    if before:
        return StagePlan(stage, Verdict.DONE, f"unless {' or '.join(before)} changes what it was made from")
    return StagePlan(stage, Verdict.DONE, "its result is there, made from these very inputs")


def is_done(stage: Stage, config: RunConfig, folder: Storage) -> bool:
    """Whether its result is there, made from the inputs that it has now."""
    facts = stage_facts(folder, stage)
    return facts is not None and facts == inputs_of(stage, config, folder) and _has_result(stage, config, folder)


def stages_left(config: RunConfig, *, did: Sequence[Stage] = ()) -> tuple[Stage, ...]:
    """The config's stages, but those that a command just did, that are not noted as done with their inputs of now.

    Unlike `is_done` this reads no results, some of which are large.
    """
    configured = [stage for stage in Stage if getattr(config, stage.value) is not None]
    return tuple(stage for stage in configured if stage not in did and not _is_noted(stage, config))


def _is_noted(stage: Stage, config: RunConfig) -> bool:
    facts = stage_facts(config.folder, stage)
    try:
        return facts is not None and facts == inputs_of(stage, config, config.folder)
    except UserError:
        return False


def inputs_of(stage: Stage, config: RunConfig, folder: Storage) -> dict[str, Any]:
    """What the stage's result depends on; another config or another input makes it to be done again."""
    from training.checkpoint import identity_of, newest_checkpoint
    from training.data_identity import data_identity

    section = getattr(config, stage.value).model_dump(mode="json")
    match stage:
        case Stage.BUILD:
            return {"settings": _digest(section), "input": _list_identity(config, folder)}
        case Stage.ANNOTATE:
            from datapipe.dataset import MANIFEST_FILE
            from training.annotators import annotators_of

            assert config.annotate is not None
            settings = {name: annotator.settings for name, annotator in annotators_of(config.annotate).items()}
            return {"settings": _digest(settings), "data": _file_digest(config.annotate.data, MANIFEST_FILE)}
        case Stage.CURATE:
            from datapipe.annotation import annotation_marker
            from datapipe.curate import used_columns
            from datapipe.dataset import MANIFEST_FILE

            assert config.curate is not None
            columns = [annotation_marker(column) for column in used_columns(config.curate)]
            return {
                "settings": _digest(section),
                "data": _file_digest(config.curate.data, MANIFEST_FILE),
                "annotations": _digest([_file_digest(config.curate.data, marker) for marker in columns]),
            }
        case Stage.TRAIN:
            assert config.train is not None
            return {"settings": _digest(result_keys(section)), "data": data_identity(config.train.training_sources())}
        case Stage.EVALUATE:
            from training.evaluate import parts_to_score

            assert config.evaluate is not None
            train = result_keys(config.train.model_dump(mode="json")) if config.train else None
            scored = parts_to_score(config.evaluate, config.held_out)
            return {
                "settings": _digest([section, train]),
                "data": data_identity(scored.values()),
                "checkpoint": identity_of(folder, newest_checkpoint(folder)),
            }
        case Stage.EXPORT:
            from training.best import best_checkpoint

            assert config.export is not None
            is_best = config.export.checkpoint is WhichCheckpoint.BEST
            checkpoint = best_checkpoint(folder) if is_best else newest_checkpoint(folder)
            return {"settings": _digest(section), "checkpoint": identity_of(folder, checkpoint)}


def is_built_without_list(config: RunConfig) -> bool:
    """Whether the build is done and its dataset complete, and the URL list that it was made from is not there now."""
    return config.build is not None and not _has_list(config.build) and is_done(Stage.BUILD, config, config.folder)


def _list_identity(config: RunConfig, folder: Storage) -> str:
    """The URL list's; of one that is not there any more, the one that the complete dataset was made from."""
    from datapipe.build import is_complete
    from datapipe.input_files import find_input_files
    from datapipe.urls import input_identity

    assert config.build is not None
    facts = stage_facts(folder, Stage.BUILD)
    if facts is None or _has_list(config.build) or not is_complete(storage_of(config.build.output)):
        return input_identity(find_input_files(config.build.input))
    return str(facts["input"])


def _has_list(config: BuildConfig) -> bool:
    from datapipe.input_files import find_input_files

    try:
        return bool(find_input_files(config.input))
    except InputError:
        return False


def _has_result(stage: Stage, config: RunConfig, folder: Storage) -> bool:
    from training.checkpoint import newest_checkpoint, newest_whole_checkpoint

    match stage:
        case Stage.BUILD:
            from datapipe.build import is_complete

            assert config.build is not None
            return is_complete(storage_of(config.build.output))
        case Stage.ANNOTATE:
            from datapipe.annotation import is_annotated
            from training.annotators import annotators_of

            assert config.annotate is not None
            dataset = storage_of(config.annotate.data)
            annotators = annotators_of(config.annotate)
            return all(is_annotated(dataset, name, each.settings) for name, each in annotators.items())
        case Stage.CURATE:
            from datapipe.curate import curation_source
            from datapipe.view_file import read_curation

            assert config.curate is not None
            made = read_curation(storage_of(config.curate.data), config.curate.view)
            return made is not None and made.made_from == curation_source(config.curate)
        case Stage.TRAIN:
            # A damaged one is done again from the one before it.
            newest = newest_checkpoint(folder)
            return newest is not None and newest == newest_whole_checkpoint(folder)
        case Stage.EVALUATE:
            return folder.at(EVALUATION_FOLDER).exists(SCORES_FILE)
        case Stage.EXPORT:
            from training.export import is_exported

            return is_exported(folder.at(EXPORT_FOLDER))


def _file_digest(place: str, path: str) -> str | None:
    """The SHA-256 of a small file; None when there is none."""
    storage = storage_of(place)
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except FileNotFoundError:
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
