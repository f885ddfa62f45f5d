"""Verdicts: one sentence an arm that states whether it differs from the reference arm, favourable or not."""

from s2l_ray.core.evaluation.statistics import PairedDifference, seeds_to_detect
from s2l_ray.pipeline.scores import LOSSES, ArmScores, ExperimentScores


def verdicts(scores: ExperimentScores) -> dict[str, str]:
    """The verdict of every arm but the reference, on the main score."""
    name = scores.names[0]
    return {arm.arm: _verdict(arm, name, scores.reference) for arm in scores.arms if arm.arm != scores.reference}


def _verdict(arm: ArmScores, name: str, reference: str) -> str:
    difference = arm.scores[name].difference
    assert difference is not None
    what = f"nats {name}" if name in LOSSES else f"percentage points of {name}"
    if difference.error is None or difference.high is None:
        return f"{arm.arm}: {difference.mean:+.3f} {what} to {reference}, without an interval: one value"
    half = f"± {difference.high - difference.mean:.3f} {what}"
    scope = "" if difference.clusters == "seeds" else "; one seed: other seeds may differ"
    if difference.detected:
        better = (difference.mean < 0) == (name in LOSSES)
        verb = "beats" if better else "is worse than"
        return f"{arm.arm} {verb} {reference} by {abs(difference.mean):.3f} {half} on this pool{scope}"
    found = f"no difference to {reference} detectable with {difference.number}"
    measured = f"({difference.mean:+.3f} {half})"
    if difference.clusters == "seeds":
        return f"{arm.arm}: {found} seeds {measured}{_needed(difference)}"
    return f"{arm.arm}: {found} held-out rows or questions {measured}{scope}"


def _needed(difference: PairedDifference) -> str:
    """The seeds with which a t-test detects a difference of the measured size with a power of 80 %."""
    assert difference.error is not None
    seeds = seeds_to_detect(difference.mean, difference.error * difference.number**0.5)
    if difference.mean == 0:
        return ""
    number = "more than 1,000" if seeds is None else f"about {seeds:,}"
    return f"; {number} seeds are needed to detect {abs(difference.mean):.3f}"
