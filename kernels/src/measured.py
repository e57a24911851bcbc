"""Times of the attention backends on a GPU: attention_backend.json, shipped or the user's own.

    {"format": 1, "gpu": "h200-sxm", "device": "NVIDIA H200", "source": "measured", ...,
     "rows": [{"dtype": "bf16", "head_size": 64, "window": "local", "length": "short", "pass": "forward",
               "seconds": {"triton": 1e-4, "torch_flash": 2e-4}}]}

Read with the standard library alone. A broken file is warned of once, and counts as absent.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .backends import BACKENDS

FILE = "attention_backend.json"
# Classes of max_seqlen, each with its longest.
LENGTHS = {"short": 128, "medium": 1024, "long": math.inf}
_KEYS: dict[str, tuple[object, ...]] = {
    "dtype": ("fp16", "bf16", "fp32"),
    "window": ("local", "global"),
    "length": tuple(LENGTHS),
    "pass": ("forward", "training"),
}
# dtype, head size, window, length, pass
Class = tuple[str, int, str, str, str]


@dataclass(frozen=True)
class Measured:
    """One file: the GPU's profile name, its CUDA device name, and seconds by class and backend."""

    path: Path
    gpu: str
    device: str
    rows: tuple[tuple[Class, tuple[tuple[str, float], ...]], ...]

    def seconds(self, of: Class) -> dict[str, float]:
        """Seconds by backend; empty where the class was not measured."""
        return next((dict(seconds) for each, seconds in self.rows if each == of), {})


def length_class(max_seqlen: int) -> str:
    return next(name for name, longest in LENGTHS.items() if max_seqlen <= longest)


def measured_on(device: str) -> Measured | None:
    """The file of the CUDA device called `device`; read once a process."""
    return next((each for each in _all(*_folders()) if each.device == device), None)


def measured_for(gpu: str) -> Measured | None:
    """The file of the GPU profile called `gpu`."""
    return next((each for each in _all(*_folders()) if each.gpu == gpu), None)


def _folders() -> tuple[Path, ...]:
    """The user's own first; then what ships, in a wheel or at a checkout's root."""
    own = Path(os.environ.get("HWSEARCH_CACHE") or os.path.expanduser("~/.cache/hwsearch"))
    package = Path(__file__).resolve().parent.parent
    return own / "tuned", package / "profiles" / "tuned", package.parent / "profiles" / "tuned"


@cache
def _all(*folders: Path) -> tuple[Measured, ...]:
    found = []
    for path in (path for folder in folders for path in sorted(folder.glob(f"*/{FILE}"))):
        try:
            found.append(read_measured(path))
        except (OSError, ValueError, RecursionError) as error:
            warnings.warn(f"{path}: ignored: {error}", stacklevel=2)
    return tuple(found)


def read_measured(path: Path) -> Measured:
    """Raises ValueError that names the key, what was found and what is accepted."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}; accepted: an object")
    for key, accepted in (("format", 1), ("source", "measured")):
        if content.get(key) != accepted:
            raise ValueError(f"{key}: {content.get(key)!r}; accepted: {accepted!r}")
    for key in ("gpu", "device"):
        if not isinstance(content.get(key), str):
            raise ValueError(f"{key}: {content.get(key)!r}; accepted: a name")
    if not isinstance(content.get("rows"), list):
        raise ValueError("rows: accepted: a list")
    rows = [_row(index, row) for index, row in enumerate(content["rows"])]
    if len({of for of, _ in rows}) < len(rows):
        raise ValueError("rows: two of the same class")
    return Measured(path, content["gpu"], content["device"], tuple(rows))


def _row(index: int, row: Any) -> tuple[Class, tuple[tuple[str, float], ...]]:
    where = f"rows[{index}]"
    if not isinstance(row, dict):
        raise ValueError(f"{where}: accepted: an object")
    for key, accepted in _KEYS.items():
        if row.get(key) not in accepted:
            raise ValueError(f"{where}.{key}: {row.get(key)!r}; accepted: {', '.join(map(str, accepted))}")
    if type(row.get("head_size")) is not int:
        raise ValueError(f"{where}.head_size: {row.get('head_size')!r}; accepted: an integer")
    seconds = row.get("seconds")
    if not isinstance(seconds, dict) or not all(_positive(each) for each in seconds.values()):
        raise ValueError(f"{where}.seconds: {seconds!r}; accepted: positive seconds by backend")
    if not set(seconds) <= set(BACKENDS):
        raise ValueError(f"{where}.seconds: of {', '.join(seconds)}; accepted: {', '.join(BACKENDS)}")
    of = (row["dtype"], row["head_size"], row["window"], row["length"], row["pass"])
    return of, tuple((name, float(each)) for name, each in seconds.items())


def _positive(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) and x > 0
