"""The files of a finished run: every candidate, the front, the winners, and a summary of it all."""

from __future__ import annotations

import io
import json

import pandas as pd

from hwsearch.files import write_whole
from hwsearch.search.candidates import Candidates, Report
from hwsearch.search.objectives import scores
from hwsearch.search.result import RunResult
from hwsearch.shape.notation import shape_yaml
from hwsearch.shape.parameters import body_parameters, masked_lm_parameters
from hwsearch.shape.table import COLUMNS
from hwsearch.space.search_space import SearchSpace


def write_run(result: RunResult, report: Report) -> None:
    """Write all of a run's results, each file whole."""
    folder = result.folder
    report("writing results", 0, 1)
    buffer = io.BytesIO()
    candidate_frame(result.space, result.candidates).to_parquet(buffer, index=False)
    write_whole(folder.candidates, buffer.getvalue())
    write_whole(folder.front, front_frame(result).to_csv(index=False))
    written = {str(rank) for rank in range(len(result.winner_rows))}
    for rank, row in enumerate(result.winner_rows):
        _write_shape(result, result.front, row, str(rank))
    if result.like_for_like_row is not None:
        written.add("like-for-like")
        _write_shape(result, result.candidates, result.like_for_like_row, "like-for-like")
    for stale in folder.path.glob("winners/*/shape.yaml"):
        if stale.parent.name not in written:
            stale.unlink()
    write_whole(folder.summary, json.dumps(result.summary(), indent=1) + "\n")
    report("writing results", 1, 1)


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
    title = f"# {shape}, from a predicted run of {result.space.name}\n"
    write_whole(result.folder.winner(name), title + shape_yaml(shape))
