"""Forming and tokenising examples once, against what the official code does for every checkpoint."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from bench import pool
from s2l_ray.core.data.examples import ALPACA, ALPACA_WITH_INPUT, read_alpaca
from s2l_ray.core.data.segments import ExampleText, pair_text
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.data.tokenization import Encoder


def contestants(data: Path, count: int) -> dict[str, Callable[[], object]]:
    """Both ways, over the same raw rows."""
    tokenizer, raw_rows = pool.load_tokenizer(data), pool.load_raw_rows(data, count)
    return {
        "ours": lambda: Encoder(tokenizer, pool.MAX_LENGTH).encode(texts_of(raw_rows)),
        "official": partial(tokenize_official, tokenizer, raw_rows),
    }


def real_rows(data: Path, count: int) -> TokenRows:
    """Rows of the mixture with the Pythia tokenizer; what the cut leaves without a target is left out."""
    encoded = Encoder(pool.load_tokenizer(data), pool.MAX_LENGTH).encode(texts_of(pool.load_raw_rows(data, count)))
    rows = TokenRows.from_rows([each.input_ids for each in encoded], [each.target_spans for each in encoded])
    return rows.take(np.flatnonzero(rows.target_tokens_N))


def texts_of(raw_rows: list[pool.RawRow]) -> list[ExampleText]:
    """The raw rows in the Alpaca template."""
    return [pair_text(read_alpaca(row, {})) for row in raw_rows]


def tokenize_official(tokenizer: PreTrainedTokenizerBase, raw_rows: list[pool.RawRow]) -> None:
    """Each text by a call of its own, and the prompt a second time to find where the answer begins."""
    prompts, whole = [], []
    for row in raw_rows:
        template = ALPACA_WITH_INPUT if row.get("input", "").strip() else ALPACA
        prompts.append(template.format(instruction=row["instruction"], input=row.get("input", "")))
        whole.append(prompts[-1] + row["response"] + str(tokenizer.eos_token))
    for texts in (whole, prompts):
        for text in texts:
            tokenizer(text, return_tensors="pt", padding="longest", max_length=pool.MAX_LENGTH, truncation=True)
