"""Sends metrics to the trackers that the config asks for: TensorBoard, Weights & Biases, MLflow."""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pydantic import ValidationError

from infra.errors import ConfigError, DiptychError, first_line
from infra.secret_values import is_secret_value
from infra.storage import Storage
from infra.terminal import printable
from training.config import Tracker, TrainConfig
from training.records import StepMetrics

TENSORBOARD_FOLDER = "tensorboard"
MLFLOW_FILE = "mlflow.json"  # under which id a run that is started again goes on there
PACKAGES = {Tracker.TENSORBOARD: "tensorboard", Tracker.WANDB: "wandb", Tracker.MLFLOW: "mlflow"}
WANDB_MODES_WITHOUT_LOGIN = frozenset({"offline", "disabled", "dryrun"})


class MetricsTracker(Protocol):
    """Something that keeps metrics by step."""

    def log(self, metrics: StepMetrics) -> None:
        """Takes in a step; one that is done again comes twice."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


def check_trackers(config: TrainConfig) -> None:
    """Raises ConfigError when a tracker that is asked for is not installed."""
    for tracker in config.trackers:
        _import(tracker)


def check_tracker_logins(config: TrainConfig) -> None:
    """Raises ConfigError when a tracker wants a login that the process that drives the training does not have."""
    if Tracker.WANDB in config.trackers:
        _require_wandb_login(_import(Tracker.WANDB))


@contextlib.contextmanager
def open_trackers(config: TrainConfig, run: Storage, say: Callable[[str], None]) -> Iterator[list[MetricsTracker]]:
    """The trackers of a run, which end with the block; one whose server fails is told of and left out.

    Raises ConfigError when one is not installed or wants a login.
    """
    with contextlib.ExitStack() as stack:
        trackers = []
        for kind in config.trackers:
            tracker = _opened(kind, config, run, say)
            if tracker is not None:
                stack.callback(_close, tracker, say)
                trackers.append(tracker)
        yield trackers


def explained(error: Exception) -> str:
    """What another program's error says, in a line; not what may hold a login of the user's."""
    line = printable(first_line(error))
    kind = type(error).__name__
    return kind if line == kind or is_secret_value(line) else f"{kind}: {line}"


def scalars_of(metrics: StepMetrics) -> dict[str, float]:
    """The step's numbers by name, as trackers group them: those that are not finite are left out."""
    values = {
        "train/loss": metrics.loss,
        "train/logit_scale": metrics.logit_scale,
        "train/lr": metrics.lr,
        "train/epoch": metrics.epoch,
        "speed/samples_per_s": metrics.samples_per_s,
        "data/replaced": float(metrics.replaced),
        **{f"seconds/{name}": seconds for name, seconds in metrics.seconds.items()},
    }
    if metrics.gradient_norm is not None:
        values["train/gradient_norm"] = metrics.gradient_norm
    return {name: value for name, value in values.items() if math.isfinite(value)}


class _TensorBoard:
    def __init__(self, _package: ModuleType, config: TrainConfig, run: Storage) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = f"{run.url}/{TENSORBOARD_FOLDER}"
        self._writer: Any = SummaryWriter(folder)

    def log(self, metrics: StepMetrics) -> None:
        for name, value in scalars_of(metrics).items():
            self._writer.add_scalar(name, value, metrics.step, walltime=metrics.time)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, package: ModuleType, config: TrainConfig, run: Storage) -> None:
        _require_wandb_login(package)
        name = _run_name(run)
        # A run that is started again goes on under the same id, and one of the same name elsewhere has another.
        key = f"{name}-{hashlib.sha256(run.url.encode()).hexdigest()[:8]}"
        self._run: Any = package.init(project="diptych", id=key, name=name, resume="allow", config=_settings(config))

    def log(self, metrics: StepMetrics) -> None:
        self._run.log(scalars_of(metrics), step=metrics.step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, package: ModuleType, config: TrainConfig, run: Storage) -> None:
        self._mlflow: Any = package
        package.set_experiment("diptych")
        if run.exists(MLFLOW_FILE):
            package.start_run(run_id=json.loads(run.read_bytes(MLFLOW_FILE))["run_id"])
            return
        begun = package.start_run(run_name=_run_name(run))
        run.write_bytes(MLFLOW_FILE, json.dumps({"run_id": begun.info.run_id}).encode())
        # Only once: MLflow refuses another value of what it has, and some settings may change at a resume.
        package.log_params({name: str(value)[:250] for name, value in _settings(config).items()})

    def log(self, metrics: StepMetrics) -> None:
        self._mlflow.log_metrics(scalars_of(metrics), step=metrics.step)

    def close(self) -> None:
        self._mlflow.end_run()


def _opened(kind: Tracker, config: TrainConfig, run: Storage, say: Callable[[str], None]) -> MetricsTracker | None:
    package = _import(kind)
    try:
        tracker: MetricsTracker = OPENERS[kind](package, config, run)
    except DiptychError:
        raise
    except Exception as error:  # noqa: BLE001 - another program's border: its server is not worth a training
        say(f"no metrics are sent to {kind.value}: {explained(error)}")
        return None
    return tracker


def _close(tracker: MetricsTracker, say: Callable[[str], None]) -> None:
    try:
        tracker.close()
    except Exception as error:  # noqa: BLE001 - another program's border: its server is not worth a training
        say(f"the last metrics may be missing in {type(tracker).__name__.lstrip('_')}: {explained(error)}")


def _require_wandb_login(package: ModuleType) -> None:
    """Looks for it where W&B does, which asks on a terminal when it finds none, and waits for the answer."""
    # `from None`: the settings that an error quotes may hold a login, and a run keeps its tracebacks.
    try:
        if package.setup().settings.mode in WANDB_MODES_WITHOUT_LOGIN:
            return
        is_logged_in = package.login(prompt=False, verify=False)
    except ValidationError as error:
        raise ConfigError(
            f"train.trackers: wandb refuses its settings here ({_refused_settings(error)}).",
            "Weights & Biases takes them from variables named WANDB_… and from its own settings files.",
            "Correct that one where the training is driven, or leave wandb out.",
        ) from None
    except Exception as error:  # noqa: BLE001 - another program's border: whatever it is, nothing would be sent
        raise _no_wandb_login(explained(error)) from None
    if not is_logged_in:
        raise _no_wandb_login("no API key is configured")


def _refused_settings(error: ValidationError) -> str:
    """Which they are and what is allowed, without their values."""
    parts = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in parts]
    return "; ".join(line.partition(":")[0] if is_secret_value(line) else line for line in told)


def _no_wandb_login(why: str) -> ConfigError:
    return ConfigError(
        f"train.trackers: wandb has no login here ({why}).",
        "Weights & Biases takes an API key, or keeps metrics on disk with WANDB_MODE=offline.",
        "Run `wandb login` where the training is driven, set WANDB_API_KEY or WANDB_MODE=offline, or leave it out.",
    )


OPENERS: dict[Tracker, Any] = {
    Tracker.TENSORBOARD: _TensorBoard,
    Tracker.WANDB: _WeightsAndBiases,
    Tracker.MLFLOW: _MLflow,
}


def _settings(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)


def _run_name(run: Storage) -> str:
    return Path(run.url).name


def _import(tracker: Tracker) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(PACKAGES[tracker])
    except ImportError as error:
        raise ConfigError(
            f"train.trackers: {tracker.value} is not installed ({error}).",
            "A tracker's package must be installed where the training is started.",
            f"Run pip install {PACKAGES[tracker]}, or leave it out.",
        ) from error
