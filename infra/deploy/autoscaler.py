"""Fills in the cluster files of Ray's autoscaler for AWS and GCP."""

import shlex
from dataclasses import dataclass, replace

import yaml

from infra.cluster import GPUS_ON_DEMAND_VARIABLE
from infra.deploy.needs import BUILD_NODE_CPUS, ClusterNeeds
from infra.deploy.template_file import Document, head_comment, template_documents, to_yaml

AWS_FILE = "autoscaler/aws.yaml"
GCP_FILE = "autoscaler/gcp.yaml"
SUBMISSION_ID = "submission-id diptych"
FOLLOWED_ID = "--follow diptych"
MOUNT_OPTIONS = "nfsvers=4.1,hard,timeo=600"


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of machine that a cloud rents out."""

    kind: str
    cpus: int
    gpus: int


# Of each cloud the machines with NVIDIA L4, by their GPUs.
AWS_MACHINES = (Machine("g6.2xlarge", 8, 1), Machine("g6.12xlarge", 48, 4), Machine("g6.48xlarge", 192, 8))
GCP_MACHINES = (
    Machine("g2-standard-8", 8, 1),
    Machine("g2-standard-24", 24, 2),
    Machine("g2-standard-48", 48, 4),
    Machine("g2-standard-96", 96, 8),
)


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """What a config does not say of the cloud."""

    image: str
    """The container image of diptych."""
    location: str
    """The region (AWS) or zone (GCP)."""
    machine_image: str
    """What the machines start from: it has Docker, and NVIDIA's driver and container toolkit."""
    export: str | None
    """The network file system that holds the shared folder, as SERVER:/PATH."""


def aws_cluster(needs: ClusterNeeds, place: CloudPlace) -> str:
    """The cluster file for AWS."""
    document = template_documents(AWS_FILE)[0]
    document["provider"]["region"] = place.location
    for node in document["available_node_types"].values():
        node["node_config"]["ImageId"] = place.machine_image
    return _filled(AWS_FILE, document, needs, place, AWS_MACHINES, "InstanceType")


def gcp_cluster(needs: ClusterNeeds, place: CloudPlace, project: str) -> str:
    """The cluster file for GCP."""
    document = template_documents(GCP_FILE)[0]
    region = place.location.rpartition("-")[0]
    document["provider"] |= {"region": region, "availability_zone": place.location, "project_id": project}
    for node in document["available_node_types"].values():
        node["node_config"]["disks"][0]["initializeParams"]["sourceImage"] = place.machine_image
    return _filled(GCP_FILE, document, needs, place, GCP_MACHINES, "machineType")


def _filled(
    path: str,
    document: Document,
    needs: ClusterNeeds,
    place: CloudPlace,
    machines: tuple[Machine, ...],
    machine_key: str,
) -> str:
    document["cluster_name"] = needs.name
    document["metadata"]["run"] = yaml.safe_load(needs.config)
    document["docker"]["image"] = place.image
    nodes = document["available_node_types"]
    nodes["build"]["max_workers"] = needs.build_nodes
    if needs.use_gpu:
        machine = _machine(machines, needs.workers_per_node)
        needs = replace(needs, workers_per_node=machine.gpus)
        nodes["train"]["resources"] = {"CPU": machine.cpus, "GPU": machine.gpus}
        nodes["train"]["node_config"][machine_key] = machine.kind
    else:
        needs = replace(needs, workers_per_node=1)
        nodes["train"]["resources"] = {"CPU": BUILD_NODE_CPUS}
        nodes["train"]["node_config"][machine_key] = nodes["build"]["node_config"][machine_key]
        # Only GPUs are waited for; CPU workers share the cores that are there when the training starts.
        nodes["train"]["min_workers"] = needs.min_train_nodes
    nodes["train"]["max_workers"] = needs.max_train_nodes
    used = {"head": 1, "build": needs.build_nodes, "train": needs.max_train_nodes}
    document["available_node_types"] = {name: node for name, node in nodes.items() if used[name]}
    document["max_workers"] = needs.build_nodes + needs.max_train_nodes
    _fill_docker(document, needs)
    _fill_mount(document, needs.shared_folder, place.export)
    head = head_comment(path)
    return _named(head, needs.name) + to_yaml([document])


def _machine(machines: tuple[Machine, ...], gpus: int) -> Machine:
    """The largest that has no more GPUs than that."""
    return max((machine for machine in machines if machine.gpus <= gpus), key=lambda machine: machine.gpus)


def _fill_docker(document: Document, needs: ClusterNeeds) -> None:
    options = [option for option in document["docker"]["run_options"] if option.startswith("--ulimit")]
    if needs.gpus:
        options.append(f"--env {GPUS_ON_DEMAND_VARIABLE}={needs.gpus}")
    if needs.shared_folder is not None:
        folder = shlex.quote(needs.shared_folder)
        options.append(f"--volume {folder}:{folder}")
    document["docker"]["run_options"] = options


def _fill_mount(document: Document, shared_folder: str | None, export: str | None) -> None:
    if shared_folder is None or export is None:
        document["initialization_commands"] = []
        return
    folder = shlex.quote(shared_folder)
    mount = f"sudo mount --types nfs4 --options {MOUNT_OPTIONS} {shlex.quote(export)} {folder}"
    install = document["initialization_commands"][0]
    document["initialization_commands"] = [
        install,
        f"sudo mkdir --parents {folder}",
        f"mountpoint --quiet {folder} || {mount}",
    ]


def _named(head: str, name: str) -> str:
    """The template's first comments, with the run's name as that of its job."""
    return head.replace(SUBMISSION_ID, f"submission-id {name}").replace(FOLLOWED_ID, f"--follow {name}")
