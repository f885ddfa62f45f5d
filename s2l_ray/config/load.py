"""Reading a job: one YAML with overrides -> a checked `Config`.

In: a path and `--set KEY=VALUE` overrides, or plain values. Out: a frozen `Config`, or a `ConfigError` that names the
key and what to write instead, with the nearest known name for one that is unknown.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from s2l_ray.config.sections import Config, Section
from s2l_ray.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a job file. `overrides` are `section.key=value` with YAML values.

    Raises `ConfigError` naming the key and what to write instead.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `s2l init ROWS` writes a job file") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a job file is a mapping of sections; `s2l init ROWS` writes one")
    for override in overrides:
        _apply(values, override)
    return make_config(values, str(path))


def make_config(values: dict[str, Any], place: str) -> Config:
    """A checked config from plain values; `place` names them in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [_problem(one) for one in error.errors()]
        raise ConfigError(f"{place}: " + "\n  ".join(dict.fromkeys(problems))) from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write KEY=VALUE, e.g. --set select.budget=30000")
    *sections, last = key.split(".")
    place: Any = values
    for section in sections:
        if isinstance(place, list) and section.isdigit() and int(section) < len(place):
            place = place[int(section)]
        elif isinstance(place, dict):
            place = place.setdefault(section, {})
        else:
            raise ConfigError(f"--set {override}: {section} has no keys below it")
    value = _yaml_value(text, override)
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"--set {override}: {'.'.join(sections)} is no section")


def _yaml_value(text: str, override: str) -> object:
    try:
        value = yaml.safe_load(text)
        # YAML 1.1 takes 2e-5 for text
        return float(value) if isinstance(value, str) and _is_number(value) else value
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(error["loc"][-1]), known_keys(error["loc"][:-1]), 1, 0.5)
        known = ", ".join(known_keys(error["loc"][:-1]))
        return f"{place}: unknown key; " + (f"did you mean {nearest[0]}?" if nearest else f"the keys here are {known}")
    if error["type"] == "missing":
        return f"{place}: missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" + ("" if isinstance(error["input"], dict | list) else f" (it is {error['input']!r})")


def known_keys(place: Iterable[object]) -> list[str]:
    """The keys that a section knows, by its place in the job file, e.g. ("resources", "score")."""
    model: Any = Config
    for part in place:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((one for one in options if isinstance(one, type) and issubclass(one, Section)), model)
    return list(getattr(model, "model_fields", {}))
