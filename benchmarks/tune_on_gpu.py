"""Tunes every variant of attention on the GPU at hand within a budget, and compares with triton.autotune.

    python benchmarks/tune_on_gpu.py --seconds 1500 --tables profiles/tuned --out results/tune_on_gpu.json
    python benchmarks/tune_on_gpu.py --smoke --out smoke.json        # a CPU: the choice of a backend alone

Bf16; head size 64, then 128; global and with a window of 64 keys to each side; every class of lengths;
forward, backward, then which backend serves inference and training. Each answer is written as soon as it is
there, and the same command goes on where the last one stopped. These are some 80 problems, and for each the
peer's process starts anew: whoever has minutes asks for a few (--only), or leaves the peer out (--no-peer).

Tiles are compared with what triton.autotune finds in as many seconds as hwsearch took (autotune_peer.py).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotune_peer import autotuned

from hwsearch.errors import HwsearchError
from hwsearch.files import require_writable, write_whole
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import detect
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.tuned import KERNELS, LENGTHS, table_path
from hwsearch.tuning.measured import kernel_of, tune_measured
from hwsearch.tuning.problems import TILES, Problem, Wanted, problems
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.table_file import header_of, merge_rows
from hwsearch.tuning.workshop import Workshop


def main() -> None:
    arguments = _arguments()
    out = Path(arguments.out)
    require_writable(out)
    gpu = load_gpu(CPU) if arguments.smoke else _gpu_at_hand()
    results: dict[str, Any] = {"gpu": gpu.name, "rows": []}
    if out.exists():
        results = json.loads(out.read_text())
    done = {row["problem"] for row in results["rows"]}
    asked = [problem for problem in _problems(gpu, arguments.smoke) if arguments.only in str(problem)]
    left = [problem for problem in asked if str(problem) not in done]
    stop = time.monotonic() + arguments.seconds
    with Workshop(arguments.workers) as workshop:
        for place, problem in enumerate(left):
            seconds = (stop - time.monotonic()) / (len(left) - place)
            if seconds <= 0:
                print(f"no time left for {len(left) - place} problems; the same command goes on with them")
                break
            try:
                results["rows"].append(_one(problem, seconds, arguments, workshop))
            except HwsearchError as error:
                print(f"{problem}: {error}", flush=True)
                continue
            write_whole(out, json.dumps(results, indent=1) + "\n")
            print(_line(results["rows"][-1]), flush=True)
    _summary(results["rows"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1500.0, help="for everything together")
    parser.add_argument(
        "--only", default="", help="problems whose name contains this, as `backward bf16 head size 64 global`"
    )
    parser.add_argument("--trials", type=int, default=400, help="of each problem, at most")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--tables", default="profiles/tuned", help="folder of the tables")
    parser.add_argument("--work", default="tuning-studies", help="folder of the studies, for the next call")
    parser.add_argument("--no-peer", action="store_true", help="leave triton.autotune out")
    parser.add_argument("--smoke", action="store_true", help="a few small problems on the CPU")
    parser.add_argument("--out", required=True, help="JSON; what it holds already is not done again")
    return parser.parse_args()


def _gpu_at_hand() -> Gpu:
    found = [each.gpu for each in detect() if each.gpu is not None and each.gpu.name != CPU]
    if not found:
        raise SystemExit("no GPU with a profile is in this machine; --smoke runs on the CPU")
    return found[0]


def _problems(gpu: Gpu, smoke: bool) -> Iterator[Problem]:
    if smoke:
        yield from problems(
            gpu, ("attention_backend",), Wanted(("fp32",), (32,), ("global",), (32,), heads=1)
        )
        return
    for head_size in (64, 128):
        for kernel in KERNELS:
            wanted = Wanted(
                (gpu.default_dtype,), (head_size,), ("global", "narrow"), tuple(reversed(LENGTHS))
            )
            yield from problems(gpu, (kernel,), wanted)


def _one(
    problem: Problem, seconds: float, arguments: argparse.Namespace, workshop: Workshop
) -> dict[str, Any]:
    """Tune, write the table, compare; what came of it."""
    peer = not arguments.no_peer and (problem.kernel in TILES or arguments.smoke)
    seen: list[Progress] = []
    kernel = kernel_of(problem)
    start = time.monotonic()
    row = tune_measured(
        problem,
        trials=arguments.trials,
        seconds=seconds / 2 if peer else seconds,
        objective="time",
        workers=arguments.workers,
        folder=Path(arguments.work) / problem.gpu.name,
        report=seen.append,
        workshop=workshop,
    )
    spent = time.monotonic() - start
    path = table_path(Path(arguments.tables), problem.gpu.name, problem.kernel)
    merge_rows(path, header_of(problem.kernel, problem.gpu), [row])
    found = {
        "problem": str(problem),
        "kernel": problem.kernel,
        "config": dict(row.config),
        "seconds": row.seconds,
        "default_seconds": row.default_seconds,
        "spread": row.spread,
        "trials": seen[-1].trial,
        "failures": seen[-1].failures,
        "configurations": len(kernel.configurations()),
        "spent_s": spent,
        "method": row.method,
    }
    return found | ({"autotune": autotuned(kernel, row.config, spent, workshop)} if peer else {})


def _line(row: dict[str, Any]) -> str:
    gain = "default does not run"
    if row["default_seconds"]:
        gain = f"{row['default_seconds'] / row['seconds']:.3f}x default"
    peer = row.get("autotune", {})
    ratio = peer.get("ours_over_it")
    against = f", {1 / ratio:.3f}x triton.autotune ({peer['tried']} tried)" if ratio else ""
    return (
        f"{row['problem']}: {1e6 * row['seconds']:.4g} us, {gain}{against};"
        f" {row['trials']} of {row['configurations']} tried, {row['failures']} failed, {row['spent_s']:.0f} s"
    )


def _summary(rows: list[dict[str, Any]]) -> None:
    print(
        "\nkernel                          rows  faster than default  than triton.autotune (geometric means)"
    )
    for kernel in KERNELS:
        of_kernel = [row for row in rows if row["kernel"] == kernel]
        defaults = [r["default_seconds"] / r["seconds"] for r in of_kernel if r["default_seconds"]]
        peers = [1 / x for r in of_kernel if (x := r.get("autotune", {}).get("ours_over_it"))]
        print(f"{kernel:30s} {len(of_kernel):5d}  {_mean(defaults):>19s}  {_mean(peers):>20s}")


def _mean(ratios: list[float]) -> str:
    return f"{math.exp(statistics.fmean(map(math.log, ratios))):.3f}x" if ratios else "-"


if __name__ == "__main__":
    main()
