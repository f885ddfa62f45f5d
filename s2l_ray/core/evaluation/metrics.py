"""METRICS: the table of scores of a task, all in percent. A new metric is one function and one row. N answers.

Optional packages are imported by the metric that needs them; `unavailable` names the one that is missing.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from s2l_ray.core.arrays import Float64
from s2l_ray.core.evaluation.answers import answers_equal, reference_type
from s2l_ray.core.evaluation.extraction import AnswerType

Texts = Sequence[str]


@dataclass(frozen=True)
class MetricOptions:
    """answer_type: of the task. bert_model, bert_layer: folder and layer of the model of BERTScore; None: the last."""

    answer_type: AnswerType = "text"
    bert_model: str | None = None
    bert_layer: int | None = None


@dataclass(frozen=True)
class Metric:
    """A row of METRICS.

    rows: maps (answers, references, options) to a score for each answer; an output without an answer is the empty text.
    package: the module it imports, and its extra. corpus: the score of all answers, where that is not the mean of rows.
    """

    rows: Callable[[Texts, Texts, MetricOptions], Float64]
    summary: str
    package: tuple[str, str] | None = None
    corpus: Callable[[Texts, Texts], float] | None = None

    def score(self, answers: Texts, references: Texts, scores_N: Float64) -> float:
        """Score of all answers, of which `scores_N` are the scores of rows."""
        return self.corpus(answers, references) if self.corpus else float(scores_N.mean())


def exact_match(answers: Texts, references: Texts, options: MetricOptions) -> Float64:
    def is_right(answer: str, reference: str) -> bool:
        return bool(answer) and answers_equal(answer, reference, reference_type(options.answer_type, reference))

    return 100.0 * np.array([is_right(*pair) for pair in zip(answers, references, strict=True)], np.float64)


def sentence_bleu(answers: Texts, references: Texts, options: MetricOptions) -> Float64:
    from sacrebleu import BLEU

    bleu = BLEU(effective_order=True)
    pairs = zip(answers, references, strict=True)
    return np.array([bleu.sentence_score(answer, [reference]).score for answer, reference in pairs], np.float64)


def corpus_bleu(answers: Texts, references: Texts) -> float:
    from sacrebleu import BLEU

    return float(BLEU().corpus_score(list(answers), [list(references)]).score)


def rouge_l(answers: Texts, references: Texts, options: MetricOptions) -> Float64:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(answers, references, strict=True)
    return np.array([100.0 * scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs])


def bert_score(answers: Texts, references: Texts, options: MetricOptions) -> Float64:
    """F1 of BERTScore; 0 where the answer or the reference is empty, which bert-score cannot encode."""
    from bert_score import BERTScorer
    from transformers import AutoConfig

    if options.bert_model is None:
        raise ValueError("bert_score needs a model")
    score_N = np.zeros(len(answers), np.float64)
    filled = [at for at, pair in enumerate(zip(answers, references, strict=True)) if all(map(str.strip, pair))]
    if filled:
        layers = options.bert_layer or AutoConfig.from_pretrained(options.bert_model).num_hidden_layers
        scorer = BERTScorer(model_type=options.bert_model, num_layers=layers)
        _, _, f1_M = scorer.score([answers[at] for at in filled], [references[at] for at in filled])
        score_N[filled] = 100.0 * f1_M.numpy()
    return score_N


METRICS: dict[str, Metric] = {
    "exact_match": Metric(exact_match, "share of answers that equal the reference", ("math_verify", "evaluate")),
    "bleu": Metric(sentence_bleu, "corpus BLEU of sacrebleu", ("sacrebleu", "evaluate"), corpus_bleu),
    "rouge_l": Metric(rouge_l, "mean F1 of the longest common subsequence, stemmed", ("rouge_score", "evaluate")),
    "bert_score": Metric(bert_score, "mean F1 of BERTScore, not rescaled", ("bert_score", "bert-score")),
}


def unavailable(name: str, options: MetricOptions) -> str | None:
    """The reason why a metric cannot be computed here, and what to do; None if it can."""
    package = METRICS[name].package
    if package and importlib.util.find_spec(package[0]) is None:
        return f"{name} needs the package {package[0]}; pip install 's2l_ray[{package[1]}]'"
    if name == "bert_score" and options.bert_model is None:
        return "bert_score needs a local model; set evaluate.bert_model to its folder"
    return None
