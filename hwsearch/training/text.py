"""From files to token sequences, ready to train on and to evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.shape import EncoderShape
from hwsearch.training.corpus import read_corpus
from hwsearch.training.packing import Tokens, cut_documents
from hwsearch.training.recipe import Recipe
from hwsearch.training.tokenizer import SAMPLE_CHARACTERS, TextTokenizer, load_tokenizer, train_tokenizer

# Python sources give 5.3 at a vocabulary of 8192. More than needed is cheap, less is read again.
CHARACTERS_PER_TOKEN = 6
DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class Text:
    """Sequences with CLS and SEP, in reading order."""

    source: str
    tokenizer: TextTokenizer
    training: list[Tokens]
    held_out: list[Tokens]

    @property
    def training_tokens(self) -> int:
        return sum(len(sequence) for sequence in self.training)

    @property
    def held_out_tokens(self) -> int:
        return sum(len(sequence) for sequence in self.held_out)


def prepare_text(
    shape: EncoderShape,
    data: Sequence[Path],
    recipe: Recipe,
    tokenizer_path: Path | None,
    report: Callable[[str], None],
) -> Text:
    """Read, tokenize and cut as much text as the recipe's steps consume.

    Raises HwsearchError for unusable text or a tokenizer that does not fit the shape.
    """
    tokens_needed = recipe.steps * recipe.tokens_per_step
    loaded = load_tokenizer(tokenizer_path, shape) if tokenizer_path else None
    max_characters = max(tokens_needed * CHARACTERS_PER_TOKEN, 0 if loaded else SAMPLE_CHARACTERS)
    corpus = read_corpus(data, seed=recipe.seed, max_characters=max_characters)
    if corpus.skipped:
        report(f"{corpus.source}: left out {corpus.skipped:,} files that are not UTF-8 text")
    if not loaded:
        report(
            f"{corpus.source}: {corpus.files:,} files; training a tokenizer of {shape.vocab_size:,} entries"
        )
    tokenizer = loaded or train_tokenizer(corpus.training, shape)

    def sequences(texts: list[str]) -> list[Tokens]:
        return cut_documents(
            tokenizer.encode(texts), recipe.sequence_length, cls=tokenizer.id("cls"), sep=tokenizer.id("sep")
        )

    training: list[Tokens] = []
    tokens = 0
    for start in range(0, len(corpus.training), DOCUMENTS_AT_ONCE):
        batch = sequences(corpus.training[start : start + DOCUMENTS_AT_ONCE])
        training += batch
        tokens += sum(len(sequence) for sequence in batch)
        if tokens >= tokens_needed:
            break
    held_out = sequences(corpus.held_out)
    if not training or not held_out:
        raise HwsearchError(f"{corpus.source}: too little text to train on and to hold some out")
    return Text(corpus.source, tokenizer, training, held_out)
