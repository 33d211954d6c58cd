"""Keeps the rules of the sites' robots.txt, and says whether a URL may be asked. Source: RFC 9309."""

from urllib.parse import SplitResult

from datapipe.robots_rules import SiteRules
from datapipe.status import SampleStatus

PRODUCT = "diptych"
ALLOWS_ALL = SiteRules([])
ALLOWS_NOTHING = SiteRules([("/", False)])
MAX_KEPT_RULES = 200_000  # some 30 MB
# RFC 9309, 2.3.1.3 and 2.3.1.4: a site without the file allows all, one that fails to answer allows nothing.
WITHOUT_FILE = frozenset(
    {
        SampleStatus.HTTP_4XX,
        SampleStatus.HTTP_403,
        SampleStatus.HTTP_404,
        SampleStatus.HTTP_410,
        SampleStatus.EMPTY_BODY,
    }
)


def robots_url(url: SplitResult) -> str:
    """Where the rules of the URL's site are."""
    return f"{url.scheme}://{url.netloc}/robots.txt"


class RobotsRules:
    """The rules of the sites that have been asked for them; those asked first are forgotten when there are too many."""

    def __init__(self, token: str | None) -> None:
        self._agent = token or PRODUCT
        self._rules: dict[str, SiteRules] = {}
        self._kept_rules = 0

    def allows(self, url: SplitResult) -> bool | None:
        """Whether the site's rules allow to ask for the URL; None when they are not known."""
        rules = self._rules.get(robots_url(url))
        return None if rules is None else rules.allows(url)

    def learn(self, url: SplitResult, status: SampleStatus, body: bytes) -> SiteRules:
        """Keeps what asking for `robots_url(url)` gave, and returns it."""
        site = robots_url(url)
        self._forget(site)
        rules = self._rules[site] = self._read(status, body)
        self._kept_rules += self._rules[site].size
        while self._kept_rules > MAX_KEPT_RULES and len(self._rules) > 1:
            self._forget(next(iter(self._rules)))
        return rules

    def _read(self, status: SampleStatus, body: bytes) -> SiteRules:
        if status.is_success:
            return SiteRules.read(body, self._agent)
        return ALLOWS_ALL if status in WITHOUT_FILE else ALLOWS_NOTHING

    def _forget(self, site: str) -> None:
        rules = self._rules.pop(site, None)
        self._kept_rules -= rules.size if rules is not None else 0
