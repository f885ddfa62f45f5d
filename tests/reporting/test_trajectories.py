"""Clusters, maps and suspicious rows of a report, against the tables they are drawn from."""

import numpy as np
import pytest

from s2l_ray.reporting.pool import read_columns
from s2l_ray.reporting.records.report import Report
from s2l_ray.reporting.trajectories import flag_rows
from tests.support.report_store import CLUSTERS, STEPS, ReportStore, collected


@pytest.fixture(scope="module")
def report(store: ReportStore) -> Report:
    return collected(store.parts)


def losses(store: ReportStore) -> np.ndarray:
    return np.asarray([row.losses for row in store.pool], np.float32)


def test_clusters_have_their_rows_and_quantiles(store: ReportStore, report: Report) -> None:
    assert report.clusters is not None
    assert (report.clusters.total, report.clusters.steps) == (CLUSTERS, STEPS)
    for one in report.clusters.shown:
        rows = [number for number, row in enumerate(store.pool) if row.cluster == one.cluster]
        assert (one.rows, one.selected) == (len(rows), len(set(rows) & set(store.selected)))
        expected = np.quantile(losses(store)[rows], [0.1, 0.5, 0.9], axis=0)
        assert np.asarray([one.low, one.median, one.high]) == pytest.approx(expected, abs=1e-4)


def test_rows_of_a_cluster_name_their_file_and_line(store: ReportStore, report: Report) -> None:
    assert report.clusters is not None
    ids = [row.example_id for row in store.pool]
    for one in report.clusters.shown:
        for row in (*one.typical, *one.atypical):
            number = ids.index(row.example_id)
            assert (row.file, row.line, row.cluster) == ("rows.jsonl", number + 1, one.cluster)
            assert row.selected == (number in store.selected)


def test_maps_show_mean_and_spread_of_trained_checkpoints(store: ReportStore, report: Report) -> None:
    assert report.maps is not None
    ids = [row.example_id for row in store.pool]
    rows = [ids.index(one) for one in report.maps.example_id]
    trained = losses(store)[rows][:, 1:]
    assert len(rows) == len(store.pool)
    assert report.maps.mean == pytest.approx(trained.mean(axis=1), abs=1e-4)
    assert report.maps.spread == pytest.approx(trained.std(axis=1), abs=1e-4)
    assert [row in store.selected for row in rows] == list(report.maps.selected)


def test_suspicious_rows_come_first(store: ReportStore, report: Report) -> None:
    worst = {one.flag: [row.example_id for row in one.worst] for one in report.suspicions}
    assert worst["never_learned"][0] == store.pool[5].example_id
    assert worst["rising_loss"] == [store.pool[9].example_id]
    assert all(one.rows >= len(one.worst) for one in report.suspicions)


def test_without_text_no_row_has_one(store: ReportStore) -> None:
    report = collected(store.parts, text=False)
    assert report.clusters is not None
    assert all(one.title == () for one in report.clusters.shown)
    shown = [row for one in report.clusters.shown for row in (*one.typical, *one.atypical)]
    shown += [row for one in report.suspicions for row in one.worst]
    assert {(row.prompt, row.response) for row in shown} == {(None, None)}


def test_a_subset_of_the_dataset_alone_has_no_trajectories(store: ReportStore) -> None:
    report = collected({"dataset": store.parts["dataset"]})
    assert (report.clusters, report.maps, report.suspicions) == (None, None, ())
    assert report.summary.selected is None


def test_near_duplicates_differ_in_digits_alone(store: ReportStore) -> None:
    flagged = flag_rows(read_columns(store.parts))["near_duplicate"].mask_N
    assert not flagged[7], "the only row with its text"
    means = losses(store)[:, 1:].mean(axis=1)
    for row in range(20):
        others = [other for other in range(len(means)) if other not in (row, 7)]
        nearest = np.abs(means[others] - means[row]).min()
        if nearest < 0.04 * means[row]:
            assert row == 7 or flagged[row]
