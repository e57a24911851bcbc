"""hwsearch train's own options; what they do is tested in tests/training."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from hwsearch.cli import main

SHAPE = "L2-h64-a2-i64-v512-p512"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scale", "0.1"), "--scale: needs a --recipe to scale"),
        (("--recipe", "modernbert", "--steps", "4"), "--steps: the recipe says that"),
        (("--recipe", "modernbert", "--tokens-per-step", "4"), "--tokens-per-step: the recipe says that"),
        (
            ("--recipe", "modernbert", "--scale", "2"),
            "scale: found 2.0; input should be less than or equal to 1",
        ),
        (("--recipe", "modernbert", "--scale", "nan"), "scale: found nan"),
        (("--recipe", "modernbert", "--seed", "-1"), "seed: found -1"),
        (("--recipe", "modernbert"), "sequence_length: 1024 is more than"),
        (("--recipe", "nowhere"), "nowhere: no such recipe; accepted: a YAML file, or one of modernbert"),
        (("--recipe", "nowhere.yaml"), "nowhere.yaml: cannot read"),
        (("--steps", "0"), "steps: 0; accepted: 1"),
        (("--fsdp",), "fsdp: there is one process alone"),
    ],
)
def test_options_that_do_not_fit_write_nothing(options, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", SHAPE, "--out", "out", *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_start_that_is_no_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("".join(f"line {number} of it\n" for number in range(3000)))
    arguments = ["train", SHAPE, "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--start", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
