"""The configuration that was tuned for a kernel, a GPU and a kind of call. The standard library alone.

Tables (`tuned_table.py`) ship in profiles/tuned; a user's own lie below $HWSEARCH_CACHE. Each is read once a
process, on the first look-up of its GPU or family; nothing is ever tuned here. `Found.state` says what was
found, in the order in which it is looked for:

    exact           this GPU, this key, measured
    same GPU        this GPU, measured, the same but for the neighbouring class of length, the longer first
    same family     this key, measured on another GPU of the same compute capability
    compiled only   this key, modelled from compiled code, for this GPU, else for one of its family
    default         nothing: the kernel's own rules

Within a state a row of the user's own comes before a shipped one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .cpu_name import cpu_name
from .tuned_table import (
    DTYPES,
    KERNELS,
    LENGTHS,
    SOURCES,
    WINDOWS,
    Config,
    Key,
    Row,
    Table,
    class_window,
    length_class,
    read_header,
    read_table,
    serves,
    window_class,
)

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

__all__ = [
    "DEFAULT", "DTYPES", "KERNELS", "LENGTHS", "SOURCES", "STATES", "WINDOWS", "Config", "Found", "Key",
    "Row", "Table", "cache_folder", "class_window", "folders", "forget", "length_class", "own_folder",
    "read_table", "table_path", "tuned", "tuned_for", "window_class",
]  # fmt: skip

STATES = ("exact", "same GPU", "same family", "compiled only", "default")

Capability = tuple[int, int]


@dataclass(frozen=True)
class Found:
    """What a look-up found: its state, the row, and the GPU profile that the row is of."""

    state: str
    row: Row | None
    gpu: str | None
    path: Path | None = None


DEFAULT = Found("default", None, None)

T = TypeVar("T")
_caches: list[_lru_cache_wrapper[object]] = []


def until_forgotten(function: Callable[..., T]) -> _lru_cache_wrapper[T]:
    """`functools.lru_cache` of what rests on the tables, which `forget` empties."""
    cached = lru_cache(1 << 14)(function)
    _caches.append(cached)
    return cached


def forget() -> None:
    """Read the tables anew on the next look-up, as after tuning in the same process."""
    for each in _caches:
        each.cache_clear()
    _stale.clear()


def cache_folder() -> Path:
    """What hwsearch keeps for the user: $HWSEARCH_CACHE, or ~/.cache/hwsearch."""
    return Path(os.environ.get("HWSEARCH_CACHE") or os.path.expanduser("~/.cache/hwsearch"))


def own_folder() -> Path:
    """Where the user's own tables lie."""
    return cache_folder() / "tuned"


def table_path(folder: Path, gpu: str, kernel: str) -> Path:
    return folder / gpu / f"{kernel}.json"


@until_forgotten
def tuned(kernel: str, device: str, capability: Capability | None, key: Key) -> Found:
    """For the device that CUDA, or the operating system for a CPU, calls `device`; once a process.

    A broken table is warned of once and ignored. A row that another Triton (major.minor) was tuned with is
    used, with one warning a process and GPU.
    """
    found = _find(kernel, lambda table: device in table.devices, capability, key)
    _warn_of_another_triton(found)
    return found


@until_forgotten
def tuned_for(kernel: str, gpu: str, capability: Capability | None, key: Key) -> Found:
    """For the GPU profile called `gpu`, as reports ask; never warns of Triton's version."""
    if gpu == "cpu":  # the one at hand: machines may share a home
        return _find(kernel, lambda table: cpu_name() in table.devices, None, key)
    return _find(kernel, lambda table: table.gpu == gpu, capability, key)


def _find(kernel: str, is_this: Callable[[Table], bool], capability: Capability | None, key: Key) -> Found:
    headers = _headers(kernel, folders())
    this = [path for path, table in headers if is_this(table)]
    family = [
        path
        for path, table in headers
        if capability is not None and table.compute_capability == capability and path not in this
    ]
    gpus = {path: table.gpu for path, table in headers}
    for state, paths, keys, source in (
        ("exact", this, [key], "measured"),
        ("same GPU", this, _neighbours(key), "measured"),
        ("same family", family, [key], "measured"),
        ("compiled only", this + family, [key], "modelled"),
    ):
        for path in paths:
            for each in keys:
                row = _rows(path).get((each, source))
                if row is not None and serves(row.config, key.length):
                    return Found(state, row, gpus[path], path)
    return DEFAULT


def _neighbours(key: Key) -> list[Key]:
    place = LENGTHS.index(key.length)
    return [replace(key, length=LENGTHS[each]) for each in (place + 1, place - 1) if 0 <= each < len(LENGTHS)]


def folders() -> tuple[Path, ...]:
    """The user's own first; then what ships, in a wheel or at a checkout's root."""
    package = Path(__file__).resolve().parent.parent
    return own_folder(), package / "profiles" / "tuned", package.parent / "profiles" / "tuned"


@until_forgotten
def _headers(kernel: str, folders: tuple[Path, ...]) -> tuple[tuple[Path, Table], ...]:
    return tuple(_readable_headers(kernel, folders))


def _readable_headers(kernel: str, folders: tuple[Path, ...]) -> Iterator[tuple[Path, Table]]:
    for path in (path for folder in folders for path in sorted(folder.glob(f"*/{kernel}.json"))):
        try:
            table = read_header(path)
            if (table.gpu, table.kernel) != (path.parent.name, kernel):
                raise ValueError(f"a table of {table.kernel} on {table.gpu}; accepted: what the path says")
        except (OSError, ValueError) as error:
            _warn_broken(path, error)
        else:
            yield path, table


@until_forgotten
def _rows(path: Path) -> dict[tuple[Key, str], Row]:
    try:
        return {(row.key, row.source): row for row in read_table(path).rows}
    except (OSError, ValueError) as error:
        _warn_broken(path, error)
        return {}


def _warn_broken(path: Path, error: Exception) -> None:
    reason = error.strerror if isinstance(error, OSError) else error
    warnings.warn(f"{path}: ignored: {reason}", stacklevel=2)


# GPUs of whose old tables this process was told.
_stale: set[str | None] = set()


def _warn_of_another_triton(found: Found) -> None:
    then, here = found.row and found.row.triton, _triton_version()
    if not then or here is None or _minor(then) == _minor(here) or found.gpu in _stale:
        return
    _stale.add(found.gpu)
    warnings.warn(
        f"{found.path}: tuned with triton {then}, and this is {here}: used all the same; to renew it:"
        " hwsearch tune",
        stacklevel=3,
    )


def _minor(triton: str) -> list[str]:
    return triton.split(".")[:2]


@cache
def _triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None
