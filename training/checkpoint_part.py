"""One rank's part of a checkpoint: which parameters fall to it, their values in this machine's memory, its files."""

import heapq
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from torch import Tensor

from infra.staged import StagedFile
from infra.storage import Storage
from training.checkpoint import RECEIPTS_FOLDER, FileFacts, TensorKind
from training.engine import Engine
from training.tensor_file import write_tensors


@dataclass(frozen=True, slots=True)
class PartName:
    """Which part of which attempt at a checkpoint; names of two attempts never meet."""

    attempt: str
    rank: int
    ranks: int

    def file(self, kind: TensorKind) -> str:
        """The name of the part's file of a kind."""
        return f"{kind.value}-{self.rank:05d}-of-{self.ranks:05d}-{self.attempt}.safetensors"

    def receipt(self, rank: int) -> str:
        """Where a rank of this attempt says what it has written."""
        return f"{RECEIPTS_FOLDER}/{self.attempt}-{rank:05d}.json"


@dataclass(frozen=True, slots=True)
class CheckpointPart:
    """The tensors that fall to one rank, copied to the CPU: kind → name → tensor."""

    tensors: dict[TensorKind, dict[str, Tensor]] = field(default_factory=lambda: {kind: {} for kind in TensorKind})


def take_part(engine: Engine, rank: int, ranks: int) -> CheckpointPart:
    """Copies this rank's part of the training's state; every rank calls it at once.

    Whole parameters are gathered one by one, and only the rank that one falls to keeps it.
    """
    part = CheckpointPart()
    owners = owners_of(engine.sizes(), ranks)
    for name, master, moments in engine.gather():
        if owners[name] == rank:
            part.tensors[TensorKind.PARAMETERS][name] = _copy(master)
            for key, tensor in moments.items():
                part.tensors[TensorKind.MOMENTS][f"{name}/{key}"] = _copy(tensor)
    for name, weight in engine.gather_average():
        if owners[name] == rank:
            part.tensors[TensorKind.AVERAGE][name] = _copy(weight)
    if rank == 0:
        part.tensors[TensorKind.BUFFERS].update({name: _copy(buffer) for name, buffer in engine.buffers().items()})
    return part


def owners_of(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """The rank that writes each tensor (name → elements), so that all write about the same."""
    loads = [(0, rank) for rank in range(ranks)]
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        load, rank = heapq.heappop(loads)
        owners[name] = rank
        heapq.heappush(loads, (load + sizes[name], rank))
    return owners


def write_part(checkpoint: Storage, name: PartName, part: CheckpointPart) -> dict[str, FileFacts]:
    """Writes the part's files, and then the receipt; returns what it says."""
    files = {}
    for kind, tensors in part.tensors.items():
        if not tensors:
            continue
        with StagedFile(checkpoint, name.file(kind)) as staged:
            write_tensors(tensors, staged.stream)
            staged.publish()
            files[staged.path] = FileFacts(kind, staged.stream.size_bytes, staged.stream.sha256())
    receipt = {path: asdict(facts) for path, facts in files.items()}
    checkpoint.write_bytes(name.receipt(name.rank), json.dumps(receipt).encode())
    return files


def read_receipts(checkpoint: Storage, name: PartName) -> dict[str, FileFacts] | None:
    """What all ranks of the attempt have written; None while one has not."""
    files: dict[str, FileFacts] = {}
    there = {entry.path for entry in checkpoint.list_files(RECEIPTS_FOLDER)}
    wanted = [name.receipt(rank) for rank in range(name.ranks)]
    if not there.issuperset(wanted):
        return None
    for path in wanted:
        receipt = json.loads(checkpoint.read_bytes(path))
        files |= {file: FileFacts(**{**facts, "kind": TensorKind(facts["kind"])}) for file, facts in receipt.items()}
    return files


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
