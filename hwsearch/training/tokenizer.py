"""Byte-level BPE: trained here or loaded, and saved as transformers reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hwsearch.errors import HwsearchError
from hwsearch.export.hf import SpecialIds
from hwsearch.files import read_text, write_whole

# Text to train on: a rare merge has to occur often enough to be a good one.
SAMPLE_CHARACTERS, SAMPLE_CHARACTERS_PER_ENTRY = 8_000_000, 1000
VOCABULARY_MULTIPLE = 64  # what GEMMs ask of every dimension
MIN_VOCABULARY = 256 + 5  # every byte, and the special tokens


@dataclass(frozen=True)
class SpecialTokens:
    """Texts of the special tokens, by role; numbered in this order when trained here."""

    unk: str = "[UNK]"
    cls: str = "[CLS]"
    sep: str = "[SEP]"
    pad: str = "[PAD]"
    mask: str = "[MASK]"


ROBERTA_TOKENS = SpecialTokens(unk="<unk>", cls="<s>", sep="</s>", pad="<pad>", mask="<mask>")


@dataclass(frozen=True)
class TextTokenizer:
    tokenizer: Tokenizer
    special: SpecialTokens

    def __post_init__(self) -> None:
        self.tokenizer.encode_special_tokens = True

    def id(self, role: str) -> int:
        """Of "cls", "sep", "pad" or "mask"."""
        number = self.tokenizer.token_to_id(getattr(self.special, role))
        assert number is not None  # both ways to make a TextTokenizer check it
        return number

    @property
    def config_ids(self) -> SpecialIds:
        return SpecialIds(cls=self.id("cls"), sep=self.id("sep"), pad=self.id("pad"))

    @property
    def largest_id(self) -> int:
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def unknown_id(self) -> int | None:
        """None where no text is unknown."""
        number = self.tokenizer.token_to_id(self.special.unk)
        return None if number == self.id("mask") else number

    @property
    def digest(self) -> str:
        content = f"{self.tokenizer.to_str()}{self.special}"
        return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()

    @cached_property
    def is_ordinary(self) -> NDArray[np.bool_]:
        """For every id up to the largest, whether it is in the vocabulary and not special."""
        ids = list(self.tokenizer.get_vocab(with_added_tokens=True).values())
        added = self.tokenizer.get_added_tokens_decoder()
        table = np.zeros(self.largest_id + 1, np.bool_)
        table[ids] = True
        table[[number for number, token in added.items() if token.special]] = False
        return table

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, none of them special: a text that says [MASK] is a text about masks."""
        return [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def check_fits(self, vocab_size: int, path: Path) -> None:
        """Raise HwsearchError, which names `path`, where `vocab_size` rows do not hold every id."""
        if self.largest_id >= vocab_size:
            entries = self.largest_id + 1
            padded = -(-entries // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
            raise HwsearchError(
                f"{path}: has {entries} entries, the shape's vocab_size is {vocab_size};"
                f" accepted: a shape with vocab_size {entries} or more, best {padded}, a multiple of"
                f" {VOCABULARY_MULTIPLE}"
            )

    def save(self, folder: Path, max_length: int) -> None:
        """tokenizer.json and tokenizer_config.json, which AutoTokenizer.from_pretrained loads."""
        config = {f"{role}_token": text for role, text in asdict(self.special).items()}
        config |= {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        write_whole(folder / "tokenizer.json", self.tokenizer.to_str(pretty=True))
        write_whole(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> TextTokenizer:
    """Byte-level BPE of exactly `vocab_size` entries.

    What the text is too short to fill are special tokens [unused0], [unused1], ..., as in ModernBERT's
    vocabulary; masking never draws them.

    Args:
        texts: the first SAMPLE_CHARACTERS of them are used, more for a large vocabulary.
        vocab_size: a multiple of 64 for speed; anything that holds every byte is accepted.

    Raises HwsearchError where the vocabulary cannot hold every byte and the special tokens.
    """
    if vocab_size < MIN_VOCABULARY:
        raise HwsearchError(
            f"vocab_size: {vocab_size} holds no byte-level BPE; accepted: {MIN_VOCABULARY} or more"
        )
    special = SpecialTokens()
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[
            # As ModernBERT's: MASK swallows the space before it, which the masked word would carry.
            AddedToken(text, special=True, normalized=False, lstrip=role == "mask")
            for role, text in asdict(special).items()
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    characters = max(SAMPLE_CHARACTERS, vocab_size * SAMPLE_CHARACTERS_PER_ENTRY)
    tokenizer.train_from_iterator(_sample(texts, characters), trainer)
    left = vocab_size - tokenizer.get_vocab_size(with_added_tokens=True)
    tokenizer.add_special_tokens([f"[unused{number}]" for number in range(left)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special.cls} $A {special.sep}",
        pair=f"{special.cls} $A {special.sep} $B {special.sep}",
        special_tokens=[(text, tokenizer.token_to_id(text)) for text in (special.cls, special.sep)],
    )
    return TextTokenizer(tokenizer, special)


def _sample(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            break


def load_tokenizer(path: Path) -> TextTokenizer:
    """A tokenizer.json, or a folder that holds one (and maybe a tokenizer_config.json).

    Raises HwsearchError for a broken file and a missing CLS, SEP, PAD or MASK.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    text = read_text(file)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise HwsearchError(f"{file}: not a tokenizer of the tokenizers library: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return TextTokenizer(tokenizer, _special_tokens(tokenizer, file))


def _special_tokens(tokenizer: Tokenizer, file: Path) -> SpecialTokens:
    named = _named_tokens(file.with_name("tokenizer_config.json"))
    chosen: dict[str, str] = {}
    for role, bert_text in asdict(SpecialTokens()).items():
        candidates = (named.get(role), bert_text, getattr(ROBERTA_TOKENS, role))
        found = next((text for text in candidates if text and tokenizer.token_to_id(text) is not None), None)
        if found is None and role != "unk":  # a byte-level vocabulary may do without
            raise HwsearchError(
                f"{file}: has no {role.upper()} token; accepted: {bert_text}, {getattr(ROBERTA_TOKENS, role)}"
                f" or a {role}_token in tokenizer_config.json beside it"
            )
        chosen[role] = found or chosen.get("mask", "")
    return SpecialTokens(**chosen)


def _named_tokens(config_file: Path) -> dict[str, str]:
    if not config_file.is_file():
        return {}
    try:
        config = json.loads(read_text(config_file))
        entries = {role: config.get(f"{role}_token") for role in asdict(SpecialTokens())}
    except (json.JSONDecodeError, AttributeError) as error:
        raise HwsearchError(f"{config_file}: not a JSON object: {error}") from error
    # Older files hold {"content": "[CLS]", ...} instead of the plain text.
    for role, entry in entries.items():
        entries[role] = entry.get("content") if isinstance(entry, dict) else entry
    return {role: text for role, text in entries.items() if isinstance(text, str)}
