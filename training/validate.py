"""Scores the model in the middle of its training, on all ranks together, and remembers the best step."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.append_log import AppendLog
from infra.errors import ConfigError
from infra.storage import Storage
from training.agreement import shared_out
from training.best import Best, read_best
from training.config import TrainConfig
from training.engine import Engine
from training.evaluate import parts_to_score, validation_of
from training.evaluation_pictures import evaluation_pictures
from training.loader import normalize
from training.model import ModelTraits, Tokenizer
from training.records import Score
from training.retrieval import score_retrieval
from training.selection import Integers, Selection, select
from training.team import Team
from training.zero_shot import only_labelled, score_zero_shot


class Validator:
    """One rank's side; its results are the same on all ranks. `log` is rank 0's. `best`: the best validation by now."""

    def __init__(
        self,
        config: TrainConfig,
        run: Storage,
        engine: Engine,
        traits: ModelTraits,
        log: AppendLog | None,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._engine, self._log, self._say = config, engine, log, say
        self._device = engine.device
        self.best = _best_by_rank_zero(run, engine.device)
        self._encoder: RankEncoder | None = None
        if config.validate_every is not None:
            self._settings, held_out = validation_of(config)
            parts = parts_to_score(self._settings, held_out)
            self._selections = {name: select(source, shared_out) for name, source in parts.items()}
            zero_shot = self._settings.zero_shot
            if zero_shot is not None:
                say_once = say if log is not None else (lambda _: None)
                self._selections["zero_shot"] = only_labelled(zero_shot, self._selections["zero_shot"], say_once)
            self._encoder = RankEncoder(engine, traits, self._settings.batch_size)

    def is_due(self, step: int) -> bool:
        """Whether the step is to be followed by a validation."""
        every = self._config.validate_every
        return every is not None and step % every == 0

    def validate(self, step: int) -> bool:
        """Scores the weights, or their average where that is to be evaluated; whether they are the best by now.

        Every rank calls it at once.

        Raises ConfigError when train.best_score is a class that has no sample.
        """
        assert self._encoder is not None
        scores: list[Score] = []
        with self._engine.averaged() if self._settings.use_ema else nullcontext(), self._encoder:
            if self._settings.retrieval is not None:
                selection = self._selections["retrieval"]
                scores += score_retrieval(self._settings.retrieval, selection, self._encoder)[0]
            if self._settings.zero_shot is not None:
                scores += score_zero_shot(self._settings.zero_shot, self._selections["zero_shot"], self._encoder)
        deciding = self._deciding(scores)
        value = _of_rank_zero(deciding.value, self._device)
        # A step that is done again after a restart is as good as it was.
        best = self.best if self.best and self.best.score == deciding.name else None
        is_best = best is None or value > best.value or step == best.step
        if is_best:
            self.best = Best(step, deciding.name, value)
        if self._log is not None:
            self._record(self._log, step, scores, is_best)
        return is_best

    def _deciding(self, scores: Sequence[Score]) -> Score:
        name = self._config.best_score
        for score in scores:
            if name is None or score.name == name:
                return score
        raise ConfigError(
            f"train.best_score: got {name!r}.",
            f"The validation gives {', '.join(score.name for score in scores)}.",
            "Name one of them.",
        )

    def _record(self, log: AppendLog, step: int, scores: Sequence[Score], is_best: bool) -> None:
        log.write(json.dumps({"step": step, "scores": [asdict(score) for score in scores]}))
        shown = ", ".join(f"{score.name} {100 * score.value:.1f}%" for score in scores[:4])
        self._say(f"validation at step {step:,}: {shown}{', the best by now' if is_best else ''}")


class RankEncoder:
    """Encodes with the model in training: each rank a share, the features gathered on all. Inside a `with` block.

    Every rank makes the same calls at once, in as many passes, since at ZeRO-3 each pass gathers the weights.
    """

    def __init__(self, engine: Engine, traits: ModelTraits, batch_size: int) -> None:
        self._engine, self._traits, self._batch_size = engine, traits, batch_size
        self._tokenize = Tokenizer(traits.name)
        self._in_training: list[nn.Module] = []
        self.team = Team.of_all_ranks(engine.device)

    def __enter__(self) -> "RankEncoder":
        # Locked layers with statistics are not in training, and stay so.
        self._in_training = [module for module in self._engine.module.modules() if module.training]
        self._engine.module.eval()
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._in_training:
            module.training = True

    def encode_pictures(self, selection: Selection) -> Tensor:
        """Unit features of the selection's pictures, in its order: (N, D) float32 on the CPU."""
        engine, shares = self._engine, self._shares(len(selection))
        with closing(evaluation_pictures(selection, shares, self._traits)) as batches:
            images = (normalize(batch.to(engine.device), self._traits, engine.dtype) for batch in batches)
            return self._collect(len(selection), map(engine.encode_pictures, images))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features of the texts: (len(texts), D) float32 on the CPU."""
        engine, shares = self._engine, self._shares(len(texts))
        tokens = (self._tokenize([texts[number] for number in share]).to(engine.device) for share in shares)
        return self._collect(len(texts), map(engine.encode_texts, tokens))

    def _shares(self, total: int) -> Iterator[Integers]:
        """Which of `total` this rank encodes in each pass; the last one is repeated, so that all ranks have as many."""
        team = self.team
        for first in range(0, total, self._batch_size * team.ranks):
            rows = min(self._batch_size, -(-(total - first) // team.ranks))
            yield np.minimum(np.arange(first + team.rank * rows, first + (team.rank + 1) * rows), total - 1)

    @torch.no_grad()
    def _collect(self, total: int, features: Iterable[Tensor]) -> Tensor:
        """The features of all ranks' shares in each pass, without what was repeated."""
        return torch.cat([self.team.gathered(own.float()).cpu() for own in features])[:total]


def _best_by_rank_zero(run: Storage, device: torch.device) -> Best | None:
    """As rank 0 finds it: what is done next depends on it, and must not differ between ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return read_best(run)
    shared = [read_best(run) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0, device=device if device.type == "cuda" else None)
    return shared[0]


def _of_rank_zero(value: float, device: torch.device) -> float:
    """Rank 0's value: another machine's rounding may put another sample first, and all must decide alike."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return float(shared)
