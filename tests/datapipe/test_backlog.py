"""What waits between the thread that fetches and the one that decodes."""

from datapipe.backlog import Backlog
from datapipe.fetch import FetchResult
from datapipe.status import SampleStatus


class CountingFetcher:
    """Stands where a Fetcher would, and counts how often it is woken."""

    most_at_once = 64

    def __init__(self) -> None:
        self.times_woken = 0

    def wake(self) -> None:
        self.times_woken += 1


def test_the_fetcher_is_woken_once_when_half_has_room_again():
    fetcher = CountingFetcher()
    backlog = Backlog(fetcher)
    results = 0
    while not backlog.is_full():
        backlog.put(FetchResult(results, SampleStatus.HTTP_404))
        results += 1
    for taken in range(1, results + 1):
        backlog.get()
        assert fetcher.times_woken == (taken > results / 2)
    assert not backlog.is_full()
