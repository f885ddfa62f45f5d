"""Encoded examples against separately tokenised turns: a trained tokenizer, chat templates, Pythia's tokenizer."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from s2l_ray.core.data.examples import FORMATS, Example, Turn
from s2l_ray.core.data.tokenization import encode_examples, load_tokenizer, train_tokenizer

TEXTS = [f"What is {a} plus {b}? It is {a + b}. Éa ≠ 漢字 {'<|im_start|>user'}" for a in range(20) for b in range(20)]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPEN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content | trim + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
DROPS_REASONING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REFUSES_SYSTEM = "{{ raise_exception('no system turn') if messages[0].role == 'system' }}" + CHATML


def pair(prompt: str, response: str) -> Example:
    return Example((Turn("prompt", prompt), Turn("response", response)))


def chat(*turns: tuple[str, str]) -> Example:
    return FORMATS["messages"]({"messages": [{"role": role, "content": text} for role, text in turns]}, {})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, 320)


def with_template(tokenizer: PreTrainedTokenizerBase, template: str, folder: Path) -> PreTrainedTokenizerBase:
    tokenizer.save_pretrained(str(folder))
    copy = load_tokenizer(str(folder))
    copy.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    copy.chat_template = template
    return copy


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompt_and_response_are_tokenised_separately_with_end_of_text(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = [pair("What is 2 plus", " 3? It"), pair("", "It is 5."), pair("Wha", "t is 漢字?")]
    for example, encoded in zip(examples, encode_examples(tokenizer, examples, 100), strict=True):
        prompt, response = (token_ids(tokenizer, turn.text) for turn in example.turns)
        assert encoded.input_ids == [*prompt, *response, tokenizer.eos_token_id]
        assert encoded.target_spans == [(len(prompt), len(prompt) + len(response) + 1)]
        assert encoded.full_length == len(encoded.input_ids)
        assert encoded.problem is None
    assert encode_examples(tokenizer, [], 100) == []


def test_truncation_clips_target_spans(tokenizer: PreTrainedTokenizerBase) -> None:
    example = pair("What is 2 plus 3?", "It is 5.")
    (whole,) = encode_examples(tokenizer, [example], 1000)
    prompt_length = whole.target_spans[0][0]
    for max_length in range(1, whole.full_length + 2):
        (cut,) = encode_examples(tokenizer, [example], max_length)
        assert cut.input_ids == whole.input_ids[:max_length]
        assert cut.full_length == whole.full_length
        end = min(max_length, whole.full_length)
        assert cut.target_spans == ([(prompt_length, end)] if end > prompt_length else [])


def test_beginning_of_text_token_comes_first(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    copy = with_template(tokenizer, CHATML, tmp_path)
    copy.add_special_tokens({"bos_token": "<s>"})
    copy.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", copy.bos_token_id)]
    )
    (encoded,) = encode_examples(copy, [pair("What is", " 5?")], 100)
    prompt = token_ids(copy, "What is")
    assert encoded.input_ids[: 1 + len(prompt)] == [copy.bos_token_id, *prompt]
    assert encoded.input_ids.count(copy.bos_token_id) == 1
    assert encoded.target_spans[0][0] == 1 + len(prompt)


def test_each_assistant_turn_is_a_target_span(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    chatml = with_template(tokenizer, CHATML, tmp_path)
    turns = [("system", "Be exact."), ("user", "2 plus 3?"), ("assistant", "It is 5."), ("user", "And 4 plus 4?")]
    example = chat(*turns, ("assistant", "\nIt is 8. "))
    (encoded,) = encode_examples(chatml, [example], 1000)
    messages = [{"role": turn.role, "content": turn.text} for turn in example.turns]
    whole = chatml.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encoded.input_ids == whole[: len(encoded.input_ids)]
    assert chatml.decode(whole[len(encoded.input_ids) :]) == "\n"
    answers = [chatml.decode(encoded.input_ids[start:end]) for start, end in encoded.target_spans]
    assert answers == ["It is 5.<|im_end|>", "\nIt is 8. <|im_end|>"]
    assert chatml.eos_token_id not in encoded.input_ids


def test_turns_without_end_token_get_one(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    opened = with_template(tokenizer, OPEN, tmp_path)
    example = chat(("user", "2 plus 3?"), ("assistant", " 5 "), ("user", "4 plus 4?"), ("assistant", "8"))
    (encoded,) = encode_examples(opened, [example], 1000)
    end = opened.eos_token
    assert opened.decode(encoded.input_ids) == (
        f"user: 2 plus 3?\nassistant: 5{end}\nuser: 4 plus 4?\nassistant: 8{end}"
    )
    assert [opened.decode(encoded.input_ids[a:b]) for a, b in encoded.target_spans] == [f"5{end}", f"8{end}"]


def test_chat_that_cannot_be_split_has_a_problem(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    question, thought = ("user", "2 plus 3?"), ("assistant", "<think>easy</think>5")
    drops = with_template(tokenizer, DROPS_REASONING, tmp_path)
    one, two = encode_examples(drops, [chat(question, thought), chat(question, thought, question, thought)], 1000)
    assert (one.problem, two.problem) == (None, "template")
    assert (two.input_ids, two.target_spans) == ([], [])
    refuses = with_template(tokenizer, REFUSES_SYSTEM, tmp_path)
    (refused,) = encode_examples(refuses, [chat(("system", "x"), question, thought)], 1000)
    assert refused.problem == "template"


def test_chat_without_template_raises(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        encode_examples(tokenizer, [chat(("user", "a"), ("assistant", "b"))], 10)


def test_trained_tokenizer_round_trips_text_and_reloads(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    assert len(tokenizer) == 320
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    tokenizer.save_pretrained(str(tmp_path))
    loaded = load_tokenizer(str(tmp_path))
    for text in (*TEXTS[:3], "\x00\t  two  spaces , and \U0001f600 !", " don 't"):
        assert tokenizer.decode(token_ids(tokenizer, text)) == text
        assert loaded.decode(token_ids(loaded, text)) == text
        assert token_ids(loaded, text) == token_ids(tokenizer, text)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_tokenizer_training_is_deterministic_across_processes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    code = (
        "import sys, json; from s2l_ray.core.data.tokenization import *;"
        "train_tokenizer(json.load(open(sys.argv[1])), 320).save_pretrained(sys.argv[2])"
    )
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    subprocess.run([sys.executable, "-c", code, tmp_path / "texts.json", tmp_path / "other"], check=True)
    tokenizer.save_pretrained(str(tmp_path / "own"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_small_vocabulary_and_missing_eos_token_raise(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size 257"):
        train_tokenizer(TEXTS, 257)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no eos_token"):
        load_tokenizer(str(tmp_path))


@pytest.fixture(scope="module")
def pythia(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("pythia")
    with gzip.open(shared_data / "tokenizers" / "pythia_20B_tokenizer.json.gz") as packed:
        (folder / "raw.json").write_bytes(packed.read())
    end = "<|endoftext|>"
    raw = PreTrainedTokenizerFast(tokenizer_file=str(folder / "raw.json"), eos_token=end, bos_token=end)
    raw.save_pretrained(folder)
    return load_tokenizer(str(folder))


def test_real_rows_with_the_pythia_tokenizer(pythia: PreTrainedTokenizerBase, shared_data: Path) -> None:
    examples = []
    for path in sorted((shared_data / "train").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            examples += [FORMATS["alpaca"](json.loads(next(lines)), {}) for _ in range(40)]
    encoded = encode_examples(pythia, examples, 512)
    targets = 0
    for example, row in zip(examples, encoded, strict=True):
        prompt, response = (token_ids(pythia, turn.text) for turn in example.turns)
        ids = [*prompt, *response, 0]
        assert row.full_length == len(ids)
        assert row.input_ids == ids[:512]
        spans = [(len(prompt), min(512, len(ids)))] if len(prompt) < 512 else []
        assert row.target_spans == spans
        targets += sum(end - start for start, end in row.target_spans)
        if row.full_length <= 512:
            start, end = row.target_spans[0]
            assert pythia.decode(row.input_ids[start : end - 1]) == example.turns[1].text
    assert targets == sum(
        max(0, min(512, len(p) + len(r) + 1) - len(p))
        for p, r in (([token_ids(pythia, t.text) for t in e.turns]) for e in examples)
    )
    assert pythia.pad_token_id == pythia.eos_token_id == 0
    assert isinstance(AutoTokenizer.from_pretrained(pythia.name_or_path), PreTrainedTokenizerBase)
