"""Columns of named checkpoints, by hand."""

import pytest

from s2l_ray.core.selection.needs import At, Checkpoint, RecordedSteps

RECORDED = RecordedSteps((0, 5, 8, 10, 16), (8, 16))


@pytest.mark.parametrize(
    ("checkpoints", "columns"),
    [
        ((0, 10), [0, 3]),
        ((At.FIRST, At.FIRST_EPOCH_END, At.LAST), [0, 2, 4]),
        ((At.TRAINED,), [1, 2, 3, 4]),
        ((16, 0), [4, 0]),
        ((), []),
    ],
)
def test_columns_of_checkpoints(checkpoints: tuple[Checkpoint, ...], columns: list[int]) -> None:
    assert RECORDED.columns(checkpoints) == columns


@pytest.mark.parametrize(
    ("recorded", "checkpoint", "named"),
    [
        (RECORDED, 7, "7"),
        (RecordedSteps((0, 5)), At.FIRST_EPOCH_END, r"select\.first"),
        (RecordedSteps((0, 5, 16), (8, 16)), At.FIRST_EPOCH_END, "epoch_ends"),
        (RecordedSteps((0, 5), ()), At.FIRST_EPOCH_END, "epoch_ends"),
        (RecordedSteps((0,)), At.TRAINED, "step 0"),
        (RecordedSteps(()), At.LAST, "last"),
        (RecordedSteps(()), At.FIRST, "first"),
    ],
)
def test_a_checkpoint_that_was_not_recorded_is_refused(
    recorded: RecordedSteps, checkpoint: Checkpoint, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        recorded.columns([checkpoint])
