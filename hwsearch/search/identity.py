"""What a run is of: two runs with the same identity may share a folder and a study."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import hwsearch.cost
import hwsearch.gpu
import hwsearch.shape
from hwsearch.search.tables_used import tables_used
from hwsearch.space.search_space import SearchSpace


def identity(space: SearchSpace) -> str:
    """Digest of everything that decides the numbers: the space, the GPUs' facts and constants, the lengths
    of each workload, what tuned tables say of them, and the code that prices. Predictions of two
    identities must not be mixed."""
    content = [
        json.dumps(space.description(), sort_keys=True),
        repr([(gpu, gpu.calibration) for gpu in space.gpus]),
        repr([(workload.lengths, workload.padded_length) for workload in space.workloads]),
        repr(tables_used(space)),
        *sources(hwsearch.cost.__path__[0]),
        *sources(hwsearch.gpu.__path__[0]),
        *sources(hwsearch.shape.__path__[0]),
    ]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]


def sources(folder: str) -> list[str]:
    """The text of all code in a package's folder."""
    return [path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("**/*.py"))]
