"""hwsearch finds the encoder-transformer shape that runs fastest on the GPUs people serve on.

    import hwsearch
    hwsearch.predict("modernbert-large", gpu="l4", workload="fixed:512x64").latency_s
    hwsearch.run("large").winners[0]
    hwsearch.write_export("runs/large", "hf", "exported")

Names are loaded when they are first used, so that `import hwsearch` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwsearch.api import predict, run, write_export
    from hwsearch.errors import HwsearchError

__all__ = ["HwsearchError", "predict", "run", "write_export"]


def __getattr__(name: str) -> Any:
    if name == "HwsearchError":
        from hwsearch.errors import HwsearchError

        return HwsearchError
    if name in __all__:
        from hwsearch import api

        return getattr(api, name)
    raise AttributeError(f"module 'hwsearch' has no attribute {name!r}")
