"""Our attention on packed sequences against every peer at hand: checked, timed, and compared, in one call.

From a checkout that need not be installed, on a machine with a GPU, in order:

    ln -sfn ../kernels/src hwsearch/kernels        # what `pip install -e .` does for hwsearch.kernels
    export PYTHONPATH=.
    compute-sanitizer python3 benchmarks/attention.py --check      # every kernel once, on small batches
    python3 -m pytest -m gpu tests/kernels
    python3 benchmarks/attention.py --out attention.json --write-table
    python3 benchmarks/attention.py --out sweep.json --sweep --only sweep

The third writes attention.json as it goes and prints the tables last; the fourth times our kernels at
other tiles. What a budget drops is dropped from the end of this order: (1) head size 64 with 16 heads,
global and local-128, all lengths; (2) the sweep, where asked for; (3) head size 128; (4) 12 heads. `--resume`
goes on with what --out holds. Before the timing, worker processes compile and check our kernels on small
batches: one that is wrong or crashes is a row with the reason.

Without a GPU: `--smoke` runs the same code on tiny batches under TRITON_INTERPRET=1, for whether it runs,
not for how fast; `--predict` writes what the cost model expects.

How it is timed: medians of ten samples each, versions in turn (A B C, C B A, ...) within one process, CUDA
events around launches that queue up behind a sleeping device, so that the host's pace is not counted (it is
`host` in the file), with the L2 cache overwritten before each (hwsearch.measure.timing). Each batch moves at
least 0.5 GB, many times that cache, and runs for 0.1 ms or more: long beside the gaps between queued
launches, so CUDA graphs are not needed. Forward keeps what backward needs, in all methods. Backward is
torch.autograd.grad alone, forward kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.files import write_whole
from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.tuned import table_path

ROOT = Path(__file__).parent.parent
Results = dict[str, Any]


def main() -> None:
    args = _arguments()
    if args.predict:
        from attention_predicted import predicted

        write_whole(ROOT / "results" / "attention_predicted.md", predicted())
        return
    if args.smoke:
        # Before the kernels are decorated.
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not args.smoke and not torch.cuda.is_available():
        sys.exit("attention.py: no CUDA GPU here; --smoke runs tiny batches on the CPU, --predict needs none")
    if args.write_table:
        _check_profile(args.gpu, torch.cuda.get_device_name())
    from attention_run import check, run

    if args.check:
        sys.exit(0 if check(args.smoke) else 1)
    run(
        args.out,
        args.budget_seconds,
        smoke=args.smoke,
        sweep=args.sweep,
        only=args.only,
        resume=args.resume,
        without=args.without.split(",") if args.without else (),
    )
    results = json.loads(args.out.read_text())
    from attention_report import print_report

    print_report(results)
    if args.write_table:
        _write_tables(results, args.gpu)


def _write_tables(results: Results, gpu: str) -> None:
    from attention_table import backend_rows

    from hwsearch.tuning.table_file import header_of, merge_rows

    for kernel, rows in backend_rows(results).items():
        path = table_path(ROOT / "profiles" / "tuned", gpu, kernel)
        merge_rows(path, header_of(kernel, load_gpu(gpu)), rows)


def _check_profile(gpu: str, device: str) -> None:
    """Before anything is timed: a table under another GPU's name would choose that one's backends."""
    names = load_gpu(gpu).nvml_names
    if device not in names:
        raise HwsearchError(f"--gpu: {gpu} is {' or '.join(names)}, and this is {device}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "attention.json")
    parser.add_argument(
        "--budget-seconds", type=float, default=520, help="stop beginning new work after this"
    )
    parser.add_argument("--sweep", action="store_true", help="also time our kernels at other tiles")
    parser.add_argument("--only", default="", help="jobs whose name contains this, as `sweep` or `d128`")
    parser.add_argument(
        "--without", default="", help="methods to leave out, as `flex`, which compiles anew for each case"
    )
    parser.add_argument(
        "--check", action="store_true", help="run each kernel once on small batches, no timing"
    )
    parser.add_argument("--resume", action="store_true", help="keep what --out holds, and do the rest")
    parser.add_argument("--smoke", action="store_true", help="tiny batches on the CPU; no claim from it")
    parser.add_argument("--predict", action="store_true", help="write results/attention_predicted.md")
    parser.add_argument(
        "--write-table", action="store_true", help="rows of profiles/tuned/GPU/attention_backend*.json"
    )
    parser.add_argument("--gpu", default="h200-sxm", help="profile that --write-table writes for")
    args = parser.parse_args()
    if args.smoke and args.write_table:
        parser.error("--write-table: --smoke measures nothing that a choice could rest on")
    return args


if __name__ == "__main__":
    try:
        main()
    except HwsearchError as error:
        sys.exit(f"attention.py: {error}")
