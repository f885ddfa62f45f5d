"""Every causal architecture of the installed transformers, trained for 25 steps: right losses, or refused."""

import pytest
import torch

from tests.architectures.outcome import outcome_of
from tests.architectures.tiny_configs import architectures

# Architectures whose layers keep packed rows apart: they must not lose the fast path.
PACKED = """
afmoe apertus arcee aria_text axk1 biogpt bitnet ctrl cwm deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5
ernie4_5_moe exaone4 exaone_moe flex_olmo gemma gemma3_text gemma4_text gemma4_unified_text glm glm4
glm4_moe glm4_moe_lite gpt-sw3 gpt2 gpt_bigcode gpt_neox granite granitemoe granitemoeshared helium hrm_text
hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna llama
longcat_flash mellum minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral moshi olmo olmo2
olmo3 olmoe opt persimmon phi phi3 qwen2 qwen3 qwen3_moe seed_oss smollm3 solar_open starcoder2 whisper
youtu
"""


@pytest.mark.long
@pytest.mark.parametrize("architecture", architectures())
def test_losses_after_training_are_those_of_each_row_alone(architecture: str) -> None:
    torch.set_num_threads(1)
    outcome = outcome_of(architecture)
    if outcome.scoring == "refused":
        assert outcome.reason
    else:
        assert outcome.error <= 1e-5, outcome
    assert architecture not in PACKED.split() or {outcome.training, outcome.scoring} == {"packed"}, outcome


def test_the_list_of_packed_architectures_is_that_of_the_installed_transformers() -> None:
    assert set(PACKED.split()) <= set(architectures())
