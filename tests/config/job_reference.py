"""Write docs/job.md anew from the config classes: `python -m tests.config.job_reference`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from s2l_ray.config.sections import Config

PAGE = Path(__file__).parents[2] / "docs" / "job.md"
HEAD = """# Job file

Every key of a job file, written from the config classes by `python -m tests.config.job_reference`. A key without a
default is required. The [README](../README.md#job-file) has an example, [docs/methods.md](methods.md) the keys of each
selection method, and [docs/experiments.md](experiments.md) the keys of an experiment.

*Rebuilds* names the artifact whose fingerprint the key decides; what is made from that artifact is rebuilt with it.
Files
count by their content and not by their path. Keys that rebuild nothing can be changed between a run and its resume.
"""
# The artifact that the keys of a section decide.
KINDS = {
    "data": "dataset",
    "embed": "embeddings",
    "proxy": "checkpoints",
    "score": "trajectories",
    "cluster": "clusters",
    "select": "subset",
    "target": "target",
    "evaluate": "evaluation",
}
ADDRESSES = {"root", "run", "data.root"}
# Keys that their section does not describe.
OTHER_KINDS = {
    "proxy.train_on": "task",
    "target.tokenizer": "target_dataset",
    "target.tokenizer_revision": "target_dataset",
}
OTHER_TYPES = {"proxy.checkpoints_from": "list of `{step, path}` or `{step, hub, revision}`, or text"}

Schema = Mapping[str, Any]


def page() -> str:
    """The whole page."""
    schema = Config.model_json_schema(by_alias=True)
    definitions: Schema = schema["$defs"]
    top = {name: value for name, value in schema["properties"].items() if _section(value, definitions) is None}
    parts = [HEAD, *_table("", {"properties": top, "required": schema["required"]}, definitions)]
    for name, value in schema["properties"].items():
        section = _section(value, definitions)
        if section is not None:
            parts += _section_parts(name, section, definitions)
    return "\n".join(parts).rstrip() + "\n"


def _section_parts(name: str, section: Schema, definitions: Schema) -> Iterator[str]:
    """Heading, description and table of a section, then those of the sections inside it."""
    yield f"{'#' * min(4, name.count('.') + 2)} {name}\n"
    yield section["description"] + "\n"
    yield from _table(name, section, definitions)
    for key, value in section["properties"].items():
        for form in _sections_in(value, definitions):
            yield from _section_parts(f"{name}.{key}", form, definitions)


def _table(name: str, section: Schema, definitions: Schema) -> Iterator[str]:
    yield "| key | value | default | rebuilds |\n|---|---|---|---|"
    for key, value in section["properties"].items():
        dotted = f"{name}.{key}" if name else key
        default = "" if key in section.get("required", ()) else _default(value)
        form = OTHER_TYPES.get(dotted) or _type(value, definitions)
        yield f"| `{key}` | {form} | {default} | {_kind(dotted)} |"
    yield ""


def _kind(dotted: str) -> str:
    """The artifact that a key decides."""
    if dotted in ADDRESSES:
        return "-"
    other = next((kind for key, kind in OTHER_KINDS.items() if dotted.startswith(key)), None)
    return other or KINDS.get(dotted.partition(".")[0], "-")


def _default(value: Schema) -> str:
    default = value.get("default")
    return "none" if default is None else "its defaults" if isinstance(default, dict) and default else _code(default)


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(value: Schema, definitions: Schema) -> str:
    """A JSON schema in words."""
    if "$ref" in value:
        return "section" if "properties" in _resolved(value, definitions) else _type(_resolved(value, definitions), {})
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(one, definitions) for one in value["anyOf"] if one != {"type": "null"}))
    if "enum" in value or "const" in value:
        return " or ".join(_code(one) for one in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value['items'], definitions)}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"names to {_type(inner, definitions)}" if isinstance(inner, dict) else "mapping"
    return {"string": "text", "boolean": "true or false"}.get(value.get("type", ""), _number(value))


def _number(value: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {value[name]}" for name, sign in signs.items() if name in value]
    return " ".join([value.get("type", "any value"), ", ".join(bounds)]).strip()


def _sections_in(value: Schema, definitions: Schema) -> Iterator[Schema]:
    """The sections that a value can be, or that a list of it holds."""
    for one in value.get("anyOf", [value]):
        section = _section(one.get("items", one) if isinstance(one.get("items", one), dict) else one, definitions)
        if section is not None:
            yield section


def _section(value: Schema, definitions: Schema) -> Schema | None:
    found = _resolved(value, definitions)
    return found if "properties" in found else None


def _resolved(value: Schema, definitions: Schema) -> Schema:
    definition: Schema = definitions[value["$ref"].rpartition("/")[2]] if "$ref" in value else value
    return definition


if __name__ == "__main__":
    PAGE.write_text(page())
