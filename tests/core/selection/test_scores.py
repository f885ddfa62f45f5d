"""Scores of the methods that rank, against loops over plain numbers and cases computed by hand."""

import math
from itertools import pairwise
from statistics import mean, pstdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.core.selection.checkpoint_scores import ColumnParams
from s2l_ray.core.selection.needs import At
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.core.selection.trajectory_scores import ForgettingParams


def score(method: str, rows: list[list[float]], **keys: object) -> list[float]:
    """Scores of rows, each a list of values at the checkpoints that the method reads."""
    selector = SELECTORS[method]
    assert selector.score is not None
    return selector.score(np.array(rows, np.float32), selector.params(**keys)).tolist()


PROBABILITIES = st.lists(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5), min_size=1, max_size=20)


@given(PROBABILITIES)
def test_cartography_against_a_loop(rows: list[list[float]]) -> None:
    assert score("variability", rows) == pytest.approx([pstdev(row) for row in rows], abs=1e-6)
    assert score("confidence", rows) == pytest.approx([mean(row) for row in rows], abs=1e-6)


@given(PROBABILITIES, st.sampled_from([0.0, 0.05, 0.5]))
def test_forgetting_against_a_loop(rows: list[list[float]], margin: float) -> None:
    expected = []
    for row in rows:
        falls = sum(before - after > margin for before, after in pairwise(row))
        expected.append(falls if any(value > 0.5 for value in row) else len(row))
    assert score("forgetting", rows, margin=margin) == expected


def test_forgetting_by_hand() -> None:
    rows = [[0.6, 0.9, 0.2, 0.8, 0.1], [0.1, 0.5, 0.2, 0.4, 0.3], [0.1, 0.6, 0.56, 0.9, 0.9], [0.9, 0.8, 0.7, 0.6, 0.5]]
    assert score("forgetting", rows) == [2, 5, 0, 4]
    with pytest.raises(ValueError, match="margin"):
        ForgettingParams(margin=-0.1)


def test_differences_of_losses_by_hand() -> None:
    rows = [[4.0, 1.0], [2.0, 3.0], [0.0, 1.0]]
    assert score("high_learnability", rows) == [3, -1, -1]
    assert score("loss_drop", rows) == [0.75, -0.5, 0]


def test_learning_percentage_by_hand() -> None:
    rows = [[math.log(value) for value in (8, 4, 2)], [math.log(value) for value in (8, 8, 8)]]
    assert score("learning_percentage", rows) == pytest.approx([2 / 3, 0], abs=1e-6)
    approx = score("learning_percentage_approx", [row[:2] for row in rows])
    assert approx == pytest.approx([0.5, 0], abs=1e-6)


@pytest.mark.parametrize("method", [name for name, selector in SELECTORS.items() if selector.score])
def test_a_missing_value_is_a_missing_score(method: str) -> None:
    keys = {"path": "a.parquet", "column": "b"} if method == "column" else {}
    rows = [[0.5] * 3, [0.5, 0.5, np.nan], [np.nan] * 3, [0.25] * 3]
    width = 2 if method in ("high_learnability", "loss_drop", "learning_percentage_approx") else 3
    missing = [math.isnan(value) for value in score(method, [row[-width:] for row in rows], **keys)]
    assert missing == [False, True, True, False]


def test_official_learning_percentage_turns_a_missing_value_into_0() -> None:
    assert score("learning_percentage", [[np.nan] * 3, [2.0, 1.0, 0.5]], compat="official")[0] == 0


def test_checkpoints_that_methods_read_by_default() -> None:
    expected = {
        "learning_percentage": (0, At.FIRST_EPOCH_END, At.LAST),
        "learning_percentage_approx": (0, At.FIRST_EPOCH_END),
        "loss_low": (At.LAST,),
        "middle_perplexity": (0,),
        "el2n": (At.LAST,),
        "high_learnability": (At.FIRST, At.LAST),
        "loss_drop": (At.FIRST, At.LAST),
        "variability": (At.TRAINED,),
        "forgetting": (At.TRAINED,),
        "longest": (),
    }
    for method, checkpoints in expected.items():
        selector = SELECTORS[method]
        assert selector.needs(selector.params()).checkpoints == checkpoints, method


def test_checkpoints_that_the_job_names() -> None:
    for method, keys, checkpoints in (
        ("learning_percentage", {"start": 5, "first": 10, "last": 20}, (5, 10, 20)),
        ("el2n", {"checkpoints": (5, 10)}, (5, 10)),
        ("loss_middle", {"checkpoint": 7}, (7,)),
        ("high_learnability", {"first": 1, "last": 2}, (1, 2)),
    ):
        selector = SELECTORS[method]
        assert selector.needs(selector.params(**keys)).checkpoints == checkpoints


def test_a_column_needs_its_file_and_name() -> None:
    for keys in ({}, {"path": "a.parquet"}, {"column": "b"}):
        with pytest.raises(ValueError, match="path"):
            ColumnParams(**keys)
