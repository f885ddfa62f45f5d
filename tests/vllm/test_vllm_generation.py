"""vLLM and transformers give the same greedy outputs in float32. `make test-vllm` runs this on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from s2l_ray.core.evaluation.generation import Output
from tests.vllm.with_transformers import LONGEST, OPTIONS, PROMPTS

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")


def test_both_engines_give_the_same_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s2l_ray.core.data.tokenization import load_tokenizer
    from s2l_ray.core.evaluation.vllm_generation import generate_with_vllm, load_vllm

    subprocess.run([sys.executable, "-m", "tests.vllm.with_transformers", str(tmp_path)], check=True, timeout=300)
    prompts, expected = json.loads((tmp_path / "outputs.json").read_text())
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = load_vllm(tmp_path, "float32", LONGEST + OPTIONS.max_new_tokens, gpus=0)
    found = generate_with_vllm(engine, load_tokenizer(str(tmp_path)), prompts, [0] * PROMPTS, OPTIONS)
    assert found == [Output(**output) for output in expected]
    assert len({output.text for output in found}) > PROMPTS / 2
    assert len({output.tokens for output in found}) > 3, "some end before others"
