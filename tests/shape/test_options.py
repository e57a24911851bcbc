"""Options of a shape: written and read without loss, refused by name, absent where not asked for."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from hwsearch.errors import HwsearchError
from hwsearch.shape import PRESETS, EncoderShape, parse_shape
from hwsearch.shape.architecture import ARCHITECTURES
from hwsearch.shape.options import CHOICES, options_of, wiring, with_options

SIZES = "L12-h512-a8-i1024"
# As studies hold them since before there were options.
HASHES = {
    "modernbert-base": "87f2e5e933a2",
    "modernbert-large": "2847ba043528",
    "bert-base": "916e9d0c0072",
    "nomic-bert": "971e03a4ceb1",
    "neobert": "2a7369c8441a",
    "eurobert-610m": "76915531bb51",
    "L5-h96-a3-i80-v300-g2-w32-p512": "6cd9392aa05f",
    "bert:L4-h256-a4-i1024": "ee1b23d4a02a",
    "L12-h512-a8-i1024-kv2": "8518eb9f9a7c",
}

options = st.fixed_dictionaries(
    {},
    optional={name: st.sampled_from(sorted(values)) for name, values in CHOICES.items()}
    | {
        "initial_plain_layers": st.integers(0, 12),
        "norm_eps": st.floats(1e-12, 0.1),
        "global_rope_theta": st.floats(1, 1e12) | st.integers(1, 10**12),
        "local_rope_theta": st.floats(1, 1e12),
    },
)


@pytest.mark.parametrize("text", HASHES)
def test_shapes_without_options_keep_their_hashes(text):
    assert parse_shape(text).hash() == HASHES[text]
    assert "options" not in parse_shape(text).to_dict()


@given(st.sampled_from(sorted(ARCHITECTURES)), options)
def test_a_shape_with_options_reads_back(family, chosen):
    try:
        architecture = wiring(family, chosen)
    except HwsearchError:  # options that exclude each other
        assume(False)
    sizes = {"num_hidden_layers": 12, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 1024}
    shape = EncoderShape(architecture=architecture, **sizes)
    assert parse_shape(str(shape)) == shape
    assert EncoderShape.from_dict(yaml.safe_load(yaml.safe_dump(shape.to_dict()))) == shape
    assert (shape.hash() == EncoderShape(architecture=ARCHITECTURES[family], **sizes).hash()) == (
        not options_of(architecture)
    )


def test_the_short_notation():
    shape = parse_shape(f"+norm=rmsnorm+activation=silu+global_rope_theta=8e4:{SIZES}")
    assert str(shape) == f"modernbert+activation=silu+norm=rmsnorm+global_rope_theta=80000:{SIZES}"
    assert parse_shape(f"modernbert+mlp=glu:{SIZES}") == parse_shape(SIZES)
    assert str(parse_shape(f"bert+norm_order=pre:{SIZES}")).startswith("bert+norm_order=pre:L12")


def test_an_option_can_be_taken_back():
    post = wiring("modernbert", {"norm_order": "post", "qkv_bias": True})
    assert options_of(with_options(post, norm_order="pre")) == {"qkv_bias": True}


def test_options_in_a_shape_file(tmp_path):
    path = tmp_path / "shape.yaml"
    sizes = {k: v for k, v in PRESETS["modernbert-base"].to_dict().items() if k != "architecture"}
    path.write_text(yaml.safe_dump(sizes) + "options: {mlp: plain, mlp_in_bias: true, norm_eps: 1e-6}\n")
    assert options_of(parse_shape(str(path)).architecture) == {
        "mlp": "plain",
        "mlp_in_bias": True,
        "norm_eps": 1e-6,
    }
    for text, said in (
        ("options: rmsnorm", r"shape\.yaml:\d+: options: found 'rmsnorm'; accepted: a mapping"),
        ("options: {norm: batch}", "norm: found 'batch'; accepted: layernorm, rmsnorm"),
        ("options: {norm: null}", "norm: found None"),
        ("options: {1: 2}", "options: 1 is unknown; accepted: mlp,"),
        ("options: {qkv_bias: 1}", "qkv_bias: found 1; accepted: false, true"),
    ):
        path.write_text(yaml.safe_dump(sizes) + text)
        with pytest.raises(HwsearchError, match=said):
            parse_shape(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("+norm=rmsnorm+norm_bias=true", "norm_bias: true has no meaning"),
        ("+norm_order=post+first_attention_norm=false", "first_attention_norm: false has no meaning"),
        ("+embedding_norm=false+first_attention_norm=false", "needs embedding_norm"),
        ("+mlp=plain+initial_plain_layers=1", "every layer is plain already"),
        ("+initial_plain_layers=13", "initial_plain_layers: 13 are more than"),
        ("+initial_plain_layers=1.5", r"found '1\.5'; accepted: an integer"),
        ("+position=learned+global_rope_theta=10000", "rotates nothing"),
        ("+norm_eps=nan", "norm_eps: found 'nan'"),
        ("+local_rope_theta=1e400", "local_rope_theta: found '1e400'"),
        ("+norm", "found 'norm'; accepted: NAME=VALUE"),
        ("+norm=rmsnorm+norm=rmsnorm", "norm stands here twice"),
        ("+nrm=rmsnorm", "'nrm' is unknown; accepted: mlp,"),
    ],
)
def test_what_cannot_be_is_refused_by_name(text, said):
    with pytest.raises(HwsearchError, match=said):
        parse_shape(f"{text}:{SIZES}")
