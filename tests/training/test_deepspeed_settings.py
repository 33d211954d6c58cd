"""A user's own DeepSpeed settings: taken where they fit, refused with both values where they contradict the config."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from test_engine import config, make_engine, state, steps

from infra.errors import ConfigError
from infra.storage import Storage
from training.config import TrainConfig
from training.deepspeed_settings import merged, settled_settings, user_settings, with_settings_inside
from training.worker import settings_for


def settled(users: dict[str, Any], **values: Any) -> dict[str, Any]:
    settings = config(values.pop("stage", 1), deepspeed=users, **values)
    return merged(settled_settings(settings), user_settings(settings))


def test_settings_that_fit_are_added_and_those_of_the_config_stay():
    users = {"zero_optimization": {"overlap_comm": True, "stage": 2}, "wall_clock_breakdown": True}
    found = settled(users, stage=2, grad_clip_norm=1.5)
    assert found["zero_optimization"] == {"stage": 2, "compute_grad_norm": True, "overlap_comm": True}
    assert found["wall_clock_breakdown"] is True and found["gradient_clipping"] == 1.5


def test_the_bucket_and_the_printing_are_the_users_choice():
    ours = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}, "steps_per_print": 1 << 30}
    users = {"zero_optimization": {"reduce_bucket_size": 5000}, "steps_per_print": 100}
    assert merged(ours, users) == {
        "zero_optimization": {"stage": 1, "reduce_bucket_size": 5000},
        "steps_per_print": 100,
    }


def throughput_timer(_group: Any, users: dict[str, Any]) -> tuple[bool, bool]:
    timer = make_engine(config(1, deepspeed=users))._deepspeed.tput_timer.config
    return timer.enabled, timer.synchronized


@pytest.mark.parametrize(("users", "waits"), [({}, False), ({"timers": {"throughput": {"synchronized": True}}}, True)])
def test_deepspeeds_timer_waits_for_the_device_only_where_the_user_says_so(
    ranks: Ranks, users: dict[str, Any], waits: bool
):
    assert ranks.run(throughput_timer, [(users,)] * 3) == [(True, waits)] * 3


def test_auto_is_what_diptych_sets_or_else_deepspeeds_own_default():
    """As in the files that other trainers come with."""
    users = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto", "loss_scale": 0},
        "optimizer": "auto",
        "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto", "offload_param": {"device": "auto"}},
    }
    assert settled(users, stage=3, precision="bf16", grad_clip_norm=2.0) == settled(
        {"zero_optimization": {"offload_param": {}}}, stage=3, precision="bf16", grad_clip_norm=2.0
    )


@pytest.mark.parametrize(
    ("users", "values", "words"),
    [
        (
            {"zero_optimization": {"stage": 2}},
            {"stage": 3},
            r"zero_optimization.stage: got 2, .* sets 3.*\n.*zero_stage",
        ),
        ({"gradient_clipping": 1.0}, {"grad_clip_norm": 0.5}, r"got 1.0, .* sets 0.5.*\n.*train.grad_clip_norm"),
        ({"gradient_clipping": 1.0}, {}, r"gradient_clipping: got 1.0, .* sets 0.0"),
        ({"bf16": {"check_grad_overflow": False}}, {}, r"check_grad_overflow: got false, .* sets true"),
        ({"bf16": {"enabled": True}}, {}, r"bf16.enabled: got true, .* sets false.*\n.*train.precision"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            {"optimizer_offload": True},
            r'offload_optimizer.device: got "nvme", .* sets "cpu".*\n.*train.optimizer_offload',
        ),
        ({"zero_optimization": 2}, {}, r'zero_optimization: got 2, .* sets {"stage": 1, .*}'),
    ],
)
def test_a_contradiction_is_named_with_both_values(users: dict[str, Any], values: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        settled(users, **values)


@pytest.mark.parametrize(
    ("key", "value", "ours"),
    [
        ("optimizer", {"type": "AdamW", "params": {"lr": 1e-3}}, "train.lr"),
        ("scheduler", {"type": "WarmupLR"}, "train.schedule"),
        ("fp16", {"enabled": True}, "train.precision"),
        ("train_batch_size", 64, "train.global_batch_size"),
        ("train_micro_batch_size_per_gpu", 1, "micro_batch_size"),
        ("gradient_accumulation_steps", 4, "micro_batch_size"),
    ],
)
def test_what_diptych_does_itself_is_refused_before_a_worker_starts(key: str, value: Any, ours: str):
    with pytest.raises(ConfigError, match=rf"train.deepspeed.{key}: got .*\n.*{ours}"):
        with_settings_inside(config(1, deepspeed={key: value}))


def test_sums_in_fp32_are_refused_where_deepspeed_hides_its_weights():
    sums = {"data_types": {"grad_accum_dtype": "fp32"}}
    with pytest.raises(ConfigError, match=r'grad_accum_dtype: got "fp32" with train.zero_stage 1'):
        with_settings_inside(config(1, deepspeed=sums, precision="bf16"))
    assert with_settings_inside(config(2, deepspeed=sums, precision="bf16")).deepspeed == sums
    assert with_settings_inside(config(1, deepspeed=sums)).deepspeed == sums


def test_what_is_switched_off_may_stay_in_the_file():
    assert settled({"fp16": {"enabled": False}, "tensorboard": {"enabled": False}}) == settled({})


def test_a_file_travels_inside_the_config_to_the_workers(tmp_path: Path):
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": {"overlap_comm": False}}))
    settings = with_settings_inside(config(1, deepspeed=str(path)))
    path.unlink()
    of = {"use_gpu": False, "threads": 1, "board": None, "data": None, "fence": None, "sight": None}
    told = settings_for(settings, Storage(str(tmp_path)), **of)["config"]
    assert user_settings(TrainConfig.model_validate_json(told)) == {"zero_optimization": {"overlap_comm": False}}


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("{stage: 1}", "cannot be read"), ("[1]", "holds list")]
)
def test_a_file_that_is_missing_or_no_json_object_is_refused(tmp_path: Path, content: str | None, words: str):
    path = tmp_path / "deepspeed.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"deepspeed.json {words}"):
        with_settings_inside(config(1, deepspeed=str(path)))


def offloaded(_group: Any, stage: int, values: dict[str, Any]) -> tuple[list[float], dict[str, Any], bool]:
    settings = config(stage, **values)
    engine = make_engine(settings)
    losses = [done.loss for done in steps(engine, settings, 0, 2)]
    return losses, state(engine)[0], engine._deepspeed.zero_cpu_offload()


@pytest.mark.parametrize("stage", [1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (2, 3))])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_optimizer_in_the_cpus_memory_takes_the_same_steps(ranks: Ranks, stage: int, precision: str):
    plain, weights, _ = ranks.run(offloaded, [(stage, {"precision": precision})] * 3)[0]
    losses, others, is_offloaded = ranks.run(
        offloaded, [(stage, {"precision": precision, "optimizer_offload": True})] * 3
    )[0]
    assert is_offloaded and losses == pytest.approx(plain, rel=1e-6)
    for name, weight in weights.items():
        # Its gradients are added up in another order: rounding, through Adam's division.
        assert (weight - others[name]).abs().max() < 1e-5, name


def clip_norm_in_deepspeed(_group: Any, users: dict[str, Any]) -> tuple[bool, float]:
    engine = make_engine(config(2, grad_clip_norm=0.7, deepspeed=users))
    return engine._deepspeed.zero_overlap_comm(), engine._deepspeed.gradient_clipping()


@pytest.mark.parametrize("overlaps", [True, False])
def test_deepspeed_itself_has_the_settings(ranks: Ranks, overlaps: bool):
    users = {"zero_optimization": {"overlap_comm": overlaps, "allgather_bucket_size": "auto"}}
    assert ranks.run(clip_norm_in_deepspeed, [(users,)] * 3)[0] == (overlaps, 0.7)


@pytest.mark.parametrize("is_file", [False, True])
def test_a_secret_in_the_settings_is_refused_without_showing_it(is_file: bool, tmp_path: Path):
    users: dict[str, Any] = {"comet": {"enabled": False, "api_key": "hunter2"}}
    (tmp_path / "deepspeed.json").write_text(json.dumps(users))
    with pytest.raises(ConfigError, match=r"holds a password, a key or a signature \(comet\.api_key\)") as caught:
        with_settings_inside(config(1, deepspeed=str(tmp_path / "deepspeed.json") if is_file else users))
    assert "hunter2" not in str(caught.value)
