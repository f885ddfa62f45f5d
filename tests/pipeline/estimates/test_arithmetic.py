"""Estimates against values computed by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config, Prices
from s2l_ray.config.subsections import Gpu
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.costs import Cost, price
from s2l_ray.pipeline.estimates.job import JobEstimate, with_sums
from s2l_ray.pipeline.estimates.limits import Limits, check_limits
from s2l_ray.pipeline.estimates.measurements import Measurement, rate_key
from s2l_ray.pipeline.estimates.payback import payback, trainings_until
from s2l_ray.pipeline.estimates.record import Measured, ProbeRecord, add_to_record, read_record
from s2l_ray.pipeline.estimates.sizes import PoolSize, Sizes, sizes
from s2l_ray.pipeline.estimates.steps import StepEstimate, estimate_step
from s2l_ray.pipeline.usage import UsageMeter
from s2l_ray.runtime.contracts import Usage

PARAMETERS = 1_000_000
MODEL = {"parameters": PARAMETERS, "layers": 2, "hidden_size": 100, "vocab_size": 1000}
MEASUREMENT = Measurement(
    kind="trajectories",
    key="",
    amount=200.0,
    fixed_seconds=10.0,
    worker_seconds=40.0,
    alone_seconds=2.0,
    workers=2,
    gpus=0.0,
    threads=1,
    peak_bytes=500,
    rows=10.0,
    tokens=100.0,
    stored_bytes=1000,
    origin="probe",
)


def job(root: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "root": str(root),
        "run": "costs",
        "data": {"sources": [{"hub": "owner/rows"}], "tokenizer": "owner/model", "max_length": 50},
        "proxy": {"model": "owner/model", "epochs": 2, "batch_size": 8, "checkpoints": {"epoch_ends": True}},
        "select": {"budget": 100},
        "target": {"model": "owner/model", "epochs": 2, "batch_size": 10, "compute": "same_epochs"},
        "estimate": {"rows": 1000, "tokens_per_row": 20, "models": {"owner/model": MODEL}},
        "prices": {"gpu_hour": 3.6, "cpu_hour": 0.36},
    }
    return make_config({**values, **changes}, "test")


POOL = PoolSize(1000, 1000, 20_000, 0)


def known_sizes(config: Config, pool: PoolSize = POOL) -> Sizes:
    return sizes(config, {"dataset": pool})


def measured(*measurements: Measurement, root: str = "/nothing") -> Measured:
    return Measured(root, ProbeRecord(measurements=measurements))


def on_gpu(root: Path) -> Config:
    """The same job with a GPU that reaches 5e8 FLOP/s."""
    gpu = Gpu(memory_gb=1.2, tflops=1e-3, utilization=0.5)
    config = job(root)
    return config.model_copy(update={"estimate": config.estimate.model_copy(update={"gpu": gpu})})


def test_only_the_work_of_a_measurement_is_scaled() -> None:
    # five times the work: 5 x (40 / 4 + 2) besides the 10 seconds of the start
    assert MEASUREMENT.seconds(1000.0, workers=4) == 70.0
    assert MEASUREMENT.seconds(200.0, workers=2) == 32.0
    # selecting 1,000,000 more rows takes a second more
    selecting = replace(MEASUREMENT, kind="subset", worker_seconds=0.0)
    assert selecting.seconds(1_000_200.0, workers=1) == 13.0


def test_a_stage_is_estimated_from_a_measurement_of_the_same_settings(tmp_path: Path) -> None:
    config = job(tmp_path)
    # three checkpoints of 20,000 tokens, at the rate of 200 tokens in 40 seconds
    own = replace(MEASUREMENT, key=rate_key("trajectories", config))
    one = estimate_step("trajectories", "a", config, known_sizes(config), measured(own))
    assert one.seconds == 10 + 60_000 / 200 * (40 / 2 + 2)
    assert one.flops == 2 * PARAMETERS * 60_000
    assert one.money == pytest.approx(0.36 * 2 * one.seconds / 3600)
    assert (one.host_bytes, one.stored_bytes) == (500, 100 * 1000)
    assert one.sources["seconds"] == "probe"
    other = job(tmp_path, score={"statistics": ["loss", "el2n"]})
    assert estimate_step("trajectories", "a", other, known_sizes(other), measured(own)).seconds is None


def test_flops_are_counted_where_nothing_is_measured(tmp_path: Path) -> None:
    config = on_gpu(tmp_path)
    one = estimate_step("checkpoints", "a", config, known_sizes(config), measured())
    tokens = 2 * (1000 // 8) * 8 * 20
    assert one.flops == 6 * PARAMETERS * tokens
    assert one.seconds == pytest.approx(6 * PARAMETERS * tokens / 5e8)
    assert one.money == pytest.approx(3.6 * one.seconds / 3600)
    weights, activations = 16 * PARAMETERS, 8 * 50 * 100 * 34 * 2
    assert one.gpu_bytes == 2**30 + weights + activations + 3 * 4 * 8 * 50 * 1000
    assert one.gpu_fits
    assert one.stored_bytes == 3 * 4 * PARAMETERS  # step 0 and the ends of two epochs
    without = job(tmp_path)
    one = estimate_step("checkpoints", "a", without, known_sizes(without), measured())
    assert (one.seconds, one.gpu_bytes, one.money) == (None, None, None)


def test_an_unknown_pool_has_no_estimate(tmp_path: Path) -> None:
    config = on_gpu(tmp_path)
    for kind in ("dataset", "checkpoints", "trajectories", "clusters", "subset", "target", "evaluation"):
        one = estimate_step(kind, "a", config, known_sizes(config, PoolSize()), measured())
        assert one.seconds is None and one.money is None


def test_the_selection_has_paid_for_itself_after_the_trainings_that_save_its_cost(tmp_path: Path) -> None:
    assert trainings_until(10.0, 5.0, 2.0) == 4
    assert trainings_until(9.0, 5.0, 2.0) == 3
    assert trainings_until(9.0, 5.0, 5.0) is None
    assert trainings_until(None, 5.0, 2.0) is None
    config = on_gpu(tmp_path)
    # an epoch of the pool has 1,000 rows, one of the subset 100
    row = 6 * PARAMETERS * 20 / 5e8 * 3.6 / 3600
    found = payback(config, known_sizes(config), measured(), Cost(None, None, 100 * row), ())
    assert found is not None
    assert (found.unit, found.pool.money, found.subset.money) == (
        "money",
        pytest.approx(2000 * row),
        pytest.approx(200 * row),
    )
    assert found.trainings == math.ceil(100 / 1800) == 1


def test_a_subset_that_is_trained_on_as_long_never_pays(tmp_path: Path) -> None:
    config = on_gpu(tmp_path)
    target = config.target.model_copy(update={"compute": "same_steps"})
    config = config.model_copy(update={"target": target})
    found = payback(config, known_sizes(config), measured(), Cost(None, None, 1.0), ())
    assert found is not None and found.trainings is None and found.trainings_same_epochs is not None


def estimate_of(*steps: StepEstimate) -> JobEstimate:
    return with_sums(steps, ProbeRecord(ray_seconds=6.0), Prices(storage_gb_month=0.5), None)


def test_sums_are_known_where_every_part_is() -> None:
    steps = [StepEstimate("dataset", "a", seconds=30.0, money=1.0, stored_bytes=2e9), StepEstimate("subset", "b")]
    known, partly = estimate_of(steps[0]), estimate_of(*steps)
    assert (known.seconds, known.money, known.storage_month) == (36.0, 1.0, 1.0)
    assert (partly.seconds, partly.known_seconds, partly.money, partly.known_money) == (None, 36.0, None, 1.0)


def test_limits_refuse_what_exceeds_them_and_what_is_not_known() -> None:
    known = estimate_of(StepEstimate("dataset", "a", seconds=7194.0, money=5.0))
    check_limits(known, Limits(5.0, 2.0), "s2l probe job.yaml")
    with pytest.raises(ConfigError, match="max-cost"):
        check_limits(known, Limits(max_cost=4.99), "s2l probe job.yaml")
    with pytest.raises(ConfigError, match="max-hours"):
        check_limits(known, Limits(max_hours=1.9), "s2l probe job.yaml")
    with pytest.raises(ConfigError, match="not known for dataset"):
        check_limits(estimate_of(StepEstimate("dataset", "a")), Limits(max_cost=1e9), "s2l probe job.yaml")
    check_limits(estimate_of(), Limits(0.0, 0.0), "s2l probe job.yaml")


def test_prices_are_those_of_gpus_or_else_of_threads() -> None:
    prices = Prices(gpu_hour=2.0, cpu_hour=0.1)
    assert price(prices, 1800.0, 4, 0.5, 8) == 2.0
    assert price(prices, 3600.0, 3, 0.0, 2) == pytest.approx(0.6)
    assert price(prices, 3600.0, 3, None, 2) is None
    assert price(Prices(), 3600.0, 3, 1.0, 2) is None


def test_the_usage_of_a_stage_is_summed_over_its_pools() -> None:
    meter = UsageMeter()
    meter.add([Usage("a", 3.0, 100), Usage("b", 4.0, 300)])
    meter.add([Usage("c", 1.0, 200)])
    meter.add([Usage("d", 2.0, 250, alone=True)])
    assert meter.timings() == {"worker_seconds": 8.0, "workers": 2, "alone_seconds": 2.0, "peak_bytes": 300}


def test_a_record_keeps_the_newest_measurement_of_each_stage(tmp_path: Path) -> None:
    assert read_record(str(tmp_path)).measurements == ()
    first = replace(MEASUREMENT, key="one")
    add_to_record(str(tmp_path), ProbeRecord(measurements=(first, replace(first, key="two"))))
    again = replace(first, fixed_seconds=1.0)
    add_to_record(str(tmp_path), ProbeRecord(measurements=(again,), pools={"a": PoolSize(1, 1, 1, 0)}))
    record = read_record(str(tmp_path))
    assert record.find("trajectories", "one") == again
    assert record.find("trajectories", "two") == replace(first, key="two")
    assert record.pools == {"a": PoolSize(1, 1, 1, 0)}
