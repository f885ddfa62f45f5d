"""Models whose logits depend on later tokens are refused, before any row is scored or trained on."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention
from tests.support.architectures import GROUPED, SMALL, in_bfloat16, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = rows_of([9, 31, 60])


def untrained(architecture: str, **fields: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **fields)).eval()
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("architecture", "fields"), [("bert", SMALL), ("llama", {**GROUPED, "is_causal": False})], ids=["bert", "llama"]
)
def test_bidirectional_attention_is_refused(architecture: str, fields: dict[str, Any], dtype: str) -> None:
    model = untrained(architecture, **fields)
    model = in_bfloat16(model) if dtype == "bfloat16" else model
    for attention in ("packed", "padded"):
        with pytest.raises(ValueError, match="not a causal language model"):
            choose_attention(model, ROWS, ScoreOptions(dtype=dtype, attention=attention))


def test_a_leak_into_the_token_before_the_last_one_only_is_refused() -> None:
    """A convolution one token too wide, too weak to change a loss by as much as rounding."""
    model = untrained("llama", **GROUPED)

    def add_next_token(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output + 1e-6 * torch.cat([output[:, 1:], output[:, -1:]], dim=1)

    model.model.layers[0].register_forward_hook(add_next_token)
    with pytest.raises(ValueError, match="not a causal language model"):
        choose_attention(model, ROWS, ScoreOptions())


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("bert", {**SMALL, "is_decoder": True}),
        ("olmoe", {**GROUPED, "hidden_size": 256, "num_experts": 16, "num_experts_per_tok": 4}),
    ],
    ids=["bert as a decoder", "mixture of experts"],
)
def test_causal_models_are_accepted(architecture: str, fields: dict[str, Any]) -> None:
    """In a mixture of experts, other later tokens change the shapes of products and so the last bits."""
    assert choose_attention(untrained(architecture, **fields), ROWS, ScoreOptions()).attention in ("packed", "padded")


def test_a_model_that_fails_on_token_ids_alone_is_refused_in_one_line() -> None:
    model = untrained("llama", **GROUPED)
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: inputs[0].no_such_attribute)
    with pytest.raises(ValueError, match="cannot be run on token ids alone") as caught:
        choose_attention(model, ROWS, ScoreOptions())
    assert len(str(caught.value).splitlines()) == 1
