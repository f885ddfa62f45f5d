"""Generation by vLLM (extra `vllm`), with the prompts, ends and outputs of generation.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.core.evaluation.generation import GenerationOptions, Output, make_output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# the default of vLLM
MEMORY_SHARE = 0.9


def load_vllm(folder: str | Path, dtype: str, max_length: int, gpus: float) -> Any:
    """An offline engine with the model in `folder`, for prompts and outputs of together `max_length` tokens.

    gpus: 0 for a CPU; a share of a GPU bounds the memory that the engine takes of it.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # in this process, which Ray ends
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM

    device: dict[str, Any] = (
        {"gpu_memory_utilization": MEMORY_SHARE * min(1.0, gpus)} if gpus else {"enforce_eager": True}
    )
    return LLM(model=str(folder), dtype=dtype, max_model_len=max_length, generation_config="vllm", **device)


def generate_with_vllm(
    engine: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    options: GenerationOptions,
) -> list[Output]:
    """Continuations of tokenised prompts, in order."""
    from vllm import SamplingParams

    parameters = [
        SamplingParams(
            temperature=options.temperature,
            seed=seed,
            max_tokens=options.max_new_tokens,
            stop=list(options.stop),
            stop_token_ids=list(options.end_ids),
            ignore_eos=True,  # the end tokens are those of the options
        )
        for seed in seeds
    ]
    requests = [{"prompt_token_ids": list(ids)} for ids in prompts]
    results = engine.generate(requests, parameters, use_tqdm=False)
    return [make_output(tokenizer, list(one.outputs[0].token_ids), options) for one in results]
