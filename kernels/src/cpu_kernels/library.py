"""Builds the C++ beside it with the machine's compiler, once for a CPU and a compiler, and loads it.

    library().attention_forward(byref(problem))

The library lies below hwsearch's cache folder, named after all that it depends on, so machines of different
CPUs can share a home. $CXX names another compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ..cpu_name import cpu_name, cpuinfo
from ..tuned import cache_folder

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
# Elements of a head, and of a row of the gated GELU: whole vectors, however wide the CPU's.
ROW_MULTIPLE = 16
COMPILERS = ("g++", "clang++", "c++")
# It takes four; a machine may be busy.
LONGEST_SECONDS = 120.0


class Heads(ctypes.Structure):
    """[tokens, heads, size] float32 in memory, strides in elements; that of a head's elements is 1."""

    _fields_ = [("data", ctypes.c_void_p), ("token", ctypes.c_int64), ("head", ctypes.c_int64)]


class Problem(ctypes.Structure):
    """As attention.cpp has it."""

    _fields_ = [
        ("q", Heads),
        ("k", Heads),
        ("v", Heads),
        ("heads", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("window", ctypes.c_int64),
        ("causal", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int64),
        ("out", Heads),
        ("lse", ctypes.c_void_p),
    ]


class Gradients(ctypes.Structure):
    """As attention.cpp has it."""

    _fields_ = [("dout", Heads), ("dlse", ctypes.c_void_p), ("dq", Heads), ("dk", Heads), ("dv", Heads)]


# What returns 1 has run out of memory, what returns 0 has not.
FUNCTIONS = {
    "attention_forward": [ctypes.POINTER(Problem)],
    "attention_backward": [ctypes.POINTER(Problem), ctypes.POINTER(Gradients)],
    "gated_gelu_forward": [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p],
    "gated_gelu_backward": [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p],
}


class CannotBuild(Exception):
    """Why there is no library on this machine."""


@cache
def why_none() -> str | None:
    """Why there is no library on this machine; None where there is one, which is built for that."""
    try:
        library()
    except CannotBuild as error:
        return str(error)
    return None


@cache
def library() -> ctypes.CDLL:
    """Raises CannotBuild where there is no compiler, or it fails, or torch has no OpenMP to run on."""
    if sys.platform != "linux":
        raise CannotBuild(f"they are built on Linux, and this is {sys.platform}")
    _load_openmp()
    compiler = _compiler()
    path = _folder() / f"{_identity(compiler)}.so"
    try:
        if not path.is_file():
            _build(compiler, path)
        found = ctypes.CDLL(str(path))
    except OSError as error:
        # The loader names the file itself, and has no strerror.
        raise CannotBuild(f"{path}: {error.strerror}" if error.strerror else str(error)) from error
    for name, arguments in FUNCTIONS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, ctypes.c_int64
    return found


def _load_openmp() -> None:
    """With torch, for all libraries that are loaded after it."""
    if find_spec("torch") is None:
        raise CannotBuild("torch is not installed")
    try:
        importlib.import_module("torch")
    except (ImportError, OSError) as error:
        raise CannotBuild(f"torch cannot be imported: {error}") from error


def _folder() -> Path:
    folder = cache_folder() / "cpu_kernels"
    if folder.parts[0].startswith("~"):  # code is loaded from there: not from where the process happens to be
        raise CannotBuild(f"{folder}: no such home; $HWSEARCH_CACHE names another folder")
    return folder


def _compiler() -> list[str]:
    try:
        asked = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise CannotBuild(f"$CXX: {error}") from error
    for name in [asked[0]] if asked else COMPILERS:
        if (path := shutil.which(name)) is not None:
            return [path, *asked[1:]]
    raise CannotBuild(f"no C++ compiler: {asked[0] if asked else ' or '.join(COMPILERS)} is not found")


def _identity(compiler: list[str]) -> str:
    """Of sources, compiler and CPU: code for one CPU may be illegal on another of the same name."""
    digest = hashlib.sha256()
    for path in [*_sources("h"), *_sources("cpp")]:
        digest.update(path.read_bytes())
    version = _output([*compiler, "--version"])
    features = cpuinfo("flags") or cpuinfo("Features")
    digest.update(repr((compiler, version, FLAGS, cpu_name(), features)).encode())
    return digest.hexdigest()[:16]


def _build(compiler: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        _output([*compiler, *FLAGS, *map(str, _sources("cpp")), "-o", str(built)])
        with open(built, "rb") as file:
            os.fsync(file.fileno())
        os.replace(built, path)  # whole, whoever else builds it


def _sources(kind: str) -> list[Path]:
    return sorted(FOLDER.glob(f"*.{kind}"))


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except OSError as error:
        raise CannotBuild(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"{command[0]}: not ready within {LONGEST_SECONDS:g} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
        raise CannotBuild(f"{command[0]}: {next((line for line in said if 'error' in line), said[-1])}")
    return done.stdout
