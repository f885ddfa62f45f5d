"""The rows that scoring is measured on: real ones with the Pythia tokenizer where a data folder is given, else lengths
drawn like theirs (148 tokens on average, half of them answer; 95th percentile 368) with random tokens."""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from s2l_ray.core.data.token_rows import TokenRows

MAX_LENGTH = 512
TOKENS = 50277

RawRow = dict[str, str]


def load_tokenizer(data: Path) -> PreTrainedTokenizerBase:
    """The Pythia tokenizer of the data folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(gzip.decompress((data / "tokenizers/pythia_20B_tokenizer.json.gz").read_bytes()))
        return PreTrainedTokenizerFast(
            tokenizer_file=str(path), eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=MAX_LENGTH
        )


def load_raw_rows(data: Path, count: int) -> list[RawRow]:
    """Every so manieth row of the mixture, so that all of its sources are in."""
    with gzip.open(data / "train/mathmix.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = file.readlines()
    return [json.loads(line) for line in lines[:: len(lines) // count][:count]]


def synthetic_rows(count: int, seed: int = 0) -> TokenRows:
    """Rows of random tokens, as long as real ones."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(np.log(116), 0.7, count), 8, MAX_LENGTH).astype(int)
    prompts = np.maximum(1, (lengths * random.beta(4, 4, count)).astype(int))
    ids = [random.integers(1, TOKENS, length).tolist() for length in lengths]
    return TokenRows.from_rows(ids, [[(prompt, length)] for prompt, length in zip(prompts, lengths, strict=True)])
