"""Views of stored artifacts, rendered without colors."""

import io

from rich.console import Console

from s2l_ray.artifacts.facts import EvaluationFacts, TaskScore
from s2l_ray.terminal.store_views import evaluation_view


def rendered_lines(facts: EvaluationFacts) -> list[list[str]]:
    """The words of each line."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(evaluation_view(facts))
    return [line.split() for line in console.export_text().splitlines()]


def test_an_evaluation_shows_its_losses_and_its_scores() -> None:
    tasks = {
        "gsm8k": TaskScore(20, 15.0, 8.19, 0.25, 64.5),
        "notes": TaskScore(9, 30.25, None, 0.0, 12.0, {"bleu": 4.44}),
    }
    lines = rendered_lines(EvaluationFacts({"sums": 2.5, "other": 3.5}, {"sums": 3, "other": 1}, 3.0, 2.75, tasks))
    assert ["sums", "3", "2.5000"] in lines and ["other", "1", "3.5000"] in lines
    assert [line[-1] for line in lines if "(macro)" in line or "(micro)" in line] == ["3.0000", "2.7500"]
    assert ["gsm8k", "20", "15.0", "±", "8.2", "25.0", "%", "64.5"] in lines
    assert ["notes", "9", "30.2", "0.0", "%", "12.0", "bleu", "4.4"] in lines


def test_an_evaluation_without_tasks_or_losses_shows_what_it_has() -> None:
    only_losses = rendered_lines(EvaluationFacts({"sums": 2.5}, {"sums": 3}, 2.5, 2.5))
    only_tasks = rendered_lines(EvaluationFacts({}, {}, None, None, {"sums": TaskScore(2, 50.0, 50.0, 0.0, 3.0)}))
    assert not any("score" in line for line in only_losses) and not any("nats" in line for line in only_tasks)
