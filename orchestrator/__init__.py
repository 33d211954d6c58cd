"""Runs: the command line, the run's config and record, its stages, the report and the demo."""
