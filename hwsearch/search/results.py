"""A finished run as files: every candidate, the front, the winners, and a summary of it all."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from hwsearch.files import write_whole
from hwsearch.search.candidates import Candidates, Report
from hwsearch.search.objectives import scores
from hwsearch.shape.parameters import body_parameters, masked_lm_parameters
from hwsearch.shape.table import COLUMNS
from hwsearch.space.search_space import SearchSpace

if TYPE_CHECKING:
    from hwsearch.search.run import RunResult


def write(result: RunResult, report: Report) -> None:
    """Write all of a run's results, each file whole."""
    folder = result.folder
    report("writing results", 0, 1)
    buffer = io.BytesIO()
    candidate_frame(result.space, result.candidates).to_parquet(buffer, index=False)
    write_whole(folder.candidates, buffer.getvalue())
    write_whole(folder.front, front_frame(result).to_csv(index=False))
    for rank, row in enumerate(result.winners):
        _write_shape(result, result.front, row, str(rank))
    if result.like_for_like is not None:
        _write_shape(result, result.candidates, result.like_for_like, "like-for-like")
    write_whole(folder.summary, json.dumps(summary(result), indent=1) + "\n")
    report("writing results", 1, 1)


def summary(result: RunResult) -> dict[str, Any]:
    """The run's answer as plain data: what the terminal's table and the report are made from."""
    space, reference = result.space, result.reference

    def candidate(row: int | None) -> dict[str, Any] | None:
        return None if row is None else _row(result.candidates, row, reference)

    return {
        "space": space.name,
        "source": "predicted",
        "gpus": [
            {"name": gpu.name, "weight": weight, "calibration": gpu.calibration.kind}
            for gpu, weight in zip(space.gpus, space.weights, strict=True)
        ],
        "workloads": [workload.spec for workload in space.workloads],
        "mode": space.file.mode,
        "runtime": space.file.runtime,
        "objectives": [
            {"name": o.name, "direction": o.direction, "weight": o.weight, "reference": o.reference}
            for o in result.objectives
        ],
        "counts": {
            "grid": space.size,
            "candidates": len(result.candidates),
            "front": len(result.front),
            "recorded": result.recorded,
        },
        "removals": [
            {"constraint": r.constraint, "removed": r.removed, "left": r.left} for r in result.removals
        ],
        "reference": _row(reference, 0, reference),
        "winners": [_row(result.front, row, reference) for row in result.winners],
        "fastest_no_worse": candidate(result.fastest_no_worse),
        "like_for_like": candidate(result.like_for_like),
    }


def _row(candidates: Candidates, row: int, reference: Candidates) -> dict[str, Any]:
    """One shape in a summary; speedups are the reference's latency over its own."""
    shape = candidates.shapes.shape(row)
    return {
        "shape": str(shape),
        "parameters": int(masked_lm_parameters(shape)),
        "body_parameters": int(body_parameters(shape)),
        "basket_latency_ms": 1e3 * float(candidates.basket_latency[row]),
        "basket_speedup": float(reference.basket_latency[0] / candidates.basket_latency[row]),
        "latency_ms": [1e3 * float(seconds) for seconds in candidates.latency[:, row]],
        "speedup": [
            float(own / seconds)
            for own, seconds in zip(reference.latency[:, 0], candidates.latency[:, row], strict=True)
        ],
        "peak_memory_bytes": float(candidates.memory[:, row].max()),
    }


def candidate_frame(space: SearchSpace, candidates: Candidates) -> pd.DataFrame:
    """One row a shape; sizes, parameters, then predicted milliseconds by GPU and peak memory."""
    shapes = candidates.shapes
    columns = {name: getattr(shapes, name) for name in COLUMNS}
    columns["parameters"] = masked_lm_parameters(shapes)
    columns["body_parameters"] = body_parameters(shapes)
    columns["basket_latency_ms"] = 1e3 * candidates.basket_latency
    for row, gpu in enumerate(space.gpus):
        columns[f"latency_ms_{gpu.name}"] = 1e3 * candidates.latency[row]
    columns["peak_memory_bytes"] = candidates.memory.max(axis=0)
    return pd.DataFrame(columns)


def front_frame(result: RunResult) -> pd.DataFrame:
    """The front, best weighted score first, with the objectives beside the candidate columns."""
    frame = candidate_frame(result.space, result.front)
    frame.insert(0, "shape", [str(result.front.shapes.shape(row)) for row in range(len(frame))])
    for objective in result.objectives:
        if objective.name not in frame:
            frame[objective.name] = objective.values
    frame["score"] = scores(result.objectives)
    frame["source"] = "predicted"
    return frame.sort_values("score", kind="stable")


def _write_shape(result: RunResult, candidates: Candidates, row: int, name: int | str) -> None:
    shape = candidates.shapes.shape(row)
    text = yaml.safe_dump(shape.to_dict(), sort_keys=False)
    write_whole(result.folder.winner(name), f"# {shape}, from a predicted run of {result.space.name}\n{text}")
