"""The connection to Ray: what `auto` resolves to, and a failed start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2l_ray.errors import ConfigError
from s2l_ray.runtime.contracts import Cluster
from s2l_ray.runtime.session import accelerator_of

CHECKOUT = Path(__file__).parents[2]
START = "from s2l_ray.runtime.session import connect\nwith connect():\n    pass"


def test_auto_is_refused_on_an_autoscaling_cluster_without_gpus() -> None:
    key = "resources.train.gpus"
    cold, warm, fixed = (Cluster(False, 1, 0, gpus, 4, grows) for gpus, grows in ((0, True), (2, True), (0, False)))
    with pytest.raises(ConfigError, match=r"write resources\.train\.gpus: 1 .* or resources\.train\.gpus: 0"):
        cold.gpus_each("auto", key)
    assert [cold.gpus_each(0.5, key), warm.gpus_each("auto", key), fixed.gpus_each("auto", key)] == [0.5, 1, 0]


def test_the_accelerator_of_a_cluster_is_known_if_it_has_one_type() -> None:
    head, h100, l4 = {"CPU": 4.0}, {"GPU": 8.0, "accelerator_type:H100": 1.0}, {"accelerator_type:L4": 1.0}
    assert [accelerator_of(nodes) for nodes in ([head], [head, h100, h100], [h100, l4])] == ["", "H100", ""]


def test_a_temporary_folder_too_long_for_sockets_is_named(tmp_path: Path) -> None:
    """In a process of its own, since the tests' process is connected."""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RAY_ADDRESS": "", "TMPDIR": str(folder)}
    command = [sys.executable, "-c", START]
    message = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment).stderr
    assert "S2LError" in message
    assert f"TMPDIR={folder}; set TMPDIR to a short path such as /tmp" in message
