"""The configuration reference says what the config is."""

from pathlib import Path

from orchestrator.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_is_made_from_the_config_as_it_is():
    assert PAGE.read_text() == reference(), "run: python -m orchestrator.reference > docs/configuration.md"


def test_no_key_is_without_a_meaning():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 50 and all(row.split("|")[3].strip() for row in rows)
