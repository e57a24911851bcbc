"""What compiled configurations of the attention kernels issue and take, kept in a file of JSON lines.

Compilers run in processes of their own, so that a crash or a hang costs one configuration. A line is added
when a configuration is done: Ctrl-C keeps them all, the next run compiles the rest. Lengths count for
nothing, and of the GPU the compute capability alone: classes of lengths share lines, and so do GPUs.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.files import make_folder, read_text
from hwsearch.kernels.triton_attention import instructions
from hwsearch.kernels.triton_attention.configs import Tile

TIMEOUT_S = 120.0
SOURCES = ("tiles.py", "forward.py", "backward.py", "rotation.py")


@dataclass(frozen=True)
class Job:
    """One Triton kernel to compile: "forward", "dq", "dkdv" or "short".

    The tile says whether its loop is split. `local`: a window hides keys. `rope`: "load" or "scratch", as
    Configuration has it.
    """

    capability: tuple[int, int]
    kernel: str
    dtype: str
    head_size: int
    tile: Tile
    local: bool
    rope: str


class CodeFile:
    """The file, read once; `found` maps jobs to their records, those of other versions left out.

    A record holds what `compiled.Compiled` and `Instructions.as_dict` say, or "error" where there is no code.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = {"triton": triton_version(), "sources": sources_digest(), "reader": instructions.READER}
        self.found: dict[Job, Mapping[str, Any]] = {}
        if not path.exists():
            return
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            try:
                record = json.loads(line)
                stamp, job = record["stamp"], _job(record["job"])
            except (ValueError, TypeError, KeyError) as error:
                # The last line may be half of one, of a process that was killed.
                if number == 1:
                    raise HwsearchError(f"{path}:1: not a line of compiled code: {error}") from error
                continue
            if stamp == self.stamp:
                self.found[job] = record["code"]

    def add(self, job: Job, code: Mapping[str, Any]) -> None:
        line = json.dumps({"stamp": self.stamp, "job": asdict(job), "code": dict(code)})
        make_folder(self.path.parent)
        try:
            # A line at once: two processes may add to one file.
            with self.path.open("a+b") as file:
                half = file.seek(0, os.SEEK_END) > 0 and not _ends_in_newline(self.path)
                file.write(b"\n" * half + line.encode() + b"\n")
        except OSError as error:
            raise HwsearchError(f"{self.path}: cannot write: {error.strerror}") from error
        self.found[job] = code


def compile_jobs(
    jobs: Iterable[Job],
    codes: CodeFile,
    workers: int,
    report: Callable[[Job, Mapping[str, Any]], None] = lambda job, code: None,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Compile what `codes` does not hold, in `workers` processes; `report` hears of each when it is done.

    Raises HwsearchError where the file cannot be written or triton is not installed.
    """
    waiting = [job for job in dict.fromkeys(jobs) if job not in codes.found]
    if not waiting:
        return
    waiting.reverse()
    folder = tempfile.mkdtemp(prefix="hwsearch-compile-")
    running: dict[Connection, _Worker] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker = _Worker(folder)
                running[worker.pipe] = worker
                worker.start(waiting.pop())
            ready = wait(list(running), timeout=1.0)
            for pipe, worker in list(running.items()):
                late = time.monotonic() - worker.since > timeout_s
                if pipe not in ready and not late:
                    continue
                code = worker.result() if pipe in ready else {"error": f"longer than {timeout_s:.0f} s"}
                codes.add(worker.job, code)
                report(worker.job, code)
                if worker.alive(code) and waiting and not late:
                    worker.start(waiting.pop())
                else:
                    worker.end()
                    del running[pipe]
    finally:
        for worker in running.values():
            worker.end()
        shutil.rmtree(folder, ignore_errors=True)


class _Worker:
    """A process that compiles one job after another."""

    def __init__(self, folder: str) -> None:
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, folder), daemon=True)
        self.process.start()
        other.close()

    def start(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        with suppress(OSError):  # it has died: `result` says so
            self.pipe.send(job)

    def result(self) -> Mapping[str, Any]:
        try:
            code: Mapping[str, Any] = self.pipe.recv()
            return code
        except (EOFError, OSError):
            self.process.join(5)
            return {"error": f"the compiler died with status {self.process.exitcode}"}

    def alive(self, code: Mapping[str, Any]) -> bool:
        return self.process.is_alive() and "error" not in code

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update({"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": folder})
    from hwsearch.kernels.triton_attention import compiled

    names: dict[str, Any] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    with suppress(EOFError, BrokenPipeError):  # the parent was killed
        while True:
            job: Job = pipe.recv()
            configuration = compiled.Configuration(
                job.kernel, names[job.dtype], job.head_size, job.tile, "local" if job.local else "global",
                bool(job.tile.split), rope="load" if job.rope == "load" else "scratch",
            )  # fmt: skip
            code: dict[str, Any]
            try:
                usage, issued = compiled.compile_with_instructions(job.capability, configuration)
                code = asdict(usage) | {"instructions": issued.as_dict()}
            except Exception as error:  # whatever the compiler raises is this configuration's own
                code = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
            pipe.send(code)


def triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError as error:
        raise HwsearchError(
            "modelled tuning compiles with triton, which is not installed: pip install triton"
        ) from error


@cache
def sources_digest() -> str:
    """Of the device code, comments and docstrings left out: by it records of older kernels are told."""
    folder = Path(instructions.__file__).parent
    code = "".join(_without_words((folder / name).read_text()) for name in SOURCES)
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def _without_words(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def _job(record: Mapping[str, Any]) -> Job:
    return Job(**{**record, "capability": tuple(record["capability"]), "tile": Tile(**record["tile"])})


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
