"""Tuned tables in prices: what they change, what they must not, and what is said of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tuned_rows
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch.cli import main
from hwsearch.cost.attention import BACKWARD_FACTOR, attention_seconds
from hwsearch.cost.explain import explain
from hwsearch.cost.prediction import Prediction, predict_shape
from hwsearch.cost.runtime import GAP_S_PER_KERNEL
from hwsearch.cost.tables import predict_table
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels import tuned
from hwsearch.kernels.tuned import Key
from hwsearch.report.explain import explanation_text
from hwsearch.report.table import answer_table
from hwsearch.search.identity import identity
from hwsearch.search.run import run
from hwsearch.settings import Settings
from hwsearch.shape import PRESETS, parse_shape
from hwsearch.space.search_space import load_space
from hwsearch.workload import parse_workload
from tests.conftest import SMALL_SPACE

L4 = load_gpu("l4")
BASE = PRESETS["modernbert-base"]  # heads of 64, local layers see 64 keys to each side
WORKLOAD = parse_workload("fixed:512x64")
FORWARD, BACKWARD = "attention_forward", "attention_backward"
BACKEND, BACKEND_TRAINING = "attention_backend", "attention_backend_training"
GLOBAL, LOCAL = Key("bf16", 64, "global", 512), Key("bf16", 64, "narrow", 512)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Adds a row to a table; whatever else is shipped or the user's own counts as absent."""
    folder = tmp_path / "tuned"

    def add(kernel: str, gpu: str = "l4", key: Key = GLOBAL, **change: Any) -> Path:
        path = tuned_rows.write(folder, gpu, tuned_rows.row(kernel, key, **change), kernel=kernel)
        tuned.forget()
        return path

    monkeypatch.setattr(tuned, "folders", lambda: (folder,))
    tuned.forget()
    yield add
    tuned.forget()


def predicted(text: str = "fixed:512x64", **arguments: Any) -> Prediction:
    arguments = {"attention_times": "tuned", **arguments}
    return predict_shape(BASE, arguments.pop("gpu", L4), parse_workload(text), **arguments)


def attention_s(prediction: Prediction, kind: str = "global") -> float:
    return prediction.parts_s.get(f"attention {kind}", 0.0)


def of_library(**arguments: Any) -> Prediction:
    return predicted(attention_times="library", **arguments)


def rotation_s(prediction: Prediction) -> float:
    """Of the global layers; all layers rotate alike."""
    layers = BASE.num_global_layers / BASE.num_hidden_layers
    return prediction.parts_s["rotary embedding"] * layers


def test_without_a_table_a_price_is_the_librarys(write: Write) -> None:
    for mode in ("inference", "training"):
        ours, library = predicted(mode=mode), of_library(mode=mode)
        assert ours.parts_s == library.parts_s and ours.latency_s == library.latency_s
        assert str(ours.attention["attention global"]) == "library kernel fa2"


def test_a_measured_time_is_met_at_its_own_workload(write: Write) -> None:
    write(FORWARD, seconds=2e-3, workload="fixed:512x64", heads=BASE.num_attention_heads)
    found = predicted()
    expected_s = BASE.num_global_layers * (2e-3 + GAP_S_PER_KERNEL)
    assert attention_s(found) == pytest.approx(expected_s, rel=1e-9)
    time = found.attention["attention global"].forward
    assert (time.kernel, time.source, time.state, time.gpu) == ("tuned tiles", "measured", "exact", "l4")
    # Local layers are another class, which no table knows: the library, and the rotation beside it.
    library = of_library()
    rotation = library.parts_s["rotary embedding"] - rotation_s(library)
    assert attention_s(found, "local") == pytest.approx(attention_s(library, "local") + rotation)
    assert "rotary embedding" not in found.parts_s


def test_it_is_carried_to_others_as_the_cost_model_scales(write: Write) -> None:
    write(FORWARD, seconds=2e-3, workload="fixed:512x64", heads=12)
    here = attention_s(predicted())
    for text in ("fixed:512x256", "normal:256,64,32..512x64"):
        other = predicted(text)
        ratio = attention_s(other) / here
        one, two = (of_library(text=t) if t else of_library() for t in (text, None))
        expected = (attention_s(one) + rotation_s(one)) / (attention_s(two) + rotation_s(two))
        assert ratio == pytest.approx(expected, rel=1e-3)


@given(seconds=st.floats(1e-5, 1e-2), default=st.floats(1e-5, 1e-2))
@settings(max_examples=25, deadline=None)
def test_a_modelled_gain_is_one_over_default_tiles_and_never_a_loss(seconds: float, default: float) -> None:
    row = tuned_rows.row(source="modelled", seconds=seconds, default_seconds=default)
    answers = {FORWARD: tuned.Found("compiled only", row, "l4")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "hwsearch.cost.tuned_attention.tuned_for", lambda kernel, *_: answers.get(kernel, tuned.DEFAULT)
        )
        found, library = predicted(), of_library()
    gain, launches_s = min(1.0, seconds / default), BASE.num_global_layers * GAP_S_PER_KERNEL
    whole = attention_s(library) - launches_s + rotation_s(library)
    assert attention_s(found) == pytest.approx(gain * whole + launches_s, rel=1e-9)
    assert found.latency_s <= library.latency_s * (1 + 1e-12)
    if gain == 1:
        assert found.latency_s == pytest.approx(library.latency_s, rel=1e-12)


def test_a_modelled_row_without_a_default_changes_nothing(write: Write) -> None:
    write(FORWARD, source="modelled", seconds=1e-9, default_seconds=None, spread=None)
    assert predicted().latency_s == pytest.approx(of_library().latency_s, rel=1e-12)


def test_a_faster_row_never_makes_an_encoder_slower(write: Write) -> None:
    latencies = []
    for number, seconds in enumerate((4e-3, 2e-3, 1e-3, 5e-4)):
        write(FORWARD, seconds=seconds, date=f"2026-11-2{number}")
        latencies.append(predicted().latency_s)
    assert latencies == sorted(latencies, reverse=True) and len(set(latencies)) == 4


def test_every_state_is_used_and_told(write: Write) -> None:
    write(FORWARD, "rtx4090", source="modelled", seconds=1e-4, default_seconds=2e-4, spread=None)
    states = [predicted().attention["attention global"].forward.state]
    write(FORWARD, "rtx4090", seconds=1e-3)
    other = predicted().attention["attention global"].forward
    states.append(other.state)
    # Its time is held against what is predicted for its own GPU, not for the L4.
    as_own = predicted(gpu=load_gpu("rtx4090")).attention["attention global"].forward
    assert other.gpu == "rtx4090" and other.factor == as_own.factor
    write(FORWARD, key=Key("bf16", 64, "global", 2048), workload="fixed:2048x16")
    states.append(predicted().attention["attention global"].forward.state)
    write(FORWARD)
    states.append(predicted().attention["attention global"].forward.state)
    assert states == ["compiled only", "same family", "same GPU", "exact"]


def test_the_longest_sequence_decides_the_class(write: Write) -> None:
    write(FORWARD, key=Key("bf16", 64, "global", 512))
    assert predicted("fixed:512x8").attention["attention global"].forward.state == "exact"
    assert predicted("fixed:4096x2").attention["attention global"].forward.state == "default"
    # A window that hides nothing is global.
    write(FORWARD, key=Key("bf16", 64, "global", 64), workload="fixed:64x512")
    assert predicted("fixed:60x8").attention["attention local"].forward.state == "exact"


def test_training_takes_both_passes_from_their_own_tables(write: Write) -> None:
    library = of_library(mode="training")
    write(BACKWARD, seconds=3e-3, workload="fixed:512x64", heads=12)
    found = predicted(mode="training")
    time = found.attention["attention global"]
    assert time.forward.source == "library" and time.backward is not None
    assert "forward library kernel fa2; backward tuned tiles, measured on l4" in str(time)
    forward_s = float(attention_seconds(L4, "bf16", [512], [64], 12, 64))
    whole = attention_s(library) + rotation_s(library)
    without_forward = whole - BASE.num_global_layers * forward_s
    assert time.backward.factor == pytest.approx(
        3e-3 / (BACKWARD_FACTOR * forward_s + 2 * rotation_s(library) / BASE.num_global_layers / 3), rel=1e-6
    )
    assert attention_s(found) < whole or time.backward.factor > 1
    write(FORWARD, seconds=1e-6, workload="fixed:512x64", heads=12)
    both = predicted(mode="training")
    assert attention_s(both) < attention_s(found) - 0.9 * BASE.num_global_layers * forward_s
    assert without_forward > 0
    # Recomputation runs the forward pass once more, as inference does.
    again = predicted(mode="training", recompute=True)
    assert attention_s(again) - attention_s(both) == pytest.approx(attention_s(predicted()), rel=1e-9)


def test_a_chosen_backend_is_priced_by_its_own_time(write: Write) -> None:
    write(FORWARD, seconds=1e-3)
    write(BACKEND, seconds=5e-4)
    time = predicted().attention["attention global"].forward
    assert (time.kernel, time.source) == ("torch_flash", "measured")
    # Where it is our own kernels, their tiles were tuned since.
    write(BACKEND, seconds=5e-4, config={"backend": "triton"})
    assert predicted().attention["attention global"].forward.kernel == "tuned tiles"
    write(BACKEND_TRAINING, seconds=1e-3)
    trained = predicted(mode="training").attention["attention global"]
    assert trained.forward == trained.backward and trained.forward.kernel == "torch_flash"


@pytest.mark.parametrize(
    "arguments",
    [{"runtime": "tensorrt"}, {"dtype": "tf32"}, {"dtype": "fp16"}, {"attention_times": "library"}],
)
def test_what_runs_other_kernels_is_left_alone(write: Write, arguments: dict[str, Any]) -> None:
    before = predicted(**arguments)
    for kernel in (FORWARD, BACKEND):
        write(kernel, seconds=1e-9)
    assert predicted(**arguments) == before


def test_other_encoders_compare_and_tables_are_priced_as_libraries_run(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text(
        "op,batch_size,seq_len,num_heads,head_dim\nattention,64,512,12,64\n", encoding="utf-8"
    )
    (tmp_path / "models.csv").write_text(
        "layers,hidden,heads,ffn,batch,seq,glu\n12,768,12,1152,64,512,1\n", encoding="utf-8"
    )

    def answers() -> list[str]:
        texts = [predict_table(tmp_path / name, L4) for name in ("rows.csv", "models.csv")]
        main(["compare", "bert-base", "modernbert-base", "--gpu", "l4"])
        main(["predict", "bert-base", "--gpu", "l4"])
        return [*texts, capsys.readouterr().out]

    before = answers()
    for key in (GLOBAL, LOCAL):
        write(FORWARD, key=key, seconds=1e-6)
    assert answers() == before
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["predict", str(tmp_path / "rows.csv"), "--gpu", "l4", "--attention", "tuned"]))
    assert stopped.value.code == 2 and "--attention is for a shape" in capsys.readouterr().err


def test_predict_and_its_explanation_say_which_times(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", "modernbert-base", "--gpu", "l4"]
    main(command)
    assert "attention           library kernel fa2\n" in capsys.readouterr().out
    write(FORWARD, seconds=2e-3)
    main(command)
    shown = capsys.readouterr().out
    assert "attention global    tuned tiles, measured on l4 2026-11-21 (exact), x" in shown
    assert "attention local     library kernel fa2\n" in shown
    main([*command, "--explain"])
    assert "(exact), x" in capsys.readouterr().out.partition("Where the numbers come from")[2]
    main([*command, "--json"])
    told = json.loads(capsys.readouterr().out)["attention"]["attention global"]["forward"]
    assert told["source"] == "measured" and told["factor"] > 0
    main([*command, "--attention", "library"])
    assert "attention           library kernel fa2\n" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_an_explanation_still_adds_up(write: Write, mode: Any) -> None:
    write(FORWARD, seconds=2e-3)
    write(BACKWARD, seconds=4e-3)
    prediction = predicted(mode=mode, recompute=mode == "training")
    explanation = explain(prediction, BASE, L4, WORKLOAD)
    seconds = sum(o.seconds for o in explanation.operators if o.part == "attention global")
    assert seconds == pytest.approx(attention_s(prediction))
    assert sum(o.share for o in explanation.operators) == pytest.approx(1)
    # What bounds the kernel is asked of GPUs that are a little faster, on which it is as well tuned.
    (bound,) = {o.bound for o in explanation.operators if o.part == "attention global"}
    assert bound != "overhead"
    assert "tuned tiles" in explanation_text(explanation, prediction, L4)


SPACE = SMALL_SPACE.replace("reference:", "constraints: {head_size_multiple_of_64: false}\nreference:")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SPACE)
    return path


def speed_up_64(write: Write) -> None:
    """Heads of 64 take next to no time, wherever the space meets them on the L4."""
    for length, workload in ((128, "fixed:128x256"), (512, "fixed:512x64")):
        for window in ("global", "narrow"):
            write(FORWARD, key=Key("bf16", 64, window, length), seconds=1e-6, workload=workload)


def test_a_better_kernel_moves_the_front(write: Write, space: Path, tmp_path: Path) -> None:
    before = run(load_space(str(space)), out=tmp_path / "before")
    speed_up_64(write)
    after = run(load_space(str(space)), out=tmp_path / "after")
    sizes = [np.mean(result.front.shapes.head_size == 64) for result in (before, after)]
    assert sizes[1] > sizes[0]
    assert [str(shape) for shape in before.winners] != [str(shape) for shape in after.winners]
    # The T4 has no such table, and its prices stay.
    t4 = [row for row, gpu in enumerate(load_space(str(space)).gpus) if gpu.name == "t4"]
    assert np.array_equal(before.candidates.latency[t4], after.candidates.latency[t4])

    assert before.summary()["attention"] == {} and "tuned tables" not in answer_table(before.summary())
    told = after.summary()["attention"]
    assert all(name.startswith("l4, bf16, heads of 64") for name in told) and len(told) == 4
    assert "attention by tuned tables" in answer_table(after.summary())
    assert "tuned tiles, measured on l4" in after.folder.run_yaml.read_text()


def test_the_tables_are_part_of_a_runs_identity(write: Write, space: Path, tmp_path: Path) -> None:
    first = identity(load_space(str(space)))
    run(load_space(str(space)), out=tmp_path / "run", trials=3)
    write(FORWARD, "a100-sxm-80")  # another family
    write(FORWARD, key=Key("bf16", 128, "global", 512))  # a head size that the space does not have
    assert identity(load_space(str(space))) == first
    write(FORWARD)
    assert identity(load_space(str(space))) != first
    named = r"another attention, .*: l4, bf16, heads of 64, global, up to 128 was None and is tuned tiles"
    with pytest.raises(HwsearchError, match=named):
        run(load_space(str(space)), out=tmp_path / "run", trials=3)
    space.write_text(SPACE + "attention: library\n")
    unmoved = identity(load_space(str(space)))
    write(FORWARD, seconds=3e-3, date="2026-11-22")
    assert identity(load_space(str(space))) == unmoved


def test_a_run_and_single_predictions_agree(write: Write, space: Path, tmp_path: Path) -> None:
    speed_up_64(write)
    result = run(load_space(str(space)), out=tmp_path / "run", trials=3)
    found = [hwsearch.predict(result.front.shapes.shape(0), gpu="l4", workload=w).latency_s
             for w in ("fixed:128x32", "normal:256,64,32..512x16")]  # fmt: skip
    (l4,) = [row for row, gpu in enumerate(result.space.gpus) if gpu.name == "l4"]
    mean = np.exp((np.log(found[0]) + 0.5 * np.log(found[1])) / 1.5)
    assert result.front.latency[l4, 0] == pytest.approx(mean)


def test_a_broken_table_is_a_warning(write: Write) -> None:
    path = write(FORWARD)
    path.write_text(path.read_text().replace('"seconds": 0.0001', '"seconds": -1'))
    tuned.forget()
    with pytest.warns(UserWarning, match="seconds"):
        found = predicted()
    assert found.latency_s == of_library().latency_s


def test_a_workload_of_another_class_is_a_warning(write: Write) -> None:
    write(FORWARD, workload="fixed:99999x9")
    with pytest.warns(UserWarning, match="fixed:99999x9: sequences of 99,999, and it is of another class"):
        found = predicted()
    assert found.latency_s == of_library().latency_s


def test_a_workload_that_is_not_here_is_a_warning(write: Write) -> None:
    write(FORWARD, workload="lengths-of-somebody.txt")
    with pytest.warns(UserWarning, match="not used for predictions: workload lengths-of-somebody"):
        found = predicted()
    assert found.latency_s == of_library().latency_s
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted()


def test_an_unknown_kind_of_times_is_named() -> None:
    with pytest.raises(HwsearchError, match="accepted: tuned, library"):
        Settings(attention_times="best")  # type: ignore[arg-type]
    with pytest.raises(HwsearchError, match="accepted"):
        hwsearch.predict(parse_shape("modernbert-base"), gpu="l4", attention="best")  # type: ignore[arg-type]
