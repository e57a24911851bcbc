"""Profiles of GPUs as if they had never been timed: constants of all operators from the other chips.

    python benchmarks/left_out.py --data DIR --out PROFILES
    HWSEARCH_PROFILES=PROFILES python benchmarks/encoders.py --data DIR

For every chip with public timings of operators and of whole encoders. The kernels of fp32 products and
their energy per FLOP are common to all GPUs and stay as they are; what is this GPU's own of them goes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from attention_data import attention_cases
from fit_attention import JOINT_ROWS as ATTENTION_ROWS
from fit_attention import AttentionFits, attention_block
from fit_attention import fit as fit_attention
from fit_fp32 import BANDWIDTH_FRACTION, FLOOR_S
from fit_gemm import GemmModel, fit_shared
from fit_stream import JOINT_ROWS, SHARED, Values, constants_from, starts
from fit_stream import fit as fit_stream
from gemm_data import gemm_cases
from sources import chip as chip_of
from stream_data import stream_cases

from hwsearch import files
from hwsearch.gpu.calibration import Calibration, SimtConstants
from hwsearch.gpu.catalog import load_gpu, profile_path
from hwsearch.gpu.profile import Gpu
from hwsearch.gpu.profile_text import write_calibration

CHIPS = {
    "a100": ("a100-sxm-40", "a100-sxm-80", "a100-pcie-40", "a100-pcie-80", "a30"),
    "v100": ("v100",),
    "t4": ("t4",),
    "p100": ("p100",),
}


def unseen(gpu: Gpu, products: GemmModel, attention: AttentionFits, streams: Values) -> Calibration:
    """The calibration that `gpu` would have had."""
    gemm = dict(gpu.calibration.gemm)
    for dtype, block in gemm.items():
        if isinstance(block, SimtConstants):
            gemm[dtype] = replace(
                block, floor_s=FLOOR_S, compute_fraction=1.0, bandwidth_fraction=BANDWIDTH_FRACTION
            )
        else:
            gemm[dtype] = replace(products.constants(gpu, dtype), evidence=block.evidence)
    blocks = {dtype: attention_block(gpu, dtype, attention) for dtype in gemm}
    stream = constants_from(gpu, streams, gpu.calibration.stream.evidence)
    return replace(gpu.calibration, gemm=gemm, attention=blocks, stream=stream)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the profiles")
    arguments = parser.parse_args()
    tensor = list(gemm_cases(arguments.data))
    flash = [t for t in attention_cases(arguments.data) if t.kernel != "triton"]
    stream_tables = stream_cases(arguments.data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for chip, names in CHIPS.items():
        products = fit_shared([t for t in tensor if chip_of(t.gpu.name) != chip])
        others = [t for t in flash if chip_of(t.gpu.name) != chip]
        attention = AttentionFits([], fit_attention(others, ATTENTION_ROWS))
        kept = [t for t in stream_tables if chip_of(t.gpu.name) != chip]
        streams = fit_stream(kept, SHARED, starts(SHARED), JOINT_ROWS)
        for name in names:
            gpu = load_gpu(name, files.data_folder("profiles"))
            source = profile_path(name, files.data_folder("profiles"))
            write_calibration(
                source, arguments.out / f"{name}.yaml", unseen(gpu, products, attention, streams)
            )


if __name__ == "__main__":
    main()
