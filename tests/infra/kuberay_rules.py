"""What KubeRay's operator and Kubernetes refuse in our manifests, of the fields that they use; for where no CRD is."""

import re
from collections.abc import Iterator
from typing import Any

MAX_NAME = {"RayCluster": 53, "RayJob": 47}
QUANTITY = re.compile(r"^(\d+)(m|Mi|Gi)?$")
UNITS = {None: 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with one document of a manifest."""
    return list(_problems(document))


def _problems(document: dict[str, Any]) -> Iterator[str]:
    kind, name = document["kind"], document["metadata"]["name"]
    if len(name) > MAX_NAME.get(kind, 63) or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"name {name}"
    if kind in MAX_NAME and document["apiVersion"] != "ray.io/v1":
        yield f"apiVersion {document['apiVersion']}"
    if kind == "RayJob":
        yield from _job_problems(document["spec"])
    if kind == "RayCluster":
        yield from _cluster_problems(document["spec"])
    if kind == "Deployment":
        if document["spec"]["selector"]["matchLabels"] != document["spec"]["template"]["metadata"]["labels"]:
            yield "the selector does not select the pods"
        yield from _pod_problems(document["spec"]["template"]["spec"])


def _job_problems(job: dict[str, Any]) -> Iterator[str]:
    if not job.get("entrypoint"):
        yield "no entrypoint"
    if job["submissionMode"] not in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"):
        yield f"submissionMode {job['submissionMode']}"
    if job["ttlSecondsAfterFinished"] and not job["shutdownAfterJobFinishes"]:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if job["backoffLimit"] < 0:
        yield "backoffLimit"
    if job["submitterPodTemplate"]["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        yield "restartPolicy of the submitter"
    yield from _pod_problems(job["submitterPodTemplate"]["spec"])
    yield from _cluster_problems(job["rayClusterSpec"])


def _cluster_problems(cluster: dict[str, Any]) -> Iterator[str]:
    head = cluster["headGroupSpec"]["template"]["spec"]
    if cluster.get("autoscalerOptions") and not cluster.get("enableInTreeAutoscaling"):
        yield "autoscalerOptions without enableInTreeAutoscaling"
    if cluster["autoscalerOptions"].get("version") not in ("v1", "v2"):
        yield "version of the autoscaler"
    ray_version = tuple(map(int, cluster["rayVersion"].split(".")))
    if cluster.get("authOptions", {}).get("mode") == "token" and ray_version < (2, 52):
        yield "token authentication wants Ray 2.52"
    redis = cluster["gcsFaultToleranceOptions"]
    if set(redis["redisPassword"]) != {"valueFrom"}:
        yield "the password of Redis is in the manifest"
    taken = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2"}
    if taken & {variable["name"] for variable in head["containers"][0].get("env", [])}:
        yield "a variable that KubeRay sets itself"
    yield from _pod_problems(head)
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    if len(set(names)) != len(names):
        yield "two groups of one name"
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"replicas of {group['groupName']}"
        pod = group["template"]["spec"]
        if pod.get("restartPolicy", "Never") != "Never":
            yield "restartPolicy with autoscaler v2"
        yield from _pod_problems(pod)


def _pod_problems(pod: dict[str, Any]) -> Iterator[str]:
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("runAsUser", 0) == 0:
        yield "runs as root"
    if not pod["containers"]:
        yield "no container"
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']} may gain privileges"
        missing = {mount["name"] for mount in container.get("volumeMounts", [])} - volumes
        if missing:
            yield f"{container['name']} mounts {missing}"
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for resource, amount in requests.items():
            if _amount(amount) > _amount(limits[resource]):
                yield f"{container['name']} requests more {resource} than its limit"
            if "/" in resource and amount != limits[resource]:
                yield f"{resource} cannot be overcommitted"


def _amount(text: str) -> float:
    found = QUANTITY.match(text)
    assert found, f"{text} is no quantity"
    return int(found[1]) * UNITS[found[2]]
