"""The KubeRay manifests fulfil KubeRay's CRDs, its operator's rules and ours: no root, no password, down to zero."""

import copy
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from deploy_needs import needs
from kuberay_rules import problems

from infra.deploy.kuberay import CLUSTER_FILE, JOB_FILE, KubernetesPlace, ray_cluster, ray_job
from infra.deploy.needs import ClusterNeeds
from infra.deploy.template_file import template_documents

ROOT = Path(__file__).resolve().parents[2]
PLACE = KubernetesPlace(image="registry.example/diptych:1", claim="pictures")
NEEDS = {
    "all": needs(),
    "build": needs(min_workers=0, max_workers=0, use_gpu=False),
    "train": needs(build_tasks=0),
    "cpu": needs(use_gpu=False, workers_per_node=1),
    "s3": needs(shared_folder=None),
}


def documents(text: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def manifests() -> dict[str, list[dict[str, Any]]]:
    """Those of the repository and rendered ones."""
    found = {path: template_documents(path) for path in (JOB_FILE, CLUSTER_FILE)}
    for name, each in NEEDS.items():
        found[f"job of {name}"] = list(yaml.safe_load_all(ray_job(each, PLACE)))
        found[f"cluster of {name}"] = list(yaml.safe_load_all(ray_cluster(each, PLACE)))
    return found


MANIFESTS = manifests()
every_manifest = pytest.mark.parametrize("name", MANIFESTS)


@pytest.fixture(scope="session")
def crds() -> dict[str, dict[str, Any]]:
    """KubeRay's schemas by kind, with unknown fields refused, as the API server does."""
    folders = [parent / "shared" / "schemas" / "kuberay" for parent in (ROOT, *ROOT.parents)]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        pytest.skip("KubeRay's CRDs are not at hand (shared/schemas/kuberay beside or above the repository)")
    schemas = {}
    for path in sorted(folder.glob("ray.io_*.yaml")):
        crd = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        schemas[crd["spec"]["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    return schemas


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(value) for key, value in schema.items()}
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not keeps_unknown:
        inner["additionalProperties"] = False
    return inner


@every_manifest
def test_a_manifest_fulfils_kuberays_crds(name: str, crds: dict[str, dict[str, Any]]):
    checked = 0
    for document in MANIFESTS[name]:
        if document["kind"] in crds:
            without_metadata = {key: value for key, value in document.items() if key != "metadata"}
            jsonschema.Draft7Validator(crds[document["kind"]]).validate(without_metadata)
            checked += 1
    assert checked == 1


def test_the_crds_refuse_a_misspelt_field(crds: dict[str, dict[str, Any]]):
    document = copy.deepcopy(MANIFESTS[CLUSTER_FILE][0])
    del document["metadata"]
    document["spec"]["workerGroupSpecs"][0]["minReplica"] = 0
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.Draft7Validator(crds["RayCluster"]).validate(document)


@every_manifest
def test_a_manifest_breaks_no_rule(name: str):
    assert [problem for document in MANIFESTS[name] for problem in problems(document)] == []


FAULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda job: job["metadata"].update(name="Birds_2"),
    "apiVersion": lambda job: job.update(apiVersion="ray.io/v1alpha1"),
    "no entrypoint": lambda job: job["spec"].pop("entrypoint"),
    "ttlSecondsAfterFinished": lambda job: job["spec"].update(shutdownAfterJobFinishes=False),
    "restartPolicy": lambda job: job["spec"]["submitterPodTemplate"]["spec"].pop("restartPolicy"),
    "autoscalerOptions": lambda job: job["spec"]["rayClusterSpec"].pop("enableInTreeAutoscaling"),
    "replicas of build": lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(maxReplicas=-1),
    "runs as root": lambda job: head_pod(job).pop("securityContext"),
    "gain privileges": lambda job: head_pod(job)["containers"][0].pop("securityContext"),
    "mounts": lambda job: head_pod(job).update(volumes=[]),
    "password": lambda job: job["spec"]["rayClusterSpec"]["gcsFaultToleranceOptions"].update(
        redisPassword={"value": "in sight"}
    ),
}


def head_pod(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("fault", FAULTS)
def test_the_rules_find_a_fault(fault: str):
    job = copy.deepcopy(documents(ray_job(needs(), PLACE))["RayJob"])
    FAULTS[fault](job)
    assert any(fault in problem for problem in problems(job))


def test_the_job_makes_the_very_cluster_that_stays_but_for_its_config():
    job = template_documents(JOB_FILE)[1]["spec"]["rayClusterSpec"]
    pod = job["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "config"]
    mounts = pod["containers"][0]["volumeMounts"]
    pod["containers"][0]["volumeMounts"] = [mount for mount in mounts if mount["name"] != "config"]
    assert job == template_documents(CLUSTER_FILE)[0]["spec"]
    assert template_documents(JOB_FILE)[2:] == template_documents(CLUSTER_FILE)[1:]


@pytest.mark.parametrize("render", [ray_job, ray_cluster])
def test_names_image_and_volume_are_the_runs_own(render: Callable[[ClusterNeeds, KubernetesPlace], str]):
    text = render(needs(), PLACE)
    found = documents(text)
    assert found["Service"]["metadata"]["name"] == found["Deployment"]["metadata"]["name"] == "birds-redis"
    assert "redisAddress: birds-redis:6379" in text and "claimName: pictures" in text
    assert "diptych-redis" not in text and "diptych-data" not in text and "diptych:0.1.0" not in text


def test_the_job_does_the_run_with_the_config_that_it_mounts():
    found = documents(ray_job(needs(), PLACE))
    job = found["RayJob"]["spec"]
    assert "diptych run /etc/diptych/run.yaml --address auto;" in job["entrypoint"]
    assert found["ConfigMap"]["data"] == {"run.yaml": needs().config}
    volume = next(volume for volume in head_pod(found["RayJob"])["volumes"] if volume["name"] == "config")
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"] == "birds-config"
    assert job["shutdownAfterJobFinishes"] and job["backoffLimit"] > 0


@pytest.mark.parametrize(("code", "ends_with"), [(0, 0), (1, 1), (137, 137), (2, 0), (130, 0), (143, 0)])
def test_a_run_that_was_stopped_or_cannot_be_is_not_begun_again(tmp_path: Path, code: int, ends_with: int):
    (tmp_path / "diptych").write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    (tmp_path / "diptych").chmod(0o755)
    entrypoint = documents(ray_job(needs(), PLACE))["RayJob"]["spec"]["entrypoint"]
    # The shell of the submitter reads it, then Ray hands the words to another one.
    words = shlex.join(shlex.split(entrypoint))
    done = subprocess.run(
        ["/bin/sh", "-c", words], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (ends_with, "run /etc/diptych/run.yaml --address auto\n")


def test_groups_are_as_large_as_the_run_needs_and_go_down_to_nothing():
    cluster = documents(ray_cluster(needs(), PLACE))["RayCluster"]["spec"]
    build, train = cluster["workerGroupSpecs"]
    assert (build["groupName"], build["minReplicas"], build["maxReplicas"]) == ("build", 0, 3)
    assert (train["groupName"], train["minReplicas"], train["maxReplicas"]) == ("train", 0, 3)
    limits = train["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "8"}
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["containers"][0]["env"] == [{"name": "DIPTYCH_GPUS_ON_DEMAND", "value": "24"}]


def test_a_training_without_gpus_has_its_nodes_from_the_start():
    groups = documents(ray_cluster(NEEDS["cpu"], PLACE))["RayCluster"]["spec"]["workerGroupSpecs"]
    assert [(group["groupName"], group["minReplicas"]) for group in groups] == [("build", 0), ("train", 4)]
    assert "nvidia.com/gpu" not in groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_a_run_has_only_the_groups_that_its_stages_need():
    for name, wanted in {"build": ["build"], "train": ["train"]}.items():
        groups = documents(ray_cluster(NEEDS[name], PLACE))["RayCluster"]["spec"]["workerGroupSpecs"]
        assert [group["groupName"] for group in groups] == wanted


def test_a_run_on_object_storage_mounts_no_volume():
    assert "persistentVolumeClaim" not in ray_job(NEEDS["s3"], PLACE)
    assert "mountPath: /data" not in ray_cluster(NEEDS["s3"], PLACE).split("kind: Service")[0]


def test_the_head_keeps_off_preemptible_nodes_and_workers_seek_them():
    cluster = documents(ray_cluster(needs(), PLACE))["RayCluster"]["spec"]
    head = cluster["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert set(head) == {"requiredDuringSchedulingIgnoredDuringExecution"}
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert set(pod["affinity"]["nodeAffinity"]) == {"preferredDuringSchedulingIgnoredDuringExecution"}
        assert any(toleration["key"] == "cloud.google.com/gke-spot" for toleration in pod["tolerations"])
