"""The commands that take a shape or a run: predict, export, train, import."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hwsearch.shape import parse_shape
from hwsearch.shape.notation import shape_yaml
from tests.conftest import Cli


def test_predict_says_where_its_number_comes_from(cli: Cli) -> None:
    done = cli("predict", "modernbert-large", "--gpu", "l4", "--workload", "normal:256,64,32..512x64")
    assert done.returncode == 0 and "predicted latency" in done.stdout and "constants:" in done.stdout
    found = json.loads(cli("predict", "L28-h1024-a16-i2624", "--gpu", "l4", "--json").stdout)
    assert found["gpu"] == "l4" and found["dtype"] == "bf16" and found["runtime"] == "graph"
    assert found["latency_s"] == pytest.approx(sum(found["parts_s"].values()))


def test_predict_with_recomputation_says_so_and_fits_more(cli: Cli) -> None:
    training = ("predict", "modernbert-base", "--gpu", "l4", "--mode", "training")
    assert "training with recomputation" in cli(*training, "--recompute").stdout
    kept, again = (json.loads(cli(*training, *more, "--json").stdout) for more in ((), ("--recompute",)))
    assert again["largest_batch"] > 1.5 * kept["largest_batch"] and again["latency_s"] > kept["latency_s"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bert-huge", "--gpu", "l4"), "no such shape"),
        (("bert-base", "--gpu", "l44"), "did you mean"),
        (("bert-base", "--gpu", "t4", "--dtype", "bf16"), "t4 has no bf16"),
        (("bert-base", "--gpu", "l4", "--workload", "512x64"), "accepted: fixed:512x64"),
        (("bert-base", "--gpu", "l4", "--recompute"), "recomputation is for training"),
    ],
)
def test_predict_refuses(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    done = cli("predict", *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_runs_winner_is_exported_and_imported_again(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    assert cli("run", "--space", small_space).returncode == 0
    run = tmp_path / "runs" / "small"
    winner = parse_shape(str(run / "winners" / "0" / "shape.yaml"))
    assert cli("export", run, "--format", "hf", "--out", tmp_path / "hf").returncode == 0
    assert cli("import", tmp_path / "hf", "--out", tmp_path / "shape.yaml").returncode == 0
    assert parse_shape(str(tmp_path / "shape.yaml")) == winner
    assert parse_shape(str(tmp_path / "hf")) == winner
    other = cli("export", run / "winners" / "1" / "shape.yaml", "--format", "yaml", "--out", tmp_path / "one")
    assert other.returncode == 0 and parse_shape(str(tmp_path / "one")) != winner


def test_a_winner_that_flexbert_refuses_names_one_that_it_takes(cli: Cli, tmp_path: Path) -> None:
    """FlexBERT wants a global last layer: (L - 1) % 3 == 0."""
    run = tmp_path / "run"
    for rank, depth in enumerate((6, 5, 7)):
        path = run / "winners" / str(rank) / "shape.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(shape_yaml(parse_shape(f"L{depth}-h128-a2-i192")))
    (run / "run.yaml").write_text("inputs: {}\n")
    done = cli("export", run, "--format", "flexbert", "--out", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert f"winners {run}/winners/2/shape.yaml can be exported" in done.stderr
    assert (
        cli(
            "export", run / "winners" / "2" / "shape.yaml", "--format", "flexbert", "--out", tmp_path / "out"
        ).returncode
        == 0
    )


def test_export_of_an_unfinished_run_says_so(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    assert cli("run", "--space", small_space).returncode == 0
    shutil.rmtree(tmp_path / "runs" / "small" / "winners")
    done = cli("export", tmp_path / "runs" / "small", "--format", "hf", "--out", tmp_path / "hf")
    assert done.returncode == 2 and "no winners yet" in done.stderr and not (tmp_path / "hf").exists()


def test_import_refuses_other_models(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    done = cli("import", tmp_path)
    assert done.returncode == 2 and "found 'bert'; accepted: 'modernbert'" in done.stderr


def test_train_takes_a_shape_and_leaves_a_model_that_transformers_loads(cli: Cli, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForMaskedLM

    text = tmp_path / "text"
    text.mkdir()
    for number in range(20):
        words = " ".join(f"word{(number * i) % 37} is {i}" for i in range(200))
        (text / f"{number}.txt").write_text(words)
    shape = "L2-h64-a1-i64-v512-p128"
    done = cli(
        "train", shape, "--data", text, "--out", tmp_path / "model", "--steps", "4",
        "--tokens-per-step", "256", "--sequence-length", "64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    logits = model(input_ids=torch.tensor([[3, 5, 7]])).logits
    assert logits.shape == (1, 3, 512) and torch.isfinite(logits).all()
    refused = cli("train", shape, "--data", tmp_path / "nothing", "--out", tmp_path / "other")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    bert = cli("train", "bert-base", "--out", tmp_path / "other")
    assert bert.returncode == 2 and "Traceback" not in bert.stderr and not (tmp_path / "other").exists()
