"""Per-example loss and statistics against a loop with batch size 1 in float64."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import STATISTICS, ScoreOptions, per_example_loss, score_rows, top_entropy

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 1000
EVERYTHING = tuple(STATISTICS)


def small_model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.3,
    )
    return GPTNeoXForCausalLM(config).eval()


def random_rows(count: int, longest: int = 90, seed: int = 0) -> TokenRows:
    """Rows of 2 to `longest` tokens; the first has no target, the second two spans, one of them at position 0."""
    random = np.random.default_rng(seed)
    ids = [random.integers(0, VOCABULARY, length).tolist() for length in random.integers(8, longest, count)]
    spans = [[(len(row) // 3, len(row))] for row in ids]
    spans[0] = []
    spans[1] = [(0, 2), (len(ids[1]) - 3, len(ids[1]) - 1)]
    return TokenRows.from_rows(ids, spans)


def head_gradient(model: PreTrainedModel, ids_L: np.ndarray, position_T: np.ndarray) -> float:
    """Norm of the gradient of the mean loss with respect to the head's weight, by autograd in float64."""
    ids_1L = torch.tensor(ids_L[None], dtype=torch.long)
    with torch.no_grad():
        hidden_TH = model.base_model(ids_1L).last_hidden_state[0, position_T - 1].double()
    head = model.get_output_embeddings()
    weight_VH = head.weight.detach().double().requires_grad_()
    logits_TV = torch.nn.functional.linear(hidden_TH, weight_VH, None if head.bias is None else head.bias.double())
    torch.nn.functional.cross_entropy(logits_TV, ids_1L[0, position_T]).backward()
    assert weight_VH.grad is not None
    return float(weight_VH.grad.norm())


def batch_size_1_statistics(model: PreTrainedModel, rows: TokenRows) -> dict[str, np.ndarray]:
    """Every statistic by its definition, from logits in float64 at batch size 1."""
    columns = {name: np.full(len(rows), np.nan) for name in EVERYTHING}
    for index in range(len(rows)):
        ids_L = rows.take([index]).ids_X
        position_T = np.flatnonzero(rows.take([index]).target_mask_X)
        if not len(position_T):
            continue
        with torch.no_grad():
            logits_LV = model(torch.tensor(ids_L[None], dtype=torch.long)).logits[0].double()
        logprob_TV = logits_LV[position_T - 1].log_softmax(-1).numpy()
        target_T = ids_L[position_T]
        probability_TV = np.exp(logprob_TV)
        own_T = logprob_TV[np.arange(len(target_T)), target_T]
        columns["loss"][index] = -own_T.mean()
        columns["mean_probability"][index] = np.exp(own_T).mean()
        columns["token_accuracy"][index] = (logprob_TV.argmax(1) == target_T).mean()
        columns["mean_entropy"][index] = -(probability_TV * logprob_TV).sum(1).mean()
        error_TV = probability_TV - np.eye(VOCABULARY)[target_T]
        columns["el2n"][index] = np.linalg.norm(error_TV, axis=1).mean()
        entropy_T = np.sort(-(probability_TV * logprob_TV).sum(1))[::-1]
        columns["top_entropy"][index] = entropy_T[: max(1, int(0.005 * len(target_T)))].sum()
        columns["grand"][index] = head_gradient(model, ids_L, position_T)
    return columns


def test_per_example_loss_matches_cross_entropy() -> None:
    logits_BLV = torch.randn(3, 6, 11)
    labels_BL = torch.tensor([[1, 2, 3, 4, 5, 6], [-100, -100, 7, -100, 10, 0], [3, -100, -100, -100, -100, -100]])
    nll_sum_B, tokens_B = per_example_loss(logits_BLV, labels_BL)
    assert tokens_B.tolist() == [5, 3, 0]
    assert nll_sum_B.dtype == torch.float64
    for row in (0, 1):
        expected = torch.nn.functional.cross_entropy(
            logits_BLV[row, :-1].double(), labels_BL[row, 1:], ignore_index=-100, reduction="sum"
        )
        assert nll_sum_B[row].item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.isnan(nll_sum_B[2])


@pytest.mark.parametrize("attention", ["padded", "packed"])
@pytest.mark.parametrize("tokens_per_batch", [20, 500, 100_000])
def test_statistics_match_batch_size_1(attention: str, tokens_per_batch: int) -> None:
    model, rows = small_model(), random_rows(40)
    options = ScoreOptions(tokens_per_batch=tokens_per_batch, statistics=EVERYTHING, attention=attention)
    scored, expected = score_rows(model, rows, options=options), batch_size_1_statistics(model, rows)
    np.testing.assert_array_equal(scored["target_tokens"], rows.target_tokens_N)
    scored["loss"] = scored["nll_sum"] / np.where(rows.target_tokens_N, rows.target_tokens_N, np.nan)
    for name in EVERYTHING:
        np.testing.assert_allclose(scored[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(scored["grand"], expected["grand"], rtol=1e-4)


@pytest.mark.parametrize("attention", ["padded", "packed"])
def test_gradients_of_rows_that_the_model_is_sure_of(attention: str) -> None:
    """A sharp head makes losses from 1e-6 to 100 nats, where 1 - p and overflow need care."""
    model, rows = small_model(), random_rows(24)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(12)
        model.get_input_embeddings().weight.mul_(3)
        for index in range(len(rows)):
            ids_1L = torch.tensor(rows.take([index]).ids_X[None].astype(np.int64))
            best_L = model(ids_1L).logits[0].argmax(-1).numpy()
            rows.ids_X[rows.starts_N1[index + 1] - 1] = best_L[-2]
    options = ScoreOptions(tokens_per_batch=500, statistics=("grand",), attention=attention)
    found, expected = score_rows(model, rows, options=options), batch_size_1_statistics(model, rows)
    np.testing.assert_allclose(found["grand"], expected["grand"], rtol=1e-4)


def test_top_entropy_counts_one_target_in_two_hundred() -> None:
    entropy_T, row_T = np.random.default_rng(0).gamma(2, 1, 1250), np.repeat([2, 0, 3], [600, 199, 451])
    found = top_entropy(entropy_T, row_T, np.array([199, 0, 600, 451]))
    parts = {2: entropy_T[:600], 0: entropy_T[600:799], 3: entropy_T[799:]}
    expected = [sum(sorted(parts.get(row, []))[::-1][:count]) for row, count in enumerate([1, 0, 3, 2])]
    np.testing.assert_allclose(found, expected)


REAL_ROWS = 200


@pytest.fixture(scope="session")
def real_rows(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenRows:
    """Rows of four sources with the Pythia tokenizer: prompt, then response and end of text as the target."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(gzip.decompress((shared_data / "tokenizers/pythia_20B_tokenizer.json.gz").read_bytes()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|endoftext|>")
    ids, spans = [], []
    for name in ("mathmix", "creak_cot", "ecqa_cot", "mts_dialog"):
        with gzip.open(shared_data / f"train/{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line, _ in zip(lines, range(REAL_ROWS // 4), strict=False):
                row = json.loads(line)
                prompt = tokenizer(row["instruction"] + "\n\n### Response:").input_ids
                response = [*tokenizer(row["response"]).input_ids, tokenizer.eos_token_id]
                ids.append((prompt + response)[:512])
                spans.append([(len(prompt), len(ids[-1]))] if len(prompt) < len(ids[-1]) else [])
    return TokenRows.from_rows(ids, spans)


@pytest.fixture(scope="session")
def two_checkpoints(real_rows: TokenRows) -> list[PreTrainedModel]:
    """A random model over the whole Pythia vocabulary, and the same after a few steps of training."""
    checkpoints = []
    for steps in (0, 5):
        torch.manual_seed(1)
        config = GPTNeoXConfig(
            vocab_size=50304, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128
        )
        model = GPTNeoXForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(steps):
            ids_1L = torch.from_numpy(real_rows.take([step]).ids_X.astype(np.int64))[None]
            model(ids_1L, labels=ids_1L).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        checkpoints.append(model.eval())
    return checkpoints


@pytest.fixture(scope="session")
def transformers_losses(real_rows: TokenRows, two_checkpoints: list[PreTrainedModel]) -> list[np.ndarray]:
    """The loss that transformers itself reports, one row at a time in float32."""
    columns = []
    for model in two_checkpoints:
        losses = np.full(len(real_rows), np.nan)
        for index in np.flatnonzero(real_rows.target_tokens_N):
            ids_1L = torch.from_numpy(real_rows.take([index]).ids_X.astype(np.int64))[None]
            labels_1L = torch.where(torch.from_numpy(real_rows.take([index]).target_mask_X)[None], ids_1L, -100)
            with torch.no_grad():
                losses[index] = model(input_ids=ids_1L, labels=labels_1L).loss.item()
        columns.append(losses)
    return columns


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["padded", "packed"])
def test_loss_of_real_rows_matches_transformers(
    attention: str, real_rows: TokenRows, two_checkpoints: list[PreTrainedModel], transformers_losses: list[np.ndarray]
) -> None:
    assert len(real_rows) == REAL_ROWS
    for model, expected in zip(two_checkpoints, transformers_losses, strict=True):
        scored = score_rows(model, real_rows, options=ScoreOptions(tokens_per_batch=8192, attention=attention))
        loss_N = scored["nll_sum"] / np.where(scored["target_tokens"], scored["target_tokens"], np.nan)
        np.testing.assert_allclose(loss_N, expected, rtol=0, atol=1e-5)
