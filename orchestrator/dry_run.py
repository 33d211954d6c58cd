"""Plans a training without starting it."""

from datapipe.dataset import MANIFEST_FILE
from datapipe.view_file import view_path
from infra.storage import storage_of
from orchestrator.config import RunConfig, Stage
from orchestrator.stages import require_sections
from training.launch import check_training
from training.model import check_tokenizer
from training.plan import TrainingPlan, plan_training, worker_memory
from training.samples import select_training


def plan_run(config: RunConfig) -> TrainingPlan:
    """What `train` would do with the config; of a dataset that is not built yet, nothing is known.

    Raises UserError for whatever would stop the training before its first step.
    """
    require_sections(config, [Stage.TRAIN])
    assert config.train is not None
    sources = config.train.training_sources()
    is_ready = all(
        storage_of(source.path).exists(file)
        for source in sources
        for file in [MANIFEST_FILE, *([view_path(source.view)] if source.view is not None else [])]
    )
    check_training(config.train, dataset_is_ready=is_ready)
    check_tokenizer(config.train.model)
    samples = select_training(config.train)[1].places if is_ready else None
    return plan_training(config.train, samples, worker_memory(config.train))
