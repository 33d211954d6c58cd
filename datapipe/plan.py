"""Cuts the URL list into shards, by the row counts of its files alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InputFile:
    """A Parquet file of the URL list and its number of rows."""

    path: str
    rows: int


@dataclass(frozen=True, slots=True)
class Piece:
    """`rows` rows of one input file from `first_row` on."""

    path: str
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The input rows of one shard, in order."""

    shard: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """Input rows of the shard."""
        return sum(piece.rows for piece in self.pieces)


def plan_shards(files: Sequence[InputFile], rows_per_shard: int) -> Iterator[ShardPlan]:
    """Consecutive rows of the files, in their order, `rows_per_shard` a shard; the last one may be shorter."""
    shard, pieces, room = 0, list[Piece](), rows_per_shard
    for file in files:
        first = 0
        while first < file.rows:
            taken = min(room, file.rows - first)
            pieces.append(Piece(file.path, first, taken))
            first, room = first + taken, room - taken
            if room == 0:
                yield ShardPlan(shard, tuple(pieces))
                shard, pieces, room = shard + 1, [], rows_per_shard
    if pieces:
        yield ShardPlan(shard, tuple(pieces))


def shard_count(rows: int, rows_per_shard: int) -> int:
    """The number of shards that `plan_shards` makes of so many rows."""
    return -(-rows // rows_per_shard)
