"""Encoded examples against separately tokenised turns: a trained tokenizer, chat templates, Pythia's tokenizer."""

import datetime
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from s2l_ray.core.data.chat_answers import render_chat
from s2l_ray.core.data.chat_template import ChatTemplate
from s2l_ray.core.data.examples import FORMATS
from s2l_ray.core.data.segments import chat_texts, chat_to_json, pair_text
from s2l_ray.core.data.tokenization import Encoded, Encoder, load_tokenizer, train_tokenizer
from s2l_ray.core.data.turns import Example, Turn
from tests.support.chat_tokenizers import add_beginning, chat_tokenizer

TEXTS = [f"What is {a} plus {b}? It is {a + b}. Éa ≠ 漢字 {'<|im_start|>user'}" for a in range(20) for b in range(20)]

DATE = datetime.date(2024, 1, 1)


def pair(prompt: str, response: str) -> Example:
    return Example((Turn("prompt", prompt), Turn("response", response)))


def encode_pairs(tokenizer: PreTrainedTokenizerBase, examples: list[Example], max_length: int) -> list[Encoded]:
    return Encoder(tokenizer, max_length).encode([pair_text(example) for example in examples])


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], per_answer: bool) -> list[Encoded]:
    example = FORMATS["messages"]({"messages": messages}, {})
    chat = chat_to_json(example, render_chat(ChatTemplate.of(tokenizer, DATE), example))
    return Encoder(tokenizer, 1000).encode(chat_texts(chat, per_answer))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, 320)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompt_and_response_are_tokenised_separately_with_end_of_text(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = [pair("What is 2 plus", " 3? It"), pair("", "It is 5."), pair("Wha", "t is 漢字?")]
    for example, encoded in zip(examples, encode_pairs(tokenizer, examples, 100), strict=True):
        prompt, response = (token_ids(tokenizer, turn.text) for turn in example.turns)
        assert encoded.input_ids == [*prompt, *response, tokenizer.eos_token_id]
        assert encoded.target_spans == [(len(prompt), len(prompt) + len(response) + 1)]
        assert encoded.full_length == len(encoded.input_ids)
    assert encode_pairs(tokenizer, [], 100) == []


def test_truncation_clips_target_spans(tokenizer: PreTrainedTokenizerBase) -> None:
    example = pair("What is 2 plus 3?", "It is 5.")
    (whole,) = encode_pairs(tokenizer, [example], 1000)
    prompt_length = whole.target_spans[0][0]
    for max_length in range(1, whole.full_length + 2):
        (cut,) = encode_pairs(tokenizer, [example], max_length)
        assert cut.input_ids == whole.input_ids[:max_length]
        assert cut.full_length == whole.full_length
        end = min(max_length, whole.full_length)
        assert cut.target_spans == ([(prompt_length, end)] if end > prompt_length else [])


@pytest.mark.parametrize("text", ["a" * 3_000_000, "The end. " * 300_000, "QmFzZTY0" * 300_000])
def test_a_very_long_text_is_truncated_in_little_time(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    encoder = Encoder(tokenizer, max_length=512)
    begin = time.process_time()
    (encoded,) = encoder.encode([pair_text(Example((Turn("prompt", "Write:"), Turn("response", text))))])
    assert time.process_time() - begin < 2
    (whole,) = Encoder(tokenizer, max_length=512).encode(
        [pair_text(Example((Turn("prompt", "Write:"), Turn("response", text[:60_000]))))]
    )
    assert (encoded.input_ids, encoded.target_spans) == (whole.input_ids, whole.target_spans)
    assert encoded.full_length > 512


def test_a_long_text_of_few_tokens_is_tokenised_whole() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "<end>": 1, "yes": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    text = f"{'x' * 1_000_000} yes"
    (encoded,) = Encoder(tokenizer, 64).encode([pair_text(Example((Turn("prompt", "yes"), Turn("response", text))))])
    assert encoded.input_ids == [2, 0, 2, 1] and encoded.full_length == 4


def test_beginning_of_text_token_comes_first(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer("chatml", tmp_path)
    add_beginning(tokenizer)
    (encoded,) = encode_pairs(tokenizer, [pair("What is", " 5?")], 100)
    prompt = token_ids(tokenizer, "What is")
    assert encoded.input_ids[: 1 + len(prompt)] == [tokenizer.bos_token_id, *prompt]
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1
    assert encoded.target_spans[0][0] == 1 + len(prompt)


def test_each_answer_is_a_target_span(tmp_path: Path) -> None:
    chatml = chat_tokenizer("chatml", tmp_path)
    turns = [("system", "Be exact."), ("user", "2 plus 3?"), ("assistant", "It is 5."), ("user", "And 4 plus 4?")]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("assistant", "\nIt is 8. ")]]
    (encoded,) = encode_chat(chatml, messages, per_answer=False)
    whole = chatml.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encoded.input_ids == whole[: len(encoded.input_ids)]
    assert chatml.decode(whole[len(encoded.input_ids) :]) == "\n"
    answers = [chatml.decode(encoded.input_ids[start:end]) for start, end in encoded.target_spans]
    assert answers == ["It is 5.<|im_end|>", "\nIt is 8. <|im_end|>"]
    assert chatml.eos_token_id not in encoded.input_ids
    apart = encode_chat(chatml, messages, per_answer=True)
    assert apart[1].input_ids == encoded.input_ids
    assert [one.target_spans for one in apart] == [encoded.target_spans[:1], encoded.target_spans[1:]]
    assert apart[0].input_ids == encoded.input_ids[: encoded.target_spans[0][1]]


@pytest.mark.parametrize("name", ["chatml", "instruct"])
def test_a_text_has_at_most_one_beginning_of_text_token(name: str, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(name, tmp_path)
    add_beginning(tokenizer)
    messages = [{"role": "user", "content": "<s>?"}, {"role": "assistant", "content": "5 <s>"}]
    (encoded,) = encode_chat(tokenizer, messages, per_answer=False)
    assert encoded.input_ids.count(tokenizer.bos_token_id) == (name == "instruct")
    assert tokenizer.bos_token_id not in encoded.input_ids[1:]


def test_special_tokens_in_a_pair_are_text(tokenizer: PreTrainedTokenizerBase) -> None:
    end = tokenizer.eos_token
    (encoded,) = encode_pairs(tokenizer, [pair(f"What ends {end}?", end)], 100)
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 1
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoded.input_ids) == f"What ends {end}?{end}{end}"


def test_a_tokenizer_without_template_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        ChatTemplate.of(tokenizer, DATE)


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
    encoded = encode_pairs(pythia, examples, 512)
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
