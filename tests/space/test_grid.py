"""The grid and its constraints against plain loops over every combination."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.errors import HwsearchError
from hwsearch.shape.table import ShapeTable
from hwsearch.space.constraints import lowest_wave_utilisation
from hwsearch.space.grid import enumerate_grid, grid_size, intermediate_sizes, random_shapes
from hwsearch.space.schema import ShapeSection
from hwsearch.space.search_space import SearchSpace, load_space, preset_obstacles, valid_shapes
from tests.conftest import SMALL_SPACE

multiples = st.lists(st.integers(1, 12).map(lambda n: 32 * n), min_size=1, max_size=4)
sections = st.builds(
    lambda depth, hidden, head, ffn, every, window: ShapeSection.model_validate(
        dict(
            num_hidden_layers=depth,
            hidden_size=hidden,
            head_size=head,
            intermediate_size=ffn,
            global_attn_every_n_layers=every,
            local_attention=window,
        )
    ),
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    multiples,
    st.lists(st.sampled_from([32, 64, 96]), min_size=1, max_size=3),
    multiples,
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.lists(st.sampled_from([32, 64, 128]), min_size=1, max_size=2),
)


def by_loops(section: ShapeSection) -> set[tuple[int, ...]]:
    return {
        (depth, hidden, hidden // head, ffn, every, window)
        for depth in section.num_hidden_layers
        for hidden in section.hidden_size
        for head in section.head_size
        for ffn in section.intermediate_size or ()
        for every in section.global_attn_every_n_layers
        for window in section.local_attention
        if hidden % head == 0 and (every > 1 or window == min(section.local_attention))
    }


def rows(table: ShapeTable) -> list[tuple[int, ...]]:
    columns = (
        table.num_hidden_layers,
        table.hidden_size,
        table.num_attention_heads,
        table.intermediate_size,
        table.global_attn_every_n_layers,
        table.local_attention,
    )
    return [tuple(row) for row in np.stack(columns, axis=1).tolist()]


@settings(max_examples=50)
@given(sections)
def test_the_grid_holds_every_combination_once(section: ShapeSection) -> None:
    table = enumerate_grid(section)
    assert len(table) == grid_size(section) == len(set(rows(table)))
    assert set(rows(table)) == by_loops(section)


@settings(max_examples=30)
@given(sections, st.integers(0, 5))
def test_random_shapes_are_of_the_grid(section: ShapeSection, seed: int) -> None:
    drawn = random_shapes(section, np.random.default_rng(seed), 200)
    assert set(rows(drawn)) <= by_loops(section)


def section(**changes: object) -> ShapeSection:
    sizes = dict(num_hidden_layers=4, hidden_size=1024, head_size=64)
    return ShapeSection.model_validate({**sizes, **changes})


def test_feed_forward_ratios() -> None:
    """The ratio is 2 I / h: 3.0 and 5.125 give ModernBERT's 1152 at 768 and 2624 at 1024."""
    assert list(intermediate_sizes(section(intermediate_ratio=[3.0]), 768)) == [1152]
    assert list(intermediate_sizes(section(intermediate_ratio=[5.125, 5.13]), 1024)) == [2624]
    bounded = section(intermediate_ratio={"min": 2.0, "max": 2.2})
    assert list(intermediate_sizes(bounded, 1024)) == [1024, 1088]
    both = section(
        intermediate_size=[1000, 1024, 1100, 2048, 9000], intermediate_ratio={"min": 2.0, "max": 4.0}
    )
    assert list(intermediate_sizes(both, 1024)) == [1024, 1100, 2048]


def test_sizes_from_a_ratio_stay_within_what_a_shape_may_have() -> None:
    wide = section(hidden_size=2048, intermediate_ratio=[4.0, 500.0])
    assert list(intermediate_sizes(wide, 2048)) == [4096]
    ranged = section(hidden_size=2048, intermediate_ratio={"min": 200.0, "max": 1000.0})
    assert max(intermediate_sizes(ranged, 2048)) <= 300_000


def test_each_constraint_removes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        SMALL_SPACE.replace("step: 64}\n  global", "step: 32}\n  global")
        .replace(
            "quality_prior: {weight: 1.0}",
            "quality_prior: {weight: 1.0}\n  depth: {weight: 0, min: 4, max: 8}",
        )
        .replace("reference:", "constraints: {last_layer_is_global: true}\nreference:")
    )
    space = load_space(str(path))
    shapes, removals = valid_shapes(space)
    assert [r.constraint for r in removals] == [
        "parameter_budget",
        "depth",
        "gemm_dims_multiple_of_64",
        "head_size_multiple_of_64",
        "last_layer_is_global",
    ]
    assert all(r.removed > 0 for r in removals)
    assert sum(r.removed for r in removals) + len(shapes) == space.size
    for row in range(0, len(shapes), 7):
        shape = shapes.shape(row)
        assert (
            shape.head_size == 64 and shape.intermediate_size % 64 == 0 and 4 <= shape.num_hidden_layers <= 8
        )
        assert (shape.num_hidden_layers - 1) % shape.global_attn_every_n_layers == 0


def test_wave_utilisation_on_true_sm_counts() -> None:
    """ModernBERT-large's four GEMMs on 4096 tokens and the L4's 58 SMs, each in its better orientation."""
    space = load_space("modernbert-authors")
    l4 = [gpu for gpu in space.gpus if gpu.name == "l4"]
    large = ShapeTable.of([space.reference])
    lowest = lowest_wave_utilisation(large, [4096], l4, [128, 256])[0]
    expected = 1.0
    for outputs in (3072, 1024, 5248):
        best = 0.0
        for tm, tn in ((128, 256), (256, 128)):
            blocks = math.ceil(4096 / tm) * math.ceil(outputs / tn)
            best = max(best, blocks / (58 * math.ceil(blocks / 58)))
        expected = min(expected, best)
    assert lowest == pytest.approx(expected)


def test_the_authors_rules_keep_their_large_model() -> None:
    obstacles = preset_obstacles(load_space("modernbert-authors"))
    assert obstacles["modernbert-large"] == []
    assert "parameter_budget" in obstacles["modernbert-base"]
    assert any("architecture" in reason for reason in obstacles["bert-large"])


def test_presets_lie_in_their_spaces() -> None:
    assert preset_obstacles(load_space("large"))["modernbert-large"] == []
    assert preset_obstacles(load_space("base"))["modernbert-base"] == []


def test_an_infeasible_space_says_which_constraint_removed_what(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SMALL_SPACE.replace("{min: 1M, max: 4M}", "{min: 900M, max: 901M}"))
    with pytest.raises(HwsearchError, match=r"no shape is left[\s\S]*parameter_budget +-2,880 +0 left"):
        valid_shapes(load_space(str(path)))


def switched_on(folder: Path, switch: str, workload: str = "fixed:128x32", **sizes: str) -> SearchSpace:
    """The small space on one workload, with one more constraint and other sizes."""
    text = SMALL_SPACE.replace("fixed:128x32", workload).replace(
        "reference:", f"constraints: {{{switch}}}\nreference:"
    )
    text = text.replace('  - {lengths: "normal:256,64,32..512x16", weight: 0.5}\n', "")
    for name, value in sizes.items():
        text = re.sub(rf"  {name}: .*", f"  {name}: {value}", text)
    path = folder / "s.yaml"
    path.write_text(text)
    return load_space(str(path))


@pytest.mark.parametrize("workload", ["fixed:128x32", "fixed:100x32", "fixed:128x33"])
def test_tile_divisibility_takes_m_from_the_workload(tmp_path: Path, workload: str) -> None:
    space = switched_on(tmp_path, "output_tile_divisibility: true", workload)
    (rule,) = [c for c in space.constraints if c.name == "output_tile_divisibility"]
    shapes = enumerate_grid(space.file.shape)
    tokens = space.workloads[0].tokens
    expected = []
    for hidden, ffn in zip(shapes.hidden_size.tolist(), shapes.intermediate_size.tolist(), strict=True):
        outputs = (3 * hidden, hidden, 2 * ffn, hidden)
        whole = [
            (tokens % 128 == 0 and n % 256 == 0) or (tokens % 256 == 0 and n % 128 == 0) for n in outputs
        ]
        expected.append(all(whole))
    assert rule.passes(shapes).tolist() == expected
    assert any(expected) == (tokens % 128 == 0)


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": "4100"},
        {"hidden_size": "[160, 224]", "head_size": "32"},
        {"intermediate_size": "[160, 480]"},
    ],
)
def test_multiples_of_64_are_asked_of_every_gemm_dimension(tmp_path: Path, sizes: dict[str, str]) -> None:
    space = switched_on(tmp_path, "head_size_multiple_of_64: false", **sizes)
    (rule,) = [c for c in space.constraints if c.name == "gemm_dims_multiple_of_64"]
    assert not rule.passes(enumerate_grid(space.file.shape)).any()
    off = switched_on(tmp_path, "head_size_multiple_of_64: false, gemm_dims_multiple_of_64: false", **sizes)
    assert "gemm_dims_multiple_of_64" not in [c.name for c in off.constraints]


def test_a_space_with_options_holds_shapes_with_them(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_SPACE.replace("shape:\n", "shape:\n  options: {norm: rmsnorm, mlp: plain}\n", 1))
    space, usual = load_space(str(path)), load_space(str(tiny(tmp_path)))
    shapes, _ = valid_shapes(space)
    assert str(shapes.shape(0)).startswith("modernbert+mlp=plain+norm=rmsnorm:L")
    assert space.description()["shape"]["options"] == {"norm": "rmsnorm", "mlp": "plain"}
    # What a run of a space without options is known by is what it was before there were any.
    assert "options" not in usual.description()["shape"]
    for text, said in (
        ("options: {norm: batch}", r"options: norm: found 'batch'; accepted: layernorm, rmsnorm"),
        ("options: {initial_plain_layers: 5}", "5 are more than num_hidden_layers"),
        ("options: rmsnorm", "options"),
    ):
        path.write_text(SMALL_SPACE.replace("shape:\n", f"shape:\n  {text}\n", 1))
        with pytest.raises(HwsearchError, match=said):
            load_space(str(path))


def tiny(folder: Path) -> Path:
    path = folder / "usual.yaml"
    path.write_text(SMALL_SPACE)
    return path
