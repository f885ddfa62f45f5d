"""Job files: YAML and `--set` overrides, validated as a frozen `Config`."""

import contextlib
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from s2l_ray.config.sections import Config
from s2l_ray.config.types import Section
from s2l_ray.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a job file and apply `overrides` of the form `section.key=value`, with YAML values.

    Raises `ConfigError`, naming the key and what to write instead.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `s2l init ROWS` writes a job file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a mapping of sections; `s2l init ROWS` writes a job file")
    for override in overrides:
        _apply(values, override)
    return make_config(values, str(path))


def make_config(values: dict[str, Any], origin: str) -> Config:
    """Validate plain values. Raises `ConfigError`, whose message begins with `origin`."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        descriptions = [_describe(details) for details in error.errors()]
        raise ConfigError(f"{origin}: " + "\n  ".join(dict.fromkeys(descriptions))) from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write KEY=VALUE, e.g. --set select.budget=30000")
    *sections, last = key.split(".")
    parent: Any = values
    for depth, section in enumerate(sections):
        position = _position(parent, section, sections[:depth], override)
        parent = parent.setdefault(position, {}) if isinstance(parent, dict) else parent[position]
    parent[_position(parent, last, sections, override)] = _yaml_value(text, override)


def _position(parent: object, name: str, path: list[str], override: str) -> str | int:
    """The key of a mapping, or the index of an item of a list, that `name` means below `path`."""
    if isinstance(parent, dict):
        return name
    if isinstance(parent, list) and name.isdigit() and int(name) < len(parent):
        return int(name)
    raise ConfigError(f"--set {override}: {'.'.join(path)} has no key {name}")


def _yaml_value(text: str, override: str) -> object:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    if isinstance(value, str):  # in YAML 1.1, 2e-5 is a string
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _describe(error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        *section, unknown = error["loc"]
        known = known_keys(section)
        nearest = difflib.get_close_matches(str(unknown), known, 1, 0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"the keys here are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" + ("" if isinstance(error["input"], dict | list) else f" (it is {error['input']!r})")


def known_keys(path: Iterable[object]) -> list[str]:
    """Keys of a section, by its path in the job file, e.g. ("resources", "score")."""
    model: type[Section] = Config
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # an index of a list
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((one for one in options if isinstance(one, type) and issubclass(one, Section)), model)
    return model.keys()
