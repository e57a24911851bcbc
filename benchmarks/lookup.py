"""What looking up tuned tiles costs a call: microseconds, beside a plain dictionary's.

    python benchmarks/lookup.py

Runs on any CPU, with full tables of every GPU in a temporary folder.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels import tuned
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.kernels.triton_attention import launch
from hwsearch.kernels.triton_attention.space import default_config
from hwsearch.kernels.tuned import DTYPES, LENGTHS, WINDOWS, Key, Row, table_path, tuned_for
from hwsearch.tuning.table_file import header_of, merge_rows

KERNELS = ("attention_forward", "attention_backward")
AMPERE = (8, 0)
TIMES = 20_000
# Of each GPU's table: every class that there is, as it would look when all is tuned.
KEYS = [Key(*each) for each in product(DTYPES, (32, 64, 128), WINDOWS, LENGTHS)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HWSEARCH_CACHE"] = folder
        for name in ("cpu", *gpu_names()):
            _write_tables(tuned.own_folder(), load_gpu(name))
        _print_costs(sum(path.stat().st_size for path in Path(folder).rglob("*.json")))


def _write_tables(folder: Path, gpu: Gpu) -> None:
    for kernel in KERNELS:
        rows = [_row(kernel, key) for key in KEYS]
        merge_rows(table_path(folder, gpu.name, kernel), header_of(kernel, gpu), rows)


def _row(kernel: str, key: Key) -> Row:
    config = default_config(kernel, AMPERE, key.dtype, key.head_size, None, key.length)
    return Row(
        key, "measured", config, 1e-4, 2e-4, tuple((config, 1e-4 * n) for n in range(2, 6)),
        "normal:384,64,256..512x86", 12, 0.01, None, None, torch.__version__, None, "2026-11-21", "none",
    )  # fmt: skip


def _print_costs(table_bytes: int) -> None:
    q = torch.zeros(1, 12, 64, dtype=torch.bfloat16)
    schedule = torch.zeros(4, 4, 3, dtype=torch.int32)

    def call(max_seqlen: int) -> launch.Call:
        return launch.Call(schedule, 1, max_seqlen, 64, False, 0.125, None, None)

    one = call(512)
    plain = {(q.device, q.dtype, 64, 64, 512, False): launch.tiles_for(q.device, q.dtype, 64, 64, 512, False)}
    print(f"{cpu_name()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
    gpus = len(gpu_names())
    print(f"two tables of {gpus} GPUs and this CPU, {len(KEYS)} rows each, {table_bytes / 1e6:.0f} MB")
    _print("a plain dictionary", _microseconds(lambda: plain[q.device, q.dtype, q.shape[2], 64, 512, False]))
    _print("a call, again", _microseconds(lambda: launch._tiles(q, one)))
    lengths = iter(range(129, 513))
    _print("a call of another max_seqlen", _once(lambda: launch._tiles(q, call(next(lengths))), 300))
    tuned.forget()
    _print("the first of a process", _once(lambda: launch._tiles(q, one)))
    for name in ("h200-sxm", "rtx3090"):
        gpu, key = load_gpu(name), Key("bf16", 96, "global", 512)
        tuned.forget()
        asked = (KERNELS[0], gpu.name, gpu.compute_capability, key)
        _print(f"the first, of {name}: nothing found, all of its family read", _first(*asked))


def _first(*asked: Any) -> float:
    return _once(lambda: tuned_for(*asked))


def _microseconds(run: Callable[[], object]) -> float:
    """The best of five rounds, a run."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(TIMES):
            run()
        rounds.append((time.perf_counter() - start) / TIMES)
    return 1e6 * min(rounds)


def _once(run: Callable[[], object], times: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run()
    return 1e6 * (time.perf_counter() - start) / times


def _print(what: str, microseconds: float) -> None:
    print(f"{what:<66}{microseconds:>12,.2f} us")


if __name__ == "__main__":
    main()
