"""How fast `hwsearch predict FILE.csv` prices rows, and how that grows with rows and GPUs.

Prints the median time of reading, pricing and answering a table of random rows, and the ratio against
asking for a sample of the same rows one at a time, in turn, within one process.

    python benchmarks/tables.py
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hwsearch.cost.tables import predict_table
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

GPUS = ("a100-sxm-80", "h100-sxm", "v100", "l4")
# Widths, layers and per-layer choices as in HW-GPT-Bench's spaces.
WIDTHS, RATIOS, HEADS = (192, 384, 768, 1024, 1280), (2, 3, 4), (4, 8, 12, 16, 20)


def logarithmic(largest: int) -> int:
    return int(2 ** random.uniform(0, largest.bit_length() - 1))


def gemm() -> str:
    return f"gemm,{logarithmic(65536)},{logarithmic(32768)},{logarithmic(32768)}"


def attention() -> str:
    head_dim, causal = random.choice((64, 128)), random.randint(0, 1)
    return f"attention,{logarithmic(1024)},{logarithmic(16384)},{random.randint(1, 64)},{head_dim},{causal}"


def model() -> str:
    depth, width = random.randint(5, 36), random.choice(WIDTHS)
    heads = "-".join(str(random.choice(HEADS)) for _ in range(depth))
    ffn = "-".join(str(width * random.choice(RATIOS)) for _ in range(depth))
    return f"{depth},{width},{heads},{ffn},8,1024,64,50254,1"


KINDS: dict[str, tuple[str, Callable[[], str]]] = {
    "gemm": ("op,m,n,k", gemm),
    "attention": ("op,batch_size,seq_len,num_heads,head_dim,causal", attention),
    "models by layer": ("layers,hidden,heads,ffn,batch,seq,head_dim,vocab,glu", model),
}


def seconds(path: Path, header: str, rows: list[str], gpu: Gpu) -> float:
    path.write_text("\n".join([header, *rows]))
    start = time.perf_counter()
    predict_table(path, gpu)
    return time.perf_counter() - start


def tables(count: int) -> Iterator[tuple[str, str, list[str]]]:
    for name, (header, row) in KINDS.items():
        yield name, header, [row() for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sample", type=int, default=20, help="rows asked for one at a time")
    arguments = parser.parse_args()
    random.seed(0)
    gpu = load_gpu(GPUS[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        for count in (1_000, 10_000, 100_000):
            for name, header, rows in tables(count):
                for gpus in (1, len(GPUS)):
                    spread = [f"{row},{GPUS[i % gpus]}" for i, row in enumerate(rows)]
                    whole, single = [], []
                    for _ in range(arguments.runs):
                        whole.append(seconds(path, f"{header},gpu", spread, gpu))
                        sample = random.sample(spread, arguments.sample)
                        single += [seconds(path, f"{header},gpu", [row], gpu) for row in sample]
                    a_row, a_row_alone = statistics.median(whole) / count, statistics.median(single)
                    print(
                        f"{name:<16}{count:>8,} rows, {gpus} GPUs: {statistics.median(whole):6.2f} s"
                        f" ({min(whole):.2f} to {max(whole):.2f}), {1 / a_row:>8,.0f} rows/s;"
                        f" one at a time {1 / a_row_alone:>5,.0f} rows/s, ratio {a_row_alone / a_row:,.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
