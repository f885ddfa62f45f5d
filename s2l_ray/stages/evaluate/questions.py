"""The questions of the tasks of an evaluation, as tables below `work/`. One task a run, before a model is loaded."""

import dataclasses
from itertools import islice

import pyarrow as pa

from s2l_ray import storage
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.evaluate import EvaluationTask
from s2l_ray.config.identity import questions_spec
from s2l_ray.config.sections import Config
from s2l_ray.core.evaluation.tasks import Question, make_question
from s2l_ray.errors import ConfigError
from s2l_ray.sources.evaluation import read_evaluation_rows

QUESTIONS = pa.schema([(name, pa.string()) for name in ("prompt", "program_prompt", "reference", "answer_type")])


def write_questions(folder: str, config: Config, template: str) -> dict[str, FileRecord]:
    """Write the questions of each task. Returns the files by task.

    Raises `ConfigError` for a missing file, a faulty row, and a row without a field that its task reads.
    """
    files = {}
    for one in config.evaluate.tasks:
        questions = [dataclasses.asdict(question) for question in _read_questions(config, one, template)]
        if not questions:
            raise ConfigError(f"evaluate.tasks: the file of {one.name} has no rows")
        table = pa.Table.from_pylist(questions, schema=QUESTIONS)
        files[one.name] = write_table(folder, f"work/questions/{one.name}.parquet", table)
    return files


def _read_questions(config: Config, one: EvaluationTask, template: str) -> list[Question]:
    task, questions = one.task(), []
    rows = read_evaluation_rows(
        [questions_spec(config, one)], storage.absolute(config.data.root), f"evaluate.tasks: {one.name}"
    )
    for row in islice(rows, config.evaluate.limit):
        try:
            questions.append(make_question(task, row.row, template))
        except ValueError as error:
            raise ConfigError(
                f"evaluate.tasks: {one.name}: {row.file} line {row.line}: {error}; set instruction, input and "
                "reference of the task to the fields of its rows"
            ) from error
    return questions


def questions_of(table: pa.Table) -> list[Question]:
    """The questions of a table, or of a part of one."""
    return [Question(**row) for row in table.to_pylist()]
