"""Trainers that `s2l export --for` writes for: the form of their rows, and the files with which they read it.

A new trainer is one function and one row of TRAINERS.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import yaml

ROWS = "train.jsonl"
NAME = "s2l_subset"

Form = Literal["pairs", "messages", "original"]
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """The content of the files of a trainer. facts: of the selection, as names and values."""

    folder: str
    form: Form
    rows: int
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Trainer:
    """form: of the rows; None is messages where any row is a chat, else pairs. names, texts: of its files."""

    form: Form | None
    names: tuple[str, ...]
    texts: Callable[[Card], Texts]


def trl(card: Card) -> Texts:
    loss = "assistant_only_loss=True, " if card.form == "messages" else ""
    note = "  # needs a chat template with {% generation %}" if loss else "  # the loss is on completions only"
    script = f"""from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

rows = load_dataset("json", data_files={json.dumps(f"{card.folder}/{ROWS}")}, split="train")
settings = SFTConfig({loss}output_dir="trained"){note}
SFTTrainer(model="MODEL", args=settings, train_dataset=rows).train()
"""
    return (script,)


def axolotl(card: Card) -> Texts:
    kind: object = "chat_template"
    if card.form == "pairs":
        text = "{instruction}"
        fields = {"field_instruction": "prompt", "field_output": "completion"}
        kind = {**fields, "format": text, "no_input_format": text}
    entry = {"path": f"{card.folder}/{ROWS}", "ds_type": "json", "type": kind}
    if card.form == "messages":
        entry |= {"field_messages": "messages", "roles_to_train": ["assistant"], "train_on_eos": "turn"}
    return (yaml.safe_dump({"datasets": [entry], "train_on_inputs": False}, sort_keys=False),)


def llama_factory(card: Card) -> Texts:
    entry: dict[str, object] = {"file_name": ROWS, "columns": {"prompt": "prompt", "response": "completion"}}
    if card.form == "messages":
        roles = ("user", "assistant", "system")
        tags = {"role_tag": "role", "content_tag": "content", **{f"{role}_tag": role for role in roles}}
        entry = {"file_name": ROWS, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    lines = {"dataset_dir": card.folder, "dataset": NAME}
    return json.dumps({NAME: entry}, indent=2) + "\n", yaml.safe_dump(lines, sort_keys=False)


def open_instruct(card: Card) -> Texts:
    return (f"--dataset_mixer_list {card.folder}/{ROWS} 1.0\n",)


def hugging_face(card: Card) -> Texts:
    head = {"configs": [{"config_name": "default", "data_files": ROWS}], "tags": ["s2l_ray"]}
    lines = "\n".join(f"| {name} | {value} |" for name, value in card.facts.items())
    text = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# Selected rows\n\n"
    text += f"{card.rows:,} rows, selected with [s2l_ray](https://arxiv.org/abs/2403.07384).\n\n"
    return (f"{text}| | |\n|---|---|\n{lines}\n",)


TRAINERS = {
    "trl": Trainer(None, ("train.py",), trl),
    "axolotl": Trainer(None, ("axolotl.yaml",), axolotl),
    "llama-factory": Trainer(None, ("dataset_info.json", "llama_factory.yaml"), llama_factory),
    "open-instruct": Trainer("messages", ("arguments.txt",), open_instruct),
    "hf": Trainer("original", ("README.md",), hugging_face),
}
