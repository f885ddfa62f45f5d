"""The command line: exit statuses, output streams, and refusals before anything starts."""

import dataclasses
import json
import random
import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from s2l_ray.cli import app
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.plan import plan
from tests.support.jobs import small_job
from tests.support.small_store import DATASET_NAME, SUBSET_NAME, Store, write_store

VERBS = (
    "init",
    "demo",
    "plan",
    "run",
    "ls",
    "show",
    "verify",
    "export",
    "compare",
    "explain",
    "report",
    "gc",
    "submit",
    "status",
    "stop",
)


def s2l(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_job(tmp_path_factory.mktemp("job"), rows=200)


def subset_of(store: Store) -> Path:
    return store.root / "subset" / SUBSET_NAME


def test_every_verb_has_help() -> None:
    for verb in VERBS:
        assert verb in s2l("--help").stdout
        assert s2l(verb, "--help").exit_code == 0
    assert s2l("--version").stdout.startswith("s2l_ray ")


def test_every_verb_has_a_heading_and_a_valid_example() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        assert getattr(command, "rich_help_panel", None), name
        program, verb, *arguments = shlex.split((command.epilog or "").removeprefix("Example: "))
        assert (program, verb) == ("s2l", name)
        command.make_context(name, arguments)


@pytest.mark.parametrize(
    ("typed", "offered"), [("s2l pl", ["plan"]), ("s2l run --to ta", ["task", "target_dataset", "target"])]
)
def test_bash_completes_verbs_and_kinds(typed: str, offered: list[str]) -> None:
    variables = {"_S2L_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    result = CliRunner().invoke(app, [], env=variables, prog_name="s2l")
    assert result.stdout.split() == offered


@pytest.mark.parametrize(
    "arguments", [["sing"], ["plan"], ["run", "job.yaml", "--loud"], ["export", "x"], ["ls", "a", "b"]], ids=" ".join
)
def test_an_invalid_command_line_is_status_2(arguments: list[str]) -> None:
    assert s2l(*arguments).exit_code == 2


# an invalid job is refused at once


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("select.bugdet=5", "budget"),
        ("select.budget=-5", "select.budget"),
        ("select.budget=5000000", "select.budget"),
        ("select.method=magic", "random"),
        ("data.root=/nowhere", "/nowhere/rows"),
        ("proxy.model=./nowhere", "proxy.model"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_invalid_job_is_refused_before_ray_starts(job: Path, override: str, expected: str) -> None:
    values = ["--set", "data.limit=100", "--set", override]
    for verb in ("plan", "run"):
        result = s2l(verb, job, *values)
        assert result.exit_code == 2
        assert expected in result.stderr
        assert "Traceback" not in result.stderr
    assert not Path(load_config(job).root).exists()


def test_a_missing_job_and_an_unknown_kind(job: Path, tmp_path: Path) -> None:
    assert s2l("plan", tmp_path / "none.yaml").exit_code == 2
    result = s2l("plan", job, "--to", "gold")
    assert result.exit_code == 2
    assert "trajectories" in result.stderr


@pytest.mark.parametrize(
    ("override", "page"), [("cluster.kk=3", "docs/job.md#cluster"), ("data.sources.0.path=none", "docs/data.md#files")]
)
def test_an_error_names_the_page_that_explains_more(job: Path, override: str, page: str) -> None:
    assert s2l("plan", job, "--set", override).stderr.splitlines()[-1].split() == ["see", page]


def test_debug_adds_the_traceback(job: Path) -> None:
    assert "Traceback" in s2l("plan", job, "--to", "gold", "--debug").stderr


@pytest.mark.slow
def test_a_disk_too_small_for_the_checkpoints_is_refused(job: Path, tmp_path: Path) -> None:
    """Sparse weights of a quarter of the free space, of which the job would write several copies."""
    weights = shutil.disk_usage(tmp_path).free // 4 // 4
    header = {"huge": {"dtype": "F32", "shape": [weights], "data_offsets": [0, 4 * weights]}}
    encoded = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + 4 * weights)
    (tmp_path / "config.json").write_text("{}")
    for verb in ("plan", "run"):
        result = s2l(verb, job, "--set", f"proxy.model={tmp_path}")
        assert result.exit_code == 2
        assert "proxy.checkpoints" in result.stderr


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(job: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 300}')
    result = s2l("plan", job, "--set", f"proxy.model={tmp_path}")
    assert result.exit_code == 2
    assert "data.tokenizer" in result.stderr and "400" in result.stderr and "300" in result.stderr


# plan


def test_plan_shows_every_step(job: Path) -> None:
    result = s2l("plan", job)
    assert result.exit_code == 0
    for step in plan(load_config(job)).steps:
        assert step.kind in result.stdout and step.fingerprint in result.stdout
    assert f"run {job}" in result.stderr


def test_plan_for_a_script(job: Path) -> None:
    values = json.loads(s2l("plan", job, "--json", "--to", "clusters").stdout)
    planned = plan(load_config(job), "clusters")
    assert [step["fingerprint"] for step in values["steps"]] == [step.fingerprint for step in planned.steps]
    assert [step["kind"] for step in values["steps"]] == ["dataset", "checkpoints", "trajectories", "clusters"]
    assert all(step["build"] and step["state"] == "missing" for step in values["steps"])
    assert values["checkpoints"] == 6
    assert values["rows"] is None
    assert values["bytes_free"] > 0


def test_a_method_without_a_proxy_plans_none(job: Path) -> None:
    values = json.loads(s2l("plan", job, "--json", "--set", "select.method=random").stdout)
    assert [step["kind"] for step in values["steps"]] == ["dataset", "subset"]
    assert values["checkpoints"] is None


# ls, show, verify


def test_ls_lists_artifacts_and_runs(store: Store) -> None:
    shown = s2l("ls", store.root).stdout
    assert DATASET_NAME in shown and SUBSET_NAME in shown and "small" in shown
    listed = json.loads(s2l("ls", store.root, "--json").stdout)
    assert {one["kind"]: one["rows"] for one in listed["artifacts"]} == {"dataset": 30, "subset": len(store.selected)}
    assert {one["state"] for one in listed["artifacts"]} == {"complete"}
    assert [run["name"] for run in listed["runs"]] == ["small"]
    size = sum(path.stat().st_size for path in subset_of(store).rglob("*") if path.is_file())
    assert listed["artifacts"][1]["bytes"] == size


def test_ls_of_an_empty_folder_fails(tmp_path: Path) -> None:
    result = s2l("ls", tmp_path)
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr


def test_show_prints_counts_and_rows(store: Store) -> None:
    shown = s2l("show", store.root / "dataset" / DATASET_NAME).stdout
    assert {"30", "32", "duplicate", "2"} <= set(re.findall(r"\w+", shown))
    assert "It is 1." in shown
    manifest = json.loads(s2l("show", subset_of(store), "--json").stdout)
    assert manifest["counts"]["kept"] == len(store.selected)
    assert manifest["facts"]["method"] == "random"
    assert manifest["inputs"] == {"dataset": DATASET_NAME}
    assert manifest["dropped"] == []


def test_show_of_an_incomplete_artifact_and_of_none(store: Store, tmp_path: Path) -> None:
    begun = shutil.copytree(subset_of(store), tmp_path / "subset" / SUBSET_NAME)
    (begun / "manifest.json").unlink()
    result = s2l("show", begun)
    assert result.exit_code == 0
    assert "partial" in result.stdout
    values = json.loads(s2l("show", begun, "--json").stdout)
    assert values["state"] == "partial"
    assert values["execution"] == dataclasses.asdict(store.subset.manifest.execution)
    assert s2l("show", tmp_path / "subset" / "000000000000").exit_code == 1


def test_verify_of_an_intact_store(store: Store) -> None:
    result = s2l("verify", store.root)
    assert result.exit_code == 0
    values = json.loads(s2l("verify", store.root, "--json").stdout)
    assert values["faults"] == 0
    assert values["files"] == sum(path.is_file() for path in store.root.rglob("*"))


def test_verify_names_every_file_in_which_a_bit_is_flipped(store: Store, tmp_path: Path) -> None:
    rng = random.Random(0)
    root = shutil.copytree(store.root, tmp_path / "root")
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        intact = path.read_bytes()
        flipped = bytearray(intact)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        result = s2l("verify", root, "--json")
        faults = [fault["path"] for one in json.loads(result.stdout)["artifacts"] for fault in one["faults"]]
        assert result.exit_code == 1
        assert len(faults) == 1 and str(path).endswith(faults[0])
        assert path.name in s2l("verify", root).stdout
        path.write_bytes(intact)
    assert s2l("verify", root).exit_code == 0


def test_verify_names_missing_and_unlisted_files(store: Store, tmp_path: Path) -> None:
    subset = shutil.copytree(subset_of(store), tmp_path / "subset" / SUBSET_NAME)
    (subset / "shard-00000.parquet").rename(subset / "shard-00001.parquet")
    result = s2l("verify", subset)
    assert result.exit_code == 1
    assert "shard-00000.parquet" in result.stdout and "shard-00001.parquet" in result.stdout


# export


def test_export_writes_the_selected_rows(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    assert s2l("export", subset_of(store), "--to", target).exit_code == 0
    assert [json.loads(line) for line in target.open()] == [store.rows[position] for position in store.selected]
    assert s2l("export", subset_of(store), "--to", target).exit_code == 2
    assert s2l("export", subset_of(store), "--to", target, "--force").exit_code == 0


def test_export_of_a_job_without_a_subset_is_refused(job: Path, tmp_path: Path) -> None:
    result = s2l("export", job, "--to", tmp_path / "rows.jsonl")
    assert result.exit_code == 2
    assert f"run {job}" in result.stderr


def test_export_of_a_damaged_subset_fails(store: Store, tmp_path: Path) -> None:
    subset = shutil.copytree(store.root, tmp_path / "root") / "subset" / SUBSET_NAME
    shard = subset / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    result = s2l("export", subset, "--to", tmp_path / "rows.jsonl")
    assert result.exit_code == 1
    assert str(shard) in result.stderr
    assert not (tmp_path / "rows.jsonl").exists()


# init

ROWS: dict[str, list[dict[str, object]]] = {
    "alpaca": [{"instruction": f"Add {n}.", "input": "", "output": f"It is {n}.", "source": "sums"} for n in range(40)],
    "prompt_response": [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(40)],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"Hello {n}"}, {"from": "gpt", "value": "Good day."}]}
        for n in range(40)
    ],
    "messages": [
        {"messages": [{"role": "user", "content": f"Hello {n}"}, {"role": "assistant", "content": "Good day."}]}
        for n in range(40)
    ],
}


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_init_writes_a_job_that_can_be_planned(tmp_path: Path, name: str, suffix: str) -> None:
    rows, job = write_rows(tmp_path / f"rows{suffix}", ROWS[name]), tmp_path / "job.yaml"
    chat = ["--tokenizer", "some/chat-model"] if name in ("sharegpt", "messages") else []
    result = s2l("init", rows, "--to", job, *chat)
    assert result.exit_code == 0, result.stderr
    assert all(str(value) in result.stdout for value in (len(ROWS[name]), name))
    config = load_config(job)
    assert config.data.sources[0].format == name
    assert s2l("plan", job).exit_code == 0
    if name == "prompt_response":
        assert config.data.sources[0].fields == {"prompt": "question", "response": "answer"}


def test_init_takes_a_model_and_its_tokenizer(tmp_path: Path) -> None:
    rows, job = write_rows(tmp_path / "rows.jsonl", ROWS["alpaca"]), tmp_path / "job.yaml"
    assert s2l("init", rows, "--to", job, "--model", "EleutherAI/pythia-70m").exit_code == 0
    config = load_config(job)
    assert config.proxy.model == config.data.tokenizer == "EleutherAI/pythia-70m"


def test_init_refuses_rows_it_cannot_use(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    chats = s2l("init", write_rows(tmp_path / "chats.jsonl", ROWS["messages"]), "--to", job)
    assert chats.exit_code == 2
    assert "--tokenizer" in chats.stderr
    unknown = s2l("init", write_rows(tmp_path / "unknown.jsonl", [{"a": 1, "b": "two"}]), "--to", job)
    assert unknown.exit_code == 2
    assert "a, b" in unknown.stderr
    assert s2l("init", tmp_path / "missing.jsonl", "--to", job).exit_code == 2
    assert not job.exists()
    job.write_text("mine")
    assert s2l("init", write_rows(tmp_path / "rows.jsonl", ROWS["alpaca"]), "--to", job).exit_code == 2
    assert job.read_text() == "mine"
