from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from hwsearch.errors import HwsearchError
from hwsearch.training.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def texts(python_text):
    return [path.read_text() for path in sorted(python_text.iterdir())]


@pytest.fixture(scope="module")
def trained(texts):
    return train_tokenizer(texts, 600)


def test_trained_vocabulary_is_full_and_round_trips(trained, texts):
    assert trained.largest_id == 600 - 1
    assert trained.tokenizer.decode(trained.encode([texts[0]])[0]) == texts[0]
    strange = "naïve 🙂 \x07\t 汉字"
    assert trained.tokenizer.decode(trained.encode([strange])[0]) == strange
    assert trained.is_ordinary.sum() == 600 - 5
    assert not trained.is_ordinary[[trained.id(role) for role in ("cls", "sep", "pad", "mask")]].any()


def test_same_text_same_vocabulary(trained, texts):
    assert train_tokenizer(texts, 600).tokenizer.to_str() == trained.tokenizer.to_str()


def test_transformers_loads_it_and_agrees(trained, tmp_path):
    trained.save(tmp_path, 512)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "def wrap(text): return text"
    assert theirs(text)["input_ids"] == [trained.id("cls"), *trained.encode([text])[0], trained.id("sep")]
    for role in ("cls", "sep", "pad", "mask"):
        assert getattr(theirs, f"{role}_token_id") == trained.id(role)
    assert theirs.model_max_length == 512
    assert theirs("a [MASK] b")["input_ids"].count(trained.id("mask")) == 1


@pytest.mark.parametrize("by_folder", [True, False])
def test_saved_tokenizer_loads_back(trained, by_folder, tmp_path):
    trained.save(tmp_path, 512)
    again = load_tokenizer(tmp_path if by_folder else tmp_path / "tokenizer.json")
    assert again.special == trained.special
    assert again.encode(["import os"]) == trained.encode(["import os"])


def test_special_tokens_named_in_the_config_of_older_files(trained, tmp_path):
    text = trained.tokenizer.to_str().replace("[MASK]", "<|hide|>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(HwsearchError, match="no MASK token"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "<|hide|>"}}))
    assert load_tokenizer(tmp_path).id("mask") == trained.id("mask")


def test_vocabulary_larger_than_the_shape(trained, tmp_path):
    trained.save(tmp_path, 512)
    load_tokenizer(tmp_path).check_fits(600, tmp_path)
    with pytest.raises(HwsearchError, match=r"has 600 entries, .* vocab_size is 599; .* best 640"):
        load_tokenizer(tmp_path).check_fits(599, tmp_path)


def test_vocabulary_too_small_for_bytes(texts):
    with pytest.raises(HwsearchError, match=r"vocab_size: 260 .* 261 or more"):
        train_tokenizer(texts, 260)
    assert train_tokenizer(texts, 261).largest_id == 260


@pytest.mark.parametrize("content", ["{", '{"version": "1.0"}', "[]"])
def test_broken_tokenizer_file(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(HwsearchError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_missing_tokenizer_and_broken_config(trained, tmp_path):
    with pytest.raises(HwsearchError, match=r"tokenizer\.json: cannot read"):
        load_tokenizer(tmp_path)
    trained.save(tmp_path, 512)
    for content in ("{", "[]", "3"):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(HwsearchError, match=r"tokenizer_config\.json: not a JSON object"):
            load_tokenizer(tmp_path)


def test_short_text_leaves_entries_unused():
    tokenizer = train_tokenizer(["low lower lowest " * 20], 320)
    assert tokenizer.largest_id == 319
    assert not tokenizer.is_ordinary[tokenizer.tokenizer.token_to_id("[unused0]")]
    assert 261 <= tokenizer.is_ordinary.sum() + 5 < 320


def test_special_tokens_written_in_a_text_are_text(trained):
    (ids,) = trained.encode(["see [MASK] and [SEP]"])
    assert trained.is_ordinary[ids].all()
    assert trained.tokenizer.decode(ids) == "see [MASK] and [SEP]"


def test_unknown_id(trained, tmp_path):
    assert trained.unknown_id == 0
    text = trained.tokenizer.to_str().replace("[UNK]", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    assert load_tokenizer(tmp_path).unknown_id is None
