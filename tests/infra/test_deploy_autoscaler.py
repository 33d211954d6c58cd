"""The cluster files for AWS and GCP fulfil Ray's schema, and ask for as many machines as the run needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from deploy_needs import needs
from ray.autoscaler._private.util import fillout_defaults, validate_config

from infra.deploy.autoscaler import AWS_FILE, GCP_FILE, CloudPlace, aws_cluster, gcp_cluster
from infra.deploy.needs import ClusterNeeds
from infra.deploy.template_file import template_documents

SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
NEEDS = {
    "all": needs(),
    "build": needs(min_workers=0, max_workers=0, use_gpu=False),
    "train": needs(build_tasks=0),
    "cpu": needs(use_gpu=False),
    "s3": needs(shared_folder=None),
}


def on_aws(wanted: ClusterNeeds) -> dict[str, Any]:
    place = CloudPlace("registry.example/diptych:1", "eu-west-1", "ami-1", "files.example:/pictures")
    return dict(yaml.safe_load(aws_cluster(wanted, place)))


def on_gcp(wanted: ClusterNeeds) -> dict[str, Any]:
    place = CloudPlace(
        "registry.example/diptych:1", "europe-west4-b", "projects/p/global/images/i", "10.0.0.2:/pictures"
    )
    return dict(yaml.safe_load(gcp_cluster(wanted, place, "bird-project")))


FILES = {path: template_documents(path)[0] for path in (AWS_FILE, GCP_FILE)}
FILES |= {f"aws of {name}": on_aws(wanted) for name, wanted in NEEDS.items()}
FILES |= {f"gcp of {name}": on_gcp(wanted) for name, wanted in NEEDS.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_cluster_file_fulfils_rays_schema_and_its_further_rules(name: str):
    jsonschema.Draft7Validator(SCHEMA).validate(FILES[name])
    validate_config(fillout_defaults(FILES[name]))


def test_the_schema_refuses_a_misspelt_key():
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        jsonschema.Draft7Validator(SCHEMA).validate(FILES[AWS_FILE] | {"idle_timeout": 5})


@pytest.mark.parametrize("name", FILES)
def test_nothing_of_rays_own_defaults_is_installed_in_the_container(name: str):
    filled = fillout_defaults(FILES[name])
    assert filled["setup_commands"] == filled["worker_setup_commands"] == []
    assert "pip" not in str(filled["head_setup_commands"])


def test_machines_are_those_with_as_many_gpus_as_workers():
    aws, gcp = on_aws(needs()), on_gcp(needs(workers_per_node=2, max_workers=6))
    assert aws["available_node_types"]["train"]["node_config"]["InstanceType"] == "g6.48xlarge"
    assert aws["available_node_types"]["train"]["resources"] == {"CPU": 192, "GPU": 8}
    assert (aws["available_node_types"]["train"]["max_workers"], aws["max_workers"]) == (3, 6)
    assert gcp["available_node_types"]["train"]["node_config"]["machineType"] == "g2-standard-24"
    assert gcp["available_node_types"]["train"]["max_workers"] == 3
    # AWS has none with two.
    smaller = on_aws(needs(workers_per_node=2, max_workers=6))["available_node_types"]["train"]
    assert (smaller["node_config"]["InstanceType"], smaller["max_workers"]) == ("g6.2xlarge", 6)


@pytest.mark.parametrize("cluster", [on_aws(needs()), on_gcp(needs())], ids=["aws", "gcp"])
def test_no_task_runs_on_the_head_and_workers_come_from_zero(cluster: dict[str, Any]):
    nodes = cluster["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert [nodes[name]["min_workers"] for name in ("build", "train")] == [0, 0]
    assert "--env DIPTYCH_GPUS_ON_DEMAND=24" in cluster["docker"]["run_options"]


def test_workers_are_preemptible_and_the_head_is_not():
    aws, gcp = on_aws(needs())["available_node_types"], on_gcp(needs())["available_node_types"]
    for name in ("build", "train"):
        assert aws[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert gcp[name]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert "scheduling" not in gcp["head"]["node_config"]


def test_a_training_without_gpus_has_its_nodes_from_the_start():
    train = on_aws(NEEDS["cpu"])["available_node_types"]["train"]
    assert train["resources"] == {"CPU": 8} and train["node_config"]["InstanceType"] == "m7i.2xlarge"
    assert (train["min_workers"], train["max_workers"]) == (4, 20)


def test_the_shared_folder_is_mounted_on_the_machine_and_in_the_container():
    cluster = on_gcp(needs())
    assert cluster["initialization_commands"][-1].endswith("hard,timeo=600 10.0.0.2:/pictures /data")
    assert "--volume /data:/data" in cluster["docker"]["run_options"]
    assert on_gcp(NEEDS["s3"])["initialization_commands"] == []
    assert "/data" not in str(on_gcp(NEEDS["s3"])["docker"])


def test_a_folder_with_odd_letters_is_quoted_for_the_shell():
    commands = on_aws(needs(shared_folder="/data; reboot"))["initialization_commands"]
    assert commands[1] == "sudo mkdir --parents '/data; reboot'"


@pytest.mark.parametrize("path", [AWS_FILE, GCP_FILE])
def test_the_heads_setup_takes_the_runs_config_from_the_cluster_file(path: str, tmp_path: Path):
    cluster = on_aws(needs()) if path == AWS_FILE else on_gcp(needs())
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(cluster))
    (command,) = cluster["head_setup_commands"]
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    assert yaml.safe_load((tmp_path / "run.yaml").read_text()) == yaml.safe_load(needs().config)
