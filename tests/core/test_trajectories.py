"""Trajectories: losses by a plain loop, missing values, choice of checkpoints."""

import numpy as np
import pytest

from s2l_ray.core.trajectories import choose_columns, complete_rows, stack_losses, thin_columns


def test_losses_are_means_over_target_tokens() -> None:
    rng = np.random.default_rng(0)
    nll_sum_TN = rng.gamma(2, 300, (4, 50))
    target_tokens_N = rng.integers(1, 400, 50)
    x_NT, ok_N = stack_losses(list(nll_sum_TN), target_tokens_N)
    assert x_NT.dtype == np.float32
    assert ok_N.all()
    for example in range(50):
        for checkpoint in range(4):
            loss = float(nll_sum_TN[checkpoint][example]) / int(target_tokens_N[example])
            assert x_NT[example, checkpoint] == np.float32(loss)


def test_a_missing_loss_never_becomes_a_number() -> None:
    nll_sum_TN = [np.array([4.0, np.nan, 6.0, 0.0, np.inf]), np.array([2.0, 3.0, np.nan, 0.0, 1.0])]
    x_NT, ok_N = stack_losses(nll_sum_TN, np.array([2, 3, 6, 0, 1]))
    assert ok_N.tolist() == [True, False, False, False, False]
    assert np.isnan(x_NT[[1, 2, 3, 3], [0, 1, 0, 1]]).all()
    assert x_NT[[1, 2], [1, 0]].tolist() == [1.0, 1.0]
    assert complete_rows(x_NT[:, 1:]).tolist() == [True, True, False, False, True]


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        stack_losses([np.ones(2), np.ones(3)], np.ones(2, np.int32))
    with pytest.raises(ValueError, match="target_tokens 2"):
        stack_losses([], np.ones(2, np.int32))


def test_checkpoints_by_name_or_step() -> None:
    steps = [0, 100, 200, 300]
    assert choose_columns("all", steps) == [0, 1, 2, 3]
    assert choose_columns("trained", steps) == [1, 2, 3]
    assert choose_columns([300, 100], steps) == [1, 3]


@pytest.mark.parametrize("checkpoints", [[100, 150], [], "last"])
def test_checkpoints_that_do_not_exist_are_refused(checkpoints: str | list[int]) -> None:
    with pytest.raises(ValueError, match=r"recorded are|write all, trained"):
        choose_columns(checkpoints, [0, 100, 200])
    with pytest.raises(ValueError, match="recorded are"):
        choose_columns("trained", [0])


def test_thinning_keeps_the_ends_and_spreads_evenly() -> None:
    columns = list(range(1, 13))
    assert thin_columns(columns, 12) == thin_columns(columns, 50) == columns
    assert thin_columns(columns, 1) == [12]
    for count in range(2, 12):
        kept = thin_columns(columns, count)
        gaps = np.diff(kept)
        assert len(kept) == count and kept[0] == 1 and kept[-1] == 12
        assert gaps.max() - gaps.min() <= 1
    with pytest.raises(ValueError, match="at least 1"):
        thin_columns(columns, 0)
