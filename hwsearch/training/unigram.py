"""What a model reaches that knows how often each token comes and nothing else."""

from __future__ import annotations

import numpy as np

from hwsearch.training.token_cache import TokenCache

COUNTED = 1 << 24  # training tokens; more change no digit that matters


def unigram_loss(text: TokenCache) -> float:
    """Nats per token of the held-out text under the frequencies of the training text, add-one smoothed.

    Every masked language model falls to about this within its first steps, whatever its shape, and stays
    there until it begins to read the context.
    """
    training = text.training.tokens[text.training.offsets[0] :][:COUNTED]
    held_out = text.held_out.tokens[: text.held_out.offsets[-1]]
    known = 1 + max(int(training.max()), int(held_out.max()), text.tokenizer.largest_id)
    counts = np.bincount(training, minlength=known) + 1.0
    seen = np.bincount(held_out, minlength=known)
    return float(-(seen * np.log(counts / counts.sum())).sum() / seen.sum())
