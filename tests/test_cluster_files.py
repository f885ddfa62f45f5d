"""Check the files shipped for clusters: they parse, agree with each other, and name only files, versions and commands
that exist.
"""

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
import ray
import typer.main
import yaml
from packaging.requirements import Requirement

from s2l_ray.config.sections import Resources

CHECKOUT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text())
RAYJOB = yaml.safe_load((CHECKOUT / "jobs" / "rayjob.yaml").read_text())
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
GUIDE = (CHECKOUT / "docs" / "cluster.md").read_text()
DOCKERFILES = sorted((CHECKOUT / "docker").glob("*.Dockerfile"))
CONSTRAINTS = sorted(CHECKOUT.glob("constraints-*.txt"))
SHIPPED = [CHECKOUT / "cluster.yaml", CHECKOUT / "jobs" / "rayjob.yaml", CHECKOUT / "docs" / "cluster.md", *DOCKERFILES]


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


# cluster.yaml and jobs/rayjob.yaml


def test_the_cluster_file_fits_the_schema_of_the_launcher() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(CLUSTER, schema)
    types = CLUSTER["available_node_types"]
    assert CLUSTER["head_node_type"] in types
    assert CLUSTER["max_workers"] == sum(one.get("max_workers", 0) for one in types.values())


def test_every_node_uses_the_token() -> None:
    assert CLUSTER["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert RAYJOB["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_rayjob_runs_a_valid_command_on_a_mounted_job_file() -> None:
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    arguments = shlex.split(RAYJOB["spec"]["entrypoint"])
    assert arguments[:3] == ["python", "-m", "s2l_ray"]
    check_s2l(arguments[3:])
    [container] = RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert Path(arguments[4]).parent.as_posix() in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_both_files_describe_the_same_groups() -> None:
    groups = {group["groupName"]: group for group in RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    types = {name: one for name, one in CLUSTER["available_node_types"].items() if name != "head"}
    for name in groups.keys() | types.keys():
        assert groups[name]["maxReplicas"] == types[name]["max_workers"]
        assert groups[name].get("priority") == types[name].get("priority")
        assert groups[name]["minReplicas"] == types[name].get("min_workers", 0) == 0


# images and versions


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_copies_files_that_exist_and_installs_extras_and_pins_that_exist(path: Path) -> None:
    context = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for instruction, argument in instructions(path):
        if instruction == "COPY" and not argument.startswith("--from="):
            for source in argument.split()[:-1]:
                assert (CHECKOUT / source).exists()
                assert any(fnmatch(source, pattern) for pattern in context), f"{source} is excluded by .dockerignore"
        if instruction == "RUN" and "pip install" in argument:
            named = re.search(r"--constraint /build/(\S+)", argument)
            wanted = pins(CHECKOUT / (named.group(1) if named else f"constraints-{path.stem}.txt"))
            for name, version in re.findall(r"([A-Za-z][\w-]*)(?:\[[^\]]*\])?==([\w.]+)", argument):
                assert wanted[name] == version
            for extras in re.findall(r"/build\[([^\]]*)\]", argument):
                assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_versions_agree() -> None:
    all_pins = {path.stem.removeprefix("constraints-"): pins(path) for path in CONSTRAINTS}
    for name in set.intersection(*(set(one) for one in all_pins.values())) - {"numpy", "pandas", "transformers"}:
        assert len({one[name] for one in all_pins.values()}) == 1, name
    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == all_pins["gpu"]["ray"]
    images = set(re.findall(r"s2l-ray:([\w.]+)-", "".join(path.read_text() for path in SHIPPED)))
    assert images == {PROJECT["version"]}


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_fit_the_requirements_of_the_project(path: Path) -> None:
    versions = pins(path)
    extra = {"constraints-gpu.txt": "gpu", "constraints-vllm.txt": "vllm", "constraints-cpu.txt": "dev"}[path.name]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]):
        if requirement.name in versions:
            assert versions[requirement.name] in requirement.specifier


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    assert not re.search(r"AKIA|aws_secret|PRIVATE KEY|hf_[A-Za-z0-9]{10}|password:", path.read_text())


# docs and README


def commands(text: str) -> Iterator[list[str]]:
    """The commands of all shell blocks, without here-documents, redirections and assignments."""
    for block in code_blocks(text, "sh"):
        lines = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
        for line in lines.splitlines():
            arguments = shlex.split(line.split(" > ")[0], comments=True)
            while arguments and re.match(r"\w+=", arguments[0]):
                arguments.pop(0)
            if arguments:
                yield arguments


def check_command(group: Any, arguments: list[str]) -> None:
    """Fail unless the arguments name a command of the group with arguments that it accepts. Runs nothing."""
    arguments = list(arguments)
    while hasattr(group, "commands"):
        assert arguments[0] in group.commands, f"no command {arguments[0]}"
        group = group.commands[arguments.pop(0)]
    group.make_context(group.name, arguments)


def check_s2l(arguments: list[str]) -> None:
    from s2l_ray.cli import app

    check_command(typer.main.get_command(app), arguments)


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md"])
def test_every_command_of_a_page_exists(page: str) -> None:
    from ray.scripts.scripts import cli as ray_cli

    targets = re.findall(r"^([^\s:#]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    for arguments in commands((CHECKOUT / page).read_text()):
        if arguments[0] == "ray":
            check_command(ray_cli, arguments[1:])
        if "s2l_ray" in arguments:
            check_s2l(arguments[arguments.index("s2l_ray") + 1 :])
        if Path(arguments[0]).name == "s2l":
            check_s2l(arguments[1:])
        if arguments[0] == "make":
            assert arguments[1].replace(".venv", "$(VENV)") in targets


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "docs/limitations.md", "bench/README.md"])
def test_every_file_of_a_page_exists(page: str) -> None:
    text = (CHECKOUT / page).read_text()
    paths = re.findall(r"(?:jobs|docker|docs|bench|s2l_ray|tests)/[\w./-]*\w", text)
    modules = [f"{module.replace('.', '/')}.py" for module in re.findall(r"\bbench\.\w+", text)]
    for name in {*paths, *modules}:
        assert (CHECKOUT / name).exists(), name


def test_resources_of_the_guide_fit_the_groups() -> None:
    [block] = code_blocks(GUIDE, "yaml")
    resources = Resources.model_validate(yaml.safe_load(block)["resources"])
    most = {name: one.get("max_workers", 0) for name, one in CLUSTER["available_node_types"].items()}
    assert resources.train.workers <= most["train"]
    assert isinstance(resources.score.workers, list) and resources.score.workers[1] <= most["score"]


def test_the_job_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    from s2l_ray.config.load import load_config

    [block] = code_blocks((CHECKOUT / "README.md").read_text(), "yaml")
    path = tmp_path / "job.yaml"
    path.write_text(block.replace("gpt_neox, hidden_size: ...", "gpt_neox"))
    assert load_config(str(path)).run == "mine"


def test_policies_of_the_guide_are_json() -> None:
    policies = re.findall(r"<<'?JSON'?\n(.*?)^JSON$", GUIDE, flags=re.MULTILINE | re.DOTALL)
    assert len(policies) == 3 and all(map(json.loads, policies))
