"""Fills in the Slurm batch script."""

import re

from infra.deploy.needs import ClusterNeeds
from infra.deploy.template_file import template_text

JOB_FILE = "slurm/job.sbatch"
CONFIG_BEGINS = "<<'END_OF_CONFIG'"
CONFIG_ENDS = "END_OF_CONFIG"


def slurm_job(needs: ClusterNeeds) -> str:
    """A batch script that does the run on its job's nodes."""
    directives = {
        "job-name": needs.name,
        "nodes": _nodes(needs),
        "cpus-per-task": str(needs.train_node_cpus),
        "gpus-per-node": str(needs.workers_per_node) if needs.use_gpu else None,
    }
    filled: list[str] = []
    is_config = False
    for line in template_text(JOB_FILE).splitlines():
        if line == CONFIG_ENDS:
            filled += needs.config.splitlines()
            is_config = False
        if not is_config:
            filled += _with_directive(line, directives)
        is_config = is_config or line.endswith(CONFIG_BEGINS)
    return "\n".join(filled) + "\n"


def _nodes(needs: ClusterNeeds) -> str:
    """A number, or the fewest and the most."""
    if not needs.max_workers:
        return str(max(1, needs.build_nodes))  # the driver's, where neither builds nor trains
    if needs.min_train_nodes == needs.max_train_nodes:
        return str(needs.max_train_nodes)
    return f"{needs.min_train_nodes}-{needs.max_train_nodes}"


def _with_directive(line: str, directives: dict[str, str | None]) -> list[str]:
    """The line, with the run's value where it is a directive that the run has one for; nothing where that is None."""
    found = re.match(r"#SBATCH --([a-z-]+)=", line)
    if not found or found[1] not in directives:
        return [line]
    value = directives[found[1]]
    return [] if value is None else [f"#SBATCH --{found[1]}={value}"]
