"""The arguments and options of the verbs, each with its word of help."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from s2l_ray.terminal.console import answers


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            number = version("s2l_ray")
        except PackageNotFoundError:
            number = "of a source tree that is not installed"
        answers().print(f"s2l_ray {number}")
        raise typer.Exit


Job = Annotated[str, typer.Argument(metavar="JOB", help="The job file (YAML).")]
Rows = Annotated[str, typer.Argument(metavar="ROWS", help="A file, a folder, or hub:ID for a data set of the hub.")]
Root = Annotated[str, typer.Argument(metavar="ROOT", help="The root of one or more jobs: a folder or a URI.")]
Place = Annotated[str, typer.Argument(metavar="URI", help="An artefact: {root}/{kind}/{name}.")]
PlaceOrRoot = Annotated[str, typer.Argument(metavar="URI", help="An artefact, or a root for all that lies below it.")]
Subset = Annotated[str, typer.Argument(metavar="SUBSET", help="A subset's place, or a job file.")]

To = Annotated[
    str, typer.Option("--to", metavar="KIND", help="dataset, checkpoints, trajectories, clusters or subset.")
]
JobFile = Annotated[str, typer.Option("--to", metavar="FILE", help="Where the job file goes.")]
RowsFile = Annotated[
    str, typer.Option("--to", metavar="FILE", help="A name that ends in .jsonl, .jsonl.gz or .parquet.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job, e.g. select.budget=30000. Repeatable."),
]
Rebuild = Annotated[
    str | None, typer.Option("--rebuild", metavar="KIND", help="Move this kind aside; build it and what stands on it.")
]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Take the lock of another driver that is gone.")]
Address = Annotated[
    str,
    typer.Option(
        "--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The dashboard of the cluster, as forwarded."
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Leave the job once it is submitted.")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="The proxy: hub id or folder. Else small and random.")
]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", metavar="NAME", help="Hub id or folder. Else the model's, or trained.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
Yes = Annotated[bool, typer.Option("--yes", help="Remove what is listed; without it nothing is removed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")]
Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]
