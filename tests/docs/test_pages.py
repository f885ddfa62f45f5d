"""The pages of the documentation fit the program: links, commands, jobs, and the pages that errors name."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from s2l_ray.cli import app
from s2l_ray.config.experiment import load_experiment
from s2l_ray.config.load import load_config, make_config
from s2l_ray.config.types import Section
from s2l_ray.errors import ConfigError
from tests.docs.pages import CHECKOUT, PAGES, SHELL, Block, anchors, blocks, commands, inline_code, links

BLOCKS = [block for page in PAGES for block in blocks(page)]
JOBS = [block for block in BLOCKS if block.language == "yaml"]
# what a part of a job file is completed with
REST: dict[str, Any] = {
    "root": "runs/part",
    "run": "part",
    "data": {"sources": [{"path": "rows.jsonl"}], "tokenizer": "owner/name", "held_out": {"per_source": 10}},
    "proxy": {"model": "owner/name", "checkpoints": {"fraction": 0.1}},
    "select": {"budget": "10%"},
    "target": {"model": "owner/name"},
}


PROGRAM = get_command(app)
assert isinstance(PROGRAM, TyperGroup)
VERBS = PROGRAM.commands


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """A whole job; one that names its root is whole already."""
    if "root" in values:
        return values
    merged = {**REST, **values}
    return merged | {name: {**REST[name], **values.get(name, {})} for name in ("data", "select")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        if "://" not in name:
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_readme_leads_to_every_page(page: Path) -> None:
    reached = {(CHECKOUT / link.partition("#")[0]).resolve() for link in links(CHECKOUT / "README.md")}
    assert page in reached | {CHECKOUT / "README.md"}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == SHELL], ids=str)
def test_commands_are_valid(block: Block, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(REST))
    for verb, *arguments in commands(block.text):
        given = VERBS[verb].make_context(verb, arguments).params
        named = str(given.get("job", ""))
        if named.startswith("jobs/"):
            job = CHECKOUT / named
            assert job.is_file(), named
        if given.get("set_"):
            load_config(job, given["set_"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_and_options_in_the_text_exist(page: Path) -> None:
    for text in inline_code(page):
        for arguments in commands(text):
            command = VERBS[arguments[0]] if arguments and arguments[0][0] != "-" else PROGRAM
            known = {"--help", *(name for parameter in command.params for name in parameter.opts)}
            assert {part for part in arguments if part.startswith("--")} <= known, text


@pytest.mark.parametrize("block", JOBS, ids=str)
def test_jobs_and_parts_of_jobs_are_valid(block: Block, tmp_path: Path) -> None:
    values = yaml.safe_load(block.text)
    if "arms" not in values:
        make_config(completed(values), str(block))
        return
    (tmp_path / "experiment.yaml").write_text(block.text)
    (tmp_path / values["job"]).write_text(yaml.safe_dump(REST))
    assert len(load_experiment(tmp_path / "experiment.yaml").jobs) == len(values["arms"]) * len(values["seeds"])


def test_pages_of_errors_exist() -> None:
    """Every text of the package that is a page of docs/, or a part of one."""
    named: set[str] = set()
    for file in (CHECKOUT / "s2l_ray").rglob("*.py"):
        named |= set(re.findall(r'"(docs/[\w.-]+(?:#[\w-]+)?)"', file.read_text()))
    assert len(named) > 10
    for text in named:
        name, _, anchor = text.partition("#")
        assert (CHECKOUT / name).is_file() and (not anchor or anchor in anchors(CHECKOUT / name)), text


def test_the_error_of_an_invalid_key_names_its_section(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({**REST, "cluster": {"kk": 3}}))
    with pytest.raises(ConfigError, match="kk") as raised:
        load_config(job)
    assert raised.value.page == "docs/job.md#cluster"


def test_every_section_has_a_part_in_the_page_of_keys() -> None:
    sections = [name for name, value in make_config(REST, "REST") if isinstance(value, Section)]
    assert len(sections) > 5 and set(sections) <= anchors(CHECKOUT / "docs" / "job.md")
