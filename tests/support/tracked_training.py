"""A complete training with made-up tables, and readers of what TensorBoard, mlflow and wandb recorded of it."""

import io
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact, write_manifest
from s2l_ray.artifacts.schemas import HELD_OUT_TABLE, TRAINING_TABLE
from s2l_ray.core.training.records import CheckpointRecord, StepRecord
from tests.support.sample_artifacts import STEPS, manifest, put_bytes

# values of a curve by name: steps and values, in the order in which they were recorded
Curves = dict[str, list[tuple[int, float]]]
PARAMETERS = 1000
# of a file of wandb, in blocks as in LevelDB's log
WANDB_HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7


def training_steps() -> list[StepRecord]:
    """Steps of 8 rows whose losses are no float32 numbers."""
    return [
        StepRecord(step, step / 9, 8 * step, 80 + step, 40, 3 / step + 0.1, 1e-3 / step, 0.5, 0.25)
        for step in range(1, STEPS[-1] + 1)
    ]


def held_out() -> list[CheckpointRecord]:
    """A checkpoint at each of `STEPS`, the first without a held-out loss."""
    return [CheckpointRecord(step, held_out_loss=2 + 1 / step if step else None) for step in STEPS]


def put_training(root: str, precision: str = "float32", tflops: float | None = None) -> Artifact:
    """A checkpoints artifact of two workers with a GPU each, with a model of `PARAMETERS` parameters.

    tflops: of the GPU, as stated in the job.
    """
    uri = storage.join(root, "checkpoints", "00000000000a")
    contents = {
        TRAINING_TABLE: _parquet(training_steps()),
        HELD_OUT_TABLE: _parquet(held_out()),
        "step-000000/model.safetensors": bytes(4 * PARAMETERS),
    }
    files = [put_bytes(uri, path, data) for path, data in contents.items()]
    written = manifest("checkpoints", "00000000000a", files, {"dataset": "00000000000b"})
    job = {"proxy": {"precision": precision}, "estimate": {"gpu": {"tflops": tflops} if tflops else None}}
    return write_manifest(uri, replace(written, config=job))


def _parquet(records: list[StepRecord] | list[CheckpointRecord]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(record) for record in records]), stream)
    return stream.getvalue()


def read_tensorboard(folder: str) -> Curves:
    """The scalars of all event files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    curves: Curves = defaultdict(list)
    for entry in storage.list_files(folder):
        for record in _tf_records(storage.read_bytes(storage.join(folder, entry.path))):
            event = Event.FromString(record)
            for value in event.summary.value:
                curves[value.tag].append((event.step, value.simple_value))
    return dict(curves)


def _tf_records(data: bytes) -> Iterator[bytes]:
    """Records of a TFRecord file: length, its checksum, content, its checksum."""
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield data[start + 12 : start + 12 + length]
        start += 12 + length + 4


def read_mlflow(run_name: str, experiment: str) -> Curves:
    """The metrics of one run, from the store that the environment names."""
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = [one for one in client.search_runs([found.experiment_id]) if one.info.run_name == run_name]
    names = list(run.data.metrics)
    return {name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)] for name in names}


def read_wandb(folder: Path) -> Curves:
    """The history of the only offline run below a folder, at the step of each axis."""
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.rglob("*.wandb")
    curves: Curves = defaultdict(list)
    for data in _leveldb_records(file.read_bytes()):
        items = Record.FromString(data).history.item
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        steps = {name.removesuffix("/step"): value for name, value in row.items() if name.endswith("/step")}
        for axis, step in steps.items():
            for name, value in row.items():
                if name.startswith(f"{axis}/") and name != f"{axis}/step":
                    curves[name].append((step, value))
    return dict(curves)


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log: pieces with checksum, length and type (1 whole, 2 first, 3 middle, 4 last)."""
    start, pieces = WANDB_HEADER, b""
    while start + RECORD_HEADER <= len(data):
        if BLOCK - start % BLOCK < RECORD_HEADER:
            start += BLOCK - start % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, start + 4)
        pieces += data[start + RECORD_HEADER : start + RECORD_HEADER + length]
        start += RECORD_HEADER + length
        if kind in (1, 4):
            yield pieces
            pieces = b""
