"""Selections of small fixed jobs equal the stored lists of ids, in order.

The lists change only when a change of the selection is intended: `python -m tests.golden` writes them anew, and the
difference shows in the commit.
"""

import difflib
from collections import Counter
from pathlib import Path

import pytest

from tests.golden.inputs import CENTERS, made_examples
from tests.golden.jobs import LISTS, NAMES, list_path, selected_ids

MOST_IDS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("name", NAMES)
def test_selected_ids_equal_the_golden_list(folder: Path, name: str) -> None:
    found, expected = selected_ids(name, folder), list_path(name).read_text().splitlines()
    if found != expected:
        difference = "\n".join(difflib.unified_diff(expected, found, "golden", "selected", lineterm="", n=0))
        pytest.fail(
            f"{name}: the selection has changed; if that is intended, run `python -m tests.golden` and commit the "
            f"lists\n{difference}",
            pytrace=False,
        )


def test_every_job_has_a_short_list() -> None:
    assert set(LISTS.iterdir()) == {list_path(name) for name in NAMES}
    for name in NAMES:
        ids = list_path(name).read_text().splitlines()
        assert 0 < len(ids) <= MOST_IDS and len(set(ids)) == len(ids)


def groups_of(name: str) -> dict[str, int]:
    """Number of selected rows by source and group."""
    return dict(Counter(one.rpartition("-")[0] for one in list_path(name).read_text().splitlines()))


# By hand, from the rows that can be selected: 59, 33, 21 and 2 of algebra (easy, hard, late, outlier), 9, 20, 27 and 1
# of geometry, 12, 2, 5 and 1 of logic. A budget of 75 is 20 of logic (all), 27 of geometry and 28 of algebra.
LOGIC = {"logic-easy": 12, "logic-hard": 2, "logic-late": 5, "logic-outlier": 1}


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        (
            "s2l_by_source",
            {"algebra-late": 9, "algebra-hard": 9, "algebra-easy": 10}
            | {"geometry-easy": 9, "geometry-hard": 9, "geometry-late": 9}
            | LOGIC,
        ),
        (
            "s2l_without_tiny_clusters",
            {"algebra-outlier": 2, "algebra-late": 8, "algebra-hard": 9, "algebra-easy": 9}
            | {"geometry-outlier": 1, "geometry-easy": 8, "geometry-hard": 9, "geometry-late": 9}
            | LOGIC,
        ),
        (
            "s2l_large_clusters_first",
            {"algebra-late": 9, "algebra-hard": 9, "algebra-easy": 10}
            | {"geometry-hard": 13, "geometry-late": 14}
            | LOGIC,
        ),
    ],
)
def test_groups_are_selected_as_computed_by_hand(name: str, groups: dict[str, int]) -> None:
    assert groups_of(name) == groups


def test_groups_of_the_whole_pool() -> None:
    """76 of 192 rows: 4 outliers (all), then 24 each of 53 late, 55 hard and 80 easy rows."""
    found: Counter[str] = Counter()
    for group, count in groups_of("s2l_whole_pool").items():
        found[group.partition("-")[2]] += count
    assert found == {"outlier": 4, "late": 24, "hard": 24, "easy": 24}


def test_made_examples_are_as_the_hand_computation_assumes() -> None:
    ok = Counter(one.example_id.rpartition("-")[0] for one in made_examples() if one.status == "ok")
    assert [ok[f"algebra-{group}"] for group in CENTERS] == [59, 21, 33, 2]
    assert [ok[f"geometry-{group}"] for group in CENTERS] == [9, 27, 20, 1]
    assert [ok[f"logic-{group}"] for group in CENTERS] == [12, 5, 2, 1]
