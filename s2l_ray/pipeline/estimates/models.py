"""Shapes of the models that a job names, read from local files or stated in the job, without torch."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config, TokenizerToTrain
from s2l_ray.core.model_shape import ModelShape, shape_of_config
from s2l_ray.errors import ConfigError

Model = str | dict[str, Any] | None


def model_shape(config: Config, model: Model, key: str) -> ModelShape | None:
    """The shape of a model: of a local folder, of config fields, or stated in `estimate.models`."""
    if isinstance(model, dict):
        tokenizer = config.data.tokenizer
        return shape_of_config(model, tokenizer.train.vocab_size if isinstance(tokenizer, TokenizerToTrain) else None)
    folder = local_folder(config, model, key) if model is not None else None
    if folder is None:
        size = config.estimate.models.get(model or "")
        return None if size is None else ModelShape(**size.model_dump())
    return _shape_of_folder(folder, key)


def config_fields(folder: Path, key: str) -> dict[str, Any]:
    """The fields of `config.json` in the folder of a model."""
    try:
        fields: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key}: {folder} has no readable config.json; write the folder of a transformers model, or a hub id"
        ) from error
    return fields


def _shape_of_folder(folder: Path, key: str) -> ModelShape | None:
    """The parameters of the stored weights, if there are any, and the sizes that the config states."""
    shape, stored = shape_of_config(config_fields(folder, key)), sum(map(_parameters_in, folder.glob("*.safetensors")))
    return replace(shape or ModelShape(0), parameters=stored) if stored else shape


def _parameters_in(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="np") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
