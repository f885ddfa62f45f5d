"""Models in the workers of stages: their device, and a checkpoint that a training stored."""

from typing import TYPE_CHECKING

from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.errors import S2LError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def device_of(gpus: float) -> str:
    import torch

    return "cuda" if gpus and torch.cuda.is_available() else "cpu"


def load_checkpoint(
    dataset: Artifact, checkpoints: Artifact, step: int, dtype: str, device: str, cache_bytes: int
) -> "PreTrainedModel":
    """The model of a step. Raises `S2LError` if it has no embedding or position for some row of the dataset."""
    from s2l_ray.core.causal_lm import check_model_fits, load_model
    from s2l_ray.core.scoring.losses import DTYPES

    with checkpoints.hold(f"{step_name(step)}/", cache_bytes) as local:
        model = load_model(local / step_name(step), dtype=DTYPES[dtype], device=device)
    facts = dataset.facts(DatasetFacts)
    try:
        check_model_fits(model, facts.vocab_size, facts.longest)
    except ValueError as error:
        raise S2LError(f"{checkpoints.uri}: {error}") from error
    return model
