"""GPT-NeoX models of the sizes scored in the benchmarks, with random weights, and what their losses cost at least."""

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows

SIZES = {  # hidden size, layers, heads
    "70M": (512, 6, 8),
    "160M": (768, 12, 12),
    "410M": (1024, 24, 16),
    "tiny": (64, 2, 4),
}


def random_model(size: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The head is widened until the logits have the spread of a trained model's."""
    hidden, layers, heads = SIZES[size]
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(5)
    for parameter in model.parameters():  # and no buffer: rotary frequencies stay float32, as in a loaded model
        parameter.data = parameter.data.to(dtype)
    return model


def useful_flops(model: PreTrainedModel, rows: TokenRows) -> float:
    """Floating-point operations of the linear layers, of causal attention, and of the head at the targets alone."""
    config = model.config
    hidden, inner = config.hidden_size, config.intermediate_size
    linears = 2 * (4 * hidden * hidden + 2 * hidden * inner) * float(rows.lengths_N.sum())
    attention = 2 * hidden * float((rows.lengths_N * (rows.lengths_N + 1)).sum())
    head = 2 * hidden * config.vocab_size * float(rows.target_tokens_N.sum())
    return config.num_hidden_layers * (linears + attention) + head
