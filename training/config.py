"""The `train` and `evaluate` sections of the config."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from infra.settings import FiniteSettings, Place, absolute_place


class LossName(StrEnum):
    """The contrastive loss."""

    CLIP = "clip"
    SIGLIP = "siglip"


class Precision(StrEnum):
    """What matrix products are computed in; master weights are always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


MAX_LOGIT_SCALE = 100.0  # CLIP's: past it training becomes unstable
WEIGHT_FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def weights_place(source: str) -> str:
    """Where weights lie: a path made absolute, or a tag of open_clip's, which is one word, as it is."""
    is_path = "/" in source or source.startswith(".") or source.endswith(WEIGHT_FILE_SUFFIXES)
    return absolute_place(source) if is_path else source


class SquareMode(StrEnum):
    """How a picture becomes the square that a model takes, when it is evaluated; open_clip's `resize_mode`."""

    SHORTEST = "shortest"
    SQUASH = "squash"


class ScheduleName(StrEnum):
    """How the learning rate goes down after its rise."""

    COSINE = "cosine"
    CONSTANT = "constant"
    RSQRT = "rsqrt"


class WeightDecayRule(StrEnum):
    """Which parameters are decayed; never gains, biases and the two scalars."""

    OPENAI = "openai"
    OPEN_CLIP = "open_clip"


class PretrainedTowers(StrEnum):
    """Which part of a model starts from weights."""

    ALL = "all"
    IMAGE = "image"
    TEXT = "text"


class BadStepAction(StrEnum):
    """What happens at a step whose loss or gradient is not finite, or whose loss diverges."""

    STOP = "stop"
    SKIP = "skip"


class Tracker(StrEnum):
    """Where metrics are sent besides metrics.jsonl."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    MLFLOW = "mlflow"


class LockConfig(FiniteSettings):
    """What training leaves as it is."""

    image: bool | Annotated[int, Field(ge=0)] = False
    """true: the whole image tower is locked; a number: all but its head and its last so many blocks or stages."""
    text: bool | Annotated[int, Field(ge=0)] = False
    """The same for the text tower."""


class SamplePart(StrEnum):
    """Which samples of a dataset are meant, when a share of them is held out by a hash of their key."""

    ALL = "all"
    TRAIN = "train"
    HELD_OUT = "held_out"


class DataSource(FiniteSettings):
    """A dataset, or the samples of it that fulfil a condition."""

    path: Place
    """The dataset's folder."""
    where: dict[str, str | int | bool] = {}
    """Only samples whose columns have these values, e.g. {split: train}."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the samples that is kept out of training, chosen by a hash of the key."""
    part: SamplePart = SamplePart.ALL
    """all, train (the samples not held out) or held_out."""
    view: str | None = None
    """Only the samples of this view, views/NAME.parquet of the dataset, each as often as its column weight says."""
    captions: Annotated[list[str], Field(min_length=1)] = ["caption"]
    """Columns with captions, of text or of lists of text; training draws one each time, evaluation takes the first."""


class MixedSource(DataSource):
    """A dataset of several that training mixes."""

    weight: Annotated[float, Field(gt=0)] | None = None
    """Its share of every batch, in proportion to the others' weights; null: what `repeat` comes to."""
    repeat: Annotated[float, Field(gt=0)] = 1.0
    """How often each of its samples comes in an epoch of the mixture, when no dataset has a weight."""


Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0)]
WorkerCount = Annotated[int, Field(ge=1)]
Strength = Annotated[float, Field(ge=0)]
ChannelMeans = tuple[float, float, float]
ChannelDeviations = tuple[Ratio, Ratio, Ratio]
Probability = Annotated[float, Field(ge=0, le=1)]


class AugmentConfig(FiniteSettings):
    """How training pictures are changed at random; the default is CLIP's square crop."""

    crop_scale: tuple[Share, Share] = (0.9, 1.0)
    """Area of the random crop, from and to, as a share of the largest that fits into the picture."""
    crop_ratio: tuple[Ratio, Ratio] = (1.0, 1.0)
    """Width to height of the crop, from and to, before it is made square; torchvision's is [0.75, 1.333]."""
    flip_probability: Probability = 0.0
    """How often a picture is mirrored left to right."""
    color_jitter: tuple[Strength, Strength, Strength, Annotated[float, Field(ge=0, le=0.5)]] | None = None
    """Greatest change of brightness, contrast, saturation and hue, as torchvision's ColorJitter; null: none."""
    color_jitter_probability: Probability = 0.8
    """How often colours are jittered, when color_jitter is given."""
    greyscale_probability: Probability = 0.0
    """How often a picture loses its colours."""

    @model_validator(mode="after")
    def _is_ordered(self) -> "AugmentConfig":
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: got [{low}, {high}]; want the smaller first")
        return self


def _with_place_for_the_name(template: str) -> str:
    if "{}" not in template:
        raise ValueError(f"got {template!r}; want {{}} where the name of the class belongs")
    return template


Template = Annotated[str, AfterValidator(_with_place_for_the_name)]
ClassNames = Annotated[dict[str, str], Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]


class RetrievalConfig(FiniteSettings):
    """Recall@k from text to image and back."""

    data: Place | DataSource | None = None
    """The samples; null: those that `train.held_out` kept out of training."""
    k: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1, 5, 10]
    """The k of recall@k."""


class ZeroShotConfig(FiniteSettings):
    """Classification by the nearest class prompt."""

    data: Place | DataSource | None = None
    """The samples; null: those that `train.held_out` kept out of training."""
    label_col: str
    """The column with a sample's class."""
    classes: ClassNames | None = None
    """Label → name in the prompt, or a list of labels; null: the labels that occur."""
    templates: Annotated[list[Template], Field(min_length=1)] = ["a photo of a {}."]
    """Prompts, with {} for the class name; their embeddings are averaged."""


class EvaluateConfig(FiniteSettings):
    """Checkpoint → scores."""

    retrieval: RetrievalConfig | None = None
    """Retrieval, when given."""
    zero_shot: ZeroShotConfig | None = None
    """Zero-shot classification, when given."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Pictures or texts encoded at once."""
    use_ema: bool = True
    """Whether the weights' moving average is evaluated, where the checkpoint has one."""


class WhichCheckpoint(StrEnum):
    """One of a training's checkpoints."""

    LAST = "last"
    BEST = "best"


class ExportConfig(FiniteSettings):
    """Checkpoint → a folder that open_clip and the Hugging Face hub read."""

    checkpoint: WhichCheckpoint = WhichCheckpoint.LAST
    """last, or best: the one that scored best in the validation during training."""
    use_ema: bool = True
    """Whether the weights' moving average is exported, where the checkpoint has one."""


class TrainConfig(FiniteSettings):
    """Dataset → checkpoint. Give exactly one of `steps`, `samples` and `epochs`."""

    data: Place | DataSource | Annotated[list[Place | MixedSource], Field(min_length=1)]
    """A dataset's folder, a folder with a condition, or a list of them with weights."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the samples that is kept for evaluation, chosen by a hash of the key."""
    model: str = "ViT-B-32"
    """Any open_clip name, or a small one of ours: diptych-tiny."""
    pretrained: Annotated[str, AfterValidator(weights_place)] | None = None
    """Weights to start from: a file, our checkpoint, a Hugging Face folder (./NAME), an open_clip tag; null: fresh."""
    pretrained_towers: PretrainedTowers = PretrainedTowers.ALL
    """all, image or text: what starts from those weights; the other tower and the two scalars start afresh."""
    mean: ChannelMeans | None = None
    """What pictures are normalised with, by channel; null: as the weights were made with, or else the model's own."""
    std: ChannelDeviations | None = None
    """The same for the deviation."""
    resize_mode: SquareMode | None = None
    """How evaluation makes pictures square: shortest (the middle) or squash (the whole); null: as the weights' own."""
    allow_activation_mismatch: bool = False
    """Whether weights made with QuickGELU may go into a model with GELU, or the reverse."""
    lock: LockConfig = LockConfig()
    """Towers, or parts of them, that keep their weights."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a vision transformer's patches that training leaves out, other ones at each step."""
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass, which takes time and saves memory."""
    loss: LossName = LossName.CLIP
    """clip or siglip."""
    global_batch_size: Annotated[int, Field(ge=2)] = 256
    """Pairs per step, over all workers."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Pairs that a worker encodes at once; null: its whole part of the batch. The loss is the global batch's anyway."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Length of the training in steps."""
    samples: Annotated[int, Field(ge=1)] | None = None
    """Length of the training in samples seen."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Length of the training in passes over the dataset."""
    initial_logit_scale: Annotated[float, Field(ge=1, le=MAX_LOGIT_SCALE)] | None = None
    """Logit scale (1 / temperature) at the start; null: the paper's, 1/0.07 for clip and 10 for siglip."""
    initial_logit_bias: float | None = None
    """siglip's bias at the start; null: -ln(N - 1) of the global batch N, which is balanced; the paper's is -10."""
    lr: Annotated[float, Field(gt=0)] = 5.0e-4
    """Highest learning rate."""
    schedule: ScheduleName = ScheduleName.COSINE
    """cosine, constant or rsqrt, after the rise."""
    cooldown_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the end in which the learning rate of constant and rsqrt goes down to zero."""
    rsqrt_timescale: Annotated[int, Field(ge=1)] = 10_000
    """Steps after the rise until rsqrt's learning rate has fallen to 0.71 of its peak."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each layer to the one below it; 1: all learn alike."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps in which the learning rate rises; null: 2,000 or a tenth of the training, whichever is less."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam's first decay."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Adam's second decay."""
    eps: Annotated[float, Field(gt=0)] = 1.0e-6
    """Adam's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    """Weight decay; not on gains, biases and the two scalars."""
    weight_decay_rule: WeightDecayRule = WeightDecayRule.OPENAI
    """openai decays positional embeddings; open_clip leaves them and class tokens out."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, kept beside them and evaluated; null: none."""
    grad_clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient, over both towers without the two scalars; null: no clipping."""
    sync_batch_norm: bool = False
    """Whether batch normalisation is over a micro-batch of all workers, and not of each."""
    exclude: list[str] = []
    """Keys of samples that are left out from now on; the sample after each takes its place in the order."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of the pictures, which follow from the seed, the epoch and the sample alone."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """DeepSpeed's ZeRO stage: 0 repeats everything on every worker; 1, 2 and 3 spread moments, gradients, weights."""
    precision: Precision = Precision.FP32
    """fp32 or bf16: of the model's products; master weights and the two scalars are fp32."""
    optimizer_offload: bool = False
    """Whether DeepSpeed keeps masters and moments in the CPU's memory; at ZeRO stage 1 and above."""
    deepspeed: Place | dict[str, Any] = {}
    """Further settings of DeepSpeed, or a JSON file with them; what contradicts other settings here is refused."""
    workers: WorkerCount | tuple[WorkerCount, WorkerCount] = 1
    """Training workers (ranks): a number, or [from, to]: as many of these as the cluster has room for."""
    resize_check_s: Annotated[float, Field(ge=1)] = 60.0
    """How often it is looked whether the cluster has room for another number of workers, when `workers` is a range."""
    use_gpu: bool | None = None
    """Whether each worker gets a GPU; null: if the cluster has any, of which there must be enough then."""
    threads_per_worker: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of one worker; null: its share of the machine's cores."""
    pin_cpus: bool = False
    """Whether each worker keeps to CPU cores of its own, and does not move between them."""
    checkpoint_every: Annotated[int, Field(ge=1)] | None = 1000
    """Steps between checkpoints; null: not by steps. Of steps, samples and minutes, what comes first counts."""
    checkpoint_every_samples: Annotated[int, Field(ge=1)] | None = None
    """Samples between checkpoints."""
    checkpoint_every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints that are kept."""
    keep_checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    """Checkpoints whose step is a multiple of this are kept for ever."""
    checkpoint_patience_minutes: Annotated[float, Field(gt=0)] = 30.0
    """How long a storage in trouble is tried until a checkpoint is given up; the training goes on meanwhile."""
    on_bad_step: BadStepAction = BadStepAction.STOP
    """stop or skip: at a step whose loss or gradient is not finite, or whose loss diverges."""
    divergence_factor: Annotated[float, Field(gt=1)] | None = None
    """A loss of more than so many times the median of the last 100 is a bad step; null: only one that is not finite."""
    max_bad_steps: Annotated[int, Field(ge=1)] = 10
    """Steps in a row that may be skipped before the training stops."""
    hang_timeout_s: Annotated[float, Field(ge=5)] = 300.0
    """After so long without a sign of life a worker counts as hung, and the group is started again."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations, of what `validation` names; null: none."""
    validation: EvaluateConfig | None = None
    """What is scored during the training; null: retrieval on the samples that held_out keeps."""
    best_score: str | None = None
    """The score of the validation by which the best checkpoint is kept; null: the first, text_to_image_recall@1."""
    trackers: list[Tracker] = []
    """tensorboard, wandb, mlflow: where metrics go besides metrics.jsonl."""
    profile_steps: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """[first, last] steps of which a trace is written to profile/, to be opened in chrome://tracing or Perfetto."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Times in a row, without a new checkpoint, that it is started again after workers died, hung or were taken."""
    max_error_restarts: Annotated[int, Field(ge=0)] = 1
    """Times in a row, without a new checkpoint, that it is started again after an error; never after the same twice."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Seed of the initial weights, the sample order and the augmentation."""

    @model_validator(mode="after")
    def _has_one_length(self) -> "TrainConfig":
        given = [name for name in ("steps", "samples", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'none'} of steps, samples, epochs; want exactly one")
        return self

    @model_validator(mode="after")
    def _is_in_order(self) -> "TrainConfig":
        for name in ("workers", "profile_steps"):
            pair = getattr(self, name)
            if isinstance(pair, tuple) and pair[0] > pair[1]:
                raise ValueError(f"{name}: got [{pair[0]}, {pair[1]}]; want the smaller first")
        if self.optimizer_offload and self.zero_stage == 0:
            raise ValueError("optimizer_offload: got true with zero_stage 0; want zero_stage 1, 2 or 3")
        return self

    @property
    def min_workers(self) -> int:
        """The fewest workers that it trains with."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The most workers that it trains with."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def group_timeout_s(self) -> float:
        """After so long a rank gives up the others. One that waits for another that is loading is not hung."""
        return 4 * self.hang_timeout_s

    def training_sources(self) -> list[MixedSource]:
        """The samples that training sees, by dataset."""
        given = self.data if isinstance(self.data, list) else [self.data]
        return [self._source(data, SamplePart.TRAIN) for data in given]

    def held_out_source(self) -> DataSource | None:
        """The samples that `held_out` keeps from training; None when it keeps none, or of several datasets."""
        if not self.held_out or (isinstance(self.data, list) and len(self.data) > 1):
            return None
        data = self.data[0] if isinstance(self.data, list) else self.data
        return self._source(data, SamplePart.HELD_OUT)

    def _source(self, data: str | DataSource, part: SamplePart) -> MixedSource:
        values = {"path": data} if isinstance(data, str) else data.model_dump()
        if self.held_out:
            values |= {"held_out": self.held_out, "part": part}
        return MixedSource(**values)
