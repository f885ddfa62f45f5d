"""Points of a curve: every step of a training, rates of a pass, results of any artifact."""

from pathlib import Path

import pytest

from s2l_ray.pipeline.tracking.curves import artifact_points, progress_points
from s2l_ray.runtime.contracts import Progress
from tests.support.sample_artifacts import complete
from tests.support.tracked_training import PARAMETERS, put_training, training_steps


def curve(root: Path, name: str, accelerator: str = "", precision: str = "float32") -> list[tuple[int, float]]:
    points = artifact_points(put_training(str(root), precision), accelerator)
    return [(point.step, point.named()[name]) for point in points if name in point.named()]


def test_a_training_has_a_point_for_every_step_and_every_held_out_loss(tmp_path: Path) -> None:
    steps = training_steps()
    assert curve(tmp_path, "checkpoints/loss") == [(one.step, one.loss) for one in steps]
    assert curve(tmp_path, "checkpoints/learning_rate") == [(one.step, one.learning_rate) for one in steps]
    assert curve(tmp_path, "checkpoints/held_out_loss") == [(5, 2.2), (9, 2 + 1 / 9)], "none was measured at step 0"
    assert curve(tmp_path, "checkpoints/rows_per_second") == [(one.step, 8 / 0.25) for one in steps]
    assert curve(tmp_path, "checkpoints/tokens_per_second")[3] == (4, 84 / 0.25)


def test_utilisation_is_six_flops_a_parameter_and_token_over_the_peak_of_all_gpus(tmp_path: Path) -> None:
    """Two workers with one H100 each, of 989 TFLOP/s in bfloat16."""
    expected = [(one.step, 6 * PARAMETERS * one.tokens / 0.25 / (2 * 989e12)) for one in training_steps()]
    assert curve(tmp_path, "checkpoints/mfu", "H100", "bfloat16") == [
        (step, pytest.approx(value, rel=1e-12)) for step, value in expected
    ]


def test_the_peak_that_the_job_states_comes_first(tmp_path: Path) -> None:
    points = artifact_points(put_training(str(tmp_path), "float32", tflops=50), "H100")
    first = next(point for point in points if point.step == 1)
    assert first.values["mfu"] == pytest.approx(6 * PARAMETERS * 81 / 0.25 / (2 * 50e12), rel=1e-12)


@pytest.mark.parametrize(("accelerator", "precision"), [("", "bfloat16"), ("P100", "bfloat16"), ("H100", "float32")])
def test_without_a_known_peak_there_is_no_utilisation(tmp_path: Path, accelerator: str, precision: str) -> None:
    assert curve(tmp_path, "checkpoints/mfu", accelerator, precision) == []


def test_every_artifact_has_its_time_and_an_evaluation_its_scores(tmp_path: Path) -> None:
    (subset,) = artifact_points(complete(str(tmp_path), "subset", "00000000000c"), "")
    assert (subset.step, subset.named()) == (0, {"subset/seconds": 1.5, "subset/rows": 30.0})
    (evaluation,) = artifact_points(complete(str(tmp_path), "evaluation", "00000000000d"), "")
    scores = {"macro_loss": 3.0, "micro_loss": 2.75, "score/gsm8k": 15.0}
    assert scores.items() <= evaluation.values.items()


def test_a_pass_has_its_rates_at_the_units_done() -> None:
    position = Progress("trajectories", 3, 8, "units", {"rows": 60, "tokens": 600}, 2.0)
    (point,) = progress_points(position)
    assert point.step == 3
    assert point.named() == {
        "progress/trajectories/units/rows_per_second": 30.0,
        "progress/trajectories/units/tokens_per_second": 300.0,
    }
    assert progress_points(Progress("clusters", note="K = 2", values={"loss": 1.0})) == [], "a note has no position"
