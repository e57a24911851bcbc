import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.files import data_folder
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.facts import gpu_evidence, gpu_facts
from hwsearch.gpu.power import halves_fp32_sums

NAMES = (
    "p100 v100 t4 rtx2080 a2 a10 a30 a40 a100-sxm-40 a100-pcie-40 a100-pcie-80 a100-sxm-80 l4 l40s rtx3080 "
    "rtx3090 rtx4090 rtx5090 rtx-pro-6000 rtx-pro-6000-max-q h100-sxm h100-pcie h200-sxm b200"
).split()


def shipped(name: str) -> str:
    return (data_folder("profiles") / f"{name}.yaml").read_text(encoding="utf-8")


def write(folder: Path, text: str, name: str = "t4") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def line_of(text: str, start: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.startswith(start))


def test_every_documented_gpu_has_a_profile() -> None:
    assert set(gpu_names()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_and_constant_says_where_it_comes_from(name: str) -> None:
    gpu = load_gpu(name)
    facts = gpu_facts(gpu)
    assert len(facts) == len(gpu.sources) >= 15
    assert all(fact.source.strip() for fact in facts)
    for block, evidence in gpu_evidence(gpu):
        assert evidence.data and evidence.rows > 0, block
        if evidence.kind == "fitted":
            assert evidence.own_error_percent is not None and evidence.from_gpus == ()
        else:
            assert evidence.from_gpus
            assert (evidence.transfer_error_percent is None) == ("error unknown" in evidence.note), block
            assert set(evidence.from_gpus) <= set(NAMES)
    assert set(gpu.calibration.gemm) == set(gpu.calibration.attention) == set(gpu.dense_flops_per_s)


def test_datasheet_values_in_base_units() -> None:
    t4, a100 = load_gpu("t4"), load_gpu("a100-sxm-80")  # NVIDIA T4 and A100 datasheets
    assert (t4.sms, t4.compute_capability, t4.bandwidth_bytes_per_s, t4.memory_bytes) == (
        40,
        (7, 5),
        320e9,
        2**34,
    )
    assert a100.dense_flops_per_s == {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12}
    assert (a100.l2_bytes, a100.shared_memory_per_block_bytes) == (40 * 2**20, 163 * 1024)


def test_default_dtype() -> None:
    assert [load_gpu(n).default_dtype for n in ("p100", "v100", "t4", "rtx2080")] == ["fp16"] * 4
    assert [load_gpu(n).default_dtype for n in ("a2", "l4", "rtx5090", "b200")] == ["bf16"] * 4
    assert "bf16" not in load_gpu("t4").dense_flops_per_s
    assert "tf32" not in load_gpu("v100").dense_flops_per_s


def test_cards_that_sum_in_fp32_at_half_rate() -> None:
    halved = {name for name in NAMES if halves_fp32_sums(load_gpu(name), load_gpu(name).default_dtype)}
    assert halved == {"rtx2080", "rtx3080", "rtx3090", "rtx4090", "rtx5090"}
    assert halves_fp32_sums(load_gpu("rtx4090"), "tf32") and not halves_fp32_sums(load_gpu("l4"), "tf32")


def test_geforce_sums_in_fp32_at_half_rate() -> None:
    for name, fp16_accumulate in (("rtx3090", 142e12), ("rtx4090", 330.3e12), ("rtx5090", 419e12)):
        assert load_gpu(name).dense_flops_per_s["fp16"] == pytest.approx(fp16_accumulate / 2, rel=0.01)


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(HwsearchError, match=r"'rtx490'; did you mean rtx4090.*accepted: .*\bt4\b.*cpu"):
        load_gpu("rtx490")
    with pytest.raises(HwsearchError, match=r"did you mean .*a100-sxm-80"):
        load_gpu("A100_SXM")


def test_an_own_folder_wins_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, shipped("t4").replace("sms: {value: 40", "sms: {value: 41"))
    monkeypatch.setenv("HWSEARCH_PROFILES", str(tmp_path))
    assert load_gpu("t4").sms == 41
    assert load_gpu("l4").sms == 58
    monkeypatch.setenv("HWSEARCH_PROFILES", str(tmp_path / "none"))
    with pytest.raises(HwsearchError, match="HWSEARCH_PROFILES"):
        gpu_names()


@pytest.mark.parametrize(
    ("key", "old", "new", "message"),
    [
        ("sms:", "sms: {value: 40,", "sms: {value: many,", "sms.value must be a whole number, not 'many'"),
        ("sms:", "sms: {value: 40,", "sms: {value: 40.5,", "sms.value must be a whole number"),
        ("tdp_w:", "tdp_w: {value: 70,", "tdp_w: {value: -70,", "tdp_w.value must be above 0"),
        ("tdp_w:", "tdp_w: {value: 70,", "tdp_w: {value: .nan,", "tdp_w.value must be above 0"),
        ("tdp_w:", "tdp_w: {value: 70,", "tdp_w: {value: true,", "tdp_w.value must be a number"),
        (
            "l2_mib:",
            "l2_mib: {value: 4, source",
            "l2_mib: {value: 4, origin",
            "l2_mib.origin is not a known key",
        ),
        ("  fp16:", "  fp16: {", "  fp8: {", "dense_tflops.fp8 is not a known key; accepted: bf16"),
        (
            "compute_cap",
            "value: '7.5'",
            "value: seven",
            "compute_capability.value must be a compute capability",
        ),
    ],
)
def test_a_broken_profile_names_file_line_and_key(
    tmp_path: Path, key: str, old: str, new: str, message: str
) -> None:
    text = shipped("t4")
    assert text.count(old) == 1
    path = write(tmp_path, text.replace(old, new))
    with pytest.raises(HwsearchError) as caught:
        load_gpu("t4", tmp_path)
    line = line_of(text, key)
    assert str(caught.value).startswith(f"{path}:{line}: {message}")


def test_missing_keys_are_named(tmp_path: Path) -> None:
    text = shipped("t4")
    write(tmp_path, re.sub(r"^sms: .*\n", "", text, flags=re.MULTILINE))
    with pytest.raises(HwsearchError, match=r"t4\.yaml:\d+: the profile lacks the key sms"):
        load_gpu("t4", tmp_path)
    write(tmp_path, re.sub(r"^(  stream:\n)    floor_us: .*\n", r"\1", text, flags=re.MULTILINE))
    with pytest.raises(HwsearchError, match=r"t4\.yaml:\d+: calibration\.stream lacks the key floor_us"):
        load_gpu("t4", tmp_path)


def test_constants_and_evidence_are_checked(tmp_path: Path) -> None:
    text = shipped("t4")
    write(tmp_path, text.replace("compute_fraction: ", "compute_fraction: -", 1))
    with pytest.raises(HwsearchError, match=r"gemm\.fp16\.compute_fraction must be above 0"):
        load_gpu("t4", tmp_path)
    write(tmp_path, text.replace("kind: transferred", "kind: guessed", 1))
    with pytest.raises(HwsearchError, match="'guessed'; accepted: fitted, "):
        load_gpu("t4", tmp_path)
    write(tmp_path, shipped("l4").replace("    fp16: bf16", "    fp16: fp8", 1), "l4")
    with pytest.raises(HwsearchError, match=r"gemm\.fp16 must be a block of constants or name a dtype"):
        load_gpu("l4", tmp_path)


def test_the_file_name_is_the_gpu_name(tmp_path: Path) -> None:
    path = write(tmp_path, shipped("t4"), "t5")
    with pytest.raises(
        HwsearchError, match=re.escape(f"{path}:2: name is 't4', but the file is called t5.yaml")
    ):
        load_gpu("t5", tmp_path)


def test_profiles_load_without_numpy() -> None:
    code = (
        "import sys; from hwsearch.gpu.catalog import gpu_names, load_gpu; "
        "[load_gpu(n) for n in gpu_names()]; sys.exit('numpy' in sys.modules or 'pydantic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


@pytest.mark.parametrize(("factor", "wrong"), [("low_factor", "1.2"), ("high_factor", "0.9")])
def test_a_range_that_leaves_its_prediction_out_is_refused(tmp_path: Path, factor: str, wrong: str) -> None:
    text = re.sub(rf"{factor}: [0-9.]+", f"{factor}: {wrong}", shipped("t4"), count=1)
    with pytest.raises(HwsearchError, match=rf"t4\.yaml:\d+: .*{factor} must be at (most|least) 1, not"):
        load_gpu("t4", write(tmp_path, text).parent)
