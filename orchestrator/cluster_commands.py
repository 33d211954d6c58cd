"""The commands of `diptych cluster`: files that put a run on a cluster."""

from pathlib import Path

import click

config_argument = click.argument("config", type=click.Path(path_type=Path))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
output_option = click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it; default: standard output."
)
workers_option = click.option(
    "--workers-per-node",
    type=click.IntRange(1, 64),
    help="Training workers, and so GPUs, of one node; default: train.workers, up to 8.",
)
image_option = click.option("--image", required=True, metavar="REGISTRY/NAME:TAG", help="The container image.")
claim_option = click.option(
    "--claim",
    default="diptych-data",
    show_default=True,
    help="The PersistentVolumeClaim that holds the config's local folders.",
)
machine_image_option = click.option(
    "--machine-image", required=True, help="What the machines start from: with Docker and NVIDIA's driver and toolkit."
)
export_option = click.option(
    "--export", metavar="SERVER:/PATH", help="The network file system that holds the config's local folders."
)


@click.group()
def cluster() -> None:
    """Files that put a run on a cluster."""


@cluster.group()
def template() -> None:
    """Writes a file that puts the run of CONFIG on a cluster, filled with what the run needs.

    Workers and GPUs come from train.workers and train.use_gpu, cores from build.tasks, the folder that all nodes
    share from the config's local paths. The file holds the resolved config and no secret.

    \b
    Example:
      diptych cluster template kuberay birds.yaml --image registry/diptych:0.1.0 --output birds-job.yaml
    """


@template.command()
@config_argument
@overrides_argument
@image_option
@claim_option
@workers_option
@output_option
def kuberay(
    config: Path,
    overrides: tuple[str, ...],
    image: str,
    claim: str,
    workers_per_node: int | None,
    output: Path | None,
) -> None:
    """A RayJob: a cluster on Kubernetes that is made for the run and removed after it.

    \b
    Example:
      diptych cluster template kuberay birds.yaml --image registry/diptych:0.1.0 | kubectl apply -f -
    """
    from infra.deploy.kuberay import KubernetesPlace, ray_job
    from orchestrator.cluster_needs import autoscaled_needs
    from orchestrator.config import load_config

    needs = autoscaled_needs(load_config(config, overrides), workers_per_node=workers_per_node)
    _write(ray_job(needs, KubernetesPlace(image, claim)), output)


@template.command()
@config_argument
@overrides_argument
@image_option
@claim_option
@workers_option
@output_option
def kuberay_cluster(
    config: Path,
    overrides: tuple[str, ...],
    image: str,
    claim: str,
    workers_per_node: int | None,
    output: Path | None,
) -> None:
    """A RayCluster: a cluster on Kubernetes that stays, for this run and others like it.

    \b
    Example:
      diptych cluster template kuberay-cluster birds.yaml --image registry/diptych:0.1.0 | kubectl apply -f -
    """
    from infra.deploy.kuberay import KubernetesPlace, ray_cluster
    from orchestrator.cluster_needs import autoscaled_needs
    from orchestrator.config import load_config

    needs = autoscaled_needs(load_config(config, overrides), workers_per_node=workers_per_node)
    _write(ray_cluster(needs, KubernetesPlace(image, claim)), output)


@template.command()
@config_argument
@overrides_argument
@image_option
@click.option("--region", default="us-west-2", show_default=True)
@machine_image_option
@export_option
@workers_option
@output_option
def aws(
    config: Path,
    overrides: tuple[str, ...],
    image: str,
    region: str,
    machine_image: str,
    export: str | None,
    workers_per_node: int | None,
    output: Path | None,
) -> None:
    """A cluster file of Ray's autoscaler for AWS.

    \b
    Example:
      diptych cluster template aws birds.yaml --image registry/diptych:0.1.0 --machine-image ami-0123456789abcdef0 \\
        --export fs-0123.efs.us-west-2.amazonaws.com:/ --output birds-aws.yaml
    """
    from infra.deploy.autoscaler import CloudPlace, aws_cluster
    from orchestrator.cluster_needs import autoscaled_needs, require_export
    from orchestrator.config import load_config

    needs = autoscaled_needs(load_config(config, overrides), workers_per_node=workers_per_node)
    require_export(needs, export)
    _write(aws_cluster(needs, CloudPlace(image, region, machine_image, export)), output)


@template.command()
@config_argument
@overrides_argument
@image_option
@click.option("--zone", default="us-west1-a", show_default=True)
@click.option("--project", required=True, help="The project's id.")
@machine_image_option
@export_option
@workers_option
@output_option
def gcp(
    config: Path,
    overrides: tuple[str, ...],
    image: str,
    zone: str,
    project: str,
    machine_image: str,
    export: str | None,
    workers_per_node: int | None,
    output: Path | None,
) -> None:
    """A cluster file of Ray's autoscaler for GCP.

    \b
    Example:
      diptych cluster template gcp birds.yaml --image registry/diptych:0.1.0 --project my-project \\
        --machine-image projects/my-project/global/images/family/my-image --export 10.0.0.2:/data
    """
    from infra.deploy.autoscaler import CloudPlace, gcp_cluster
    from orchestrator.cluster_needs import autoscaled_needs, require_export
    from orchestrator.config import load_config

    needs = autoscaled_needs(load_config(config, overrides), workers_per_node=workers_per_node)
    require_export(needs, export)
    _write(gcp_cluster(needs, CloudPlace(image, zone, machine_image, export), project), output)


@template.command()
@config_argument
@overrides_argument
@workers_option
@output_option
def slurm(config: Path, overrides: tuple[str, ...], workers_per_node: int | None, output: Path | None) -> None:
    """A Slurm batch script, which starts Ray on its job's nodes for as long as the run takes.

    \b
    Example:
      diptych cluster template slurm birds.yaml --output birds.sbatch
    """
    from infra.deploy.slurm import slurm_job
    from orchestrator.cluster_needs import fixed_needs
    from orchestrator.config import load_config

    needs = fixed_needs(load_config(config, overrides), workers_per_node=workers_per_node)
    _write(slurm_job(needs), output)


def _write(text: str, output: Path | None) -> None:
    from infra.storage import storage_of

    if output is None:
        click.echo(text, nl=False)
        return
    storage_of(output.absolute().parent).write_bytes(output.name, text.encode())
