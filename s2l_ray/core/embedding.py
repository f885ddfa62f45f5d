"""Sentence embeddings of examples, by a model of the library sentence-transformers (the optional extra `embed`).

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from s2l_ray.core.arrays import Float32
from s2l_ray.core.data.examples import ALPACA, ALPACA_WITH_INPUT

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TextForm = Literal["instruction_response", "prompt", "response"]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_ALPACA_PROMPTS = tuple(
    re.compile(re.escape(template).replace(r"\{instruction\}", "(.*?)").replace(r"\{input\}", "(.*)"), re.DOTALL)
    for template in (ALPACA_WITH_INPUT, ALPACA)
)


@dataclass(frozen=True)
class Embedded:
    """Embeddings of texts, and how many of the texts were truncated."""

    x_ND: Float32
    truncated: int


def text_to_embed(prompt: str, response: str, form: TextForm) -> str:
    """The text of one example: `Instruction: ... Response: ...`, as in the official code of learning percentage.

    The Alpaca template, the same in every prompt, is removed: instruction and input are joined by a space.
    """
    match = next(filter(None, (pattern.fullmatch(prompt) for pattern in _ALPACA_PROMPTS)), None)
    instruction = " ".join(part.strip() for part in (match.groups() if match else (prompt,)))
    if form == "prompt":
        return instruction.strip()
    if form == "response":
        return response.strip()
    return f"Instruction: {instruction.strip()} Response: {response.strip()}"


def load_sentence_model(folder: str, *, max_length: int, device: str = "cpu") -> SentenceTransformer:
    """Load a sentence-transformers model from a local folder in float32.

    max_length: tokens of a text, special tokens included; longer texts are truncated on the right. Code from a model
    repository is never run, and only safetensors files are read. Raises ValueError if the model has fewer positions, or
    if it has no tokenizer of transformers.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    model = SentenceTransformer(
        folder,
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": torch.float32, "use_safetensors": True},
    )
    if not isinstance(model.tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"embed.model: {folder} has no tokenizer of transformers; use {DEFAULT_MODEL}")
    positions = getattr(model[0].get_submodule("auto_model").config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ValueError(f"embed.max_length: {max_length} exceeds the {positions} positions of {folder}; lower it")
    model.max_seq_length = max_length
    model.eval()
    return model


def embed_texts(model: SentenceTransformer, texts: Sequence[str], rows_per_batch: int) -> Embedded:
    """Embed texts in batches of similar length. The same texts give the same bits in any process on one device."""
    if not texts:
        return Embedded(np.empty((0, model.get_embedding_dimension() or 0), np.float32), 0)
    lengths = model.tokenizer(list(texts), truncation=False, verbose=False, return_length=True)["length"]
    x_ND = model.encode(list(texts), batch_size=rows_per_batch, show_progress_bar=False, convert_to_numpy=True)
    return Embedded(np.asarray(x_ND, np.float32), int(np.sum(np.asarray(lengths) > model.max_seq_length)))
