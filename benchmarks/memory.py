"""Predicted bytes against torch's own account on the CPU, for our encoder and for transformers' models.

    python benchmarks/memory.py > results/memory.txt

saved: storages that autograd saves, parameters apart. training: the most bytes alive in a step, forward and
backward, with AdamW's states and the gradients of the step before; recompute: the same with every layer
checkpointed. inference: the most bytes alive under inference_mode, weights included. bf16 trains by
autocast over float32 weights and infers in bf16. Nothing is fitted, and the CUDA context is in no number.
"""

from __future__ import annotations

import warnings
from datetime import date

import torch
import transformers
from memory_subjects import BATCH, LENGTH, MEASURES, MIXED, subject

CASES = (
    ("ours", "L6-h256-a4-i384-v2048-g1"),
    ("ours", "L6-h256-a4-i1024-v2048-g1"),
    ("ours", "L4-h512-a8-i768-v8192-g1"),
    ("ours", "L6-h512-a8-i768-v8192-g3"),
    ("mixed", "L6-h256-a4-i384-v2048-g1"),
    ("mixed", "L6-h512-a8-i768-v8192-g3"),
    ("transformers", "L6-h256-a4-i384-v2048-g1"),
    ("transformers", "L4-h512-a8-i1280-v8192-g3"),
    ("transformers", "bert:L6-h256-a4-i1024-v2048-p256"),
    ("transformers", "bert:L4-h512-a8-i2048-v8192-p256"),
    ("transformers", "roberta:L4-h256-a4-i1024-v2048-p256"),
    ("transformers", "deberta-v3:L4-h256-a4-i1024-v2048-p256"),
)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # transformers renames its own methods
    print(
        f"python benchmarks/memory.py\n{date.today()}, torch {torch.__version__}, transformers"
        f" {transformers.__version__}; {BATCH} sequences of {LENGTH} (mixed: {MIXED}; DeBERTa:"
        f" {2 * BATCH} of {LENGTH // 2})"
    )
    print(f"{'code':<14}{'shape':<42}{'dtype':<6}" + "".join(f"{name:>22}" for name in MEASURES))
    for code, notation in CASES:
        for dtype in ("fp32", "bf16"):
            cells = []
            for measure in MEASURES.values():
                counted, predicted = measure(subject(code, notation), notation, dtype)
                cells.append(f"{counted / 2**20:9.1f} MiB {100 * (predicted / counted - 1):+6.1f} %")
            print(
                f"{code:<14}{notation:<42}{dtype:<6}" + "".join(f"{cell:>22}" for cell in cells), flush=True
            )


if __name__ == "__main__":
    main()
