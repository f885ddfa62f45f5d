"""explorer.parquet, read back by pandas."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.runs import record_run
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.plan import plan
from s2l_ray.reporting.report import report, report_of_run
from tests.support.jobs import small_job
from tests.support.local_build import build_locally
from tests.support.report_store import INJECTED, ReportStore


@pytest.fixture(scope="module")
def table(store: ReportStore, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("explorer") / "explorer.parquet"
    report(store.parts["subset"], explorer=str(path))
    return pd.read_parquet(path)


def test_it_holds_the_pool_in_order(store: ReportStore, table: pd.DataFrame) -> None:
    assert table["example_id"].tolist() == [row.example_id for row in store.pool]
    assert table["source"].tolist() == [row.source for row in store.pool]
    assert table["cluster"].tolist() == [row.cluster for row in store.pool]
    assert np.flatnonzero(table["selected"]).tolist() == store.selected
    assert np.array_equal(np.stack(table["trajectory"].tolist()), np.asarray([row.losses for row in store.pool], "f4"))


def test_texts_are_whole_without_the_template(table: pd.DataFrame) -> None:
    assert table["text"][3] == "What is 3 + 1?\n\nIt is 4."
    assert table["text"][7] == f"{INJECTED}\n\n{INJECTED}"
    assert table["line"].tolist() == list(range(1, len(table) + 1))


def test_flags_are_columns(store: ReportStore, table: pd.DataFrame) -> None:
    made = report(store.parts["subset"])
    for one in made.suspicions:
        assert table[one.flag].sum() == one.rows
        assert table.set_index("example_id")[one.flag][[row.example_id for row in one.worst]].all()


def test_coordinates_are_those_of_the_page(store: ReportStore, table: pd.DataFrame) -> None:
    maps = report(store.parts["subset"]).maps
    assert maps is not None
    rows = table.set_index("example_id").loc[list(maps.example_id)]
    for name in ("mean", "spread", "x", "y"):
        assert rows[name].to_numpy() == pytest.approx(getattr(maps, name), abs=1e-4)


def test_without_text_the_column_is_null(store: ReportStore, tmp_path: Path) -> None:
    report(store.parts["subset"], explorer=str(tmp_path / "rows.parquet"), text=False)
    assert pd.read_parquet(tmp_path / "rows.parquet")["text"].isna().all()


@pytest.mark.slow
def test_a_second_run_without_texts_leaves_none_in_the_folder_of_the_run(tmp_path: Path) -> None:
    config = load_config(small_job(tmp_path, rows=60, select={"method": "random"}))
    build_locally(config)
    planned = plan(config)
    record_run(config.root, config.run, planned.fingerprints, config.model_dump(mode="json"), planned.commits)
    written = Path(report_of_run(planned, built=True)).with_name("explorer.parquet")
    assert pq.read_table(written)["text"].null_count == 0
    report_of_run(planned, built=False, text=False)
    texts = pq.read_table(written)["text"]
    assert texts.null_count == len(texts) > 0
