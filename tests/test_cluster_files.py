"""What is shipped for clusters, held against Ray's launcher and autoscaler, KubeRay's fields, and the command line."""

import copy
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml
from packaging.requirements import Requirement

from s2l_ray.config.sections import Resources

CHECKOUT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text())
RAYJOB = yaml.safe_load((CHECKOUT / "jobs" / "rayjob.yaml").read_text())
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
DOCKERFILES = sorted((CHECKOUT / "docker").glob("*.Dockerfile"))
CONSTRAINTS = sorted(CHECKOUT.glob("constraints-*.txt"))
SHIPPED = [CHECKOUT / "cluster.yaml", CHECKOUT / "jobs" / "rayjob.yaml", CHECKOUT / "docs" / "cluster.md", *DOCKERFILES]


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


# cluster.yaml


def prepared() -> dict[str, Any]:
    """The file as `ray up` reads it: with the launcher's defaults, and checked against its schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(CLUSTER))
    validate_config(config)
    return config


def test_the_launcher_takes_the_cluster_file() -> None:
    config = prepared()
    types = config["available_node_types"]
    assert config["max_workers"] == sum(one["max_workers"] for one in types.values())
    assert {name: one["min_workers"] for name, one in types.items()} == dict.fromkeys(types, 0)
    assert types["head"]["resources"] == {"CPU": 0} and types["head"]["max_workers"] == 0
    on_spot = {name for name, one in types.items() if "InstanceMarketOptions" in one["node_config"]}
    assert on_spot == {"prepare", "score"}
    assert not any(config[f"{when}setup_commands"] for when in ("", "head_", "worker_"))


def test_every_node_has_the_token_and_asks_for_it() -> None:
    [(there, here)] = CLUSTER["file_mounts"].items()
    assert (there, here) == ("/home/ray/.ray/auth_token", "~/.ray/auth_token")
    options = CLUSTER["docker"]["run_options"]
    assert {"--env RAY_AUTH_MODE=token", "--env RAY_USAGE_STATS_ENABLED=0"} <= set(options)
    assert any("--dashboard-host=127.0.0.1" in command for command in CLUSTER["head_start_ray_commands"])


def launched(*demands: dict[str, float]) -> dict[str, int]:
    """The nodes that Ray's autoscaler starts for demands on an empty cluster."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = prepared()
    asked_of_the_cloud = {
        "prepare": {"CPU": 16, "memory": 40e9},
        "train": {"CPU": 8, "GPU": 1, "memory": 40e9, "accelerator_type:L40S": 1},
        "score": {"CPU": 8, "GPU": 1, "memory": 20e9, "accelerator_type:L4": 1},
    }
    for name, resources in asked_of_the_cloud.items():
        config["available_node_types"][name]["resources"] |= resources
    settings = AutoscalingConfig(config, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=settings.get_node_type_configs(),
        max_num_nodes=settings.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(one) for one in demands]),
    )
    return {one.instance_type: one.count for one in ResourceDemandScheduler().schedule(request).to_launch}


def test_stages_start_the_nodes_that_are_meant_for_them() -> None:
    assert launched() == {}
    assert launched({"CPU": 1}, {"CPU": 1}) == {"prepare": 1}
    assert launched({"CPU": 1, "GPU": 1}) == {"train": 1}  # and not on spot
    assert launched(*[{"CPU": 1, "GPU": 1}] * 16) == {"train": 1, "score": 15}
    assert launched(*[{"CPU": 1, "GPU": 1}] * 99) == {"train": 1, "score": 16}


# jobs/rayjob.yaml


def record(*required: str, **fields: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NEEDS = record("requests", "limits", requests=TEXTS, limits=TEXTS)
VARIABLE = record(
    "name",
    name=TEXT,
    value=TEXT,
    valueFrom=record(secretKeyRef=record("name", "key", name=TEXT, key=TEXT, optional=FLAG)),
)
CONTAINER = record(
    "name",
    "image",
    "resources",
    name=TEXT,
    image=TEXT,
    env=list_of(VARIABLE),
    securityContext=record(allowPrivilegeEscalation=FLAG, capabilities=record(drop=list_of(TEXT))),
    volumeMounts=list_of(record("name", "mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG)),
    resources=NEEDS,
)
POD = record(
    "containers",
    serviceAccountName=TEXT,
    restartPolicy=one_of("Never"),  # with autoscaler v2
    securityContext=record(
        runAsNonRoot=FLAG, runAsUser=COUNT, fsGroup=COUNT, seccompProfile=record(type=one_of("RuntimeDefault"))
    ),
    nodeSelector=TEXTS,
    tolerations=list_of(record(key=TEXT, operator=one_of("Exists", "Equal"), effect=TEXT)),
    volumes=list_of(record("name", name=TEXT, configMap=record(name=TEXT))),
    containers=list_of(CONTAINER),
)
RULE = record(
    "policy",
    "condition",
    policy=one_of("DeleteCluster", "DeleteSelf"),  # DeleteWorkers is refused beside an autoscaler
    condition=record(jobStatus=one_of("SUCCEEDED", "FAILED"), jobDeploymentStatus=one_of("Failed"), ttlSeconds=COUNT),
)
GROUP = record(
    "groupName",
    "minReplicas",
    "maxReplicas",
    "template",
    groupName=TEXT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    priority=COUNT,
    rayStartParams=TEXTS,
    template=record("spec", spec=POD),
)
# The fields of ray.io/v1 RayJob that are used here, by hand from KubeRay 1.7.0; no others are let through.
RAYJOB_FIELDS = record(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion=one_of("ray.io/v1"),
    kind=one_of("RayJob"),
    metadata=record("name", name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"}),
    spec=record(
        "entrypoint",
        "rayClusterSpec",
        entrypoint=TEXT,
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        preRunningDeadlineSeconds=COUNT,
        deletionStrategy=record("deletionRules", deletionRules=list_of(RULE)),
        rayClusterSpec=record(
            "headGroupSpec",
            "rayVersion",  # which token authentication asks for
            rayVersion=TEXT,
            authOptions=record(mode=one_of("token")),
            enableInTreeAutoscaling=FLAG,
            autoscalerOptions=record(version=one_of("v2"), idleTimeoutSeconds=COUNT, resources=NEEDS),
            headGroupSpec=record("template", rayStartParams=TEXTS, template=record("spec", spec=POD)),
            workerGroupSpecs=list_of(GROUP),
        ),
    ),
)


def test_kuberay_takes_the_job() -> None:
    jsonschema.validate(RAYJOB, RAYJOB_FIELDS)


def test_the_cluster_of_a_job_goes_before_its_record() -> None:
    after: dict[str, dict[str, int]] = {}
    for rule in RAYJOB["spec"]["deletionStrategy"]["deletionRules"]:
        condition = dict(rule["condition"])
        seconds = condition.pop("ttlSeconds")
        [how] = condition.items()
        assert after.setdefault("=".join(how), {}).setdefault(rule["policy"], seconds) == seconds
    assert after.keys() == {"jobStatus=SUCCEEDED", "jobStatus=FAILED", "jobDeploymentStatus=Failed"}
    assert all(times["DeleteCluster"] <= times["DeleteSelf"] for times in after.values())


def test_a_job_on_kubernetes_is_a_command_of_ours() -> None:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "s2l_ray", "run"]
    check_s2l(words[3:])
    head = RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    mounts = {mount["name"]: mount["mountPath"] for mount in head["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert words[4] == f"{mounts['job']}/job.yaml"


def test_groups_are_those_of_the_launcher() -> None:
    groups = {group["groupName"]: group for group in RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    types = {name: one for name, one in CLUSTER["available_node_types"].items() if name != "head"}
    for settings, theirs in (("maxReplicas", "max_workers"), ("priority", "priority")):
        assert {name: one.get(settings) for name, one in groups.items()} == {
            name: one.get(theirs) for name, one in types.items()
        }


# images and versions


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_made_of_what_is_here(path: Path) -> None:
    sent = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    stages: set[str] = set()
    for instruction, argument in instructions(path):
        assert instruction in {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "CMD"}, "nothing from the net"
        words = argument.split()
        if instruction == "FROM":
            base, name = words[0], words[2] if len(words) == 3 else ""
            assert base in stages or re.search(r":\d+\.\d+\.\d+", base), f"{base} is not pinned"
            stages.add(name)
        elif instruction == "COPY" and not argument.startswith("--from="):
            for source in words[:-1]:
                assert (CHECKOUT / source).exists()
                assert any(fnmatch(source, pattern) for pattern in sent), f"{source} is not sent to the builder"
        elif argument.startswith("--from="):
            assert words[0].removeprefix("--from=") in stages


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_installs_the_versions_of_its_constraints(path: Path) -> None:
    for instruction, argument in instructions(path):
        if instruction != "RUN" or "pip install" not in argument:
            continue
        named = re.search(r"--constraint /build/(\S+)", argument)
        wanted = pins(CHECKOUT / (named.group(1) if named else f"constraints-{path.stem}.txt"))
        for name, version in re.findall(r"([A-Za-z][\w-]*)(?:\[[^\]]*\])?==([\w.]+)", argument):
            assert wanted[name] == version


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_a_user_with_the_home_that_the_token_goes_to(path: Path) -> None:
    settings = " ".join(argument for instruction, argument in instructions(path) if instruction == "ENV")
    assert [argument for instruction, argument in instructions(path) if instruction == "USER"] == ["ray"]
    assert {"HOME=/home/ray", "RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"} <= set(settings.split())


def test_versions_agree() -> None:
    all_pins = {path.stem.removeprefix("constraints-"): pins(path) for path in CONSTRAINTS}
    for name in ("ray", "torch", "pyarrow", "tokenizers", "safetensors", "datasets", "boto3", "google-cloud-storage"):
        assert len({one[name] for one in all_pins.values()}) == 1, name
    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == all_pins["gpu"]["ray"]
    images = set(re.findall(r"s2l-ray:([\w.]+)-", "".join(path.read_text() for path in SHIPPED)))
    assert images == {PROJECT["version"]}


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_lie_in_the_ranges_of_the_project(path: Path) -> None:
    versions = pins(path)
    extra = {"constraints-gpu.txt": "gpu", "constraints-vllm.txt": "vllm", "constraints-cpu.txt": "dev"}[path.name]
    extras = [*PROJECT["optional-dependencies"][extra], *PROJECT["optional-dependencies"]["s3"]]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        if requirement.name in versions:
            assert versions[requirement.name] in requirement.specifier


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    assert not re.search(r"AKIA|aws_secret|PRIVATE KEY|hf_[A-Za-z0-9]{10}|password:", path.read_text())
    for entry in find(RAYJOB, "env"):
        if re.search("TOKEN|KEY|SECRET|PASSWORD", entry["name"]):
            assert "value" not in entry and "secretKeyRef" in entry["valueFrom"]


def find(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from inner if name == key else find(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from find(inner, key)


# docs/cluster.md


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of the page's shell blocks, without what is fed to one or assigned before it."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        plain = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
        for line in plain.splitlines():
            words = shlex.split(line.split(" > ")[0], comments=True)
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                yield words


def check_command(group: Any, words: list[str]) -> None:
    """Fails where the words are no command of the group with arguments that it takes. Runs nothing."""
    words = list(words)
    while hasattr(group, "commands"):
        assert words[0] in group.commands, f"no command {words[0]}"
        group = group.commands[words.pop(0)]
    group.make_context(group.name, words)


def check_s2l(words: list[str]) -> None:
    from s2l_ray.cli import app

    check_command(typer.main.get_command(app), words)


def test_every_command_of_the_page_is_one() -> None:
    from ray.scripts.scripts import cli as ray_cli

    checked = set()
    for words in commands((CHECKOUT / "docs" / "cluster.md").read_text()):
        if words[0] == "ray":
            check_command(ray_cli, words[1:])
        if "s2l_ray" in words:
            check_s2l(words[words.index("s2l_ray") + 1 :])
        if words[0] == "s2l":
            check_s2l(words[1:])
        checked.add(words[0] if words[0] != "ray" else f"ray {words[1]}")
    assert {"s2l", "ray up", "ray down", "ray dashboard", "ray job", "kubectl", "docker", "aws"} <= checked


def test_resources_of_the_page_fit_the_groups() -> None:
    [block] = re.findall(
        r"^```yaml\n(.*?)^```", (CHECKOUT / "docs" / "cluster.md").read_text(), re.MULTILINE | re.DOTALL
    )
    resources = Resources.model_validate(yaml.safe_load(block)["resources"])
    most = {name: one.get("max_workers", 0) for name, one in CLUSTER["available_node_types"].items()}
    assert resources.train.workers <= most["train"]
    assert isinstance(resources.score.workers, list) and resources.score.workers[1] <= most["score"]


def test_policies_of_the_page_are_json() -> None:
    text = (CHECKOUT / "docs" / "cluster.md").read_text()
    policies = re.findall(r"<<'?JSON'?\n(.*?)^JSON$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(policies) == 3
    for policy in policies:
        json.loads(policy)


def test_the_pages_files_are_there() -> None:
    text = (CHECKOUT / "docs" / "cluster.md").read_text()
    for name in set(re.findall(r"(?:jobs|docker)/[\w.]+\w", text)):
        assert (CHECKOUT / name).is_file()
