"""Tiny configs of every causal architecture of the installed transformers.

The same small values are given to every field of a known name, so that an architecture of a newer transformers needs no
entry here. `SPECIAL` adds what the constraints of single architectures need.
"""

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 96
WINDOW = 16

SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "decoder_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim", "d_inner"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_hidden_size"), 32),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rotary_dim", "d_head"), 8),
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size", "window_size"), WINDOW),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    **dict.fromkeys(("ssm_state_size", "state_size", "mamba_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("mamba_num_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("kv_channels", "hidden_size_per_layer_input"), 8),
    "head_dim": 8,
    "mamba_d_head": 16,
    "mamba_d_ssm": 64,
    "mamba_d_state": 16,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "n_shared_experts": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vocab_size": VOCABULARY,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": {"n_group": 2, "topk_group": 1},
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY},
    "gemma3n_text": {"vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["hybrid", "linear_attention", "hybrid"]},
    "nemotron_h": {"n_groups": 1},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_embds": False},
    "roc_bert": {"pronunciation_vocab_size": VOCABULARY, "shape_vocab_size": VOCABULARY},
    "xmod": {"languages": ["en"], "default_language": "en"},
    "zaya": {"num_experts_per_tok": 1},
}
# Composites of language, vision and sound whose parts have configs of their own, and configs that need more than small
# numbers; none of them can be a proxy by a few fields of a job.
NOT_TINY = """
blt cohere_compass_text dbrx dots3_note dots3_note_text emu3 fuyu gemma3 gemma3n gemma4 gemma4_assistant
gemma4_unified gemma4_unified_assistant git got_ocr2 llama4 mllama moss_transcribe_diarize musicgen musicgen_melody
phi4_multimodal qwen3_5 qwen3_5_moe qwen4_exp qwen4_exp_text
"""
LAYER_KINDS = ("block_types", "layers_block_type", "layer_types")


def architectures() -> list[str]:
    """Model types with a causal language model that can be built tiny, in alphabetical order."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(NOT_TINY.split()))


def tiny_config(architecture: str) -> dict[str, Any]:
    """Fields for `init_model`: few and narrow layers, one of each kind that the architecture has."""
    known = AutoConfig.for_model(architecture)
    names = set(known.to_dict()) | set(known.attribute_map)
    mapped = {known.attribute_map.get(name) for name in names}
    fields = {name: value for name, value in SMALL.items() if name in names and name not in mapped}
    if "kv_lora_rank" in names:  # latent attention has no grouped heads
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    listed = next((name for name in LAYER_KINDS if name in names), None)
    kinds = list(dict.fromkeys(getattr(known, listed) or [])) if listed else []
    if listed and len(kinds) > 1:
        fields |= {listed: kinds, **({"num_hidden_layers": len(kinds)} if "num_hidden_layers" in names else {})}
    return {"architecture": architecture, **fields, **SPECIAL.get(architecture, {})}
