"""Do predictions rank shapes of equal size? HW-GPT-Bench against FLOPs, parameters and another GPU.

    python benchmarks/hwgpt.py --data DIR

DIR holds hwgptbench/latency_30k_archs.csv.gz (automl/HW-GPT-Bench): 30,000 gated GPT shapes with heads and
feed-forward sizes of their own in every layer, timed on four GPUs as the sum of one forward's kernels. That
is runtime graph in bf16, or fp16 where the GPU has no bf16. Shapes are compared within groups of one space
(batch), one width, and parameters within 3 %. Printed are Kendall's tau and Spearman's rho, averaged over the
groups by their count of shapes, and the median error. The ceiling is the best other GPU's measurement.

Half of the shapes have biases, which cost 2 to 8 % and of which a model table says nothing: the second table
compares shapes with biases and without among themselves.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from predicted import predict_frame

HEAD_SIZE = 64
VOCABULARY = 50254
PROFILE_OF = {"a100": "a100-sxm-40", "h100": "h100-sxm", "rtx2080": "rtx2080", "v100": "v100"}
SAME_SIZE = 1.03
FEWEST, MOST = 5, 200


def all_shapes(folder: Path) -> pd.DataFrame:
    """A model table, with the parameters outside the embedding and measured milliseconds by GPU."""
    table = pd.read_csv(folder / "hwgptbench" / "latency_30k_archs.csv.gz", dtype={"mlp_ratio": str})
    table = table.rename(columns={"n_layer": "layers", "n_embd": "hidden", "n_head": "heads"})
    ratios = [[int(digit) for digit in text] for text in table["mlp_ratio"]]
    widths = table["hidden"]
    table["ffn"] = ["-".join(str(r * width) for r in row) for row, width in zip(ratios, widths, strict=True)]
    table["all_heads"] = table["heads"].str.split("-").map(lambda row: sum(map(int, row)))
    table["all_ratios"] = [sum(row) for row in ratios]
    table["weights"] = 4 * widths * HEAD_SIZE * table["all_heads"] + 3 * widths**2 * table["all_ratios"]
    return table.assign(head_dim=HEAD_SIZE, glu=1, causal=1, vocab=VOCABULARY, runtime="graph")


def shapes(folder: Path) -> pd.DataFrame:
    """Those that have others of their size, with the group of each and its FLOPs."""
    table = all_shapes(folder)
    tokens = table["batch"] * table["seq"]
    scores = 2 * tokens * table["seq"] * HEAD_SIZE * table["all_heads"]  # causal: half of the pairs
    table["flops"] = 2 * tokens * (table["weights"] + VOCABULARY * table["hidden"]) + scores
    # Sizes that differ by less than 3 % from the group's smallest; borders are powers of 1.03.
    size = np.floor(np.log(table["params"]) / np.log(SAME_SIZE)).astype(int)
    table["group"] = table.groupby(["space", "hidden", size]).ngroup()
    return table[table.groupby("group")["group"].transform("size") >= FEWEST]


def predict(table: pd.DataFrame, gpu: str) -> NDArray[np.float64]:
    """Milliseconds, as `hwsearch predict FILE.csv` answers."""
    columns = ["layers", "hidden", "heads", "ffn", "batch", "seq", "head_dim", "glu", "causal", "vocab"]
    return predict_frame(table[[*columns, "runtime"]], gpu)["predicted_ms"].to_numpy()


def fitted_logs(table: pd.DataFrame, device: str) -> NDArray[np.float64]:
    """ln(milliseconds) by a model with every freedom that a forward could need, [N].

    Least squares over the whole table of ln(time) on how many layers have which heads and which ratio, apart
    for every width, depth and bias.
    """
    heads = table["heads"].str.split("-")
    kinds = sorted(set(itertools.chain.from_iterable(heads)))
    counts = [heads.map(lambda row, kind=kind: row.count(kind)) for kind in kinds]
    counts += [table["mlp_ratio"].str.count(ratio) for ratio in "234"]
    columns = np.stack([np.ones(len(table)), *counts], axis=1)
    logs = np.log(table[f"lat_ms_{device}"].to_numpy())
    fitted = np.empty(len(table))
    for rows in table.groupby(["hidden", "layers", "bias"]).indices.values():
        fitted[rows] = columns[rows] @ np.linalg.lstsq(columns[rows], logs[rows], rcond=None)[0]
    return fitted


def kendall(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Tau-b over all pairs."""
    first, second = np.triu_indices(len(x), 1)
    dx, dy = np.sign(x[first] - x[second]), np.sign(y[first] - y[second])
    pairs = np.sqrt(np.count_nonzero(dx) * np.count_nonzero(dy))
    return float((dx * dy).sum() / pairs) if pairs else 0.0


def within_groups(table: pd.DataFrame, by: list[str], guess: str, truth: str) -> tuple[float, float]:
    """Kendall's tau and Spearman's rho, averaged over groups by their size."""
    taus, rhos, sizes = [], [], []
    for _, group in table.groupby(by):
        x, y = group[guess].to_numpy(dtype=float)[:MOST], group[truth].to_numpy(dtype=float)[:MOST]
        taus.append(kendall(x, y))
        rho = pd.DataFrame({"x": x, "y": y}).rank().corr().to_numpy()[0, 1]
        rhos.append(0.0 if np.isnan(rho) else rho)
        sizes.append(len(x))
    return float(np.average(taus, weights=sizes)), float(np.average(rhos, weights=sizes))


def print_ranking(table: pd.DataFrame, by: list[str]) -> None:
    columns = ("predicted", "FLOPs", "parameters", "best other GPU")
    print(f"{'GPU':<12}" + "".join(f"{name:>16}" for name in columns) + f"{'error %':>9}{'bias %':>8}")
    for device in PROFILE_OF:
        truth = f"lat_ms_{device}"
        guesses = (f"predicted_{device}", "flops", "params")
        scores = [within_groups(table, by, guess, truth) for guess in guesses]
        others = [f"lat_ms_{other}" for other in PROFILE_OF if other != device]
        scores.append(max(within_groups(table, by, other, truth) for other in others))
        error = 100 * (table[guesses[0]] / table[truth] - 1)
        cells = "".join(f"{f'{tau:.3f} {rho:.3f}':>16}" for tau, rho in scores)
        print(f"{device:<12}{cells}{error.abs().median():>9.1f}{error.median():>+8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    table = shapes(parser.parse_args().data)
    for device, gpu in PROFILE_OF.items():
        table[f"predicted_{device}"] = predict(table, gpu)
    print(f"{len(table):,} shapes in {table['group'].nunique():,} groups; Kendall's tau, Spearman's rho\n")
    print_ranking(table, ["group"])
    print("\nbiases apart")
    print_ranking(table, ["group", "bias"])


if __name__ == "__main__":
    main()
