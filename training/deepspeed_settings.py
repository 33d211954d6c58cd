"""DeepSpeed's settings: those that follow from the config, and the user's own on top of them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from infra.secret_values import secret_path
from infra.storage import storage_of
from training.config import Precision, TrainConfig

# Set by diptych from the number of workers and micro-batches, of which DeepSpeed knows only a part.
BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
# What diptych does itself, and the key of its config that says so.
OWN_JOBS = {
    "optimizer": "train.lr, beta1, beta2, eps and weight_decay",
    "scheduler": "train.schedule",
    "fp16": "train.precision (bf16 or fp32)",
    "amp": "train.precision",
    "checkpoint": "train.checkpoint_every",
    "tensorboard": "train.trackers",
    "wandb": "train.trackers",
    "data_efficiency": "train.data",
    **dict.fromkeys(BATCH_KEYS, "train.global_batch_size, micro_batch_size and workers"),
}
AUTO = "auto"  # what other programs' files have where they want the program to fill in
USERS_CHOICE = ("reduce_bucket_size", "steps_per_print", "synchronized")  # diptych's are only better than DeepSpeed's


def settled_settings(config: TrainConfig) -> dict[str, Any]:
    """What the config says about DeepSpeed; a user's own settings may not contradict it."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "compute_grad_norm": True}
    if config.optimizer_offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        # Bad gradients are found by it, which is the default.
        "bf16": {"enabled": config.precision is Precision.BF16 and config.zero_stage > 0, "check_grad_overflow": True},
        "gradient_clipping": config.grad_clip_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        # Its own timer would have every micro-batch wait until the GPU has done all that it was given.
        "timers": {"throughput": {"synchronized": False}},
    }


def user_settings(config: TrainConfig) -> dict[str, Any]:
    """The user's own settings, read from their file if it is one. Raises ConfigError, also for secrets in them."""
    values = config.deepspeed if isinstance(config.deepspeed, dict) else _read_file(config.deepspeed)
    secret = secret_path(values)
    if secret is not None:
        where = "its section" if isinstance(config.deepspeed, dict) else config.deepspeed
        raise ConfigError(
            f"train.deepspeed: {where} holds a password, a key or a signature ({'.'.join(map(str, secret))}).",
            "These settings are stored with the run and its checkpoints, so secrets come from environment variables.",
            "Take it out, and set the variable that its program reads, for example COMET_API_KEY.",
        )
    return values


def _read_file(place: str) -> dict[str, Any]:
    path = Path(place)
    try:
        values = json.loads(storage_of(path.parent).read_bytes(path.name))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"train.deepspeed: {place} cannot be read ({error}).",
            "It is a JSON file with DeepSpeed's settings, or a section with them.",
            "Correct the file or its name.",
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"train.deepspeed: {place} holds {type(values).__name__}.",
            "It is a JSON object with DeepSpeed's settings.",
            "Correct the file.",
        )
    return values


def with_settings_inside(config: TrainConfig) -> TrainConfig:
    """The config with the settings themselves in place of their file, for workers that don't have it.

    Raises ConfigError for settings that contradict the config, naming both values.
    """
    users = user_settings(config)
    merged(settled_settings(config), users)
    _refuse_other_sums(config, users)
    return config.model_copy(update={"deepspeed": users})


def _refuse_other_sums(config: TrainConfig, users: Mapping[str, Any]) -> None:
    """At stage 1, DeepSpeed then takes an optimizer that keeps its fp32 weights where no checkpoint finds them."""
    types = users.get("data_types")
    sums = types.get("grad_accum_dtype", AUTO) if isinstance(types, dict) else AUTO
    is_bf16 = config.precision is Precision.BF16
    if config.zero_stage == 1 and is_bf16 and sums not in (AUTO, None, "bf16"):
        raise ConfigError(
            f"train.deepspeed.data_types.grad_accum_dtype: got {json.dumps(sums)} with train.zero_stage 1.",
            "At stage 1 in bf16 the gradients of micro-batches are summed in bf16; at 2 and 3 fp32 goes as well.",
            "Leave it out, or set train.zero_stage to 2 or 3.",
        )


def merged(ours: Mapping[str, Any], users: Mapping[str, Any]) -> dict[str, Any]:
    """Both together. Raises ConfigError where the user's contradict ours, or do what diptych does itself."""
    for key, values in users.items():
        is_off = isinstance(values, dict) and values.get("enabled") in (False, AUTO)
        if key in OWN_JOBS and values != AUTO and not is_off:
            raise ConfigError(
                f"train.deepspeed.{key}: got {json.dumps(values)}.",
                f"diptych does this itself: {OWN_JOBS[key]}.",
                f"Leave {key} out of DeepSpeed's settings, and set those keys.",
            )
    return dict(_merge(ours, {key: values for key, values in users.items() if key not in OWN_JOBS}, ()))


def _merge(ours: Mapping[str, Any], users: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key in dict.fromkeys([*ours, *users]):
        place = (*path, key)
        own, theirs = ours.get(key), users.get(key, AUTO)
        if theirs == AUTO:
            if key in ours:  # else it is DeepSpeed that fills in
                yield key, own
        elif isinstance(theirs, dict) and isinstance(ours.get(key, {}), dict):
            yield key, dict(_merge(own or {}, theirs, place))
        elif key not in ours or key in USERS_CHOICE or own == theirs:
            yield key, theirs
        else:
            yield _refuse(place, own, theirs)


def _refuse(place: tuple[str, ...], own: Any, theirs: Any) -> tuple[str, Any]:
    known = {
        "zero_optimization.stage": "train.zero_stage",
        "zero_optimization.offload_optimizer.device": "train.optimizer_offload",
        "bf16.enabled": "train.precision",
        "gradient_clipping": "train.grad_clip_norm",
    }
    name = ".".join(place)
    raise ConfigError(
        f"train.deepspeed.{name}: got {json.dumps(theirs)}, where diptych sets {json.dumps(own)}.",
        f"It follows from {known.get(name, 'the rest of the config')}.",
        f"Leave {name} out of DeepSpeed's settings, write auto, or change {known.get(name, 'the config')}.",
    )
