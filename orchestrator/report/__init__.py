"""The report of a run: one HTML file that says what came in, what was learned and how well."""

from orchestrator.report.write import write_report

__all__ = ["write_report"]
