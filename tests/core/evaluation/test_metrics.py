"""Metrics against independent implementations: nltk's corpus BLEU, and ROUGE-L and BERTScore by their definitions."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from s2l_ray.core.evaluation import metrics
from s2l_ray.core.evaluation.metrics import METRICS, MetricOptions, unavailable

SENTENCES = "the lungs are clear there is no acute process", "small left pleural effusion heart size normal"
WORDS = " ".join(SENTENCES).split()
ANSWERS = [
    "the lungs are clear there is no effusion",
    "small left pleural effusion",
    "heart size is normal the lungs are clear",
    "no acute process in the left lung",
]
REFERENCES = [
    "the lungs are clear there is no pleural effusion",
    "there is a small left pleural effusion",
    "the heart is normal in size and the lungs are clear",
    "no acute process",
]


def longest_common_subsequence(one: list[str], other: list[str]) -> int:
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for (i, a), (j, b) in product(enumerate(one), enumerate(other)):
        table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_corpus_bleu() -> None:
    pytest.importorskip("sacrebleu")
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    expected = bleu.corpus_bleu([[one.split()] for one in REFERENCES], [one.split() for one in ANSWERS])
    metric = METRICS["bleu"]
    rows = metric.rows(ANSWERS, REFERENCES, MetricOptions())
    assert metric.score(ANSWERS, REFERENCES, rows) == pytest.approx(100 * expected)
    assert list(metric.rows(["a b c d", ""], ["a b c d", "a"], MetricOptions())) == pytest.approx([100, 0])


def test_rouge_l() -> None:
    pytest.importorskip("rouge_score")
    plural = str.maketrans("", "", "s")  # the stemmer removes the s of these plurals
    expected = []
    for answer, reference in zip(ANSWERS, REFERENCES, strict=True):
        one, other = answer.translate(plural).split(), reference.translate(plural).split()
        common = longest_common_subsequence(one, other)
        expected.append(200 * common / (len(one) + len(other)))
    metric = METRICS["rouge_l"]
    rows = metric.rows(ANSWERS, REFERENCES, MetricOptions())
    assert rows == pytest.approx(expected)
    assert metric.score(ANSWERS, REFERENCES, rows) == pytest.approx(np.mean(expected))
    assert metric.rows([""], ["a"], MetricOptions()) == pytest.approx([0])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def embeddings(text: str, folder: Path) -> np.ndarray:
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(inputs["input_ids"]).last_hidden_state[0].numpy()
    return hidden / np.linalg.norm(hidden, axis=1, keepdims=True)


def test_bert_score(bert: Path) -> None:
    pytest.importorskip("bert_score")
    expected = []
    for answer, reference in zip(ANSWERS, REFERENCES, strict=True):
        similarity = embeddings(answer, bert) @ embeddings(reference, bert).T
        # [CLS] and [SEP] have no weight, but may be what a token matches best
        precision, recall = similarity.max(axis=1)[1:-1].mean(), similarity.max(axis=0)[1:-1].mean()
        expected.append(200 * precision * recall / (precision + recall))
    options = MetricOptions(bert_model=str(bert))
    found = METRICS["bert_score"].rows([*ANSWERS, ""], [*REFERENCES, "clear"], options)
    assert found[:-1] == pytest.approx(expected, abs=1e-3)
    assert found[-1] == 0


def test_exact_match_counts_outputs_without_an_answer_as_wrong() -> None:
    scores = METRICS["exact_match"].rows(["18.0", "", "B", "2"], ["18", "3", "B", "A"], MetricOptions("number"))
    assert list(scores) == [100, 0, 100, 0]


def test_a_metric_that_cannot_be_computed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "evaluate.bert_model" in (unavailable("bert_score", MetricOptions()) or "")
    assert unavailable("bert_score", MetricOptions(bert_model="folder")) is None
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    assert "s2l_ray[evaluate]" in (unavailable("bleu", MetricOptions()) or "")
