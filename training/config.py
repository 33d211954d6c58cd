"""The `train` and `evaluate` sections of the config."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from infra.settings import Place, Settings, absolute_place


class LossName(StrEnum):
    """The contrastive loss."""

    CLIP = "clip"
    SIGLIP = "siglip"


class Precision(StrEnum):
    """What matrix products are computed in; master weights are always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


WEIGHT_FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def _weights_place(source: str) -> str:
    """A path made absolute, or a tag of open_clip's, which is one word, as it is."""
    is_path = "/" in source or source.startswith(".") or source.endswith(WEIGHT_FILE_SUFFIXES)
    return absolute_place(source) if is_path else source


class ScheduleName(StrEnum):
    """How the learning rate goes down after its rise."""

    COSINE = "cosine"
    CONSTANT = "constant"
    RSQRT = "rsqrt"


class WeightDecayRule(StrEnum):
    """Which parameters are decayed; never gains, biases and the two scalars."""

    OPENAI = "openai"
    OPEN_CLIP = "open_clip"


class LockConfig(Settings):
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


class DataSource(Settings):
    """A dataset, or the samples of it that fulfil a condition."""

    path: Place
    """The dataset's folder."""
    where: dict[str, str | int | bool] = {}
    """Only samples whose columns have these values, e.g. {split: train}."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the samples that is kept out of training, chosen by a hash of the key."""
    part: SamplePart = SamplePart.ALL
    """all, train (the samples not held out) or held_out."""


Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0)]
Strength = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class AugmentConfig(Settings):
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


class TrainConfig(Settings):
    """Dataset → checkpoint. Give exactly one of `steps`, `samples` and `epochs`."""

    data: Place | DataSource
    """A dataset's folder, or a folder with a condition."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the samples that is kept for evaluation, chosen by a hash of the key."""
    model: str = "ViT-B-32"
    """Any open_clip name, or a small one of ours: diptych-tiny."""
    pretrained: Annotated[str, AfterValidator(_weights_place)] | None = None
    """Weights to start from: a file, our checkpoint, a Hugging Face folder (./NAME), an open_clip tag; null: fresh."""
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
    initial_logit_scale: Annotated[float, Field(ge=1, le=100)] | None = None
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
    workers: Annotated[int, Field(ge=1)] = 1
    """Training workers (ranks)."""
    use_gpu: bool | None = None
    """Whether each worker gets a GPU; null: if the cluster has enough."""
    threads_per_worker: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of one worker; null: its share of the machine's cores."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints that are kept."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Times that a failed worker group is started again."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights, the sample order and the augmentation."""

    @model_validator(mode="after")
    def _has_one_length(self) -> "TrainConfig":
        given = [name for name in ("steps", "samples", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'none'} of steps, samples, epochs; want exactly one")
        return self

    def training_source(self) -> DataSource:
        """The samples that training sees."""
        source = self.data if isinstance(self.data, DataSource) else DataSource(path=self.data)
        if not self.held_out:
            return source
        return source.model_copy(update={"held_out": self.held_out, "part": SamplePart.TRAIN})

    def held_out_source(self) -> DataSource | None:
        """The samples that `held_out` keeps from training; None when it keeps none."""
        if not self.held_out:
            return None
        return self.training_source().model_copy(update={"part": SamplePart.HELD_OUT})


class RetrievalConfig(Settings):
    """Recall@k from text to image and back."""

    data: Place | DataSource | None = None
    """The samples; null: those that `train.held_out` kept out of training."""
    k: list[Annotated[int, Field(ge=1)]] = [1, 5, 10]
    """The k of recall@k."""


class ZeroShotConfig(Settings):
    """Classification by the nearest class prompt."""

    data: Place | DataSource | None = None
    """The samples; null: those that `train.held_out` kept out of training."""
    label_col: str
    """The column with a sample's class."""
    classes: dict[str, str] | list[str] | None = None
    """Label → name in the prompt, or a list of labels; null: the labels that occur."""
    templates: list[str] = ["a photo of a {}."]
    """Prompts, with {} for the class name; their embeddings are averaged."""


class EvaluateConfig(Settings):
    """Checkpoint → scores."""

    retrieval: RetrievalConfig | None = None
    """Retrieval, when given."""
    zero_shot: ZeroShotConfig | None = None
    """Zero-shot classification, when given."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Pictures or texts encoded at once."""
    use_ema: bool = True
    """Whether the weights' moving average is evaluated, where the checkpoint has one."""
