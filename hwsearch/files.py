"""Files that are either whole or absent, and YAML that remembers its lines."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hwsearch.errors import HwsearchError

MAX_YAML_BYTES = 1 << 20
# Anchors may repeat content; a document that unfolds to more nodes than this is a YAML bomb.
MAX_YAML_NODES = 100_000
MAX_YAML_DEPTH = 50
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

KeyPath = tuple[Hashable, ...]


def data_folder(name: str) -> Path:
    """The shipped folder `name` ("spaces", "profiles", "recipes"): in a wheel, or at a checkout's root."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def named_yaml(name: str, folder: str, what: str) -> Path:
    """The path that `name` is, or that of the shipped `folder`/name.yaml; `what` names it in the error."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = data_folder(folder) / f"{name}.yaml"
    if not shipped.is_file():
        names = ", ".join(sorted(each.stem for each in data_folder(folder).glob("*.yaml")))
        raise HwsearchError(f"{name}: no such {what}; accepted: a YAML file, or one of {names}")
    return shipped


# The names that `write_whole` gives to what is not whole yet: .NAME.PID.RANDOM.tmp
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


def is_temporary(path: Path) -> bool:
    """Whether `path` is what a process that was killed in `write_whole` left behind."""
    return _TEMPORARY.fullmatch(path.name) is not None and path.is_file()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `path` completely or not at all: a temporary sibling, synced, then renamed into place.

    A link stays one, and its target is replaced; devices and pipes, which must not be, are written to.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        make_folder(target.parent)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise HwsearchError(f"{path}: cannot write: {error.strerror}") from error
    finally:  # Ctrl-C leaves nothing behind either
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise HwsearchError where `write_whole` could not write `path`, before work goes into its content."""
    if path.is_dir():
        raise HwsearchError(f"{path}: cannot write: is a folder")
    if path.exists() and not path.is_file():  # a device or a pipe
        return
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists():
        folder = folder.parent
    probe = folder / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HwsearchError(f"{path}: cannot write: {error.strerror}") from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents; a file in the way is named."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_the_way = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)
        reason = f"{in_the_way} is a file" if in_the_way else error.strerror
        raise HwsearchError(f"{path}: cannot create this folder: {reason}") from error


@contextmanager
def hold(lock: Path, busy: str, patience_s: float = 0) -> Iterator[None]:
    """Hold an exclusive lock on the file `lock`, created if need be; a killed process lets go of it.

    Raises HwsearchError with the message `busy` where another process still holds it after `patience_s`.
    """
    try:
        file = lock.open("a")
    except OSError as error:
        raise HwsearchError(f"{lock}: cannot write: {error.strerror}") from error
    with file:
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    raise HwsearchError(busy) from error
            time.sleep(0.02)
        yield


@contextmanager
def hold_in_turn(lock: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock as `hold` does, waiting for another process that has it; `on_wait` is called first."""
    try:
        file = lock.open("a")
    except OSError as error:
        raise HwsearchError(f"{lock}: cannot write: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_text(path: Path, max_bytes: int | None = None) -> str:
    try:
        with path.open("rb") as file:
            content = file.read() if max_bytes is None else file.read(max_bytes + 1)
        if max_bytes is not None and len(content) > max_bytes:
            raise HwsearchError(f"{path}: larger than the {max_bytes:,} bytes accepted here")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HwsearchError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise HwsearchError(f"{path}: cannot read: {error.strerror}") from error


@dataclass(frozen=True)
class YamlDocument:
    """Plain data from one YAML file, with the line on which each key stands."""

    path: Path
    data: Any
    lines: dict[KeyPath, int]

    def where(self, key_path: Iterable[Hashable]) -> str:
        """`file:line` of the key, or of the nearest enclosing key that the file does hold."""
        keys = tuple(key_path)
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.path}:{self.lines.get(keys, 1)}"


def read_yaml(path: Path) -> YamlDocument:
    """Read one safe YAML document.

    Raises HwsearchError for a file that cannot be read, broken syntax, a repeated key, a tag that
    is not plain data, and documents that are too deep or unfold to too many nodes (YAML bombs).
    """
    text = read_text(path, MAX_YAML_BYTES)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise HwsearchError(f"{path}: is empty")
        _check_size(root, path, {}, depth=0)
        lines: dict[KeyPath, int] = {}
        data = _plain(loader, root, path, (), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise HwsearchError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise HwsearchError(f"{path}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise HwsearchError(f"{path}: nested too deeply") from error
    finally:
        loader.dispose()
    return YamlDocument(path, data, lines)


def _check_size(node: yaml.Node, path: Path, sizes: dict[int, int], depth: int) -> int:
    """Nodes of the document once every alias is unfolded, counted without unfolding any."""
    if depth > MAX_YAML_DEPTH:
        raise HwsearchError(f"{path}:{node.start_mark.line + 1}: nested deeper than {MAX_YAML_DEPTH} levels")
    if id(node) not in sizes:
        size = 1
        if isinstance(node, yaml.SequenceNode):
            size += sum(_check_size(child, path, sizes, depth + 1) for child in node.value)
        elif isinstance(node, yaml.MappingNode):
            size += sum(_check_size(child, path, sizes, depth + 1) for pair in node.value for child in pair)
        if size > MAX_YAML_NODES:
            raise HwsearchError(
                f"{path}:{node.start_mark.line + 1}: aliases unfold it to more than {MAX_YAML_NODES:,} values"
            )
        sizes[id(node)] = size
    return sizes[id(node)]


def _plain(loader: Any, node: yaml.Node, path: Path, keys: KeyPath, lines: dict[KeyPath, int]) -> Any:
    lines.setdefault(keys, node.start_mark.line + 1)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
        raise HwsearchError(f"{path}:{node.start_mark.line + 1}: the tag {node.tag} is not plain data")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, child, path, (*keys, i), lines) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise HwsearchError(f"{path}:{line}: a key must be a plain word")
            key = _plain(loader, key_node, path, keys, lines)
            if key in result:
                raise HwsearchError(f"{path}:{line}: the key {key!r} stands here twice")
            lines[(*keys, key)] = line
            result[key] = _plain(loader, value_node, path, (*keys, key), lines)
        return result
    try:
        return loader.construct_object(node)
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise HwsearchError(f"{path}:{node.start_mark.line + 1}: {node.value!r} is no {node.tag}") from error
