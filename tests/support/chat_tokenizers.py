"""Small tokenizers with chat templates: written ones, and those of published models.

The files in `chat_templates` are templates of published models as TRL 1.16 distributes them (Apache License 2.0).
"""

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from s2l_ray.core.data.tokenization import load_tokenizer, train_tokenizer

FOLDER = Path(__file__).parent / "chat_templates"
TEXTS = [f"What is {a} plus {b}? It is {a + b}. Éa ≠ 漢字 <|im_start|>user" for a in range(20) for b in range(20)]
BEGIN, END = "<s>", "<|endoftext|>"
BAR = "\uff5c"  # the full-width bar of the tokens of DeepSeek
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<start_of_turn>", "<end_of_turn>", "<end_of_utterance>"),
    *(f"<{BAR}User{BAR}>", f"<{BAR}Assistant{BAR}>"),
]

_TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
WRITTEN = {
    "chatml": _TURNS + _PROMPT,
    "dated": "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + _TURNS + _PROMPT,
    "ends_without_marker": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "ends_late": (
        "{% for m in messages %}{% if not loop.first %}<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|im_end|>\n<|im_start|>assistant\n{% endif %}"
    ),
    "ends_in_text": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }} ###\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
    "instruct": _INSTRUCT,
    "no_generation_prompt": _TURNS,
    "opens_thought": _TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "strict": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{% endfor %}" + _TURNS + _PROMPT
    ),
    "adds_thought": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}" + _PROMPT
    ),
    "drops_reasoning": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}" + _PROMPT
    ),
    "tools": (
        "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] or '' }}"
        "{% for c in m.get('tool_calls') or [] %}<tool_call>{{ c['function'] | tojson }}</tool_call>{% endfor %}"
        "<|im_end|>\n{% endfor %}" + _PROMPT
    ),
}
PUBLISHED = tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


@cache
def base_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer with the special tokens of the templates."""
    tokenizer = train_tokenizer(TEXTS, 340)
    tokenizer.add_special_tokens({"bos_token": BEGIN})
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


def chat_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer with a template of WRITTEN or PUBLISHED, saved in `folder`."""
    base_tokenizer().save_pretrained(str(folder))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = WRITTEN[name] if name in WRITTEN else (FOLDER / f"{name}.jinja").read_text()
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def add_beginning(tokenizer: PreTrainedTokenizerBase) -> None:
    """Have the tokenizer begin a text with its beginning-of-text token."""
    special = [(BEGIN, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=special)


def marking_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """A tokenizer that marks the first space of a text as those of SentencePiece do."""
    backend = Tokenizer(models.BPE())
    if kind == "prepend":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "byte_level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END, *SPECIAL], show_progress=False)
    backend.train_from_iterator([text.replace("<|im_start|>", "") for text in TEXTS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
