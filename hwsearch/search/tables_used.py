"""Which kinds of attention layers of a space are priced by tuned tables."""

from __future__ import annotations

from hwsearch.cost.batch import WorkloadBatch
from hwsearch.cost.tuned_attention import AttentionTime
from hwsearch.search.candidates import settings_of
from hwsearch.shape.architecture import MODERNBERT
from hwsearch.space.search_space import SearchSpace


def tables_used(space: SearchSpace) -> dict[str, AttentionTime]:
    """Where their times come from, by GPU and class, for all that any shape of the space may ask for."""
    settings, section = settings_of(space), space.file.shape
    sizes, windows = {*section.head_size}, {None, *(width // 2 for width in section.local_attention)}
    if space.reference.architecture == MODERNBERT:
        sizes, windows = sizes | {space.reference.head_size}, windows | {space.reference.window}
    used = {}
    for gpu in space.gpus:
        for workload in space.workloads:
            tuned = WorkloadBatch.of(gpu, workload, settings, MODERNBERT).tuned
            if tuned is None:
                continue
            for key in sorted({tuned.key(size, window) for size in sizes for window in windows}, key=str):
                time = tuned.time(key, settings.training)
                if time.tuned:
                    used[f"{gpu.name}, {key}"] = time
    return used
