"""The text of a job file: values in YAML, each with a word on what it does.

In: the values of a job. Out: a commented YAML text that `job_reading.load_config` reads back to the same values.
"""

import json
from typing import Any

TEMPLATE = """\
# {title}
#
#   s2l plan {file}    what will be built, and what it takes
#   s2l run {file}     build it; after a break the same command goes on where it stopped
#
# What is built follows from every key but root, run, data.root and resources: change one, and only what stands on it is
# built again.

root: {root}    # artefacts go here: a folder, or s3://bucket/path
run: {run}    # the name of this job in `s2l ls`

data:
  root: {data_root}    # relative paths below start here
  sources:
{sources}
  tokenizer: {tokenizer}    # a hub id, a folder, or {{train: {{vocab_size: 2048}}}}
  max_length: {max_length}    # tokens; longer rows are cut on the right
  duplicates: drop    # or keep
  shard_size: {shard_size}    # rows to a file; the unit in which work is done, and done again
  limit: null    # 1% tries the whole way on a slice

# The small model whose losses are recorded. Its tokenizer is the one above.
proxy:
  model: {model}{model_note}
  epochs: {epochs}
  learning_rate: {learning_rate}
  batch_size: {batch_size}
  precision: {precision}    # float32, or bfloat16 on a GPU
  checkpoints: {checkpoints}    # also {{steps: 500}}, {{epoch_ends: true}}; before training there is always one

score: {{checkpoints: all, dtype: float32}}

# Rows whose losses move alike. group_by: source clusters inside each source, none the whole pool.
cluster: {{k: {k}, group_by: {group_by}}}

# method: s2l, random or source_balanced; budget: rows, or a share of the pool
select: {{method: {method}, budget: {budget}}}

# How fast, and never what: changing these rebuilds nothing.
resources:
  train: {{workers: 1, save_minutes: 5}}
  score: {{workers: auto}}
"""
RANDOM_NOTE = """
  # initialised at random; a pretrained one says more, such as EleutherAI/pythia-70m-deduped (as tokenizer, too)"""


def job_text(values: dict[str, Any], title: str, file: str) -> str:
    """The job file of these values (those of `init_job.job_values`)."""
    data, proxy = values["data"], values["proxy"]
    return TEMPLATE.format(
        title=title,
        file=file,
        root=_flow(values["root"]),
        run=_flow(values["run"]),
        data_root=_flow(data["root"]),
        sources="\n".join(f"    - {_flow(entry)}" for entry in data["sources"]),
        tokenizer=_flow(data["tokenizer"]),
        max_length=data["max_length"],
        shard_size=data["shard_size"],
        model=_flow(proxy["model"]),
        model_note=RANDOM_NOTE if isinstance(proxy["model"], dict) else "",
        **{name: _flow(proxy[name]) for name in ("epochs", "batch_size", "precision", "checkpoints", "learning_rate")},
        k=values["cluster"]["k"],
        group_by=values["cluster"]["group_by"],
        method=values["select"]["method"],
        budget=values["select"]["budget"],
    )


def _flow(value: Any) -> str:
    """A value as YAML in one line, with quotes only where they are needed."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(name)}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        # YAML takes 2e-5 for text and 2.0e-5 for a number
        return f"{value:.1e}".replace("e-0", "e-") if value < 1e-2 else repr(value)
    if isinstance(value, str) and _is_plain(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    """Whether YAML reads the bare text back as itself, also between braces."""
    import yaml

    marks = set(",[]{}#&*!|>'\"%@`:?")
    if not text or marks & set(text) or text != text.strip() or text.startswith("-"):
        return False
    return bool(yaml.safe_load(text) == text)
