"""Job files: YAML and `--set` overrides, validated as a frozen `Config`."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from s2l_ray.config.sections import Config
from s2l_ray.config.types import Section, is_tag
from s2l_ray.errors import ConfigError

S = TypeVar("S", bound=Section)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a job file and apply `overrides` of the form `section.key=value`, with YAML values.

    Raises `ConfigError`, naming the key and what to write instead.
    """
    values = load_values(path, overrides)
    if "job" in values and "arms" in values:
        raise ConfigError(
            f"{path}: an experiment, which plan, run and compare take; give its job, {values['job']}",
            page="docs/experiments.md#experiments",
        )
    return make_config(values, str(path))


def load_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a YAML file, with overrides, not validated. Raises `ConfigError` if it is not a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; `s2l init ROWS` writes a job file", page="docs/start.md#your-own-rows"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a mapping of sections; `s2l init ROWS` writes a job file")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override}: write KEY=VALUE, e.g. --set select.budget=30000")
        set_key(values, key, _yaml_value(text, override), f"--set {override}")
    return values


def make_config(values: dict[str, Any], origin: str) -> Config:
    """Validate plain values. Raises `ConfigError`, whose message begins with `origin`."""
    return validated(Config, values, origin)


def validated(section: type[S], values: dict[str, Any], origin: str) -> S:
    """The section of plain values. Raises `ConfigError`, whose message begins with `origin`."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        descriptions = [_describe(details, section) for details in error.errors()]
        page = _page_of(section, error.errors()[0]["loc"])
        raise ConfigError(f"{origin}: " + "\n  ".join(dict.fromkeys(descriptions)), page=page) from None


def set_key(values: dict[str, Any], key: str, value: object, origin: str) -> None:
    """Set a dotted key, in place. Raises `ConfigError`, whose message begins with `origin`, for a key of no mapping."""
    *sections, last = key.split(".")
    parent: Any = values
    for depth, section in enumerate(sections):
        position = _position(parent, section, sections[:depth], origin)
        parent = parent.setdefault(position, {}) if isinstance(parent, dict) else parent[position]
    parent[_position(parent, last, sections, origin)] = value


def _position(parent: object, name: str, path: list[str], origin: str) -> str | int:
    """The key of a mapping, or the index of an item of a list, that `name` means below `path`."""
    if isinstance(parent, dict):
        return name
    if isinstance(parent, list) and name.isdigit() and int(name) < len(parent):
        return int(name)
    raise ConfigError(f"{origin}: {'.'.join(path)} has no key {name}")


def _yaml_value(text: str, override: str) -> object:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    if isinstance(value, str):  # in YAML 1.1, 2e-5 is a string
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _describe(error: ErrorDetails, section: type[Section]) -> str:
    key = ".".join(str(part) for part in error["loc"] if not is_tag(part))
    if error["type"] == "extra_forbidden":
        *path, unknown = error["loc"]
        known = known_keys(path, section)
        nearest = difflib.get_close_matches(str(unknown), known, 1, 0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"the keys here are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" + ("" if isinstance(error["input"], dict | list) else f" (it is {error['input']!r})")


def _page_of(section: type[Section], location: Sequence[object]) -> str:
    """The part of the documentation that lists the keys of an invalid section."""
    if section is not Config:
        return "docs/experiments.md#experiments"
    field = Config.model_fields.get(str(location[0])) if location else None
    described = field is not None and any(_sections_in(field.annotation))
    return f"docs/job.md#{location[0]}" if described and location else "docs/job.md"


def known_keys(path: Iterable[object], section: type[Section] = Config) -> list[str]:
    """Keys of a section, by its path below another, e.g. ("resources", "score") in the job file."""
    model = section
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # an index of a list
        model = next(_sections_in(field.annotation), model)
    return model.keys()


def _sections_in(annotation: object) -> Iterator[type[Section]]:
    """The sections that a type admits, also in lists and alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)
