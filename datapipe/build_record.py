"""Adds up what the shards under way have done, on how many nodes, and what was lost with the processes that died."""

from collections import Counter, defaultdict
from collections.abc import Set
from dataclasses import dataclass

from datapipe.shard_task import ShardProgress
from infra.place import Place

SHARDS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Loss:
    """Shards that are begun again, because the processes that built them have died at this place, or on its node."""

    place: Place
    shards: tuple[int, ...]

    def words(self, dead_nodes: Set[str]) -> str:
        """For people: `shards 00003, 00004 are begun again: node 3f2a91c07be4 (worker-7) died`."""
        named = ", ".join(f"{shard:05d}" for shard in self.shards[:SHARDS_NAMED])
        if len(self.shards) > SHARDS_NAMED:
            named += f" and {len(self.shards) - SHARDS_NAMED:,} more"
        again = f"shard {named} is begun again" if len(self.shards) == 1 else f"shards {named} are begun again"
        is_node = self.place.node in dead_nodes
        return f"{again}: {self.place.node_words} died" if is_node else f"{again}: a process died, on {self.place}"


@dataclass(frozen=True, slots=True)
class BuildView:
    """How the shards under way stand together; `losses` are those since the last look."""

    done: ShardProgress
    nodes: int
    losses: tuple[Loss, ...] = ()


class BuildRecord:
    """Lives in an actor of Ray beside the driver; a shard that is tried again begins its counts anew.

    When its process dies it begins anew itself: the display stands lower for a moment, and crashes are forgotten.
    """

    def __init__(self) -> None:
        self._progress: dict[int, ShardProgress] = {}
        self._begun = Counter[int]()
        self._downloaded_bytes = 0
        self._places: dict[int, Place] = {}
        self._lost: list[tuple[int, Place]] = []

    def begin(self, shard: int, place: Place) -> int:
        """How often the shard has been begun before: each time its process died, for an error ends the build."""
        if shard in self._places:
            self._lost.append((shard, self._places[shard]))
        self._places[shard] = place
        before = self._begun[shard]
        self._begun[shard] += 1
        return before

    def set(self, shard: int, progress: ShardProgress) -> None:
        """The shard has got so far."""
        self._progress[shard] = progress

    def forget(self, shard: int) -> None:
        """The shard is committed: its own counts stand for it now. Its bytes stay in the sum."""
        self._places.pop(shard, None)
        done = self._progress.pop(shard, None)
        self._downloaded_bytes += done.downloaded_bytes if done else 0

    def look(self) -> BuildView:
        """The sum by now."""
        total = ShardProgress(downloaded_bytes=self._downloaded_bytes)
        for progress in self._progress.values():
            total.status_counts.update(progress.status_counts)
            total.downloaded_bytes += progress.downloaded_bytes
        by_node: dict[str, list[tuple[int, Place]]] = defaultdict(list)
        for shard, place in self._lost:
            by_node[place.node].append((shard, place))
        self._lost = []
        losses = [Loss(found[0][1], tuple(sorted(shard for shard, _ in found))) for found in by_node.values()]
        return BuildView(total, len({place.node for place in self._places.values()}), tuple(losses))
