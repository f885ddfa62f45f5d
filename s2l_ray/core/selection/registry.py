"""SELECTORS: the table of selection methods. A new method is one function and one row.

A method draws from groups, ranks rows by a score, or compares rows. One that ranks is a score of each row, computed
shard by shard, and the part of the ranking that is selected. All of them select exactly a budget from a pool, and
budgets.py applies shares, caps and lists of rows around any of them. A result depends on the seed, the names of sources
and the ids of examples and clusters, never on the order of execution.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from s2l_ray.core.arrays import Float64, Floats
from s2l_ray.core.selection import coverage, learning_percentage, s2l, trajectory_scores
from s2l_ray.core.selection.baselines import select_random, select_source_balanced, select_stratified
from s2l_ray.core.selection.checkpoint_scores import (
    CheckpointParams,
    CheckpointsParams,
    ColumnParams,
    StartParams,
    at_checkpoint,
    mean_value,
    needs_column,
    needs_target_tokens,
    over_checkpoints,
)
from s2l_ray.core.selection.needs import Needs
from s2l_ray.core.selection.pool import NoParams, Pool, Selection
from s2l_ray.core.selection.ranking import OrderParams, RankParams, Taken, select_ranked

# value_BT and the params -> score_B
Score = Callable[[Floats, Any], Float64]
SelectorParams = NoParams | RankParams | s2l.ClusterParams | coverage.CoverageParams


@dataclass(frozen=True)
class Selector:
    """A row of SELECTORS.

    select: called with (Pool, budget, seed, params). needs: the columns that it reads, of its params. params: the
    dataclass of its own keys in the job's `select:` section. score: of methods that rank, called with the values of a
    shard, value_BT at the T checkpoints of its needs, and the params. taken: the part of their ranking that is
    selected; None if `params.order` decides.
    """

    select: Callable[[Pool, int, int, Any], Selection]
    needs: Callable[[Any], Needs]
    params: type[SelectorParams]
    summary: str
    score: Score | None = None
    taken: Taken | None = None

    def taken_by(self, params: SelectorParams) -> Taken | None:
        """The part of the ranking that is selected; None for methods that do not rank."""
        return params.order if isinstance(params, OrderParams) and self.taken is None else self.taken

    def param_names(self) -> tuple[str, ...]:
        """Names of its own keys."""
        return tuple(column.name for column in fields(self.params))


def drawing(
    select: Callable[[Pool, int, int, Any], Selection],
    params: type[SelectorParams],
    summary: str,
    needs: Callable[[Any], Needs] | None = None,
) -> Selector:
    """A method that draws."""
    return Selector(select, needs or (lambda params: Needs()), params, summary)


def ranking(
    score: Score, taken: Taken | None, needs: Callable[[Any], Needs], params: type[RankParams], summary: str
) -> Selector:
    """A method that ranks. taken: the part of the ranking that is selected; None reads it from `params.order`."""

    def select(pool: Pool, budget: int, seed: int, params: Any) -> Selection:
        return select_ranked(pool, budget, params, taken or params.order)

    return Selector(select, needs, params, summary, score, taken)


SELECTORS: dict[str, Selector] = {
    "s2l": drawing(s2l.select_s2l, s2l.S2LParams, "balanced over sources and clusters of loss trajectories", s2l.needs),
    "learning_percentage": ranking(
        learning_percentage.score,
        "lowest",
        learning_percentage.needs,
        learning_percentage.LearningPercentageParams,
        "slow learners: the share of the whole fall of perplexity that the first epoch reaches is lowest",
    ),
    "learning_percentage_approx": ranking(
        learning_percentage.score_of_approximation,
        "lowest",
        learning_percentage.needs_of_approximation,
        learning_percentage.FirstEpochParams,
        "slow learners: the relative fall of perplexity in the first epoch is lowest",
    ),
    "el2n": ranking(
        mean_value,
        "highest",
        over_checkpoints("el2n"),
        CheckpointsParams,
        "largest error of the predicted distribution",
    ),
    "grand": ranking(
        mean_value, "highest", over_checkpoints("grand"), CheckpointsParams, "largest gradient of the output head"
    ),
    "loss_low": ranking(mean_value, "lowest", at_checkpoint("loss"), CheckpointParams, "lowest loss at a checkpoint"),
    "loss_middle": ranking(
        mean_value, "middle", at_checkpoint("loss"), CheckpointParams, "middle of the losses at a checkpoint"
    ),
    "loss_high": ranking(
        mean_value, "highest", at_checkpoint("loss"), CheckpointParams, "highest loss at a checkpoint"
    ),
    "middle_perplexity": ranking(
        mean_value, "nearest_median", at_checkpoint("loss"), StartParams, "loss before training nearest to the median"
    ),
    "least_confidence": ranking(
        mean_value,
        "lowest",
        at_checkpoint("mean_probability"),
        CheckpointParams,
        "lowest mean probability of the target tokens at a checkpoint",
    ),
    "high_learnability": ranking(
        trajectory_scores.learnability,
        "highest",
        trajectory_scores.needs_first_and_last,
        trajectory_scores.FirstLastParams,
        "largest fall of the loss from the first to the last checkpoint",
    ),
    "variability": ranking(
        trajectory_scores.variability,
        None,
        trajectory_scores.needs_probability,
        OrderParams,
        "largest deviation of the target tokens' probability over the training",
    ),
    "confidence": ranking(
        trajectory_scores.confidence,
        None,
        trajectory_scores.needs_probability,
        trajectory_scores.ConfidenceParams,
        "lowest mean of the target tokens' probability over the training",
    ),
    "forgetting": ranking(
        trajectory_scores.forgetting,
        "highest",
        trajectory_scores.needs_accuracy,
        trajectory_scores.ForgettingParams,
        "most falls of the token accuracy during the training",
    ),
    "high_entropy": ranking(
        mean_value,
        "highest",
        at_checkpoint("top_entropy"),
        CheckpointParams,
        "largest entropy of the most uncertain target tokens",
    ),
    "loss_drop": ranking(
        trajectory_scores.loss_drop,
        "highest",
        trajectory_scores.needs_first_and_last,
        trajectory_scores.FirstLastParams,
        "largest relative fall of the loss, by a proxy trained on a target task",
    ),
    "random": drawing(select_random, NoParams, "uniform over the pool"),
    "source_balanced": drawing(select_source_balanced, NoParams, "balanced over sources, uniform inside each source"),
    "stratified": drawing(
        select_stratified,
        NoParams,
        "balanced over sources and quartiles of length, uniform inside each",
        lambda params: Needs(target_tokens=True),
    ),
    "longest": ranking(mean_value, "highest", needs_target_tokens, RankParams, "most target tokens"),
    "shortest": ranking(mean_value, "lowest", needs_target_tokens, RankParams, "fewest target tokens"),
    "random_clusters": drawing(
        s2l.select_random_clusters,
        s2l.ClusterParams,
        "balanced over random groups of the same sizes as the clusters",
        s2l.needs,
    ),
    "facility_location": drawing(
        coverage.select_facility_location,
        coverage.FacilityLocationParams,
        "greedy: the rest of the pool is close to a selected row",
        coverage.needs,
    ),
    "k_center": drawing(
        coverage.select_k_center,
        coverage.CoverageParams,
        "greedy: each row is the farthest from those selected before",
        coverage.needs,
    ),
    "column": ranking(mean_value, None, needs_column, ColumnParams, "by a column of a Parquet file"),
}
