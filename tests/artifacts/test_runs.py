"""The record of runs keeps every entry, also where several drivers append at once."""

from concurrent.futures import ThreadPoolExecutor

from s2l_ray.artifacts.runs import entries, last_entry, record_run


def test_entries_are_appended_and_repeated_ones_are_not(place: str) -> None:
    assert entries(place, "run") == [] and last_entry(place, "run") == {}
    for name in ("a", "a", "b", "a"):
        record_run(place, "run", {"dataset": name}, {"run": "run"})
    assert [entry["fingerprints"]["dataset"] for entry in entries(place, "run")] == ["a", "b", "a"]
    assert last_entry(place, "run") == {"dataset": "a"}


def test_no_entry_is_lost_where_many_append_at_once(place: str) -> None:
    names = [f"{number:012d}" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: record_run(place, "run", {"dataset": name}, {}), names))
    assert sorted(entry["fingerprints"]["dataset"] for entry in entries(place, "run")) == names
