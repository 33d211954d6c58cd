"""Writes a run's report from what there is by now."""

from pathlib import Path

from infra.local_files import LocalWriter
from infra.storage import Storage
from orchestrator.report.facts import gather_facts
from orchestrator.report.page import page_html


def write_report(dataset_url: str | None, run: Storage, target: Path, title: str, credit: str | None = None) -> None:
    """Writes one self-contained HTML file to `target`, whole or not at all.

    A part that is not there yet (no dataset, no training, no evaluation) is named as missing in its section.
    The same inputs give the same bytes. Raises OutputError when `target` can't be written.

    Args:
        dataset_url: the folder of the dataset that was built or trained on; None when there is none.
        run: the run's folder.
        target: the file to write.
        title: the page's heading.
        credit: whose pictures they are, and under which licence.
    """
    page = page_html(gather_facts(dataset_url, run, title, credit))
    with LocalWriter(target) as temporary:
        # A caption from JSON may hold half a surrogate pair, which no UTF-8 file can.
        temporary.write_bytes(page.encode("utf-8", errors="replace"))
