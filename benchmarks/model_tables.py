"""Model the tables of attention tiles for every GPU that has a profile and tensor cores that Triton knows.

    python benchmarks/model_tables.py [--gpus l4,h200-sxm] [--compilations 8] [--workers 1] [--tables DIR]

Head size 64 in the GPU's own dtype, all keys and a window of 64 to each side, all classes of lengths, into
profiles/tuned. No GPU is needed; triton is. What is compiled is kept below $HWSEARCH_CACHE, once for all GPUs
of a compute capability: a run that was stopped goes on, and a second one compiles nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.kernels.tuned import LENGTHS, cache_folder, table_path
from hwsearch.tuning.modelled import tune_modelled
from hwsearch.tuning.problems import TILES, Wanted, problems
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.table_file import header_of, merge_rows

WINDOWS = ("global", "narrow")
TABLES = Path(__file__).parents[1] / "profiles" / "tuned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", help="comma-separated; default: all from compute capability 8.0")
    parser.add_argument("--compilations", type=int, default=8, help="kernels a problem at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--cache", type=Path, default=cache_folder() / "tuning" / "compiled")
    options = parser.parse_args()
    names = options.gpus.split(",") if options.gpus else gpu_names()
    gpus = [gpu for gpu in map(load_gpu, names) if gpu.compute_capability >= (8, 0)]
    for gpu in sorted(gpus, key=lambda gpu: gpu.compute_capability):
        wanted = Wanted((gpu.default_dtype,), (64,), WINDOWS, LENGTHS)
        asked = problems(gpu, TILES, wanted)
        rows = tune_modelled(
            gpu,
            asked,
            compilations=options.compilations,
            workers=options.workers,
            cache=options.cache,
            report=_print,
        )
        for kernel in TILES:
            mine = [row for problem, row in zip(asked, rows, strict=True) if problem.kernel == kernel]
            merge_rows(table_path(options.tables, gpu.name, kernel), header_of(kernel, gpu), mine)
        faster = [row.default_seconds / row.seconds for row in rows if row.default_seconds]
        kept = sum(ratio == 1 for ratio in faster)
        print(f"{gpu.name}: {len(rows)} rows, {kept} keep the default, best {max(faster):.2f}x", flush=True)


def _print(progress: Progress) -> None:
    line = f"{progress.trial}/{progress.trials} {progress.state} {progress.config} {progress.reason}"
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
