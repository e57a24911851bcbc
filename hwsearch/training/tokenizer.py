"""Byte-level BPE: trained here or loaded, and saved as transformers reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hwsearch.errors import HwsearchError
from hwsearch.export.hf import SpecialIds
from hwsearch.files import read_text, write_whole
from hwsearch.shape import EncoderShape

SAMPLE_CHARACTERS = 8_000_000
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

    @cached_property
    def ordinary_ids(self) -> NDArray[np.int64]:
        """All ids but the special ones, ascending: what a random replacement is drawn from."""
        added = self.tokenizer.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        return np.array(sorted(set(ids) - special), dtype=np.int64)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, with no special token added."""
        return [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

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


def train_tokenizer(texts: list[str], shape: EncoderShape) -> TextTokenizer:
    """Byte-level BPE of at most `shape.vocab_size` entries, from the first SAMPLE_CHARACTERS.

    Raises HwsearchError where the vocabulary cannot hold every byte and the special tokens.
    """
    if shape.vocab_size < MIN_VOCABULARY:
        raise HwsearchError(
            f"vocab_size: {shape.vocab_size} holds no byte-level BPE; accepted: {MIN_VOCABULARY} or more"
        )
    special = SpecialTokens()
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab_size,
        special_tokens=[
            # As ModernBERT's: MASK swallows the space before it, which the masked word would carry.
            AddedToken(text, special=True, normalized=False, lstrip=role == "mask")
            for role, text in asdict(special).items()
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special.cls} $A {special.sep}",
        pair=f"{special.cls} $A {special.sep} $B {special.sep}",
        special_tokens=[(text, tokenizer.token_to_id(text)) for text in (special.cls, special.sep)],
    )
    return TextTokenizer(tokenizer, special)


def _sample(texts: list[str]) -> list[str]:
    sample, characters = [], 0
    for text in texts:
        if characters >= SAMPLE_CHARACTERS:
            break
        sample.append(text[: SAMPLE_CHARACTERS - characters])
        characters += len(sample[-1])
    return sample


def load_tokenizer(path: Path, shape: EncoderShape) -> TextTokenizer:
    """A tokenizer.json, or a folder that holds one (and maybe a tokenizer_config.json).

    Raises HwsearchError for a broken file, a missing CLS, SEP, PAD or MASK, and a vocabulary that
    the shape's embedding does not hold.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    text = read_text(file)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise HwsearchError(f"{file}: not a tokenizer of the tokenizers library: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    special = _special_tokens(tokenizer, file)
    loaded = TextTokenizer(tokenizer, special)
    if loaded.largest_id >= shape.vocab_size:
        raise HwsearchError(
            f"{file}: ids go up to {loaded.largest_id}, the shape's vocab_size is {shape.vocab_size};"
            f" accepted: a shape with vocab_size over {loaded.largest_id}"
        )
    return loaded


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
