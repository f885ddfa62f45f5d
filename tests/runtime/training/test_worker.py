"""A dataset that the model cannot process is refused before training."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.core.causal_lm import init_model
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.errors import S2LError
from s2l_ray.runtime.training.worker import check_fit, check_tokenizer
from tests.support.tiny_models import save_tokenizer
from tests.support.tiny_training import NEOX, VOCAB, make_job

POSITIONS = 64


def rows_of(length: int, largest_id: int) -> TokenRows:
    """One row."""
    ids = np.full(length, largest_id, np.int32)
    return TokenRows(ids, np.array([0, length]), np.array([[1, length]]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("changes", "length", "largest_id", "key"),
    [
        ({"longest": POSITIONS, "vocab_size": VOCAB}, 5, 3, None),
        ({"longest": POSITIONS + 1}, 5, 3, "data.max_length"),
        ({"vocab_size": VOCAB + 1}, 5, 3, "data.tokenizer"),
        ({"vocab_size": 0}, POSITIONS + 1, 3, "data.max_length"),
        ({"vocab_size": 0}, 5, VOCAB, "data.tokenizer"),
        ({"vocab_size": 0}, POSITIONS, VOCAB - 1, None),
    ],
)
def test_every_row_of_the_dataset_must_fit_the_model(
    tmp_path: Path, changes: dict[str, int], length: int, largest_id: int, key: str | None
) -> None:
    job = dataclasses.replace(make_job(tmp_path), **changes)
    model, sampled = init_model(NEOX, VOCAB, 0), [rows_of(length, largest_id)]
    if key is None:
        check_fit(model, job, sampled)
        return
    with pytest.raises(S2LError, match=key):
        check_fit(model, job, sampled)


def test_a_model_whose_ids_mean_other_tokens_is_refused(tmp_path: Path) -> None:
    own = save_tokenizer(tmp_path / "own")
    other = save_tokenizer(tmp_path / "other", "quite different words: zebra, jazz, fox, vow, quick, jump, 0123456789")
    check_tokenizer(own, own)
    check_tokenizer(tmp_path, own)  # a model that was saved without one
    with pytest.raises(S2LError, match=r"target\.tokenizer"):
        check_tokenizer(own, other)
