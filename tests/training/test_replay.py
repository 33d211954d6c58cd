"""A step taken apart: its samples are the training's, and their losses add up to its loss."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from saved_checkpoints import save_weights
from small_datasets import make_dataset

from infra.errors import ConfigError
from infra.storage import Storage
from orchestrator.cli import cli
from orchestrator.config import load_config
from orchestrator.run import CONFIG_FILE
from training.agreement import MASK
from training.checkpoint import CheckpointState
from training.config import LossName, TrainConfig
from training.loader import TrainingLoader
from training.loss import clip_loss, siglip_loss
from training.model import create_model, model_traits
from training.order import batch_positions, digest_of
from training.records import METRICS_FILE, StepMetrics, metrics_line
from training.replay import losses_of_samples, replay_step
from training.samples import select_training


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=make_dataset(tmp_path / "data"), model="diptych-tiny", global_batch_size=20, steps=30, held_out=0.2
    )


@pytest.mark.parametrize("name", list(LossName))
def test_the_samples_losses_add_up_to_the_loss(name: LossName):
    images, texts = (F.normalize(torch.randn(300, 8, dtype=torch.float64), dim=1) for _ in range(2))
    scale, bias = torch.tensor(20.0), torch.tensor(-5.0)
    losses = losses_of_samples(name, images, texts, scale, bias)
    whole = clip_loss(images, texts, scale) if name is LossName.CLIP else siglip_loss(images, texts, scale, bias)
    assert losses.shape == (300,) and losses.mean().item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_step_has_the_trainings_own_samples_and_pictures(config: TrainConfig, tmp_path: Path):
    replay = replay_step(config, Storage(str(tmp_path / "run")), 25)
    samples, order = select_training(config)
    assert [sample.position for sample in replay.samples] == list(range(480, 500))
    loader = TrainingLoader(
        samples,
        order,
        model_traits(config.model),
        batch_size=20,
        rank=1,
        ranks=2,
        augment=config.augment,
        threads=1,
    )
    with loader:
        second_rank = next(loader.batches(24, 25))
    tokens = loader._tokenize([sample.caption for sample in replay.samples[10:]])
    assert torch.equal(tokens, second_rank.tokens)
    assert replay.checkpoint is None and replay.loss == pytest.approx(
        sum(sample.loss for sample in replay.samples) / 20
    )


def test_the_weights_are_those_of_the_last_checkpoint_before_the_step(config: TrainConfig, tmp_path: Path):
    run = Storage(str(tmp_path / "run"))
    for step, seed in ((10, 7), (20, 8)):
        state = CheckpointState(step, config.model, "clip", 20, 100, 0, {})
        save_weights(run, state, create_model(config.model, config.loss, seed).state_dict())
    found = {step: replay_step(config, run, step) for step in (10, 11, 20, 21)}
    assert [found[step].checkpoint_step for step in (10, 11, 20, 21)] == [0, 10, 10, 20]
    assert len({replay.loss for replay in found.values()}) == 4


def test_a_step_names_the_samples_that_were_taken_in_place_of_broken_and_excluded_ones(tmp_path: Path):
    config = TrainConfig(
        data=make_dataset(tmp_path / "data", broken=frozenset({7})),
        model="diptych-tiny",
        global_batch_size=200,  # an epoch and more
        steps=2,
        exclude=["0000003"],
    )
    replay = replay_step(config, Storage(str(tmp_path / "run")), 1)
    keys = [sample.key for sample in replay.samples]
    assert not {"0000003", "0000007"} & set(keys)
    taken = {sample.key for sample in replay.samples if sample.is_replaced}
    assert taken == {"0000004", "0000008"}
    assert keys.count("0000004") >= 2 and replay.is_as_recorded is None


def test_a_step_is_compared_with_what_the_training_recorded(config: TrainConfig, tmp_path: Path):
    run = Storage(str(tmp_path / "run"))
    _, order = select_training(config)
    positions = batch_positions(2, 20)
    digest = digest_of(positions, order.samples_at(positions)) & MASK
    for recorded, agrees in ((digest, True), (digest ^ 1, False)):
        metrics = StepMetrics(3, 1.0, 1.0, 1e-3, 1.0, 0.1, 1, 0.0, digest=f"{recorded:016x}")
        run.write_bytes(METRICS_FILE, metrics_line(metrics).encode() + b"\n")
        assert replay_step(config, run, 3).is_as_recorded is agrees


def test_a_step_that_there_is_not_is_refused(config: TrainConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match="the steps 1 to 30"):
        replay_step(config, Storage(str(tmp_path / "run")), 31)


def test_the_command_lists_the_worst_samples(config: TrainConfig, tmp_path: Path):
    path = tmp_path / "shapes.yaml"
    path.write_text(f"storage: {tmp_path}/runs\ntrain: {config.model_dump_json(exclude_none=True)}\n")
    config = load_config(path)
    config.folder.write_bytes(CONFIG_FILE, config.to_yaml())
    result = CliRunner().invoke(cli, ["replay", f"{tmp_path}/runs/shapes", "--step", "3", "--top", "4"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("step 3: loss") and len(lines) == 5
    losses = [float(line.split()[0]) for line in lines[1:]]
    assert losses == sorted(losses, reverse=True)
    assert CliRunner().invoke(cli, ["replay", str(tmp_path), "--step", "3"]).exit_code != 0
