"""Save a tiny random model with prompts, and their greedy outputs by transformers: `FOLDER`.

In a process of its own, because vLLM cannot be started in one that has built a model.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from s2l_ray.core.causal_lm import init_model, save_model
from s2l_ray.core.data.tokenization import load_tokenizer, train_tokenizer
from s2l_ray.core.evaluation.generation import GenerationOptions, generate

PROMPTS, LONGEST, VOCAB = 50, 60, 300
MODEL = {
    "architecture": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
}
OPTIONS = GenerationOptions(max_new_tokens=24, end_ids=(0,), stop=("a",), batch_size=8)


def write(folder: Path) -> None:
    """Weights so large that the next token depends on the whole prompt, which is ASCII like the output.

    Random bytes are no text: vLLM finds a text that ends an output in a stream of decoded tokens.
    """
    train_tokenizer(["How many are there in all? There are"], VOCAB).save_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    ascii_ids = [token for token in range(3, len(tokenizer)) if tokenizer.decode([token]).isascii()]
    model = init_model(MODEL, VOCAB, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
        others = torch.ones(VOCAB, dtype=torch.bool)
        others[[0, *ascii_ids]] = False
        model.get_output_embeddings().weight[others] = 0
    save_model(model, folder)
    rng = np.random.default_rng(0)
    prompts = [rng.choice(ascii_ids, rng.integers(2, LONGEST)).tolist() for _ in range(PROMPTS)]
    outputs = generate(model, tokenizer, prompts, [0] * PROMPTS, OPTIONS)
    (folder / "outputs.json").write_text(json.dumps([prompts, [asdict(output) for output in outputs]]))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
