"""`python -m orchestrator` is the command `diptych`, where no console script is installed."""

from orchestrator.cli import main

main()
