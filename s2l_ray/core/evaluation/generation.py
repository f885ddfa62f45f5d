"""Generation by transformers: greedy, or sampled with a seed of each prompt, in padded batches.

An output depends on its own prompt, its seed and the model, not on the other prompts of its batch, but for rounding.
Samples are drawn by the Gumbel-max trick: the most probable token after Gumbel noise, scaled by the temperature, is
added to the logits is a sample of the softmax. The noise is drawn for each prompt by its own generator.

B batch, L length of the prompts of a batch, V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Largest difference of the logits of a padded prompt, relative to their range, that is rounding.
ROUNDING = {"float32": 1e-3, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Prompt:
    """A text to continue. seed: of the tokens that are drawn, at a temperature above 0."""

    text: str
    seed: int = 0


@dataclass(frozen=True)
class Output:
    """The continuation of a prompt. text: without the text or token that ended it. tokens: without an end token.

    asked: False where the prompt is too long for the model, which then generates nothing.
    """

    text: str
    tokens: int
    asked: bool = True


@dataclass(frozen=True)
class GenerationOptions:
    """When a continuation ends: after max_new_tokens, at a token of end_ids, or at a text of `stop`.

    temperature: 0 is greedy. batch_size: prompts of a forward pass.
    """

    max_new_tokens: int
    end_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    batch_size: int = 16


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    options: GenerationOptions,
) -> list[Output]:
    """Continuations of tokenised prompts, in order."""
    outputs: dict[int, Output] = {}
    padded = padding_is_exact(model, prompts)
    for batch in plan_prompt_batches([len(ids) for ids in prompts], options.batch_size, padded):
        continued = _continue(model, tokenizer, [prompts[at] for at in batch], [seeds[at] for at in batch], options)
        outputs |= {at: make_output(tokenizer, ids, options) for at, ids in zip(batch, continued, strict=True)}
    return [outputs[at] for at in range(len(prompts))]


def plan_prompt_batches(lengths: Sequence[int], batch_size: int, padded: bool) -> Iterator[list[int]]:
    """Positions of the prompts of each batch, in descending length; without padding, of equal length."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if batch and (len(batch) == batch_size or not (padded or lengths[at] == lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def make_output(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], options: GenerationOptions) -> Output:
    """The output of generated token ids, which any engine may have continued after the end."""
    end = next((at for at, token in enumerate(ids) if token in options.end_ids), len(ids))
    text = str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
    stops = [position for position in map(text.find, options.stop) if position >= 0]
    return Output(text[: min(stops)] if stops else text, end)


def padding_is_exact(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether the shortest prompt has the same next logits alone and padded to the length of the longest."""
    shortest, longest = min(prompts, key=len, default=[]), max(prompts, key=len, default=[])
    if len(shortest) == len(longest):
        return True
    alone_V, padded_V = (
        _run(model, batch, max_new_tokens=1, output_logits=True, return_dict_in_generate=True).logits[0][0].float()
        for batch in ([shortest], [shortest, longest])
    )
    difference = (alone_V - padded_V).abs().max() / (alone_V.max() - alone_V.min()).clamp(min=1e-6)
    return bool(difference < ROUNDING[str(model.dtype).removeprefix("torch.")])


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    options: GenerationOptions,
) -> list[list[int]]:
    """Generated ids of one batch, each with end tokens after its end."""
    noise = [GumbelNoise(seeds, options.temperature, model.device)] if options.temperature else []
    found_BL = _run(
        model,
        prompts,
        tokenizer=tokenizer,
        logits_processor=noise,
        max_new_tokens=options.max_new_tokens,
        eos_token_id=list(options.end_ids),
        pad_token_id=options.end_ids[0],
        stop_strings=list(options.stop) or None,
    )
    generated: list[list[int]] = found_BL[:, max(map(len, prompts)) :].tolist()
    return generated


def _run(model: PreTrainedModel, prompts: Sequence[Sequence[int]], **options: Any) -> Any:
    """The result of the model's own `generate` for prompts that are padded on the left, without sampling."""
    import torch
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ids_BL = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=model.device)
    mask_BL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    model.generation_config = GenerationConfig()  # one of the model's folder would add, e.g., a repetition penalty
    generate: Any = model.generate
    with torch.inference_mode():
        return generate(input_ids=ids_BL, attention_mask=mask_BL, do_sample=False, **options)


class GumbelNoise:
    """A processor of logits after which the largest one is a sample at a temperature. seeds: of each row."""

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        import torch

        self._temperature = temperature
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        import torch

        uniform = (torch.rand(scores_BV.shape[1], generator=one, device=one.device) for one in self._generators)
        exponential_BV = -torch.log(torch.stack(list(uniform)).clamp(min=1e-30))
        return scores_BV.float() / self._temperature - torch.log(exponential_BV)
