"""The ModernBERT paper's efficiency table (arXiv 2412.13663, Table 2, one RTX 4090) against its prediction.

    python benchmarks/modernbert_protocol.py

Cells are predicted / published: 1 is exact, more is too optimistic. Nothing is tuned to the table. Where the
paper and its own notebooks disagree, the notebook's number stands here (RoBERTa base: 31.32 s for the fixed
short set, 133.9, where the paper prints 179.9). `Variable` of encoders that do not unpad is the paper's half
of `Fixed`, not a measurement of its own.
"""

from __future__ import annotations

import math

from hwsearch.cost.protocol import ENTRIES, Half, protocol_rows
from hwsearch.gpu.catalog import load_gpu
from hwsearch.report.columns import aligned

# Largest batch, thousands of tokens per second with fixed and with variable lengths; 512, then 8192.
Published = tuple[int, float, float]
PUBLISHED: dict[str, tuple[Published, Published | None]] = {
    "bert-base": ((1096, 180.4, 90.2), None),
    "roberta-base": ((664, 133.9, 66.9), None),
    "deberta-v3-base": ((236, 70.2, 35.1), None),
    "nomic-bert": ((588, 117.1, 58.5), (36, 46.1, 23.1)),
    "gte-en-mlm-base": ((640, 123.7, 61.8), (38, 46.8, 23.4)),
    "gte-en-mlm-base unpadded": ((640, 122.5, 128.6), (38, 47.5, 67.3)),
    "modernbert-base": ((1604, 148.1, 147.3), (98, 123.7, 133.8)),
    "bert-large": ((792, 54.4, 27.2), None),
    "roberta-large": ((460, 42.0, 21.0), None),
    "deberta-v3-large": ((134, 24.6, 12.3), None),
    "gte-en-mlm-large": ((472, 38.7, 19.3), (28, 16.2, 8.1)),
    "gte-en-mlm-large unpadded": ((472, 38.5, 40.4), (28, 16.5, 22.8)),
    "modernbert-large": ((770, 52.3, 52.9), (48, 46.8, 49.8)),
}


def ratios(half: Half | None, published: Published | None) -> list[float]:
    if half is None or published is None:
        return []
    batch, fixed, variable = published
    predicted = (half.fixed_tokens_per_s, half.variable_tokens_per_s)
    return [half.largest_batch / batch, predicted[0] / 1e3 / fixed, predicted[1] / 1e3 / variable]


def main() -> None:
    rows = protocol_rows(list(ENTRIES), load_gpu("rtx4090"))
    table = [["encoder", "batch 512", "fixed", "variable", "batch 8192", "fixed", "variable"]]
    batches, speeds = [], []
    for row in rows:
        short, long = PUBLISHED[row.encoder]
        found = ratios(row.short, short) + ratios(row.long, long)
        batches += found[::3]
        speeds += [ratio for place, ratio in enumerate(found) if place % 3]
        table.append([row.encoder, *(f"{ratio:.2f}" for ratio in found), *[""] * (6 - len(found))])
    print("python benchmarks/modernbert_protocol.py\npredicted / published, RTX 4090\n")
    print("\n".join(aligned(table, left=1)))
    for name, found in (("tokens per second", speeds), ("largest batch", batches)):
        logs = [math.log(ratio) for ratio in found]
        mean = sum(logs) / len(logs)
        spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / len(logs))
        print(
            f"\n{name}: geometric mean {math.exp(mean):.2f}; beside that common factor the cells are"
            f" {100 * spread:.0f} % off (standard deviation of logarithms)"
        )


if __name__ == "__main__":
    main()
