"""Exceptions of workers as records and back."""

import pytest

from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.runtime.contracts import RemoteTask
from s2l_ray.runtime.failures import WorkerError, exception_from_failure, failure_from_exception

TASK = RemoteTask("trajectories", "scoring", "lower resources.score.tokens_per_batch")


@pytest.mark.parametrize("error", [DamagedError("a: damaged"), S2LError("b"), ValueError("c")])
def test_a_failure_keeps_class_message_and_traceback(error: Exception) -> None:
    try:
        raise error
    except Exception as raised:
        failure = failure_from_exception(raised, TASK)
    raised_again = exception_from_failure(failure)
    assert type(raised_again) is (type(error) if isinstance(error, S2LError) else WorkerError)
    assert str(error) in str(raised_again)
    assert "raise error" in failure.details


def test_out_of_memory_names_the_hint() -> None:
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")):
        failure = failure_from_exception(error, TASK)
        assert failure.out_of_memory and TASK.memory_hint in failure.message
        assert type(exception_from_failure(failure)) is S2LError
