"""Tables of tuned configurations: what a file holds, and its strict reader. The standard library alone.

    {"format": 2, "kernel": "attention_forward", "gpu": "h200-sxm",
    "devices": ["NVIDIA H200"], "compute_capability": [9, 0], "sms": 132,
    "rows": [
    {"dtype": "bf16", "head_size": 64, "window": "global", "length": 512, "source": "measured", ...},
    null]}

Every row is one line that ends with a comma, so that git's union merge makes a table of two branches' rows.
Of rows with the same key and source, which such a merge may leave, the newest counts, then the fastest.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from .backends import BACKENDS
from .triton_attention.configs import TILE_SIZES

FORMAT = 2
LARGEST_BYTES = 64 << 20
LARGEST_HEADER = 4096
# Of heads, and of elements of one.
LARGEST_SIZE = 1 << 16
# Of seconds and joules: a call that takes a day is a slip of the hand.
LARGEST_NUMBER = 86_400
POSITIVE = f"a positive number below {LARGEST_NUMBER:,}"

Setting = int | bool | str
Config = Mapping[str, Setting]

DTYPES = ("fp16", "bf16", "fp32")
WINDOWS = ("global", "narrow", "wide")
# Classes of max_seqlen by their longest; longer ones belong to the last.
LENGTHS = (32, 64, 128, 512, 2048, 8192)
SOURCES = ("measured", "modelled")
# Keys to each side. ModernBERT's local_attention 128 is 64.
WIDEST_NARROW_WINDOW = 128

# The values that each setting of a kernel accepts.
_TILE: dict[str, tuple[Setting, ...]] = {
    "rows": TILE_SIZES,
    "columns": (16, 32, 64, 128, 256),
    "warps": (1, 2, 4, 8, 16),
    "stages": (1, 2, 3, 4, 5, 6, 7, 8),
    "split": (False, True),
}
_ROTATE: dict[str, tuple[Setting, ...]] = {"rotate": ("load", "scratch")}
_ONE_PASS: dict[str, tuple[Setting, ...]] = {
    "one_pass": (True,),
    **{name: _TILE[name] for name in ("rows", "warps", "stages")},
    **_ROTATE,
}
_TWO_KERNELS: dict[str, tuple[Setting, ...]] = {
    "one_pass": (False, True),
    **{f"{kernel}_{name}": values for kernel in ("dq", "dkdv") for name, values in _TILE.items()},
    **_ROTATE,
}
_SETTINGS: dict[str, dict[str, tuple[Setting, ...]]] = {
    "attention_forward": {**_TILE, **_ROTATE},
    "attention_backward": _TWO_KERNELS,
    "attention_backend": {"backend": BACKENDS},
    "attention_backend_training": {"backend": BACKENDS},
}
KERNELS = tuple(_SETTINGS)


@dataclass(frozen=True)
class Key:
    """What a configuration is tuned for: a dtype of DTYPES, D, a class of WINDOWS, a class of LENGTHS."""

    dtype: str
    head_size: int
    window: str
    length: int

    def __str__(self) -> str:
        return f"{self.dtype}, heads of {self.head_size}, {self.window}, up to {self.length}"


@dataclass(frozen=True)
class Row:
    """The best configuration that was found for one key.

    Attributes:
        source: "measured" on the GPU, or "modelled" from compiled code.
        seconds: of one call; default_seconds: of the untuned default in the same run or by the same model,
            None where that cannot run.
        alternatives: the next best with their seconds, fastest first.
        workload: the lengths of the batch, as `hwsearch.workload` reads them; heads: query heads.
        spread: of repeated timings, relative; None where modelled.
        joules: of one call, None where energy was not measured.
        date: of the measurement, YYYY-MM-DD.
        method: in a few words, how it was timed, or the model and its version.
    """

    key: Key
    source: str
    config: Config
    seconds: float
    default_seconds: float | None
    alternatives: tuple[tuple[Config, float], ...]
    workload: str
    heads: int
    spread: float | None
    joules: float | None
    triton: str | None
    torch: str | None
    driver: str | None
    date: str
    method: str


@dataclass(frozen=True)
class Table:
    """A file: one kernel on one GPU; `devices` are the names that CUDA, or the operating system, gives it.

    `compute_capability` is None for a CPU, whose cores are its `sms`.
    """

    kernel: str
    gpu: str
    devices: tuple[str, ...]
    compute_capability: tuple[int, int] | None
    sms: int
    rows: tuple[Row, ...] = ()


def window_class(window: int | None, max_seqlen: int) -> str:
    """The class of `window` keys to each side; "global" where it hides nothing."""
    if window is None or window >= max_seqlen - 1:
        return "global"
    return "narrow" if window <= WIDEST_NARROW_WINDOW else "wide"


def class_window(window: str, length: int) -> int | None:
    """Keys to each side, None for all, at which a class is tuned: 64, ModernBERT's, for narrow windows."""
    return {"global": None, "narrow": 64, "wide": min(512, length // 2)}[window]


def length_class(max_seqlen: int) -> int:
    return next((longest for longest in LENGTHS if max_seqlen <= longest), LENGTHS[-1])


def serves(config: Config, length: int) -> bool:
    """Whether the configuration can run sequences of `length`: a one-pass tile must hold them whole."""
    return not config.get("one_pass") or int(config["rows"]) >= length


def read_table(path: Path) -> Table:
    """The table in `path`, one row for each key and source.

    Raises ValueError, which names the key, what was found and what is accepted; OSError.
    """
    return parse_table(_text(path))


def read_header(path: Path) -> Table:
    """The table without its rows, which are not read where the file is laid out as above.

    Raises as `read_table`.
    """
    with path.open(encoding="utf-8") as file:
        head, begun, _ = file.read(LARGEST_HEADER).partition('\n"rows": [\n')
    if begun:
        try:
            return parse_table(head.removesuffix(",") + ', "rows": [null]}')
        except ValueError:
            pass  # the whole says what is wrong
    return read_table(path)


def parse_table(text: str) -> Table:
    """As `read_table`, of a file's text."""
    return _table(_loaded(text))


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"larger than the {LARGEST_BYTES:,} bytes accepted here")
    return path.read_text(encoding="utf-8")


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{short(key)}: stands here twice, as {short(found[key])} and {short(value)}")
        found[key] = value
    return found


def _table(content: Any) -> Table:
    keys = ("format", "kernel", "gpu", "devices", "compute_capability", "sms", "rows")
    _require(isinstance(content, dict), "the file", content, "an object")
    _one_of("format", content.get("format"), (FORMAT,))
    _exactly("the file", content, keys)
    kernel, gpu, devices = content["kernel"], content["gpu"], content["devices"]
    _one_of("kernel", kernel, KERNELS)
    _text_at("gpu", gpu)
    _require(isinstance(devices, list), "devices", devices, "a list of names")
    for place, device in enumerate(devices):
        _text_at(f"devices[{place}]", device)
    capability, sms = content["compute_capability"], content["sms"]
    pair = isinstance(capability, list) and list(map(type, capability)) == [int, int] and capability[0] > 0
    _require(capability is None or pair, "compute_capability", capability, "[major, minor], null for a CPU")
    _require(_natural(sms), "sms", sms, "a positive integer")
    rows = content["rows"]
    last = isinstance(rows, list) and bool(rows) and rows[-1] is None
    _require(last, "rows", rows, "a list of rows that ends with null")
    found = [row_of(row, kernel, f"rows[{place}]") for place, row in enumerate(rows[:-1])]
    pair_of_ints = None if capability is None else (capability[0], capability[1])
    return Table(kernel, gpu, tuple(devices), pair_of_ints, sms, one_each(found))


def one_each(rows: Iterable[Row]) -> tuple[Row, ...]:
    """One row for each key and source, the newest and then the fastest, in a table's order."""
    best: dict[tuple[Key, str], Row] = {}
    for row in sorted(rows, key=lambda row: (row.date, -row.seconds)):
        best[row.key, row.source] = row
    return tuple(sorted(best.values(), key=_place))


def _place(row: Row) -> tuple[object, ...]:
    key = row.key
    return key.dtype, key.head_size, WINDOWS.index(key.window), key.length, row.source


_ROW_KEYS = (
    "dtype", "head_size", "window", "length", "source", "config", "seconds", "default_seconds",
    "alternatives", "workload", "heads", "spread", "joules", "triton", "torch", "driver", "date", "method",
)  # fmt: skip


def row_of(record: Any, kernel: str, where: str) -> Row:
    """The row of a table of `kernel` in a line; ValueError, which begins with `where`, for anything else."""
    _require(isinstance(record, dict), where, record, "an object")
    _exactly(where, record, _ROW_KEYS)
    key = _key(record, where)
    where = f"{where} ({key})"
    _one_of(f"{where}: source", record["source"], SOURCES)
    config = _config(record["config"], kernel, key.length, f"{where}: config")
    _require(_positive(record["seconds"]), f"{where}: seconds", record["seconds"], POSITIVE)
    for name in ("default_seconds", "joules"):
        accepted = record[name] is None or _positive(record[name])
        _require(accepted, f"{where}: {name}", record[name], f"{POSITIVE} or null")
    spread = record["spread"]
    accepted = spread is None or (type(spread) in (int, float) and spread == 0) or _positive(spread)
    _require(accepted, f"{where}: spread", spread, f"0, {POSITIVE} or null")
    _require(_size(record["heads"]), f"{where}: heads", record["heads"], f"1 to {LARGEST_SIZE}")
    for name in ("workload", "method"):
        _text_at(f"{where}: {name}", record[name])
    for name in ("triton", "torch", "driver"):
        if record[name] is not None:
            _text_at(f"{where}: {name}", record[name])
    date = record["date"]
    _require(_is_date(date), f"{where}: date", date, "YYYY-MM-DD")
    return Row(
        key, record["source"], config, float(record["seconds"]), _float(record["default_seconds"]),
        _alternatives(record["alternatives"], kernel, key.length, where), record["workload"], record["heads"],
        _float(spread), _float(record["joules"]), record["triton"], record["torch"], record["driver"],
        date, record["method"],
    )  # fmt: skip


def _key(record: Mapping[str, Any], where: str) -> Key:
    for name, accepted in (("dtype", DTYPES), ("window", WINDOWS), ("length", LENGTHS)):
        _one_of(f"{where}: {name}", record[name], accepted)
    size = record["head_size"]
    _require(_size(size), f"{where}: head_size", size, f"1 to {LARGEST_SIZE}")
    return Key(record["dtype"], size, record["window"], record["length"])


def _alternatives(found: Any, kernel: str, length: int, where: str) -> tuple[tuple[Config, float], ...]:
    where = f"{where}: alternatives"
    _require(isinstance(found, list), where, found, "a list")
    pairs = []
    for place, each in enumerate(found):
        here = f"{where}[{place}]"
        _require(isinstance(each, dict), here, each, "an object")
        _exactly(here, each, ("config", "seconds"))
        _require(_positive(each["seconds"]), f"{here}: seconds", each["seconds"], POSITIVE)
        pairs.append((_config(each["config"], kernel, length, f"{here}: config"), float(each["seconds"])))
    return tuple(pairs)


def _config(config: Any, kernel: str, length: int, where: str) -> Config:
    _require(isinstance(config, dict), where, config, "an object")
    accepted = _ONE_PASS if config.get("one_pass") is True else _SETTINGS[kernel]
    _exactly(where, config, tuple(accepted))
    for name, values in accepted.items():
        _one_of(f"{where}.{name}", config[name], values)
    _require(serves(config, length), f"{where}.rows", config.get("rows"), f"a one-pass tile of {length}")
    return dict(config)


def _require(holds: bool, where: str, found: object, accepted: str) -> None:
    if not holds:
        raise ValueError(f"{where}: {short(found)}; accepted: {accepted}")


def _one_of(where: str, found: object, accepted: tuple[Setting, ...]) -> None:
    # Python takes True for 1, and 64.0 for 64.
    if type(found) is not type(accepted[0]) or found not in accepted:
        _require(False, where, found, ", ".join(json.dumps(each) for each in accepted))


def _exactly(where: str, found: Mapping[str, object], keys: tuple[str, ...]) -> None:
    if found.keys() == set(keys):
        return
    for key in keys:
        _require(key in found, where, sorted(found), f"an object with {key}")
    for key in found:
        _require(key in keys, f"{where}: the key", key, ", ".join(keys))


def _text_at(where: str, found: object) -> None:
    _require(isinstance(found, str) and bool(found.strip()), where, found, "a text")


def _is_date(x: object) -> bool:
    if not isinstance(x, str) or re.fullmatch(r"\d{4}-\d\d-\d\d", x, re.ASCII) is None:
        return False
    try:
        datetime.date.fromisoformat(x)
    except ValueError:
        return False
    return True


def _natural(x: object) -> bool:
    return type(x) is int and x > 0


def _size(x: object) -> bool:
    return _natural(x) and x <= LARGEST_SIZE  # type: ignore[operator]


def _positive(x: object) -> bool:
    # Python's whole numbers have no bound, and floats have.
    return type(x) in (int, float) and 0 < x < LARGEST_NUMBER  # type: ignore[operator]


def _float(x: float | None) -> float | None:
    return None if x is None else float(x)
