"""Memory and storage of a stage, counted from shapes."""

from s2l_ray.artifacts.schemas import KINDS_WITH_TEXT
from s2l_ray.config.sections import Config, Finetuning
from s2l_ray.config.subsections import EvaluateResources, ScoreResources
from s2l_ray.core.model_shape import ModelShape
from s2l_ray.pipeline.estimates.sizes import Sizes

FLOAT_BYTES = 4
# float32 weights and, of weights that are trained, gradients and two moments of AdamW
WEIGHTS, TRAINED = FLOAT_BYTES, 3 * FLOAT_BYTES
# bytes of activations for a token, a layer and a hidden unit, in 16 bits: of a transformer layer without the matrix of
# attention (Korthikanti et al. 2022), and of its input alone, from which it is recomputed
ACTIVATIONS, CHECKPOINTED = 34, 2
# logits of a batch and their gradient; without padding, they are computed in chunks of at most so many
LOGITS, CHUNK_LOGITS = 3, 2**28
CUDA_BYTES = 1 << 30

# bytes in one process for each row of the pool: filtering, starts and targets of training rows, the fit without its
# matrix, selection
ROW_BYTES = {
    **dict.fromkeys((*KINDS_WITH_TEXT, "subset"), 40),
    **dict.fromkeys(("checkpoints", "target"), 188),
    "clusters": 64,
}


def gpu_bytes(kind: str, config: Config, sizes: Sizes) -> float | None:
    """Memory of one worker on its GPU; None for stages without a model and for models of unknown shape."""
    match kind:
        case "checkpoints" if config.proxy.checkpoints_from is None:
            return _training_bytes(config, config.proxy, sizes.proxy, adapters=False)
        case "target":
            return _training_bytes(config, config.target, sizes.target, adapters=config.target.lora is not None)
        case "trajectories" if config.score.losses_from is None:
            return _scoring_bytes(config.resources.score, config.score.dtype, sizes.proxy)
        case "evaluation":
            return _scoring_bytes(config.resources.evaluate, config.evaluate.dtype, sizes.target)
    return None


def _training_bytes(config: Config, section: Finetuning, model: ModelShape | None, adapters: bool) -> float | None:
    """Weights, gradients and moments, shared among the workers under FSDP; activations and logits of a micro batch."""
    if model is None or model.layers is None or model.hidden_size is None or model.vocab_size is None:
        return None
    resources = config.resources.train
    shards = resources.workers if resources.strategy == "fsdp" else 1
    weights = model.parameters * (WEIGHTS + (0 if adapters else TRAINED)) / shards
    width = 1 if section.precision == "bfloat16" else 2
    tokens = min(resources.micro_batch, section.batch_size) * config.data.max_length
    layer = tokens * model.hidden_size * width
    if resources.gradient_checkpointing:
        activations = layer * (CHECKPOINTED * model.layers + ACTIVATIONS)
    else:
        activations = layer * ACTIVATIONS * model.layers
    return CUDA_BYTES + weights + activations + _logits_bytes(tokens * model.vocab_size, resources.attention)


def _scoring_bytes(resources: ScoreResources | EvaluateResources, dtype: str, model: ModelShape | None) -> float | None:
    """Weights, activations of one layer, and logits of a batch."""
    if model is None or model.hidden_size is None or model.vocab_size is None:
        return None
    tokens, width = resources.tokens_per_batch, 2 if dtype == "bfloat16" else FLOAT_BYTES
    layer = tokens * model.hidden_size * width * ACTIVATIONS / 2
    return CUDA_BYTES + model.parameters * width + layer + _logits_bytes(tokens * model.vocab_size, resources.attention)


def _logits_bytes(logits: int, attention: str) -> float:
    return LOGITS * FLOAT_BYTES * (logits if attention == "padded" else min(logits, CHUNK_LOGITS))


def stored_weights(kind: str, sizes: Sizes) -> float | None:
    """Bytes of the weights that a stage stores; None for other stages and models of unknown size."""
    model = {"checkpoints": sizes.proxy, "target": sizes.target}.get(kind)
    copies = sizes.checkpoints if kind == "checkpoints" else 1
    return FLOAT_BYTES * model.parameters * copies if model is not None and copies is not None else None
