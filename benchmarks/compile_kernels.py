"""Compile the attention kernels, as calls run them by default, for every GPU of the basket; no GPU needed.

    python benchmarks/compile_kernels.py

Writes results/kernel_compile.csv and, from it, results/kernel_compile.md. Rows of the same Triton version and
the same kernel sources that the CSV already holds are not compiled again, so an interrupted run continues.
Needs triton, not torch: run it once with each version whose code is to be compared.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# By path: the package above imports torch, which an environment for an older Triton need not have.
sys.path.insert(0, str(ROOT / "kernels" / "src"))

CSV = ROOT / "results" / "kernel_compile.csv"
REPORT = ROOT / "results" / "kernel_compile.md"
CAPABILITIES = ((8, 0), (9, 0), (10, 0), (12, 0), (8, 6), (8, 9))
HEAD_SIZES = (64, 128, 32)
# Longest sequence and window of a call: one of each class of default tiles.
CALLS = ((8192, -1), (8192, 64), (32, -1), (64, -1), (16, -1), (128, -1), (8192, 1024))
# dtype, causal, rotary embedding, query heads per key head; the most used first.
VARIANTS = (
    ("bfloat16", False, True, 1), ("float16", False, True, 1), ("float32", False, True, 1),
    ("bfloat16", False, True, 3), ("bfloat16", False, False, 1), ("bfloat16", True, True, 1),
    ("bfloat16", True, False, 3), ("float16", True, True, 1),
)  # fmt: skip
SOURCES = ("tiles.py", "forward.py", "backward.py", "rotation.py")


def main() -> None:
    import triton
    from triton_attention.compiled import (  # type: ignore[import-not-found]
        Configuration,
        default_configurations,
    )

    jobs: dict[tuple[str, ...], tuple[tuple[int, int], Configuration]] = {}
    for variant, call, capability, size in itertools.product(VARIANTS, CALLS, CAPABILITIES, HEAD_SIZES):
        dtype, causal, rope, group = variant
        max_seqlen, window = call
        for c in default_configurations(capability, dtype, size, window, max_seqlen, causal, rope, group):
            jobs.setdefault(_key(triton.__version__, capability, c), (capability, c))
    digest = hashlib.sha256(
        b"".join((ROOT / "kernels/src/triton_attention" / f).read_bytes() for f in SOURCES)
    )
    sources = digest.hexdigest()[:12]
    # Rows of other sources, and of tiles that are no default any more, are dropped.
    mine = [r for r in _read() if r["triton"] == triton.__version__]
    rows = [r for r in _read() if r["triton"] != triton.__version__]
    rows += [r for r in mine if r["sources"] == sources and tuple(r[name] for name in KEY) in jobs]
    for row in rows:
        jobs.pop(tuple(row[name] for name in KEY), None)
    print(f"Triton {triton.__version__}, {_ptxas()}: {len(jobs)} kernels to compile")
    CSV.parent.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        futures = {pool.submit(_compile, *job): key for key, job in jobs.items()}
        for done, future in enumerate(as_completed(futures), 1):
            key = futures[future]
            common = {"sources": sources, "ptxas": _ptxas(), "date": str(datetime.date.today())}
            rows.append(dict(zip(KEY, key, strict=True)) | common | future.result())
            print(f"{done}/{len(jobs)}", *key, _verdict(rows[-1]))
            _write(rows)
            if done % 100 == 0:
                REPORT.write_text(_report(rows, len(jobs) - done))
    _write(rows)
    REPORT.write_text(_report(rows, 0))
    print(REPORT.read_text().split("\n## ")[0])


KEY = (
    "triton", "capability", "dtype", "head_size", "window", "split", "causal", "rope", "group", "kernel",
    "rows", "columns", "warps", "stages",
)  # fmt: skip
RESULT = (
    "registers", "stack_bytes", "shared_bytes", "tensor_memory_columns", "mma_sync", "wgmma", "tcgen05",
    "cp_async", "local_accesses", "blocks_per_sm", "occupancy", "digest", "error",
)  # fmt: skip
COLUMNS = (*KEY, "sources", "ptxas", "date", *RESULT)


def _key(version: str, capability: tuple[int, int], c: Any) -> tuple[str, ...]:
    facts = asdict(c) | asdict(c.tile) | {"triton": version, "capability": f"{capability[0]}.{capability[1]}"}
    return tuple(str(facts[name]) for name in KEY)


def _compile(capability: tuple[int, int], configuration: Any) -> dict[str, Any]:
    from triton_attention.compiled import compile_for

    try:
        result = asdict(compile_for(capability, configuration))
    except Exception as error:  # any failure of the compiler is a row of the table
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:100]}
    del result["warps"]
    return result | {"occupancy": f"{result['occupancy']:.3f}"}


def _verdict(row: dict[str, Any]) -> str:
    """What is wrong, empty where nothing is."""
    if row.get("error"):
        return "fails"
    wrong = []
    if not any(int(row[name]) for name in ("mma_sync", "wgmma", "tcgen05")):
        wrong.append("no tensor cores")
    if int(row["stack_bytes"]):
        wrong.append(f"spills {row['stack_bytes']} B")
    if not int(row["blocks_per_sm"]):
        wrong.append("does not fit")
    return ", ".join(wrong)


def _read() -> list[dict[str, Any]]:
    if not CSV.exists():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(rows: list[dict[str, Any]]) -> None:
    rows.sort(key=lambda r: tuple(int(r[n]) if r[n].isdigit() else r[n] for n in KEY))
    partial = CSV.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(CSV)


def _report(rows: list[dict[str, Any]], missing: int) -> str:
    versions = sorted({r["triton"] for r in rows})
    lines = ["# Attention kernels, compiled with no GPU", ""]
    lines += [
        "Written by `python benchmarks/compile_kernels.py`, run once with each Triton; all rows: the CSV."
    ]
    lines += ["Registers and stack are per thread (stack: spills); blocks and occupancy are predicted.", ""]
    lines += ["| Triton | ptxas | date | kernels | no tensor cores | spill | do not fit | fail |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for version in versions:
        own = [r for r in rows if r["triton"] == version]
        words = ("no tensor", "spills", "not fit", "fails")
        counts = [sum(word in _verdict(r) for r in own) for word in words]
        last = max(own, key=lambda r: r["date"])
        lines.append(f"| {version} | {last['ptxas']} | {last['date']} | {len(own)} | {_cells(*counts)} |")
    if missing:
        lines += [
            "",
            f"Unfinished: {missing} kernels are missing; the next run compiles them, most used first.",
        ]
    bad = [r for r in rows if _verdict(r)]
    lines += ["", "What is wrong:" if bad else "Nothing is wrong.", ""]
    lines += ["- " + " ".join(f"{r[name]}" for name in KEY) + ": " + _verdict(r) for r in bad]
    for version in versions:
        lines += ["", f"## Triton {version}: bfloat16, rotary embedding, one query head per key head", ""]
        lines += [
            "| sm | D | keys | kernel | tile | warps | stages | rope | registers | stack | shared KiB |"
        ]
        lines[-1] += " tensor instructions | blocks/SM | occupancy |"
        lines += ["|" + "---|" * 14]
        shown = {"triton": version, "dtype": "bfloat16", "causal": "False", "group": "1"}
        for r in rows:
            if r["rope"] == "none" or r.get("error") or any(r[n] != v for n, v in shown.items()):
                continue
            kinds = ("mma_sync", "wgmma", "tcgen05")
            used = ", ".join(f"{r[n]} {n}" for n in kinds if int(r[n]))
            keys = r["window"] + (", one loop" if r["split"] == "False" else "")
            tile, kib = f"{r['rows']}x{r['columns']}", f"{int(r['shared_bytes']) / 1024:.1f}"
            lines.append(
                f"| {_cells(r['capability'], r['head_size'], keys, r['kernel'], tile, r['warps'])} "
                f"| {_cells(r['stages'], r['rope'], r['registers'], r['stack_bytes'], kib, used)} "
                f"| {r['blocks_per_sm']} | {float(r['occupancy']):.0%} |"
            )
    return "\n".join(lines) + "\n"


def _cells(*values: object) -> str:
    return " | ".join(str(value) for value in values)


def _ptxas() -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    text = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V([\d.]+)", text)
    return f"ptxas {found[1] if found else 'unknown'}"


if __name__ == "__main__":
    main()
