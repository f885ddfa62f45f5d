"""Check that a model is causal: the logits at a position do not depend on later tokens.

A model with access to later tokens reads the target it should predict, so its losses mean nothing as a proxy's.
"""

import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.probe import depends_on, first_tokens

# Of the tokens that are checked, and of their logits.
MAX_TOKENS, MAX_LOGITS = 512, 2**22


def check_causal(model: PreTrainedModel, probe: TokenRows) -> None:
    """Raise ValueError if logits of the longest probe row depend on later tokens.

    Checked at the middle and before the last token of its first MAX_TOKENS tokens or fewer. Also raises if the model
    fails on a row of token ids.
    """
    if not len(probe):
        return
    limit = min(MAX_TOKENS, MAX_LOGITS // model.config.get_text_config().vocab_size)
    ids_X, name = first_tokens(probe, len(probe) - 1, limit), type(model).__name__
    for position in sorted({len(ids_X) // 2, len(ids_X) - 1}):
        later, earlier = slice(position, None), slice(None, position)
        try:
            leaks = depends_on(model, lambda ids: _logits(model, ids), ids_X, later, earlier)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # model code may fail in any way on input that it was not written for
            raise ValueError(f"{name} cannot be run on token ids alone: {type(error).__name__}: {error}") from error
        if leaks:
            raise ValueError(
                f"{name} is not a causal language model: its logits depend on later tokens, so it would read the "
                "tokens it has to predict; choose a decoder-only model"
            )


def _logits(model: PreTrainedModel, ids_X: torch.Tensor) -> torch.Tensor:
    logits_1XV: torch.Tensor = model(input_ids=ids_X[None], use_cache=False).logits
    return logits_1XV[0]
