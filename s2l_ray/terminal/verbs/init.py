"""The command `init`: rows inspected, and a job file for them."""

import shlex
from pathlib import Path

from s2l_ray import storage
from s2l_ray.config.infer import has_gpu, inspect_rows, job_values, named_template
from s2l_ray.config.load import make_config
from s2l_ray.config.template import job_text
from s2l_ray.errors import ConfigError
from s2l_ray.terminal.commands import invocation
from s2l_ray.terminal.console import print_message, stdout_console
from s2l_ray.terminal.data_preview import summary_view


def write_job(rows: str, to: str, model: str | None, tokenizer: str | None, *, overwrite: bool) -> None:
    """Print a summary of the rows and write a job file for them. Raises `ConfigError` if it exists already."""
    if Path(to).exists() and not overwrite:
        raise ConfigError(f"--to {to}: already exists; choose another name, or overwrite it with --force")
    summary = inspect_rows(rows, named_template(tokenizer or model))
    console = stdout_console()
    console.print(summary_view(summary, console.width))
    values = job_values(summary, _absolute(model), _absolute(tokenizer), has_gpu())
    make_config(values, to)
    storage.write_bytes(to, job_text(values, f"A job over {rows}, written by `s2l init`.", to).encode())
    print_message(f"wrote {to}; next: {invocation()} plan {shlex.quote(to)}")


def _absolute(name: str | None) -> str | None:
    """The absolute path of a local folder; a hub id unchanged."""
    return str(Path(name).absolute()) if name is not None and Path(name).is_dir() else name
