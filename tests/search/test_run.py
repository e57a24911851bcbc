"""A run through the library: the front, the study, resuming, limits, exploring."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

import hwsearch
from hwsearch.errors import HwsearchError
from hwsearch.search.run import run
from hwsearch.search.storage.journal import claim_journal
from hwsearch.search.storage.study import open_storage
from hwsearch.shape import parse_shape
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.shape.quality_prior import effective_parameters
from hwsearch.space.search_space import load_space
from tests.conftest import SMALL_SPACE


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(storage=open_storage(str(folder / "study.log")), study_name="small").trials


def test_the_front_is_exact_and_the_files_agree(small_space: Path, tmp_path: Path) -> None:
    space = load_space(str(small_space))
    result = run(space, out=tmp_path / "run")
    candidates = pd.read_parquet(tmp_path / "run" / "candidates.parquet")
    front = pd.read_csv(tmp_path / "run" / "front.csv")
    assert len(candidates) == len(result.candidates)
    assert candidates["parameters"].between(10**6, 4 * 10**6).all()

    # Dominance by definition, over the two objectives as the files state them.
    quality = effective_parameters(result.candidates.shapes) / 1e6
    latency = candidates["basket_latency_ms"].to_numpy()
    on_front = [
        not np.any((latency <= ms) & (quality >= q) & ((latency < ms) | (quality > q)))
        for ms, q in zip(latency, quality, strict=True)
    ]
    expected = {
        (round(ms, 9), round(q, 9)) for ms, q, on in zip(latency, quality, on_front, strict=True) if on
    }
    found = zip(front["basket_latency_ms"], front["quality_prior_M"], strict=True)
    assert {(round(ms, 9), round(q, 9)) for ms, q in found} == expected
    assert (front["score"].diff().dropna() >= 0).all()

    trials = trials_of(tmp_path / "run")
    assert {t.user_attrs["shape"] for t in trials} == set(front["shape"])
    by_shape = front.set_index("shape")
    for trial in trials:
        row = by_shape.loc[trial.user_attrs["shape"]]
        assert trial.values == pytest.approx([row["basket_latency_ms"], row["quality_prior_M"]])
        assert trial.user_attrs["source"] == "predicted"
        assert trial.user_attrs["latency_ms"]["t4"] == pytest.approx(row["latency_ms_t4"], abs=1e-5)


def test_the_basket_is_a_weighted_geometric_mean_of_single_predictions(
    small_space: Path, tmp_path: Path
) -> None:
    result = run(load_space(str(small_space)), out=tmp_path / "run")
    shape = result.front.shapes.shape(0)

    def ms(gpu: str, workload: str) -> float:
        return 1e3 * hwsearch.predict(shape, gpu=gpu, workload=workload).latency_s

    gpus = []
    for gpu in ("t4", "l4"):
        fixed, normal = ms(gpu, "fixed:128x32"), ms(gpu, "normal:256,64,32..512x16")
        gpus.append(fixed ** (1 / 1.5) * normal ** (0.5 / 1.5))
    assert 1e3 * result.front.basket_latency[0] == pytest.approx((gpus[0] ** 2 * gpus[1]) ** (1 / 3))


def test_winners_differ_in_depth_or_width_and_are_shapes(small_space: Path, tmp_path: Path) -> None:
    run(load_space(str(small_space)), out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    kinds = set()
    for rank, winner in enumerate(summary["winners"]):
        shape = parse_shape(str(tmp_path / "run" / "winners" / str(rank) / "shape.yaml"))
        assert str(shape) == winner["shape"] and masked_lm_parameters(shape) == winner["parameters"]
        kinds.add((shape.num_hidden_layers, shape.hidden_size))
    assert len(kinds) == len(summary["winners"]) == 5


def test_like_for_like_is_what_it_says(small_space: Path, tmp_path: Path) -> None:
    result = run(load_space(str(small_space)), out=tmp_path / "run")
    reference = parse_shape("L4-h192-a3-i512-v4096-p512")
    size = masked_lm_parameters(reference)
    shapes = result.candidates.shapes
    fits = (
        (np.abs(masked_lm_parameters(shapes) - size) <= 0.01 * size)
        & (shapes.num_hidden_layers >= 4)
        & (shapes.global_attn_every_n_layers <= 3)
        & (shapes.local_attention >= 128)
        & (result.candidates.latency < result.reference.latency).all(axis=0)
    )
    if result.like_for_like_row is None:
        assert not fits.any()
    else:
        assert fits[result.like_for_like_row]
        fastest = result.candidates.basket_latency[fits].min()
        assert result.candidates.basket_latency[result.like_for_like_row] == fastest


def test_the_reference_does_not_beat_itself(one_shape_space: Path, tmp_path: Path) -> None:
    """A space that holds the reference alone: on the front, nothing like for like."""
    result = run(load_space(str(one_shape_space)), out=tmp_path / "run")
    assert len(result.candidates) == 1
    assert result.fastest_no_worse_row is None and result.like_for_like_row is None


def test_a_stopped_run_goes_on_and_repeats_nothing(small_space: Path, tmp_path: Path) -> None:
    space, out = load_space(str(small_space)), tmp_path / "run"
    assert run(space, out=out, trials=4).recorded == 4
    # What kill -9 leaves: a trial that runs for ever and half a line.
    study = optuna.load_study(storage=open_storage(str(out / "study.log")), study_name="small")
    study.ask()
    with open(out / "study.log", "ab") as journal:
        journal.write(b'{"op_code":5,"trial')
    warned: list[str] = []
    result = run(space, out=out, warn=warned.append)
    assert len(warned) == 1 and "tore the last line" in warned[0]
    complete = [t for t in trials_of(out) if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(complete) == len(result.front) == len({t.user_attrs["shape"] for t in complete})
    assert not [t for t in trials_of(out) if t.state == optuna.trial.TrialState.RUNNING]
    before = (out / "study.log").read_bytes()
    assert run(space, out=out).recorded == len(complete)
    assert (out / "study.log").read_bytes() == before


def test_a_new_study_with_the_same_seed_has_the_same_front(small_space: Path, tmp_path: Path) -> None:
    space = load_space(str(small_space))
    for name in ("a", "b"):
        run(space, out=tmp_path / name, seed=3)
        run(space, out=tmp_path / f"tpe-{name}", seed=3, sampler="tpe", trials=15)
    for first, second in (("a", "b"), ("tpe-a", "tpe-b")):
        assert (tmp_path / first / "front.csv").read_bytes() == (tmp_path / second / "front.csv").read_bytes()
        values = [[t.values for t in trials_of(tmp_path / name)] for name in (first, second)]
        assert values[0] == values[1]


def test_tpe_goes_on_to_the_total_asked_for(small_space: Path, tmp_path: Path) -> None:
    space, out = load_space(str(small_space)), tmp_path / "run"
    run(space, out=out, sampler="tpe", trials=12)
    result = run(space, out=out, sampler="tpe", trials=20)
    shapes = [t.user_attrs["shape"] for t in trials_of(out)]
    assert result.recorded == len(shapes) == len(set(shapes)) == 20


def with_text(folder: Path, added: str, old: str = "reference:") -> Path:
    path = folder / "small.yaml"
    path.write_text(SMALL_SPACE.replace(old, f"{added}\n{old}"))
    return path


def test_limits_are_constraints_of_the_study(tmp_path: Path, small_space: Path) -> None:
    free = run(load_space(str(small_space)), out=tmp_path / "free")
    slowest = 1e3 * float(np.median(free.front.slowest[0]))
    path = with_text(tmp_path, f"limits: {{latency_ms: {{t4: {slowest}}}, memory_gib: {{l4: 8}}}}")
    kept = run(load_space(str(path)), out=tmp_path / "kept")
    assert 1e3 * kept.candidates.slowest[0].max() <= slowest
    assert len(kept.candidates) < len(free.candidates)
    removed = {removal.constraint: removal.removed for removal in kept.removals}
    assert removed["slowest_latency_ms[t4]"] == len(free.candidates) - len(kept.candidates)
    for trial in trials_of(tmp_path / "kept"):
        assert set(trial.constraints) == {"slowest_latency_ms[t4]", "memory_gib[t4]", "memory_gib[l4]"}
        assert all(excess <= 0 for excess in trial.constraints.values())
    explored = run(load_space(str(path)), out=tmp_path / "tpe", sampler="tpe", trials=20)
    assert any(trial.constraints["slowest_latency_ms[t4]"] > 0 for trial in trials_of(tmp_path / "tpe"))
    assert 1e3 * explored.candidates.slowest[0].max() <= slowest


def test_limits_that_nothing_keeps_to(tmp_path: Path) -> None:
    path = with_text(tmp_path, "limits: {latency_ms: {l4: 0.000001}}")
    with pytest.raises(
        HwsearchError, match=r"none of .* keeps to the limits[\s\S]*slowest_latency_ms\[l4\]: removed"
    ):
        run(load_space(str(path)), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("over", "names"),
    [
        ("each", ["latency_ms[t4]", "latency_ms[l4]", "depth", "quality_prior_M", "peak_memory_GiB"]),
        ("worst", ["worst_latency_ratio", "depth", "quality_prior_M", "peak_memory_GiB"]),
    ],
)
def test_objectives_have_readable_names(tmp_path: Path, over: str, names: list[str]) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        SMALL_SPACE.replace(
            "latency: {weight: 1.0}", f"latency: {{over: {over}}}\n  depth: {{weight: 0.1}}"
        ).replace(
            "quality_prior: {weight: 1.0}", "quality_prior: {}\n  memory: {weight: 0.1, max: reference}"
        )
    )
    result = run(load_space(str(path)), out=tmp_path / "run", trials=10)
    study = optuna.load_study(storage=open_storage(str(tmp_path / "run" / "study.log")), study_name="small")
    assert study.metric_names == names
    assert result.candidates.memory.max() <= result.reference.memory.max()


def test_any_optuna_storage(small_space: Path, tmp_path: Path) -> None:
    space, url = load_space(str(small_space)), f"sqlite:///{tmp_path}/study.db"
    result = run(space, out=tmp_path / "run", storage=url, trials=6)
    assert result.recorded == 6 and not (tmp_path / "run" / "study.log").exists()
    assert len(optuna.load_study(storage=url, study_name="small").trials) == 6
    other = with_text(tmp_path, "mode: training")
    with pytest.raises(HwsearchError, match="belongs to another space"):
        run(load_space(str(other)), out=tmp_path / "other", storage=url)
    with pytest.raises(HwsearchError, match="cannot be opened") as told:
        run(space, out=tmp_path / "third", storage="nosuchdb://user:secret@host/x")
    assert "secret" not in str(told.value)


def test_a_torn_journal_given_as_storage_is_mended_too(small_space: Path, tmp_path: Path) -> None:
    space, journal = load_space(str(small_space)), tmp_path / "own.log"
    assert run(space, out=tmp_path / "run", storage=str(journal), trials=3).recorded == 3
    with open(journal, "ab") as file:
        file.write(b'{"op_code":4,"tri')
    warned: list[str] = []
    assert run(space, out=tmp_path / "run", storage=str(journal), trials=5, warn=warned.append).recorded == 5
    assert len(warned) == 1
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], b"torn\n", *lines[4:]]))
    with pytest.raises(HwsearchError, match=r"own\.log:5: not a record"):
        run(space, out=tmp_path / "run", storage=str(journal))


def test_a_shape_that_a_killed_process_had_in_a_database_is_tried_again(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, url = load_space(str(small_space)), f"sqlite:///{tmp_path}/study.db"

    def killed(*_: object) -> None:
        raise SystemExit("killed between ask and tell")

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr("hwsearch.search.plans.tell", killed)
        run(space, out=tmp_path / "run", storage=url)
    result = run(space, out=tmp_path / "run", storage=url)
    assert result.recorded == len(result.front)
    states = [trial.state for trial in optuna.load_study(storage=url, study_name="small").trials]
    assert optuna.trial.TrialState.RUNNING not in states


def test_a_refused_storage_leaves_no_folder(small_space: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    run(load_space(str(small_space)), out=tmp_path / "run", storage=url, trials=2)
    small_space.write_text(SMALL_SPACE.replace("4M", "5M"))
    with pytest.raises(HwsearchError, match="belongs to another space"):
        run(load_space(str(small_space)), out=tmp_path / "other", storage=url)
    assert not (tmp_path / "other").exists()


def test_exploring_a_used_up_space_still_answers(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_SPACE.replace("{min: 2, max: 9}", "4").replace("[1, 3]", "3"))
    space = load_space(str(path))
    result = run(space, out=tmp_path / "run", sampler="tpe", trials=10_000)
    assert 0 < result.recorded < 200 and result.winners
    states = {trial.state for trial in trials_of(tmp_path / "run")}
    assert states == {optuna.trial.TrialState.COMPLETE}


def test_fewer_winners_leave_no_stale_files(small_space: Path, tmp_path: Path) -> None:
    run(load_space(str(small_space)), out=tmp_path / "run")
    small_space.write_text(SMALL_SPACE + "winners: 2\n")
    result = run(load_space(str(small_space)), out=tmp_path / "run")
    ranked = sorted(p.parent.name for p in (tmp_path / "run").glob("winners/[0-9]*/shape.yaml"))
    assert ranked == ["0", "1"] and len(result.winners) == 2


def test_a_space_of_one_shape_is_explored_once(one_shape_space: Path, tmp_path: Path) -> None:
    assert run(load_space(str(one_shape_space)), out=tmp_path / "run", sampler="tpe").recorded == 1


def test_what_a_kill_left_of_a_write_is_swept_up(small_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".run.yaml.123.0a1b2c3d.tmp").write_text("inp")
    assert run(load_space(str(small_space)), out=folder, trials=2).recorded == 2
    assert not list(folder.rglob("*.tmp"))


def test_hidden_files_of_the_user_are_no_leftovers(small_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / ".config").mkdir(parents=True)
    (folder / ".config" / ".draft.12.0a1b2c3d.tmp").write_text("years of work")
    with pytest.raises(HwsearchError, match=r"holds '\.config' but no run\.yaml"):
        run(load_space(str(small_space)), out=folder)
    assert (folder / ".config" / ".draft.12.0a1b2c3d.tmp").read_text() == "years of work"


def test_a_read_only_database_is_one_message(small_space: Path, tmp_path: Path) -> None:
    space, path = load_space(str(small_space)), tmp_path / "study.db"
    run(space, out=tmp_path / "run", storage=f"sqlite:///{path}", trials=2)
    with pytest.raises(HwsearchError, match="cannot be written"):
        run(space, out=tmp_path / "other", storage=f"sqlite:///file:{path}?mode=ro&uri=true", trials=4)


def test_a_space_too_large_to_enumerate_is_explored(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        SMALL_SPACE.replace("{min: 2, max: 9}", "{min: 2, max: 400}")
        .replace("{min: 128, max: 320, step: 64}", "{min: 128, max: 16384, step: 64}")
        .replace("{min: 128, max: 1024, step: 64}", "{min: 128, max: 65536, step: 64}")
        .replace("{min: 1M, max: 4M}", "{min: 100M, max: 2B}")
    )
    space = load_space(str(path))
    assert space.size > 10**8
    result = run(space, out=tmp_path / "run", trials=12)
    shapes = {trial.user_attrs["shape"] for trial in trials_of(tmp_path / "run")}
    assert result.recorded == len(shapes) == 12
    assert all(10**8 <= masked_lm_parameters(parse_shape(shape)) <= 2 * 10**9 for shape in shapes)


def test_a_run_whose_inputs_are_long_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        SMALL_SPACE.replace("{min: 128, max: 320, step: 64}", "{min: 64, max: 10000}")
        .replace("{min: 128, max: 1024, step: 64}", "{min: 64, max: 10000}")
        .replace("{min: 1M, max: 4M}", "{min: 1M, max: 100B}")
    )
    for trials in (3, 5):
        assert run(load_space(str(path)), out=tmp_path / "run", trials=trials).recorded == trials
    assert (tmp_path / "run" / "run.yaml").read_text().count("\n") > 19_000


def test_two_names_of_one_journal_are_one_claim(small_space: Path, tmp_path: Path) -> None:
    space = load_space(str(small_space))
    (tmp_path / "link.log").symlink_to(tmp_path / "real.log")
    with (
        claim_journal(tmp_path / "real.log", warn=lambda message: None),
        pytest.raises(HwsearchError, match="using this journal"),
    ):
        run(space, out=tmp_path / "run", storage=str(tmp_path / "link.log"))
