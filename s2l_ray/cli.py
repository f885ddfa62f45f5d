"""The command line `s2l`. Only this module and `terminal/` print or exit.

Results go to standard output, progress and errors to standard error. Exit status: 0 done, 1 the job failed, 2 invalid
command or config, 130 interrupted. Each command imports the modules it needs, so that `s2l --help` starts quickly.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from s2l_ray.errors import ConfigError
from s2l_ray.terminal import arguments as arg
from s2l_ray.terminal.console import print_json, print_message, print_result, stderr_console, stdout_console
from s2l_ray.terminal.failures import FAILED, with_error_report

FIRST_ROWS = 3
START, RUN, LOOK, USE, STORE = "Start", "Run", "Results", "Export", "Storage"

app = typer.Typer(
    name="s2l",
    help="Select the part of a fine-tuning data set worth training on, by loss trajectories of a small proxy model.",
    epilog="s2l init ROWS writes a job file, s2l run JOB builds what is missing of it. First steps: docs/start.md",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    app(prog_name="s2l")


def verb(group: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command under a heading of `s2l --help`, with an example at the end of its own help."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return app.command(rich_help_panel=group, epilog=f"Example: {example}")(with_error_report(function))

    return register


@app.callback()
def options(version: arg.Version = False) -> None:
    """Accept the options that precede the command."""


@verb(START, "s2l init rows.jsonl --to job.yaml")
def init(
    rows: arg.Rows,
    to: arg.JobFile = "job.yaml",
    model: arg.Model = None,
    tokenizer: arg.Tokenizer = None,
    force: arg.Force = False,
) -> None:
    """Inspect rows and write a job file for them."""
    from s2l_ray.terminal.verbs.init import write_job

    write_job(rows, to, model, tokenizer, overwrite=force)


@verb(START, "s2l demo demo")
def demo(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Output folder.")] = "demo",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated rows.")] = 0,
) -> None:
    """Write the embedded data set: word problems with solutions, and the ground truth of each row."""
    from s2l_ray.demo.dataset import make_demo

    truth = make_demo(folder, seed)
    rejected = sum(truth.rejected().values())
    print_message(
        f"wrote {len(truth.rows):,} rows to {folder}/rows, {rejected} duplicate or malformed ({folder}/truth.jsonl)"
    )


@verb(RUN, "s2l plan job.yaml --set select.budget=5%")
def plan(job: arg.Job, set_: arg.Set = None, to: arg.To = "subset", json_: arg.Json = False) -> None:
    """Show the artifacts that a run would build, the reasons, and estimates of time, memory, storage and money."""
    from s2l_ray.config.experiment import is_experiment
    from s2l_ray.terminal.experiments import commands as experiments
    from s2l_ray.terminal.verbs import jobs

    commands = experiments if is_experiment(job) else jobs
    commands.show(job, set_, to, json_)


@verb(RUN, "s2l probe job.yaml")
def probe(
    job: arg.Job, set_: arg.Set = None, to: arg.To = "subset", minutes: arg.Minutes = 2.0, json_: arg.Json = False
) -> None:
    """Run every missing stage over 200 rows, for at most two minutes, so that `plan` can estimate the rest."""
    from s2l_ray.terminal.verbs.probe import probe as measure

    measure(job, set_, to, minutes, json_)


@verb(RUN, "s2l run job.yaml --set data.limit=1% --set run=trial")
def run(
    job: arg.Job,
    to: arg.To = "subset",
    set_: arg.Set = None,
    rebuild: arg.Rebuild = None,
    allow_version_change: arg.AllowVersionChange = False,
    no_report: arg.NoReport = False,
    no_text: arg.NoText = False,
    max_cost: arg.MaxCost = None,
    max_hours: arg.MaxHours = None,
) -> None:
    """Build the missing artifacts, and record events and curves in ROOT/runs/NAME/STARTED/.

    Run the same command again to resume after an interruption.
    """
    from s2l_ray.config.experiment import is_experiment
    from s2l_ray.pipeline.estimates.limits import Limits
    from s2l_ray.terminal.experiments import commands as experiments
    from s2l_ray.terminal.verbs import jobs, reports

    commands = experiments if is_experiment(job) else jobs
    limits = Limits(max_cost, max_hours)
    result, built = commands.run(job, set_, to, rebuild, allow_version_change, limits)
    if not no_report:
        reports.write_after_run(result, built=built, with_text=not no_text)


@verb(RUN, "s2l submit job.yaml --address http://127.0.0.1:8265")
def submit(
    job: arg.Job,
    address: arg.Address = "http://127.0.0.1:8265",
    to: arg.To = "subset",
    set_: arg.Set = None,
    no_wait: arg.NoWait = False,
    allow_version_change: arg.AllowVersionChange = False,
) -> None:
    """Run a job on a Ray cluster and follow its log. Ctrl-C leaves it running; the same command follows it again."""
    from s2l_ray.terminal.verbs.submit import submit as submit_job

    submit_job(job, address, set_, to, wait=not no_wait, allow_version_change=allow_version_change)


@verb(RUN, "s2l status job.yaml --address http://127.0.0.1:8265")
def status(
    job: arg.Job, address: arg.Address = "http://127.0.0.1:8265", set_: arg.Set = None, json_: arg.Json = False
) -> None:
    """Show the submissions of a job to a Ray cluster, the newest first."""
    from s2l_ray.terminal.verbs.submit import status as show_status

    show_status(job, address, set_, json_)


@verb(RUN, "s2l stop job.yaml --address http://127.0.0.1:8265")
def stop(job: arg.Job, address: arg.Address = "http://127.0.0.1:8265", set_: arg.Set = None) -> None:
    """Stop a submitted job: a training saves its state, completed units are kept. `submit` resumes it."""
    from s2l_ray.terminal.verbs.submit import stop as stop_job

    stop_job(job, address, set_)


@verb(LOOK, "s2l ls runs/job")
def ls(root: arg.Root, json_: arg.Json = False) -> None:
    """List artifacts and runs."""
    from s2l_ray.catalog.listing import list_root
    from s2l_ray.terminal.store_views import listing_view

    listing = list_root(root)
    print_result(json_, vars(listing), listing_view(listing))


@verb(LOOK, "s2l show runs/job/subset/FINGERPRINT")
def show(uri: arg.ArtifactUri, json_: arg.Json = False) -> None:
    """Show an artifact: counts, inputs, execution, first rows."""
    from s2l_ray.artifacts.execution import read_execution
    from s2l_ray.artifacts.manifest import open_artifact
    from s2l_ray.catalog.listing import find_incomplete
    from s2l_ray.terminal.store_views import artifact_view, incomplete_view

    incomplete = find_incomplete(uri)
    if incomplete is not None:
        execution = read_execution(incomplete.uri, incomplete.kind)
        values = {**vars(incomplete), "execution": execution}
        print_result(json_, values, incomplete_view(incomplete, execution))
        return
    artifact = open_artifact(uri)
    if json_:
        print_json({**vars(artifact.manifest), "dropped": sorted(artifact.dropped)})
        return
    first = artifact.read_shard(0).slice(0, FIRST_ROWS) if artifact.shards() else None
    stdout_console().print(artifact_view(artifact, first))


@verb(LOOK, "s2l report job.yaml --to report.html")
def report(
    target: arg.ReportTarget,
    to: arg.ReportFile = "report.html",
    explorer: arg.ExplorerFile = None,
    set_: arg.Set = None,
    text: arg.AsText = False,
    no_text: arg.NoText = False,
    json_: arg.Json = False,
) -> None:
    """Write a report of a job or subset as one HTML page, or print its values."""
    from s2l_ray.terminal.verbs import reports

    reports.report(target, to, explorer, set_, as_text=text, as_json=json_, with_text=not no_text)


@verb(LOOK, "s2l explain job.yaml rows.jsonl:17")
def explain(subset: arg.Subset, row: arg.Row, set_: arg.Set = None, json_: arg.Json = False) -> None:
    """Explain why a row is in a subset or not: its text, losses, cluster, and the counts of its groups."""
    from s2l_ray.catalog.explain import explain as explain_row
    from s2l_ray.terminal.explain_view import explanation_view
    from s2l_ray.terminal.verbs.targets import open_subset

    found = explain_row(open_subset(subset, set_), row)
    print_result(json_, {"rows": found}, explanation_view(found))


@verb(LOOK, "s2l compare job.yaml other.yaml")
def compare(
    targets: arg.Targets,
    seeds: arg.Seeds = 0,
    set_: arg.Set = None,
    to: arg.ResultsFile = None,
    json_: arg.Json = False,
) -> None:
    """Compare subsets, trajectories, clusters, jobs or the arms of an experiment."""
    from s2l_ray.config.experiment import is_experiment
    from s2l_ray.pipeline.compare import compare as compare_targets
    from s2l_ray.terminal.compare_views import comparison_view
    from s2l_ray.terminal.experiments import commands as experiments

    if len(targets) == 1 and not seeds and is_experiment(targets[0]):
        experiments.show_results(targets[0], set_, to, json_)
        return
    if to is not None:
        raise ConfigError(f"--to {to}: only the results of one experiment are written to a file; use --json")
    comparison = compare_targets(*targets, overrides=set_ or (), seeds=seeds)
    print_result(json_, vars(comparison), comparison_view(comparison))


@verb(USE, "s2l export job.yaml --to subset.jsonl")
def export(
    subset: arg.Subset,
    to: arg.RowsFile,
    for_: arg.Trainer = None,
    set_: arg.Set = None,
    force: arg.Force = False,
    answers: arg.Answers = False,
    sample_weights: arg.SampleWeights = False,
    rest: arg.Rest = False,
    control: arg.Control = None,
    seed: arg.ControlSeed = 0,
    union: arg.Union = None,
    intersection: arg.Intersection = None,
) -> None:
    """Write the selected rows, unchanged, to a file, or in the form that a trainer reads, to a folder."""
    from s2l_ray.catalog.export.chosen import Choice
    from s2l_ray.terminal.verbs.export import export_rows
    from s2l_ray.terminal.verbs.targets import open_subset

    others, common = (tuple(open_subset(one) for one in uris or ()) for uris in (union, intersection))
    drawn = seed if control else None
    choice = Choice(others, common, rest=rest, control=drawn, weights=sample_weights, answers=answers)
    export_rows(open_subset(subset, set_), to, for_, choice, force)


@verb(STORE, "s2l verify runs/job")
def verify(uri: arg.ArtifactOrRoot, json_: arg.Json = False) -> None:
    """Compare every file with its checksum. Exit status 1 if any differs."""
    from s2l_ray.catalog.verify import verify as verify_files
    from s2l_ray.terminal.store_views import verdict, verified_view

    verified = []
    with stderr_console().status("reading"):
        for one in verify_files(uri):
            verified.append(one)
            if not json_:
                stdout_console().print(verified_view(one), soft_wrap=True)
    faults = sum(len(one.faults) for one in verified)
    if json_:
        files = sum(one.files for one in verified)
        print_json({"files": files, "faults": faults, "artifacts": verified})
    else:
        print_message(verdict(verified))
    if faults:
        raise typer.Exit(FAILED)


@verb(STORE, "s2l gc runs/job")
def gc(root: arg.Root, yes: arg.Yes = False, weights: arg.Weights = False, json_: arg.Json = False) -> None:
    """List artifacts and files that no run refers to; delete them with --yes."""
    from s2l_ray.terminal.verbs import garbage

    if weights:
        garbage.collect_weights(root, yes, json_)
    else:
        garbage.collect(root, yes, json_)
