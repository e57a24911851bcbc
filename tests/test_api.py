"""What other programs may get wrong when they call hwsearch."""

from __future__ import annotations

import pytest

import hwsearch


@pytest.mark.parametrize(
    "wrong", [{"mode": "train"}, {"runtime": "onnx"}, {"head": "cls"}, {"dtype": "int8"}]
)
def test_a_word_that_is_not_known_is_refused(wrong: dict[str, str]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(hwsearch.HwsearchError, match=f"{name}: '{value}' is unknown; accepted: "):
        hwsearch.predict("bert-base", gpu="l4", **wrong)  # type: ignore[arg-type]
