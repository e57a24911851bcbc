"""Devices that have been asked already: tables of times, and what the cost model predicts for every row.

    hwgpt-SPACE-GPU   HW-GPT-Bench, 10,000 decoders a space: one forward's kernels, latency against parameters
    ...-fitted        the same, but true are the times of a model of the layers fitted to the whole table
    timm-GPU          vision transformers end to end: latency of an image against parameters
    cpu               results/ladder_cpu.csv, encoders on the CPU that wrote it: latency against parameters
    synthetic-t4      a grid of some 200,000 encoders on a made-up GPU: latency against the quality prior

Nothing that fits the cost model's constants reads HW-GPT-Bench; of timm only a runtime's host time per kernel
was fitted, among others. Parameters are those outside the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import hwgpt
import numpy as np
import pandas as pd
from encoders import PROFILE_OF, vit_rows
from numpy.typing import NDArray
from predicted import predict_frame

from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import encoder_time
from hwsearch.gpu.catalog import load_gpu
from hwsearch.regression.covariance import Features
from hwsearch.search.measured.residual import shape_features, unit_features
from hwsearch.search.pareto import Coverage, front_rows
from hwsearch.settings import Settings
from hwsearch.shape.quality_prior import effective_parameters
from hwsearch.shape.table import ShapeTable
from hwsearch.space.grid import enumerate_grid
from hwsearch.space.schema import ShapeSection
from hwsearch.workload import parse_workload

Floats = NDArray[np.float64]
RESULTS = Path(__file__).parents[1] / "results"
NOISE = 0.05


@dataclass(frozen=True, eq=False)
class Problem:
    """
    Attributes:
        parameters: what Optuna's samplers draw, whole numbers, [N, D].
        features: what the residuals see.
        predicted_s, true_s: [N].
        exact: the loss that is known without measuring, [N].
        fitted_s: the best that a model of the layers can say, from all of `true_s`, [N]; None where there is
            no such model.
        rounds: real repeated timings [N, R], one of which a measurement then draws; else noise is made up.
    """

    name: str
    parameters: NDArray[np.int64]
    features: Features
    predicted_s: Floats
    true_s: Floats
    exact: Floats
    rounds: Floats | None = None
    fitted_s: Floats | None = None

    @cached_property
    def losses(self) -> Floats:
        """The truth, [N, 2]."""
        return np.asarray(np.c_[self.true_s, self.exact])

    @cached_property
    def coverage(self) -> Coverage:
        return Coverage.of(self.losses[front_rows(self.losses)])

    @cached_property
    def levels(self) -> Floats:
        """The exact loss at a quarter, the middle and three quarters of the true front."""
        exact = self.exact[front_rows(self.losses)]
        return np.quantile(exact, (0.25, 0.5, 0.75), method="inverted_cdf")

    def excess(self, rows: NDArray[np.int64], seconds: Floats) -> float | None:
        """True time over the best there is of the row that one takes for the fastest, given `seconds` [M].

        Geometric mean over the levels, among the rows [M] that are as good in the exact loss; None where for
        a level there is no such row.
        """
        logs = []
        for level in self.levels:
            enough = self.exact[rows] <= level
            if not enough.any():
                return None
            taken = rows[enough][seconds[enough].argmin()]
            logs.append(np.log(self.true_s[taken] / self.true_s[self.exact <= level].min()))
        return float(np.exp(np.mean(logs)))

    def share(self, rows: NDArray[np.int64]) -> float:
        """Of the true front's hypervolume, at true times."""
        return self.coverage.share(self.losses[rows])

    @cached_property
    def noise(self) -> float:
        """Relative deviation of a measurement, of which the ladder is told."""
        if self.rounds is None:
            return NOISE
        return float(np.std(np.log(self.rounds / self.true_s[:, None])))

    def measure(self, row: int, generator: np.random.Generator) -> float:
        """Seconds, with noise."""
        if self.rounds is not None:
            return float(generator.choice(self.rounds[row]))
        return float(self.true_s[row] * np.exp(NOISE * generator.normal()))


def hwgpt_problem(folder: Path, space: str, name: str) -> Problem:
    """Of a device, or with the fit's times for the truth: DEVICE-fitted."""
    device = name.removesuffix("-fitted")
    table = hwgpt.all_shapes(folder)
    table = table[table["space"] == space].reset_index(drop=True)
    widths = np.sort(table["hidden"].unique())
    layers = table["layers"].to_numpy()
    heads, ratios = table["all_heads"].to_numpy(), table["all_ratios"].to_numpy()
    columns = [np.log2(table["hidden"]), np.log2(layers), heads / layers, ratios / layers, table["bias"]]
    fitted_s = np.exp(hwgpt.fitted_logs(table, device)) / 1e3
    return Problem(
        f"hwgpt-{space}-{name}",
        np.c_[np.searchsorted(widths, table["hidden"]), layers, table["bias"], heads, ratios],
        unit_features(np.stack(columns, axis=1).astype(float)),
        hwgpt.predict(table, hwgpt.PROFILE_OF[device]) / 1e3,
        fitted_s if name != device else table[f"lat_ms_{device}"].to_numpy() / 1e3,
        -table["weights"].to_numpy(dtype=float),
        fitted_s=fitted_s,
    )


def timm_problem(folder: Path, device: str) -> Problem:
    """Eager in fp16; a model that was timed in several versions or batches has its median."""
    rows = vit_rows(folder)
    rows = rows[(rows["gpu"] == device) & (rows["runtime"] == "eager") & (rows["precision"] == "amp")]
    rows = rows.rename(columns={"class_tok": "class_token"})
    rows = rows.assign(dtype="fp16", image_ms=rows["latency_ms"] / rows["batch"])
    shape = ["layers", "hidden", "heads", "ffn", "seq"]
    table = rows.groupby(shape).agg(image_ms=("image_ms", "median"), batch=("batch", "median")).reset_index()
    table = table.astype(dict.fromkeys([*shape, "batch"], int))
    predicted = predict_frame(table.assign(runtime="eager", dtype="fp16"), PROFILE_OF[device])
    hidden, layers = table["hidden"].to_numpy(), table["layers"].to_numpy()
    parameters = layers * (4.0 * hidden**2 + 2 * hidden * table["ffn"])
    columns = np.log2(table[shape].to_numpy(dtype=float))
    return Problem(
        f"timm-{device}",
        table[shape].to_numpy(),
        unit_features(columns),
        (predicted["predicted_ms"] / table["batch"]).to_numpy() / 1e3,
        table["image_ms"].to_numpy() / 1e3,
        -parameters.to_numpy(),
    )


def cpu_problem() -> Problem:
    table = pd.read_csv(RESULTS / "ladder_cpu.csv")
    rounds = table.filter(regex="^round").to_numpy() / 1e3
    shape = table[["layers", "hidden", "head", "ffn"]].to_numpy()
    return Problem(
        "cpu",
        shape,
        unit_features(np.log2(shape.astype(float))),
        table["predicted_ms"].to_numpy() / 1e3,
        np.median(rounds, axis=1),
        -table["body_parameters"].to_numpy(dtype=float),
        rounds,
    )


SYNTHETIC_GRID = ShapeSection.model_validate(
    {
        "num_hidden_layers": {"min": 6, "max": 48, "step": 2},
        "hidden_size": {"min": 512, "max": 1792, "step": 64},
        "head_size": [32, 64, 128],
        "intermediate_size": {"min": 512, "max": 7168, "step": 128},
        "intermediate_ratio": {"min": 2.0, "max": 8.0},
        "global_attn_every_n_layers": [1, 2, 3, 6],
        "local_attention": [64, 128],
    }
)
SYNTHETIC_LENGTHS = "fixed:512x16"


# The made-up GPU: 40 SMs, 50 TFLOP/s that tiles of 256 x 256 reach, 240 GB/s, 4 us a kernel.
SMS, FLOPS_PER_S, BYTES_PER_S, LAUNCH_S, TILE = 40, 50e12, 240e9, 4e-6, 256


def made_up_seconds(shapes: ShapeTable, tokens: int, length: int) -> Floats:
    """One forward in fp16: whole waves of whole tiles, attention at half the rate, the rest by its bytes."""
    width, ffn, depth = shapes.hidden_size, shapes.intermediate_size, shapes.num_hidden_layers
    layer = sum(
        _product_s(tokens, columns, depth_of_sum)
        for columns, depth_of_sum in ((3 * width, width), (width, width), (2 * ffn, width), (width, ffn))
    )
    layer = layer + 2 * tokens * (12.0 * width + 3.0 * ffn) / BYTES_PER_S + 6 * LAUNCH_S
    every = shapes.global_attn_every_n_layers
    global_layers = -(-depth // every)
    keys = np.minimum(shapes.local_attention + 1, length)
    pairs = tokens * (global_layers * float(length) + (depth - global_layers) * keys)
    # Small heads feed the tensor cores badly.
    attention = 4 * pairs * width / (0.5 * FLOPS_PER_S * shapes.head_size / (shapes.head_size + 32.0))
    return np.asarray(depth * layer + attention)


def _product_s(rows: int, columns: NDArray[np.int64], depth: NDArray[np.int64]) -> Floats:
    tiles = -(-rows // TILE) * -(-columns // TILE)
    waves = -(-tiles // SMS)
    moved = 2.0 * (rows * depth + depth * columns + rows * columns)
    computed = waves * SMS * 2.0 * TILE * TILE * depth / FLOPS_PER_S
    return np.asarray(np.maximum(computed, moved / BYTES_PER_S) + LAUNCH_S)


def synthetic_problem() -> Problem:
    """The cost model's t4 predicts, `made_up_seconds` answers."""
    shapes = enumerate_grid(SYNTHETIC_GRID)
    settings = Settings(mode="inference", runtime="graph", head="none")
    workload = parse_workload(SYNTHETIC_LENGTHS)
    predicted = encoder_time(DistinctLayers(shapes), load_gpu("t4"), workload, settings).latency
    names = ("num_hidden_layers", "hidden_size", "head_size", "intermediate_size")
    patterns = ("global_attn_every_n_layers", "local_attention")
    parameters = np.stack([getattr(shapes, name) for name in names + patterns], axis=1)
    true_s = made_up_seconds(shapes, sum(workload.lengths), max(workload.lengths))
    return Problem(
        "synthetic-t4",
        parameters,
        shape_features(shapes),
        predicted,
        true_s,
        -effective_parameters(shapes),
        fitted_s=true_s,
    )
