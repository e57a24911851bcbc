"""Model tables: a row for each model and its batch; heads and ffn may differ from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np

from hwsearch.cost.interval import ENCODER_INTERVAL
from hwsearch.cost.models import ModelRows
from hwsearch.cost.table_rows import Answer, TableRows, read_window
from hwsearch.csv_table import CsvTable, RowNumbers, whole_number
from hwsearch.settings import Mode
from hwsearch.shape.encoder_shape import LARGEST_SIZE
from hwsearch.shape.table import Column
from hwsearch.workload import MAX_LENGTH, MAX_SEQUENCES

MODEL_COLUMNS = ("layers", "hidden", "heads", "ffn", "batch", "seq")
LARGEST_VOCABULARY = 10_000_000


def price_models(rows: TableRows, mode: Mode) -> Answer:
    """Every row's time and memory; raises HwsearchError with the line of what cannot be priced."""
    table, training = rows.table, mode == "training"
    rows.require(MODEL_COLUMNS, 0, "a model table")
    everything = np.arange(len(table))
    columns = _read(rows, everything)
    gated, causal = table.flags("glu", everything), table.flags("causal", everything)
    answer = Answer.empty(len(table), models=True)
    assert answer.peak_bytes is not None
    for first, chosen in rows.groups(everything, gated, causal):
        gpu, dtype, runtime = rows.gpus[first], rows.dtypes[first], rows.runtimes[first]
        models = columns.models(chosen, gated[first], causal[first])
        with rows.blame(first):
            seconds = models.time(gpu, dtype, runtime, training)
            answer.peak_bytes[chosen] = models.peak_bytes(gpu, dtype, runtime, training)
        answer.fill(chosen, seconds, ENCODER_INTERVAL, gpu.calibration.kind)
    return answer


@dataclass(frozen=True, eq=False)
class _Columns:
    """All rows [N] and their groups of equal layers [M], see ModelRows."""

    hidden: Column
    batch: Column
    seq: Column
    vocab: Column
    owner: Column
    times: Column
    heads: Column
    head_size: Column
    intermediate: Column
    window: Column

    def models(self, chosen: RowNumbers, gated: bool, causal: bool) -> ModelRows:
        renumbered = np.full(len(self.hidden), -1)
        renumbered[chosen] = np.arange(len(chosen))
        owner = renumbered[self.owner]
        kept = owner >= 0
        return ModelRows(
            **{name: getattr(self, name)[chosen] for name in ("hidden", "batch", "seq", "vocab")},
            **{
                name: getattr(self, name)[kept]
                for name in ("times", "heads", "head_size", "intermediate", "window")
            },
            owner=owner[kept],
            gated=gated,
            causal=causal,
        )


def _read(rows: TableRows, everything: RowNumbers) -> _Columns:
    table = rows.table
    depth = table.integers("layers", 1, LARGEST_SIZE, everything)
    hidden = table.integers("hidden", 1, LARGEST_SIZE, everything)
    batch = table.integers("batch", 1, MAX_SEQUENCES, everything)
    seq = table.integers("seq", 1, MAX_LENGTH, everything)
    vocab = table.integers("vocab", 0, LARGEST_VOCABULARY, everything, blank=0)
    head_dim = table.integers("head_dim", 1, LARGEST_SIZE, everything, blank=0)
    every = table.integers("global_every", 1, LARGEST_SIZE, everything, blank=0)
    window = read_window(rows, everything)
    heads, ffn = _PerLayer.read(table, "heads", depth), _PerLayer.read(table, "ffn", depth)

    # A model whose layers are equal is two groups at most, its global and its local layers.
    equal = np.flatnonzero((heads.counts == 1) & (ffn.counts == 1))
    listed = np.flatnonzero((heads.counts > 1) | (ffn.counts > 1))
    global_layers = np.where(window < 0, depth, np.where(every > 0, -(-depth // np.maximum(every, 1)), 0))
    owner = np.concatenate([equal, equal, np.repeat(listed, depth[listed])])
    layer = np.concatenate([np.zeros(2 * len(equal), dtype=np.int64), _counted(depth[listed])])
    is_global = (window[owner] < 0) | ((every[owner] > 0) & (layer % np.maximum(every[owner], 1) == 0))
    is_global[: 2 * len(equal)] = np.repeat([True, False], len(equal))
    times = np.ones(len(owner), dtype=np.int64)
    times[: len(equal)] = global_layers[equal]
    times[len(equal) : 2 * len(equal)] = (depth - global_layers)[equal]
    kept = times > 0
    owner, layer, is_global, times = owner[kept], layer[kept], is_global[kept], times[kept]

    of_layer = heads.of(owner, layer)
    head_size = np.where(head_dim[owner] > 0, head_dim[owner], hidden[owner] // of_layer)
    wrong = (head_dim[owner] == 0) & (hidden[owner] % of_layer != 0)
    if wrong.any():
        row = int(owner[wrong].min())
        raise table.error(
            row,
            "heads",
            table.column("heads")[row],
            f"divisors of hidden {hidden[row]}, or a column head_dim",
        )
    return _Columns(
        hidden, batch, seq, vocab, owner, times, of_layer, head_size, ffn.of(owner, layer),
        np.where(is_global, -1, window[owner]),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _PerLayer:
    """One value for all layers of a row, or one for each: `values` of all rows in turn, `counts` [N]."""

    values: Column
    counts: Column
    starts: Column

    @classmethod
    def read(cls, table: CsvTable, name: str, depth: Column) -> _PerLayer:
        accepted = f"a whole number from 1 to {LARGEST_SIZE:,}, or one for every layer, joined by dashes"
        lists = table.read(name, _numbers, accepted)
        counts = np.array([len(each) for each in lists])
        wrong = np.flatnonzero((counts != 1) & (counts != depth))
        if wrong.size:
            row = int(wrong[0])
            found = table.column(name)[row]
            raise table.error(row, name, found, f"one number, or {depth[row]} (layers), not {counts[row]}")
        values = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(counts.sum()))
        return cls(values, counts, np.cumsum(counts) - counts)

    def of(self, owner: Column, layer: Column) -> Column:
        """The value of one layer of each of the rows `owner`."""
        return np.asarray(self.values[self.starts[owner] + np.where(self.counts[owner] > 1, layer, 0)])


def _numbers(text: str) -> tuple[int, ...] | None:
    numbers = tuple(map(_number, text.split("-")))
    return None if 0 in numbers else numbers


@lru_cache(maxsize=1 << 16)
def _number(text: str) -> int:
    """A size, or 0 if it is none; millions of layers have few different ones."""
    number = whole_number(text.strip())
    return 0 if number is None or not 1 <= number <= LARGEST_SIZE else number


def _counted(lengths: Column) -> Column:
    """0, 1, ..., length - 1 for each of `lengths`, one after the other."""
    starts = np.cumsum(lengths) - lengths
    return np.asarray(np.arange(int(lengths.sum())) - np.repeat(starts, lengths))
