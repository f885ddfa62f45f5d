"""evaluate: dataset and target -> evaluation (the target's loss on held-out rows, and its scores on tasks).

A unit is a shard of held-out rows, or a part of the questions of a task. A unit whose file is complete and was made
from the same rows, model and options is not computed again. At the end one task joins the units into the tables of the
artifact and scores the answers.
"""

import json
from importlib.util import find_spec

from s2l_ray.artifacts.execution import EvaluateExecution
from s2l_ray.artifacts.facts import DatasetFacts, TargetFacts
from s2l_ray.artifacts.schemas import HELD_OUT_FOLDER, HELD_OUT_LOSSES, TOKENS_FOLDER
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit
from s2l_ray.catalog.scored_units import checkpoint_digest
from s2l_ray.config.evaluate import EvaluationTask
from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config
from s2l_ray.core.evaluation.metrics import MetricOptions, unavailable
from s2l_ray.runtime.contracts import Cluster, PoolOptions, ResourceRequest
from s2l_ray.stages.build import Build, Product, cpus_per_actor, pool_size, target_rows
from s2l_ray.stages.evaluate.answers import AnswerUnit, AnswerWorker
from s2l_ray.stages.evaluate.losses import EvaluationModel, LossUnit, LossWorker
from s2l_ray.stages.evaluate.questions import write_questions
from s2l_ray.stages.evaluate.summary import ScoredTask, summarize

MEMORY_HINT = "lower resources.evaluate.tokens_per_batch, or prompts_per_batch"
UNIT_PROMPTS = {"transformers": 32, "vllm": 512}

EvaluateBuild = Build[EvaluateExecution]


def execution(config: Config, cluster: Cluster) -> EvaluateExecution:
    """Resolve what can change the last bits of a loss, and so an answer; the number of workers cannot."""
    wanted = config.resources.evaluate
    gpus = cluster.gpus_each(wanted.gpus, "resources.evaluate.gpus")
    engine = wanted.engine
    if engine == "auto":
        engine = "vllm" if gpus and find_spec("vllm") else "transformers"
    prompts = UNIT_PROMPTS[engine] if wanted.prompts_per_unit == "auto" else wanted.prompts_per_unit
    return EvaluateExecution(
        wanted.tokens_per_batch, wanted.attention, wanted.threads, gpus, engine, wanted.prompts_per_batch, prompts
    )


def resources(build: EvaluateBuild) -> ResourceRequest:
    """The minimum number of workers; more start as resources become free."""
    gpus = build.execution.gpus
    least, _ = pool_size(build.config.resources.evaluate.workers, build.cluster, gpus)
    hint = "lower resources.evaluate.workers" + (" or set resources.evaluate.gpus: 0" if gpus else "")
    return ResourceRequest("evaluate", hint, least, cpus_per_actor(build.cluster), gpus)


def evaluate(build: EvaluateBuild) -> Product:
    evaluate, small = build.config.evaluate, ResourceRequest("evaluate", cpus=cpus_per_actor(build.cluster))
    hint = "use nodes with more memory"
    template = template_of(build)
    questions: dict[str, FileRecord] = {}
    if evaluate.tasks:  # before anything else is computed, since a row may lack a field
        arguments = (build.folder, build.config, template)
        questions = build.run_on_one_node("reading questions", hint, small, write_questions, *arguments)
    losses = _evaluate_losses(build) if evaluate.loss else None
    tasks = _answer_questions(build, questions, template)
    engine = build.execution.engine if tasks else None
    summary = build.run_on_one_node("scoring answers", hint, small, summarize, build.folder, losses, tasks, engine)
    for name, rows in summary.too_long.items():
        build.warn(
            f"{name}: {rows} prompts are too long for the target and evaluate.max_new_tokens; they have no answer"
        )
    return Product(summary.files, summary.counts, summary.facts, HELD_OUT_LOSSES)


def template_of(build: EvaluateBuild) -> str:
    """The template of prompts: for `auto`, that of chats where every source of the dataset has chats."""
    facts, wanted = target_rows(build.inputs).facts(DatasetFacts), build.config.evaluate.template
    if wanted != "auto":
        return wanted
    return "chat" if facts.chats and facts.chats.keys() == facts.by_source.keys() else "alpaca"


def plan_loss_units(build: EvaluateBuild) -> list[LossUnit]:
    """One unit a shard of held-out rows."""
    execution = build.execution
    key = {**_model_key(build), "tokens_per_batch": str(execution.tokens_per_batch), "attention": execution.attention}
    shards = target_rows(build.inputs).shards(HELD_OUT_FOLDER + TOKENS_FOLDER)
    return [LossUnit(shard, {**key, "shard": record.sha256}) for shard, record in enumerate(shards)]


def plan_answer_units(build: EvaluateBuild, task: str, questions: FileRecord, template: str) -> list[AnswerUnit]:
    """Units of `prompts_per_unit` questions."""
    execution, evaluate, rows = build.execution, build.config.evaluate, questions.rows or 0
    options = evaluate.model_dump(mode="json", include={"samples", "temperature", "max_new_tokens", "stop", "seed"})
    key = {
        **_model_key(build),
        "questions": questions.sha256,
        "options": json.dumps(options | {"template": template}, sort_keys=True),
        "engine": execution.engine,
        "prompts_per_batch": str(execution.prompts_per_batch),
    }
    return [
        AnswerUnit(task, questions, start, stop, {**key, "rows": f"{start}-{stop}"})
        for start in range(0, rows, execution.prompts_per_unit)
        for stop in [min(rows, start + execution.prompts_per_unit)]
    ]


def _model_key(build: EvaluateBuild) -> dict[str, str]:
    target = build.inputs["target"]
    digest = checkpoint_digest(target, target.facts(TargetFacts).checkpoint.step)
    return {"model": digest, "dtype": build.config.evaluate.dtype}


def _model(build: EvaluateBuild) -> EvaluationModel:
    cache_bytes = round(build.config.resources.evaluate.cache_gb * 1e9)
    uris = target_rows(build.inputs).uri, build.inputs["target"].uri
    return EvaluationModel(*uris, build.config.evaluate, build.execution, cache_bytes)


def _pool(build: EvaluateBuild, name: str) -> PoolOptions:
    gpus = build.execution.gpus
    least, most = pool_size(build.config.resources.evaluate.workers, build.cluster, gpus)
    return PoolOptions(name, MEMORY_HINT, min_actors=least, max_actors=most, gpus=gpus)


def _evaluate_losses(build: EvaluateBuild) -> list[FileRecord]:
    """The file of every unit, in order."""
    return build.run_missing_units(
        plan_loss_units(build),
        lambda unit: find_complete_unit(build.folder, unit.name, unit.key),
        LossWorker,
        _pool(build, "held-out loss"),
        "shards of held-out rows",
        rows_of=lambda file: file.rows,
        folder=build.folder,
        model=_model(build),
    )


def _answer_questions(build: EvaluateBuild, questions: dict[str, FileRecord], template: str) -> dict[str, ScoredTask]:
    """The files of the units of each task."""
    if not questions:
        return {}
    units = {name: plan_answer_units(build, name, file, template) for name, file in questions.items()}
    files = build.run_missing_units(
        [unit for own in units.values() for unit in own],
        lambda unit: find_complete_unit(build.folder, unit.name, unit.key),
        AnswerWorker,
        _pool(build, "generation"),
        "parts of the questions answered",
        rows_of=lambda file: file.rows,
        folder=build.folder,
        model=_model(build),
        date=str(build.config.data.date) if template == "chat" else None,
        questions=list(questions.values()),
    )
    by_path = {file.path: file for file in files}
    return {
        one.name: _scored_task(build, one, [by_path[unit.name] for unit in units[one.name]])
        for one in build.config.evaluate.tasks
    }


def _scored_task(build: EvaluateBuild, task: EvaluationTask, files: list[FileRecord]) -> ScoredTask:
    skipped = skipped_metrics(build.config, task)
    for reason in skipped.values():
        build.warn(f"{task.name}: skipped: {reason}")
    metrics = tuple(metric for metric in task.task().metrics if metric not in skipped)
    return ScoredTask(files, metrics, metric_options(build.config, task))


def skipped_metrics(config: Config, task: EvaluationTask) -> dict[str, str]:
    """The metrics of a task that cannot be computed, with the reasons."""
    options = metric_options(config, task)
    reasons = {metric: unavailable(metric, options) for metric in task.task().metrics}
    return {metric: reason for metric, reason in reasons.items() if reason is not None}


def metric_options(config: Config, task: EvaluationTask) -> MetricOptions:
    """The options of the metrics of a task."""
    evaluate = config.evaluate
    folder = local_folder(config, evaluate.bert_model, "evaluate.bert_model") if evaluate.bert_model else None
    return MetricOptions(task.task().answer_type, str(folder) if folder else None, evaluate.bert_layer)
