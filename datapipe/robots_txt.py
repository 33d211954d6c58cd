"""Keeps each site's robots.txt, and says whether a URL may be asked. Source: RFC 9309."""

from urllib.parse import SplitResult
from urllib.robotparser import RobotFileParser

from datapipe.status import SampleStatus

PRODUCT = "diptych"
MAX_BYTES = 500 << 10  # RFC 9309, 2.5: what comes after may be left unread
# RFC 9309, 2.3.1.3 and 2.3.1.4: a site without the file allows all, one that fails to answer allows nothing.
WITHOUT_FILE = frozenset({SampleStatus.HTTP_4XX, SampleStatus.HTTP_403, SampleStatus.HTTP_404, SampleStatus.HTTP_410})


def robots_url(url: SplitResult) -> str:
    """Where the rules of the URL's site are."""
    return f"{url.scheme}://{url.netloc}/robots.txt"


class RobotsRules:
    """The rules of the sites that have been asked for them."""

    def __init__(self, token: str | None) -> None:
        self._agent = token or PRODUCT
        self._rules: dict[str, RobotFileParser] = {}

    def is_known(self, url: SplitResult) -> bool:
        """Whether the site of the URL has been asked."""
        return robots_url(url) in self._rules

    def allows(self, url: SplitResult) -> bool:
        """Whether the site's rules, which are known, allow to ask for the URL."""
        return self._rules[robots_url(url)].can_fetch(self._agent, url.geturl())

    def learn(self, url: SplitResult, status: SampleStatus, body: bytes) -> None:
        """Keeps what asking for `robots_url(url)` gave."""
        rules = RobotFileParser()
        rules.modified()  # the parser forbids everything until it has a date
        if status.is_success:
            rules.parse(body[:MAX_BYTES].decode("utf-8", "replace").splitlines())
        elif status not in WITHOUT_FILE and status is not SampleStatus.EMPTY_BODY:
            rules.parse(["User-agent: *", "Disallow: /"])
        self._rules[robots_url(url)] = rules
