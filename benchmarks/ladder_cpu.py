"""Time a small grid of encoders on this machine's CPU, every shape once a round, for benchmarks/ladder.py.

    python benchmarks/ladder_cpu.py --out results/ladder_cpu.csv [--rounds 10]

Rounds go over all shapes, so that what else the machine does meets all of them alike. One thread, fp32. A
value is the median of three passes over a warm model, in CPU time of the process, as other programs may run
beside it. The file also says what the cost model predicts with
the CPU's constants as measured at the start; rounds that stand in the file are not run again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import encoder_time
from hwsearch.gpu.cpu import measure_cpu
from hwsearch.model import MaskedLanguageModel
from hwsearch.settings import Settings
from hwsearch.shape import EncoderShape
from hwsearch.shape.parameters import body_parameters
from hwsearch.space.grid import enumerate_grid
from hwsearch.space.schema import ShapeSection
from hwsearch.workload import parse_workload

GRID = ShapeSection.model_validate(
    {
        "num_hidden_layers": [2, 3, 4, 5, 6],
        "hidden_size": {"min": 64, "max": 256, "step": 32},
        "head_size": 32,
        "intermediate_size": {"min": 64, "max": 768, "step": 64},
        "intermediate_ratio": {"min": 2.0, "max": 6.0},
        "vocab_size": 1024,
        "max_position_embeddings": 256,
    }
)
WORKLOAD = parse_workload("normal:64,16,16..96x2")
PASSES = 3


def timed(shape: EncoderShape) -> float:
    """Milliseconds of the encoder without a head."""
    encoder = MaskedLanguageModel(shape).model.eval()
    offsets = torch.tensor(np.r_[0, np.cumsum(WORKLOAD.lengths)], dtype=torch.int32)
    tokens = torch.randint(shape.vocab_size, (int(offsets[-1]),))
    found = []
    with torch.inference_mode():
        for _ in range(1 + PASSES):
            start = time.process_time()
            encoder(tokens, offsets, max(WORKLOAD.lengths))
            found.append(1e3 * (time.process_time() - start))
    return statistics.median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = enumerate_grid(GRID)
    shapes = [table.shape(row) for row in range(len(table))]
    if arguments.out.exists():
        frame = pd.read_csv(arguments.out)
    else:
        cpu = measure_cpu()
        settings = Settings(mode="inference", runtime="eager", head="none")
        seconds = encoder_time(DistinctLayers(table), cpu, WORKLOAD, settings).latency
        frame = pd.DataFrame(
            {
                "layers": table.num_hidden_layers,
                "hidden": table.hidden_size,
                "head": table.head_size,
                "ffn": table.intermediate_size,
                "body_parameters": [int(body_parameters(shape)) for shape in shapes],
                "predicted_ms": 1e3 * seconds,
            }
        )
    print(f"{len(frame)} shapes, {WORKLOAD.spec}, {sum(WORKLOAD.lengths)} tokens", flush=True)
    generator = np.random.default_rng(0)
    for number in range(arguments.rounds):
        orders = generator.permutation(len(shapes))
        if (name := f"round{number}_ms") in frame:
            continue
        column = np.empty(len(shapes))
        for row in orders:
            column[row] = timed(shapes[row])
        frame[name] = column.round(4)
        frame.round({"predicted_ms": 4}).to_csv(arguments.out, index=False)
        print(f"round {number}: {column.sum() * PASSES / 1e3:.0f} s of passes", flush=True)


if __name__ == "__main__":
    main()
