"""The command: exit statuses, what goes where, refusals before anything starts. Real files, real artefacts."""

import gzip
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from s2l_ray.cli import app
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.run import KINDS, plan
from tests.support.jobs import small_job
from tests.support.small_store import DATASET_NAME, SUBSET_NAME, Store, write_store

VERBS = ("init", "plan", "run", "ls", "show", "verify", "export")


def s2l(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


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


@pytest.mark.parametrize(
    "arguments", [["sing"], ["plan"], ["run", "job.yaml", "--loud"], ["export", "x"], ["ls", "a", "b"]], ids=" ".join
)
def test_a_wrong_command_line_is_status_2(arguments: list[str]) -> None:
    assert s2l(*arguments).exit_code == 2


def test_the_help_starts_quickly_and_without_engines() -> None:
    code = "import sys, s2l_ray.cli; print(sorted({'ray', 'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_planning_needs_no_torch(job: Path) -> None:
    code = (
        "import sys; from s2l_ray.cli import app; app(['plan', sys.argv[1], '--json'], standalone_mode=False); "
        "print('torch' in sys.modules or 'transformers' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(job)], capture_output=True, text=True)
    assert done.stderr.split()[-1] == "False"


# what is wrong with a job is said at once


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("select.bugdet=5", "did you mean budget?"),
        ("select.budget=-5", "select.budget"),
        ("select.budget=5000000", "select.budget"),
        ("select.method=magic", "random"),
        ("data.root=/nowhere", "/nowhere/rows"),
        ("proxy.model=./nowhere", "proxy.model"),
        ("nonsense", "KEY=VALUE"),
    ],
)
def test_a_wrong_job_is_refused_before_ray_starts(job: Path, override: str, words: str) -> None:
    values = ["--set", "data.limit=100", "--set", override]
    for verb in ("plan", "run"):
        result = s2l(verb, job, *values)
        assert result.exit_code == 2
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert not Path(load_config(job).root).exists()


def test_a_missing_job_and_an_unknown_kind(job: Path, tmp_path: Path) -> None:
    assert s2l("plan", tmp_path / "none.yaml").exit_code == 2
    result = s2l("plan", job, "--to", "gold")
    assert result.exit_code == 2
    assert "trajectories" in result.stderr


def test_debug_adds_the_traceback(job: Path) -> None:
    assert "Traceback" in s2l("plan", job, "--to", "gold", "--debug").stderr


def test_a_disk_too_small_for_the_checkpoints_is_refused(job: Path, tmp_path: Path) -> None:
    """A safetensors header that announces more weights than any disk holds; its data is never read."""
    header = json.dumps({"huge": {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4 * 10**15]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    result = s2l("plan", job, "--set", f"proxy.model={tmp_path}")
    assert result.exit_code == 2
    assert "free" in result.stderr and "checkpoints" in result.stdout
    assert s2l("run", job, "--set", f"proxy.model={tmp_path}").exit_code == 2


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(job: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 300}')
    result = s2l("plan", job, "--set", f"proxy.model={tmp_path}")
    assert result.exit_code == 2
    assert "400 tokens" in result.stderr


# plan


def test_plan_says_what_will_be_built(job: Path) -> None:
    result = s2l("plan", job)
    assert result.exit_code == 0
    for kind in KINDS:
        assert re.search(rf"^ *{kind} +missing ", result.stdout, re.MULTILINE)
    assert "s2l run" in result.stderr or "run" in result.stderr


def test_plan_for_a_script(job: Path) -> None:
    values = json.loads(s2l("plan", job, "--json", "--to", "clusters").stdout)
    planned = plan(load_config(job), "clusters")
    assert [step["fingerprint"] for step in values["steps"]] == [step.fingerprint for step in planned.steps]
    assert values["checkpoints"] == 6
    assert values["rows"] is None
    assert values["bytes_needed"] > 0


def test_a_method_without_a_proxy_plans_none(job: Path) -> None:
    values = json.loads(s2l("plan", job, "--json", "--set", "select.method=random").stdout)
    assert [step["kind"] for step in values["steps"]] == ["dataset", "subset"]
    assert values["checkpoints"] is None


# ls, show, verify


def test_ls_lists_artefacts_and_runs(store: Store) -> None:
    shown = s2l("ls", store.root).stdout
    assert re.search(rf"dataset +{DATASET_NAME} +complete +30 .* small", shown)
    found = json.loads(s2l("ls", store.root, "--json").stdout)
    assert {one["kind"]: one["rows"] for one in found["artifacts"]} == {"dataset": 30, "subset": len(store.picked)}
    assert found["runs"][0]["name"] == "small"
    size = sum(path.stat().st_size for path in subset_of(store).rglob("*") if path.is_file())
    assert found["artifacts"][1]["bytes"] == size


def test_ls_where_there_is_nothing(tmp_path: Path) -> None:
    result = s2l("ls", tmp_path)
    assert result.exit_code == 1
    assert "no artefacts" in result.stderr


def test_show_gives_counts_and_rows(store: Store) -> None:
    shown = s2l("show", store.root / "dataset" / DATASET_NAME).stdout
    assert "30 kept of 32" in shown
    assert "duplicate 2" in shown
    assert "It is 1." in shown
    manifest = json.loads(s2l("show", subset_of(store), "--json").stdout)
    assert manifest["counts"]["kept"] == len(store.picked)
    assert manifest["inputs"] == {"dataset": DATASET_NAME}


def test_show_of_what_is_unfinished_and_of_nothing(store: Store, tmp_path: Path) -> None:
    begun = shutil.copytree(subset_of(store), tmp_path / "subset" / SUBSET_NAME)
    (begun / "manifest.json").unlink()
    result = s2l("show", begun)
    assert result.exit_code == 0
    assert "partial" in result.stdout
    assert json.loads(s2l("show", begun, "--json").stdout)["state"] == "partial"
    assert s2l("show", tmp_path / "subset" / "000000000000").exit_code == 1


def test_verify_of_a_whole_store(store: Store) -> None:
    result = s2l("verify", store.root)
    assert result.exit_code == 0
    values = json.loads(s2l("verify", store.root, "--json").stdout)
    assert values["faults"] == 0
    assert values["files"] == sum(path.is_file() for path in store.root.rglob("*"))


def test_verify_names_every_file_in_which_a_bit_is_flipped(store: Store, tmp_path: Path) -> None:
    rng = random.Random(0)
    root = shutil.copytree(store.root, tmp_path / "root")
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        result = s2l("verify", root, "--json")
        faults = [fault["path"] for one in json.loads(result.stdout)["artifacts"] for fault in one["faults"]]
        assert result.exit_code == 1
        assert len(faults) == 1 and str(path).endswith(faults[0])
        assert path.name in s2l("verify", root).stdout
        path.write_bytes(whole)
    assert s2l("verify", root).exit_code == 0


def test_verify_names_missing_and_foreign_files(store: Store, tmp_path: Path) -> None:
    subset = shutil.copytree(subset_of(store), tmp_path / "subset" / SUBSET_NAME)
    (subset / "shard-00000.parquet").rename(subset / "shard-00001.parquet")
    result = s2l("verify", subset)
    assert result.exit_code == 1
    assert "shard-00000.parquet: missing" in result.stdout
    assert "shard-00001.parquet: not in the manifest" in result.stdout


# export


def expected_rows(store: Store) -> list[dict[str, object]]:
    return [store.rows[position] for position in store.picked]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_export_gives_the_rows_as_they_came(store: Store, tmp_path: Path, ending: str) -> None:
    from datasets import load_dataset

    target = tmp_path / f"rows{ending}"
    result = s2l("export", subset_of(store), "--to", target)
    assert result.exit_code == 0, result.stderr
    kind = "parquet" if ending == ".parquet" else "json"
    loaded = load_dataset(kind, data_files=str(target), split="train", cache_dir=str(tmp_path / "cache")).to_list()
    names = {name for row in store.rows for name in row}
    assert loaded == [{name: row.get(name) for name in names} for row in expected_rows(store)]
    if kind == "json":
        text = gzip.decompress(target.read_bytes()) if ending.endswith("gz") else target.read_bytes()
        assert [json.loads(line) for line in text.decode().splitlines()] == expected_rows(store)


def test_export_replaces_nothing_without_force(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text("mine")
    assert s2l("export", subset_of(store), "--to", target).exit_code == 2
    assert target.read_text() == "mine"
    assert s2l("export", subset_of(store), "--to", target, "--force").exit_code == 0
    assert len(target.read_text().splitlines()) == len(store.picked)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_export_refuses_other_endings_kinds_and_unfinished_jobs(store: Store, job: Path, tmp_path: Path) -> None:
    assert s2l("export", subset_of(store), "--to", tmp_path / "rows.csv").exit_code == 2
    assert s2l("export", store.root / "dataset" / DATASET_NAME, "--to", tmp_path / "rows.jsonl").exit_code == 2
    result = s2l("export", job, "--to", tmp_path / "rows.jsonl")
    assert result.exit_code == 2
    assert "run" in result.stderr


@pytest.mark.parametrize("kind", ["subset", "dataset"])
def test_export_builds_on_nothing_damaged(store: Store, tmp_path: Path, kind: str) -> None:
    root = shutil.copytree(store.root, tmp_path / "root")
    shard = next((root / kind).rglob("shard-00000.parquet"))
    broken = bytearray(shard.read_bytes())
    broken[len(broken) // 2] ^= 1
    shard.write_bytes(broken)
    result = s2l("export", root / "subset" / SUBSET_NAME, "--to", tmp_path / "rows.jsonl")
    assert result.exit_code == 1
    assert shard.name in result.stderr
    assert not (tmp_path / "rows.jsonl").exists()


def test_rows_that_fit_no_table_are_exported_as_lines(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": f"answer {n}", "level": n if n % 4 else "high"} for n in range(20)]
    store = write_store(tmp_path / "store", rows)
    result = s2l("export", subset_of(store), "--to", tmp_path / "rows.parquet")
    assert result.exit_code == 1
    assert "level" in result.stderr and ".jsonl" in result.stderr
    assert s2l("export", subset_of(store), "--to", tmp_path / "rows.jsonl").exit_code == 0
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").open()] == expected_rows(store)


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
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_init_writes_a_job_that_can_be_planned(tmp_path: Path, name: str, ending: str) -> None:
    rows, job = write_rows(tmp_path / f"rows{ending}", ROWS[name]), tmp_path / "job.yaml"
    chat = ["--tokenizer", "some/chat-model"] if name in ("sharegpt", "messages") else []
    result = s2l("init", rows, "--to", job, *chat)
    assert result.exit_code == 0, result.stderr
    assert "┃" in result.stdout and "│" in result.stdout
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


def test_init_refuses_what_it_cannot_use(tmp_path: Path) -> None:
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
