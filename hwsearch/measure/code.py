"""The code that builds and times models, as a digest: times of two versions of it are not compared."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

SOURCES = (".py", ".cpp", ".h")
# What counts of each package; of training what a step does beside the model. Found, not imported: that needs
# torch, which takes seconds.
PACKAGES = {
    "hwsearch.kernels": "*",
    "hwsearch.measure": "*",
    "hwsearch.model": "*",
    "hwsearch.shape": "*",
    "hwsearch.training": "optimizer.py",
}


def timed_code() -> str:
    """Twelve hexadecimal digits."""
    digest = hashlib.sha256()
    for package, files in PACKAGES.items():
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).rglob(files)):
                if path.suffix in SOURCES:
                    digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
