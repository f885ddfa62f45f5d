"""Arguments and options of the commands, with their help texts."""

from typing import Annotated, Literal

import typer

from s2l_ray.artifacts.provenance import libraries
from s2l_ray.terminal.console import stdout_console


def _show_version(wanted: bool) -> None:
    if wanted:
        version = libraries().get("s2l_ray", "(source tree, not installed)")
        stdout_console().print(f"s2l_ray {version}")
        raise typer.Exit


def _kinds() -> list[str]:
    """Kinds of artifacts, for shell completion."""
    from s2l_ray.artifacts.schemas import KINDS

    return list(KINDS)


def _trainers() -> list[str]:
    """Trainers of --for, for shell completion."""
    from s2l_ray.catalog.export.trainers import TRAINERS

    return list(TRAINERS)


Job = Annotated[str, typer.Argument(metavar="JOB", help="The job file or experiment file (YAML).")]
Targets = Annotated[
    list[str], typer.Argument(metavar="A B ...", help="URIs of artifacts, job files, or one experiment file.")
]
Rows = Annotated[
    str, typer.Argument(metavar="ROWS", help="A file, a folder, or hub:ID for a data set on the Hugging Face hub.")
]
Root = Annotated[str, typer.Argument(metavar="ROOT", help="The root of one or more jobs: a folder or URI.")]
ArtifactUri = Annotated[str, typer.Argument(metavar="URI", help="URI of an artifact: ROOT/KIND/FINGERPRINT.")]
ArtifactOrRoot = Annotated[
    str, typer.Argument(metavar="URI", help="URI of an artifact, or a root to check all its artifacts.")
]
Subset = Annotated[str, typer.Argument(metavar="SUBSET", help="URI of a subset, or a job file.")]
Row = Annotated[str, typer.Argument(metavar="ROW", help="The example_id of a row, or FILE:LINE.")]

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="KIND",
        autocompletion=_kinds,
        help="Last kind to build: subset; dataset, checkpoints, trajectories or clusters to end earlier; target to "
        "train the target model too; evaluation to evaluate it.",
    ),
]
JobFile = Annotated[str, typer.Option("--to", metavar="FILE", help="Output path of the job file.")]
RowsFile = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FILE",
        help="Output path; the extension selects the format: .jsonl, .jsonl.gz, .parquet. A folder with --for.",
    ),
]
Seeds = Annotated[
    int, typer.Option("--seeds", metavar="N", help="Also repeat each selection with N seeds and compare these subsets.")
]
ResultsFile = Annotated[
    str | None, typer.Option("--to", metavar="FILE", help="Write the results of an experiment to a .csv or .md file.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job, e.g. select.budget=30000. Repeatable."),
]
Rebuild = Annotated[
    str | None,
    typer.Option(
        "--rebuild",
        metavar="KIND",
        autocompletion=_kinds,
        help="Rebuild this artifact and all that depend on it; the old ones are moved to ROOT/replaced/.",
    ),
]
AllowVersionChange = Annotated[
    bool,
    typer.Option(
        "--allow-version-change",
        help="Resume artifacts that were begun under other library versions; the manifest records the change.",
    ),
]
Address = Annotated[
    str,
    typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not follow the log.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Proxy model: hub id or folder. Default: a small, randomly initialised model."
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", metavar="NAME", help="Hub id or folder. Default: that of the model, or one trained on the rows."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
Answers = Annotated[
    bool,
    typer.Option("--answers", help="Where answers of chats are examples, write the selected answers, not whole chats."),
]
Trainer = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="TRAINER",
        autocompletion=_trainers,
        help="trl, axolotl, llama-factory, open-instruct or hf (a data set with a card); --to is then a folder.",
    ),
]
SampleWeights = Annotated[
    bool, typer.Option("--sample-weights", help="Add 1 / probability of its selection to each row: sample_weight.")
]
Rest = Annotated[bool, typer.Option("--rest", help="Write the rows of the pool that are not selected.")]
Control = Annotated[
    Literal["random"] | None,
    typer.Option("--control", metavar="random", help="Write random rows with the budget of the subset instead."),
]
ControlSeed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of --control random.")]
Union = Annotated[
    list[str] | None,
    typer.Option("--union", metavar="SUBSET", help="Also write the rows of this subset. Can be repeated."),
]
Intersection = Annotated[
    list[str] | None,
    typer.Option("--intersection", metavar="SUBSET", help="Only write rows that this subset has too. Can be repeated."),
]
Weights = Annotated[bool, typer.Option("--weights", help="List the weights of scored checkpoints instead.")]
ReportTarget = Annotated[
    str, typer.Argument(metavar="JOB", help="A job file, an experiment file, or the URI of a subset.")
]
ReportFile = Annotated[str, typer.Option("--to", metavar="FILE", help="Output path of the HTML page.")]
ExplorerFile = Annotated[
    str | None, typer.Option("--explorer", metavar="FILE", help="Also write the rows of the pool to a Parquet file.")
]
AsText = Annotated[bool, typer.Option("--text", help="Print the values instead of writing the page.")]
NoText = Annotated[bool, typer.Option("--no-text", help="Leave out all texts of rows.")]
Minutes = Annotated[
    float, typer.Option("--minutes", metavar="M", help="Skip the stages that are not measured after M minutes.")
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", metavar="N", help="Refuse a run whose estimated cost is above N, or not known."),
]
MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", metavar="H", help="Refuse a run whose estimated time is above H, or not known."),
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report into the folder of the run.")]
Yes = Annotated[bool, typer.Option("--yes", help="Delete what is listed (default: list only).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback if the command fails.")]
Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]
