"""The command line `s2l`. Only this module and `terminal/` print or exit.

Results go to standard output, progress and errors to standard error. Exit status: 0 done, 1 the job failed, 2 invalid
command or config, 130 interrupted. Each command imports the modules it needs, so that `s2l --help` starts quickly.
"""

import contextlib
import dataclasses
import functools
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from s2l_ray.errors import ConfigError
from s2l_ray.terminal import humanize as figures
from s2l_ray.terminal.arguments import (
    Address,
    Debug,
    Force,
    Job,
    JobFile,
    Json,
    Model,
    NoWait,
    Place,
    PlaceOrRoot,
    Rebuild,
    Root,
    Rows,
    RowsFile,
    Set,
    Subset,
    To,
    Tokenizer,
    Version,
    Yes,
)
from s2l_ray.terminal.console import answers, messages, noise_into_log, program
from s2l_ray.terminal.failures import FAILED, complain

if TYPE_CHECKING:
    from s2l_ray.artifacts.manifest import Artifact
    from s2l_ray.config.sections import Config
    from s2l_ray.pipeline.run import Plan

FIRST_ROWS = 3

app = typer.Typer(
    name="s2l",
    help="Select the part of a fine-tuning data set worth training on, by loss trajectories of a small proxy model.",
    epilog="A job is one YAML file: s2l init ROWS writes it, s2l run JOB builds its missing artifacts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Verb = TypeVar("Verb", bound=Callable[..., None])


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="s2l")


def verb(function: Verb) -> Verb:
    """Register a command whose exceptions become one message and an exit status."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(complain(error, bool(options.get("debug")))) from None

    return app.command()(guarded)  # type: ignore[return-value]


@app.callback()
def options(version: Version = False) -> None:
    """Accept the options that precede the command."""


@verb
def init(
    rows: Rows,
    to: JobFile = "job.yaml",
    model: Model = None,
    tokenizer: Tokenizer = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Inspect rows and write a job file for them."""
    from s2l_ray import storage
    from s2l_ray.config.infer import has_gpu, inspect_rows, job_values
    from s2l_ray.config.load import make_config
    from s2l_ray.config.template import job_text
    from s2l_ray.terminal.data_preview import look_view

    if Path(to).exists() and not force:
        raise ConfigError(f"--to {to}: already exists; choose another name, or overwrite it with --force")
    summary = inspect_rows(rows)
    console = answers()
    console.print(look_view(summary, console.width))
    values = job_values(summary, _absolute(model), _absolute(tokenizer), has_gpu())
    make_config(values, to)
    storage.write_bytes(to, job_text(values, f"A job over {rows}, written by `s2l init`.", to).encode())
    _say(f"wrote {to}; next: {program()} plan {shlex.quote(to)}")


@verb
def demo(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Output folder.")] = "demo",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated rows.")] = 0,
    debug: Debug = False,
) -> None:
    """Write the embedded data set: word problems with solutions, and the ground truth of each row."""
    from s2l_ray.demo.dataset import make_demo

    truth = make_demo(folder, seed)
    rejected = sum(truth.rejected().values())
    _say(f"wrote {len(truth.rows):,} rows to {folder}/rows, {rejected} duplicate or malformed ({folder}/truth.jsonl)")


@verb
def plan(job: Job, set_: Set = None, to: To = "subset", json_: Json = False, debug: Debug = False) -> None:
    """Show the artifacts that a run would build, the reasons, and estimates of rows and disk space."""
    from s2l_ray.pipeline.preflight import forecast, refuse_impossible
    from s2l_ray.terminal.plan_view import plan_values, plan_view

    config, planned = _planned(job, set_, to)
    known = forecast(config, planned)
    if json_:
        _print_json(plan_values(config, planned, known))
    else:
        answers().print(plan_view(config, planned, known))
    refuse_impossible(config, planned, known)
    if not json_:
        missing = len(planned.missing)
        _say(
            f"next: {_command('run', job, set_, to)}"
            if missing
            else "all artifacts are complete; a run would build nothing"
        )


@verb
def run(
    job: Job,
    to: To = "subset",
    set_: Set = None,
    rebuild: Rebuild = None,
    debug: Debug = False,
) -> None:
    """Build the missing artifacts. Run the same command again to resume after an interruption."""
    begun = time.monotonic()
    from s2l_ray.pipeline.preflight import forecast, refuse_impossible
    from s2l_ray.pipeline.run import run_steps
    from s2l_ray.runtime.session import connect
    from s2l_ray.terminal.follow import Building, follow, found_and_missing, show_found
    from s2l_ray.terminal.summary import run_view

    config, planned = _planned(job, set_, to)
    refuse_impossible(config, planned, forecast(config, planned))
    with noise_into_log(config.root, config.run) as log:
        found, missing = found_and_missing(planned, rebuild)
        show_found(found, log)
        steps = run_steps(config, to, rebuild=rebuild)
        refused = rebuild is None and any(step.state == "damaged" for step in planned.steps)
        connection = connect() if missing and not refused else contextlib.nullcontext()
        carried_out, built = follow(Building(steps, missing, connection, _command("run", job, set_, to)), log)
    answers().print(run_view(carried_out, to, built, time.monotonic() - begun, program()))


@verb
def ls(root: Root, json_: Json = False, debug: Debug = False) -> None:
    """List artifacts and runs."""
    from s2l_ray.catalog.listing import take_inventory
    from s2l_ray.terminal.store_views import inventory_view

    found = take_inventory(root)
    if json_:
        _print_json(dataclasses.asdict(found))
    else:
        answers().print(inventory_view(found))


@verb
def gc(root: Root, yes: Yes = False, json_: Json = False, debug: Debug = False) -> None:
    """List artifacts and files that no run refers to; delete them with --yes."""
    from s2l_ray.catalog.gc import find_garbage, remove_garbage
    from s2l_ray.terminal.garbage_view import garbage_values, garbage_view, total

    found = find_garbage(root)
    if found and not json_:
        answers().print(garbage_view(root, found))
    removed = list(remove_garbage(root, found)) if yes else []
    if json_:
        _print_json(garbage_values(found, removed))
    elif yes:
        kept = f"; {len(found) - len(removed)} are in use since" if len(removed) < len(found) else ""
        _say(f"removed {total(removed)}{kept}")
    elif found:
        _say(f"nothing was removed; to delete what is listed: {program()} gc {shlex.quote(root)} --yes")
    else:
        _say("nothing to remove: every artifact belongs to a run")


@verb
def show(uri: Place, json_: Json = False, debug: Debug = False) -> None:
    """Show an artifact: counts, inputs, execution, first rows."""
    from s2l_ray.artifacts.manifest import open_artifact, read_execution
    from s2l_ray.catalog.listing import find_unfinished
    from s2l_ray.terminal.store_views import manifest_view, unfinished_view

    unfinished = find_unfinished(uri)
    if unfinished is not None:
        execution = read_execution(unfinished.uri)
        if json_:
            _print_json({**dataclasses.asdict(unfinished), "execution": execution})
        else:
            answers().print(unfinished_view(unfinished, execution))
        return
    artifact = open_artifact(uri)
    if json_:
        _print_json({**dataclasses.asdict(artifact.manifest), "dropped": sorted(artifact.dropped)})
        return
    shards = artifact.shards()
    first = artifact.read_file(shards[0].path).slice(0, FIRST_ROWS) if shards else None
    answers().print(manifest_view(artifact, first))


@verb
def verify(uri: PlaceOrRoot, json_: Json = False, debug: Debug = False) -> None:
    """Compare every file with its checksum. Exit status 1 if any differs."""
    from s2l_ray.terminal.verify_view import check, checked_values, checked_view, verdict

    checked = []
    with messages().status("reading") if not json_ else contextlib.nullcontext():
        for one in check(uri):
            checked.append(one)
            if not json_:
                answers().print(checked_view(one), soft_wrap=True)
    if json_:
        _print_json(checked_values(checked))
    else:
        _say(verdict(checked))
    if any(one.faults for one in checked):
        raise typer.Exit(FAILED)


@verb
def export(subset: Subset, to: RowsFile, set_: Set = None, force: Force = False, debug: Debug = False) -> None:
    """Write the selected rows, unchanged, to a file for a trainer."""
    from s2l_ray.catalog.export import export_subset

    written = export_subset(_subset(subset, set_), to, force=force)
    _say(f"wrote {written.path}: {written.rows:,} rows, {figures.size(written.bytes)}")


@verb
def submit(
    job: Job,
    address: Address = "http://127.0.0.1:8265",
    to: To = "subset",
    set_: Set = None,
    no_wait: NoWait = False,
    debug: Debug = False,
) -> None:
    """Run a job on a Ray cluster and follow its log. Ctrl-C leaves it running; the same command follows it again."""
    from s2l_ray.config.load import load_config
    from s2l_ray.runtime.submit import submit as submit_job
    from s2l_ray.terminal.follow_job import follow_job, ways

    submitted = submit_job(job, load_config(job, set_ or ()), _options(set_, to), address)
    again = f"{_command('submit', job, set_, to)} --address {address}"
    _say(f"{'already running' if submitted.again else 'submitted'}: {submitted.submission_id}")
    if no_wait:
        _say(ways(submitted, again))
        return
    ending = follow_job(submitted, again)
    if ending.exit_status:
        if ending.message:
            _say(ending.message)
        _say(f"{submitted.submission_id} {ending.status.lower()}; completed units are kept. To resume:\n  {again}")
        raise typer.Exit(ending.exit_status)


def _planned(job: str, overrides: list[str] | None, to: str) -> "tuple[Config, Plan]":
    from s2l_ray.config.load import load_config
    from s2l_ray.pipeline.run import plan as plan_job

    config = load_config(job, overrides or ())
    return config, plan_job(config, to)


def _subset(place: str, overrides: list[str] | None) -> "Artifact":
    from s2l_ray.artifacts.manifest import open_artifact

    if not place.endswith((".yaml", ".yml")):
        return open_artifact(place)
    step = _planned(place, overrides, "subset")[1]["subset"]
    if step.state != "complete":
        raise ConfigError(f"{place}: its subset is {step.state}; build it with: {_command('run', place, overrides)}")
    return open_artifact(step.uri)


def _absolute(name: str | None) -> str | None:
    """The absolute path of a local folder; a hub id unchanged."""
    return str(Path(name).absolute()) if name is not None and Path(name).is_dir() else name


def _command(verb_name: str, job: str, overrides: list[str] | None, to: str = "subset") -> str:
    """A command line that the user can type."""
    return f"{program()} {shlex.join([verb_name, job, *_options(overrides, to)])}"


def _options(overrides: list[str] | None, to: str) -> list[str]:
    """The options `--to` and `--set` as arguments of a command line."""
    words = ["--to", to] if to != "subset" else []
    return words + [word for override in overrides or () for word in ("--set", override)]


def _say(text: str) -> None:
    messages().print(text, markup=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
