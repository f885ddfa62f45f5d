"""The text of a job file: commented YAML that `load_config` reads back as the same values."""

import functools
import math
from typing import Any

import yaml

TEMPLATE = """\
# {title}
#
#   s2l plan {file}    show what will be built
#   s2l run {file} --set data.limit=1% --set run=trial    try it on 1 % of the rows
#   s2l run {file}     build it; after an interruption, the same command resumes
#
# Every key but root, run, data.root and resources is part of the identity of the artifacts: changing it rebuilds the
# artifacts that depend on it, and no others.

root: {root}    # folder of the artifacts, or s3://bucket/path
run: {run}    # name of this job in `s2l ls`

data:
  root: {data[root]}    # relative paths below are relative to this folder
  sources:
{sources}
  tokenizer: {data[tokenizer]}    # a hub id, a folder, or {{train: {{vocab_size: 2048}}}}
{date}  max_length: {data[max_length]}    # tokens; longer rows are truncated on the right
  duplicates: drop    # or keep
  shard_size: {data[shard_size]}    # rows per file, the unit of work
  held_out: null    # e.g. {{per_source: 200}}: rows for the held-out loss, never trained on and never selected
  limit: null    # e.g. 1%, to try the job on a sample

# The small model whose losses are recorded. It uses the tokenizer above.
proxy:
  model: {proxy[model]}{model_note}
  epochs: {proxy[epochs]}
  learning_rate: {proxy[learning_rate]}
  batch_size: {proxy[batch_size]}
  precision: {proxy[precision]}    # float32, or bfloat16 on a GPU
  checkpoints: {proxy[checkpoints]}    # or {{steps: 500}}, {{epoch_ends: true}}; step 0 is always saved

score: {{checkpoints: all, dtype: float32}}

# Clusters of rows with similar loss trajectories. group_by: source clusters each source by itself, none the whole pool.
cluster: {{k: {cluster[k]}, group_by: {cluster[group_by]}}}

# method: s2l, random or source_balanced; budget: a number of rows, or a percentage of the pool
select: {{method: {select[method]}, budget: {select[budget]}}}

# Resources affect speed only: changing them rebuilds nothing.
resources:
  train: {{workers: 1, save_minutes: 5}}
  score: {{workers: auto}}
"""
DATE = """\
  date: {}    # the only date that the chat template sees
  chat: auto    # whole: a chat is one example; per_answer: each answer is one, with the turns before it
"""
RANDOM_NOTE = """
  # randomly initialised; a pretrained model is better, e.g. EleutherAI/pythia-70m-deduped (also as tokenizer)"""


def job_text(values: dict[str, Any], title: str, file: str) -> str:
    """Text of a job file. values: from `infer.job_values`. file: its path, for the commands in the first comment."""
    quoted = {
        name: {key: _yaml_inline(inner) for key, inner in value.items()}
        if isinstance(value, dict)
        else _yaml_inline(value)
        for name, value in values.items()
    }
    return TEMPLATE.format(
        title=title,
        file=file,
        sources="\n".join(f"    - {_yaml_inline(entry)}" for entry in values["data"]["sources"]),
        date=DATE.format(values["data"]["date"]) if "date" in values["data"] else "",
        model_note=RANDOM_NOTE if isinstance(values["proxy"]["model"], dict) else "",
        **quoted,
    )


def _yaml_inline(value: object) -> str:
    """A value as YAML on one line, quoted only where necessary."""
    flow = functools.partial(
        yaml.safe_dump, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    text = str(flow([value])).strip()
    return (text if text.isprintable() else str(flow([value], default_style='"')).strip())[1:-1]
