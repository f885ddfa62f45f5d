"""Histories of runs keep every entry, also where several drivers append at the same time."""

import calendar
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import unseal
from s2l_ray.artifacts.runs import (
    HISTORY,
    PLAN,
    last_fingerprints,
    named_by_any_run,
    read_history,
    record_run,
    run_names,
    write_plan,
)
from s2l_ray.errors import DamagedError

# waits for a line, so that two of these start at the same time
DRIVER = """
import sys
from s2l_ray.artifacts.runs import record_run
root, driver, number = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for entry in range(int(number)):
    print(record_run(root, "small", {"dataset": f"{driver}-{entry}"}, {}).started)
"""


def test_entries_are_appended_and_read_back(place: str) -> None:
    assert read_history(place, "small") == [] and last_fingerprints(place, "small") == {}
    before = calendar.timegm(time.gmtime())
    written = [record_run(place, "small", {"dataset": name}, {"run": "small"}) for name in ("a", "b", "a")]
    assert read_history(place, "small") == written
    assert [entry.fingerprints["dataset"] for entry in written] == ["a", "b", "a"]
    assert {entry.config["run"] for entry in written} == {"small"}
    assert last_fingerprints(place, "small") == {"dataset": "a"}
    for entry in written:
        started = calendar.timegm(time.strptime(entry.started.partition("-")[0], "%Y%m%dT%H%M%SZ"))
        assert before - 1 <= started <= before + 60


def test_runs_of_one_second_have_names_of_their_own(place: str) -> None:
    started = [record_run(place, "small", {}, {}).started for _ in range(5)]
    assert len(set(started)) == 5


def test_the_fingerprints_of_every_entry_of_every_run_are_named(place: str) -> None:
    assert named_by_any_run(place) == set()
    record_run(place, "small", {"dataset": "a", "clusters": "b"}, {})
    record_run(place, "small", {"dataset": "c"}, {})
    record_run(place, "large", {"dataset": "d"}, {})
    assert run_names(place) == ["large", "small"]
    assert named_by_any_run(place) == {"a", "b", "c", "d"}


def test_the_plan_of_a_run_is_stored_in_its_folder(place: str) -> None:
    started = record_run(place, "small", {"dataset": "a"}, {}).started
    write_plan(place, "small", started, {"steps": [{"kind": "dataset"}]})
    uri = storage.join(place, "runs", "small", started, PLAN)
    assert unseal(storage.read_bytes(uri), uri) == {"steps": [{"kind": "dataset"}]}
    assert len(read_history(place, "small")) == 1


def test_a_damaged_history_is_an_error_and_is_not_overwritten(place: str) -> None:
    record_run(place, "small", {"dataset": "a"}, {})
    uri = f"{place}/runs/small/{HISTORY}"
    data = storage.read_bytes(uri).replace(b'"a"', b'"b"')
    storage.write_bytes(uri, data)
    for use in (read_history, last_fingerprints):
        with pytest.raises(DamagedError, match=r"runs/small/history\.json"):
            use(place, "small")
    with pytest.raises(DamagedError):
        named_by_any_run(place)
    with pytest.raises(DamagedError):
        record_run(place, "small", {"dataset": "c"}, {})
    assert storage.read_bytes(uri) == data


def test_no_entry_of_concurrent_threads_is_lost(place: str) -> None:
    names = [f"{number:012d}" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: record_run(place, "small", {"dataset": name}, {}), names))
    history = read_history(place, "small")
    assert sorted(entry.fingerprints["dataset"] for entry in history) == names
    assert len({entry.started for entry in history}) == len(names)


@pytest.mark.parametrize("store", ["disk", "s3"])
def test_two_drivers_that_append_concurrently_lose_no_entry(
    store: str, tmp_path: object, request: pytest.FixtureRequest
) -> None:
    root = f"{tmp_path}/store" if store == "disk" else str(request.getfixturevalue(store))
    number = 10
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, root, driver, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for driver in ("first", "second")
    ]
    try:
        for driver in drivers:
            assert driver.stdout is not None and driver.stdout.readline() == "ready\n"
        for driver in drivers:
            assert driver.stdin is not None
            driver.stdin.write("\n")
            driver.stdin.flush()
        started = [driver.communicate(timeout=60)[0].split() for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
            driver.wait()
    history = read_history(root, "small")
    names = [entry.fingerprints["dataset"] for entry in history]
    for driver, own in zip(("first", "second"), started, strict=True):
        assert [name for name in names if name.startswith(driver)] == [f"{driver}-{entry}" for entry in range(number)]
        assert len(own) == number
    assert sorted(entry.started for entry in history) == sorted([*started[0], *started[1]])
    assert len({entry.started for entry in history}) == 2 * number
