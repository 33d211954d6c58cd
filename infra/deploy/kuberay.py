"""Fills in the manifests for KubeRay: a RayJob for one run, or a RayCluster that stays."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.cluster import GPUS_ON_DEMAND_VARIABLE
from infra.deploy.needs import ClusterNeeds
from infra.deploy.template_file import Document, head_comment, template_documents, to_yaml

JOB_FILE = "kuberay/rayjob.yaml"
CLUSTER_FILE = "kuberay/raycluster.yaml"
TEMPLATE_NAME = "diptych"
GPU_RESOURCE = "nvidia.com/gpu"
GIB_PER_WORKER = 32


@dataclass(frozen=True, slots=True)
class KubernetesPlace:
    """What a config does not say of the Kubernetes cluster."""

    image: str
    """The container image of diptych."""
    claim: str
    """The PersistentVolumeClaim that holds the shared folder."""


def ray_job(needs: ClusterNeeds, place: KubernetesPlace) -> str:
    """A RayJob that does the run, with its config, and with Redis for the state of its head."""
    documents = template_documents(JOB_FILE)
    _fill(documents, needs, place)
    _only(documents, "ConfigMap")["data"]["run.yaml"] = needs.config
    job = _only(documents, "RayJob")["spec"]
    job["submitterPodTemplate"]["spec"]["containers"][0]["image"] = place.image
    _fill_cluster(job["rayClusterSpec"], needs, place)
    return _head(JOB_FILE, needs, place) + to_yaml(documents)


def ray_cluster(needs: ClusterNeeds, place: KubernetesPlace) -> str:
    """A RayCluster that stays and takes runs with such needs, with Redis for the state of its head."""
    documents = template_documents(CLUSTER_FILE)
    _fill(documents, needs, place)
    _fill_cluster(_only(documents, "RayCluster")["spec"], needs, place)
    return _head(CLUSTER_FILE, needs, place) + to_yaml(documents)


def _fill(documents: list[Document], needs: ClusterNeeds, place: KubernetesPlace) -> None:
    """Names of objects and of what refers to them."""
    names = {TEMPLATE_NAME, *(f"{TEMPLATE_NAME}-{part}" for part in ("config", "redis"))}
    for holder, key in _texts(documents):
        text = holder[key]
        if text in names:
            holder[key] = needs.name + text.removeprefix(TEMPLATE_NAME)
        elif text == f"{TEMPLATE_NAME}-redis:6379":
            holder[key] = f"{needs.name}-redis:6379"
        elif text == f"{TEMPLATE_NAME}-data":
            holder[key] = place.claim


def _fill_cluster(cluster: Document, needs: ClusterNeeds, place: KubernetesPlace) -> None:
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for group in (cluster["headGroupSpec"], *groups.values()):
        pod = group["template"]["spec"]
        pod["containers"][0]["image"] = place.image
        _mount_shared_folder(pod, needs.shared_folder)
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"] = [{"name": GPUS_ON_DEMAND_VARIABLE, "value": str(needs.gpus)}] if needs.gpus else []
    groups["build"]["maxReplicas"] = needs.build_nodes
    _fill_train_group(groups["train"], needs)
    used = {"build": needs.build_nodes, "train": needs.max_train_nodes}
    cluster["workerGroupSpecs"] = [group for name, group in groups.items() if used[name]]


def _fill_train_group(group: Document, needs: ClusterNeeds) -> None:
    group["maxReplicas"] = needs.max_train_nodes
    # Only GPUs are waited for; CPU workers share the cores that are there when the training starts.
    group["minReplicas"] = group["replicas"] = 0 if needs.use_gpu else needs.min_train_nodes
    amounts = {"cpu": str(needs.train_node_cpus), "memory": f"{needs.workers_per_node * GIB_PER_WORKER}Gi"}
    if needs.use_gpu:
        amounts[GPU_RESOURCE] = str(needs.workers_per_node)
    group["template"]["spec"]["containers"][0]["resources"] = {"requests": dict(amounts), "limits": dict(amounts)}


def _mount_shared_folder(pod: Document, folder: str | None) -> None:
    container = pod["containers"][0]
    if folder is None:
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "shared"]
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "shared"]
    else:
        for mount in container["volumeMounts"]:
            if mount["name"] == "shared":
                mount["mountPath"] = folder


def _texts(value: Any) -> Iterator[tuple[Any, Any]]:
    """The place of every text in nested dicts and lists, as its holder and key; texts of several lines left out."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        if isinstance(inner, dict | list):
            yield from _texts(inner)
        elif isinstance(inner, str) and "\n" not in inner:
            yield value, key


def _only(documents: list[Document], kind: str) -> Document:
    return next(document for document in documents if document["kind"] == kind)


def _head(path: str, needs: ClusterNeeds, place: KubernetesPlace) -> str:
    """The template's first comments, with the names of this run."""
    return (
        head_comment(path)
        .replace(f"{TEMPLATE_NAME}-data", place.claim)
        .replace(f"{TEMPLATE_NAME}-redis", f"{needs.name}-redis")
        .replace(f"{TEMPLATE_NAME}-head-svc", f"{needs.name}-head-svc")
        .replace(f"rayjob {TEMPLATE_NAME} ", f"rayjob {needs.name} ")
        .replace(f"job/{TEMPLATE_NAME}", f"job/{needs.name}")
    )
