"""Choice of checkpoints by name or step."""

import pytest

from s2l_ray.core.trajectories import Window, choose_columns


def test_checkpoints_by_name_or_step() -> None:
    steps = [0, 100, 200, 300]
    assert choose_columns("all", steps) == [0, 1, 2, 3]
    assert choose_columns("trained", steps) == [1, 2, 3]
    assert choose_columns([300, 100], steps) == [1, 3]


@pytest.mark.parametrize("checkpoints", [[100, 150], [], "last"])
def test_unknown_checkpoints_raise(checkpoints: str | list[int]) -> None:
    with pytest.raises(ValueError, match=r"recorded are|use all, trained"):
        choose_columns(checkpoints, [0, 100, 200])
    with pytest.raises(ValueError, match="recorded are"):
        choose_columns("trained", [0])


# Twelve trained checkpoints, as in the published experiment, and step 0.
STEPS = [0, *range(500, 6001, 500)]


@pytest.mark.parametrize(
    ("window", "steps"),
    [
        (Window(), STEPS[1:]),
        (Window(end=0.5), [500, 1000, 1500, 2000, 2500, 3000]),
        (Window(start=0.5), [3000, 3500, 4000, 4500, 5000, 5500, 6000]),
        (Window(start=0.25, end=0.75), [1500, 2000, 2500, 3000, 3500, 4000, 4500]),
        (Window(every=3), [1500, 3000, 4500, 6000]),
        (Window(last=4), [4500, 5000, 5500, 6000]),
        (Window(every=2, last=2), [5000, 6000]),
        (Window(start=0.3, end=0.7, every=2, last=9), [2500, 3500]),
        (Window(end=1 / 3, last=1), [2000]),
    ],
)
def test_a_window_is_cut_by_shares_then_thinned_then_shortened(window: Window, steps: list[int]) -> None:
    assert [STEPS[column] for column in choose_columns(window, STEPS)] == steps


@pytest.mark.parametrize("window", [Window(start=0.51, end=0.53), Window(every=13), Window(end=0.0)])
def test_a_window_without_a_checkpoint_raises(window: Window) -> None:
    with pytest.raises(ValueError, match="recorded are"):
        choose_columns(window, STEPS)
