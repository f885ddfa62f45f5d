"""The values of a report, against the manifests and tables that they come from."""

from collections import Counter

import numpy as np
import pytest

from s2l_ray.artifacts.facts import CheckpointsFacts
from s2l_ray.artifacts.schemas import TRAINING_TABLE
from s2l_ray.reporting.records.report import Report
from tests.support.report_store import STEPS, ReportStore, collected


@pytest.fixture(scope="module")
def report(store: ReportStore) -> Report:
    return collected(store.parts)


def test_the_account_of_rows_is_that_of_the_dataset(store: ReportStore, report: Report) -> None:
    counts = store.parts["dataset"].manifest.counts
    account = report.account
    assert (account.read, account.kept) == (counts.read, counts.kept)
    assert {one.reason: one.rows for one in account.rejections} == counts.rejected
    assert account.read == account.kept + sum(one.rows for one in account.rejections)


def test_the_summary_counts_rows_and_tokens(store: ReportStore, report: Report) -> None:
    lengths = store.parts["trajectories"].read_table(["target_tokens"])["target_tokens"].to_numpy()
    assert (report.summary.pool, report.summary.selected) == (len(store.pool), len(store.selected))
    assert report.summary.pool_tokens == lengths.sum()
    assert report.summary.selected_tokens == lengths[store.selected].sum()


def test_sources_are_counted_in_pool_and_subset(store: ReportStore, report: Report) -> None:
    found = {one.source: (one.pool, one.selected) for one in report.sources}
    pool = Counter(row.source for row in store.pool)
    selected = Counter(store.pool[row].source for row in store.selected)
    assert found == {name: (rows, selected[name]) for name, rows in pool.items()}


def test_the_histogram_holds_every_row(store: ReportStore, report: Report) -> None:
    assert report.lengths is not None
    assert sum(report.lengths.pool) == len(store.pool)
    assert sum(report.lengths.selected) == len(store.selected)
    assert np.all(np.diff(report.lengths.edges) > 0)


def test_the_proxy_is_drawn_from_its_tables(store: ReportStore, report: Report) -> None:
    training = store.parts["checkpoints"].read_file(TRAINING_TABLE)
    facts = store.parts["checkpoints"].facts(CheckpointsFacts)
    assert report.proxy is not None
    assert list(report.proxy.training_loss) == training["loss"].to_pylist()
    assert report.proxy.held_out_steps == STEPS
    assert report.proxy.held_out_loss == tuple(one.held_out_loss for one in facts.checkpoints)
    assert report.proxy.warning is None


def test_every_artifact_is_listed(store: ReportStore, report: Report) -> None:
    found = [(one.kind, one.fingerprint, one.rows) for one in report.stages]
    assert found == [(kind, one.manifest.fingerprint, one.manifest.counts.kept) for kind, one in store.parts.items()]
