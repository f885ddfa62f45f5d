"""The text of a job file: commented YAML that `load_config` reads back as the same values."""

import json
from typing import Any

import yaml

TEMPLATE = """\
# {title}
#
#   s2l plan {file}    show what will be built, with an estimate of time and memory
#   s2l run {file}     build it; after an interruption, the same command resumes
#
# Every key but root, run, data.root and resources is part of the identity of the artifacts: changing it rebuilds the
# artifacts that depend on it, and no others.

root: {root}    # folder of the artifacts, or s3://bucket/path
run: {run}    # name of this job in `s2l ls`

data:
  root: {data_root}    # relative paths below are relative to this folder
  sources:
{sources}
  tokenizer: {tokenizer}    # a hub id, a folder, or {{train: {{vocab_size: 2048}}}}
  max_length: {max_length}    # tokens; longer rows are truncated on the right
  duplicates: drop    # or keep
  shard_size: {shard_size}    # rows per file, the unit of work
  limit: null    # e.g. 1%, to try the job on a sample

# The small model whose losses are recorded. It uses the tokenizer above.
proxy:
  model: {model}{model_note}
  epochs: {epochs}
  learning_rate: {learning_rate}
  batch_size: {batch_size}
  precision: {precision}    # float32, or bfloat16 on a GPU
  checkpoints: {checkpoints}    # or {{steps: 500}}, {{epoch_ends: true}}; step 0 is always saved

score: {{checkpoints: all, dtype: float32}}

# Clusters of rows with similar loss trajectories. group_by: source clusters each source by itself, none the whole pool.
cluster: {{k: {k}, group_by: {group_by}}}

# method: s2l, random or source_balanced; budget: a number of rows, or a percentage of the pool
select: {{method: {method}, budget: {budget}}}

# Resources affect speed only: changing them rebuilds nothing.
resources:
  train: {{workers: 1, save_minutes: 5}}
  score: {{workers: auto}}
"""
RANDOM_NOTE = """
  # randomly initialised; a pretrained model is better, e.g. EleutherAI/pythia-70m-deduped (also as tokenizer)"""


def job_text(values: dict[str, Any], title: str, file: str) -> str:
    """Text of a job file. values: from `infer.job_values`. file: its path, for the commands in the first comment."""
    data, proxy = values["data"], values["proxy"]
    return TEMPLATE.format(
        title=title,
        file=file,
        root=_yaml_inline(values["root"]),
        run=_yaml_inline(values["run"]),
        data_root=_yaml_inline(data["root"]),
        sources="\n".join(f"    - {_yaml_inline(entry)}" for entry in data["sources"]),
        tokenizer=_yaml_inline(data["tokenizer"]),
        max_length=data["max_length"],
        shard_size=data["shard_size"],
        model=_yaml_inline(proxy["model"]),
        model_note=RANDOM_NOTE if isinstance(proxy["model"], dict) else "",
        epochs=proxy["epochs"],
        learning_rate=_yaml_inline(proxy["learning_rate"]),
        batch_size=proxy["batch_size"],
        precision=proxy["precision"],
        checkpoints=_yaml_inline(proxy["checkpoints"]),
        k=values["cluster"]["k"],
        group_by=values["cluster"]["group_by"],
        method=values["select"]["method"],
        budget=values["select"]["budget"],
    )


def _yaml_inline(value: Any) -> str:
    """A value as YAML on one line, quoted only where necessary."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml_inline(name)}: {_yaml_inline(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml_inline, value)) + "]"
    if isinstance(value, float):
        # In YAML 1.1, 2e-5 is a string and 2.0e-5 a number.
        return f"{value:.1e}".replace("e-0", "e-") if value < 1e-2 else repr(value)
    if isinstance(value, str):
        return value if _needs_no_quotes(value) else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    return str(yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)).strip()


def _needs_no_quotes(text: str) -> bool:
    """Whether YAML reads the unquoted text as the same string, also between braces."""
    marks = set(",[]{}#&*!|>'\"%@`:?")
    if not text.isprintable() or marks & set(text) or text != text.strip() or text.startswith("-"):
        return False
    return bool(yaml.safe_load(text) == text)
