"""Public names of s2l_ray.core: exported, lazy, and usable together."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import s2l_ray.core


def test_every_public_name_is_exported() -> None:
    for name in s2l_ray.core.__all__:
        assert getattr(s2l_ray.core, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        s2l_ray.core.no_such_name  # noqa: B018


def test_import_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, s2l_ray.core; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_selection_from_logits_to_rows() -> None:
    torch.manual_seed(0)
    labels_BL = torch.randint(20, (30, 8))
    losses = []
    for _ in range(3):
        nll_sum_B, tokens_B = s2l_ray.core.per_example_loss(torch.randn(30, 8, 20), labels_BL)
        losses.append((nll_sum_B / tokens_B).numpy())
    x_NT = np.stack(losses, axis=1)
    fit = s2l_ray.core.fit_kmeans(x_NT, 4, seed=0)
    labels_N, distance_N = s2l_ray.core.assign_clusters(x_NT, fit.centroids_KT)
    assert labels_N.shape == distance_N.shape == (30,)
    index_M = s2l_ray.core.balanced_sample(labels_N, 12, np.random.default_rng(0))
    assert len(set(index_M.tolist())) == 12
    assert s2l_ray.core.learning_percentage(x_NT, first=1, last=2).shape == (30,)
