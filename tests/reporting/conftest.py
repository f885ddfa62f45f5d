"""The artifacts of one job, shared by the tests of reports."""

import pytest

from tests.support.report_store import ReportStore, write_report_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ReportStore:
    return write_report_store(tmp_path_factory.mktemp("report"))
