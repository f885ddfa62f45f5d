"""Choice of checkpoints by name or step."""

import pytest

from s2l_ray.core.trajectories import choose_columns


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
