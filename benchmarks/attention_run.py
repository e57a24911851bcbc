"""One run of benchmarks/attention.py: jobs by importance, each with its rows, saved as they come."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from attention_batch import Batch, Truth, make_batch, truth
from attention_cases import Case, cases, smoke_cases, target_cases
from attention_machine import machine, nvml_state
from attention_methods import METHODS, Prepared
from attention_sweep import (
    LARGEST_ERROR,
    UNKNOWN,
    Sweep,
    Trial,
    Variant,
    run_sweep,
    run_trial,
    sweeps,
    tiles_of,
    trial_of,
    try_all,
    workers,
)
from attention_timing import ROUNDS, ceilings
from torch import Tensor

from hwsearch.errors import HwsearchError
from hwsearch.files import write_whole
from hwsearch.measure.device import DeviceLost, check_device
from hwsearch.measure.failure import reason
from hwsearch.measure.timing import Timing, interleaved

Results = dict[str, Any]
Row = dict[str, Any]
Refused = dict[Trial, str]
Methods = dict[str, Callable[[Batch], Prepared]]

# Of the whole budget; trials beyond it count as not tried.
TRIALS_SHARE = 0.35
PASSES = ("forward", "backward")
LATE = "no time left"


def run(
    out: Path,
    budget_s: float,
    *,
    smoke: bool,
    sweep: bool,
    only: str,
    resume: bool,
    without: Collection[str] = (),
) -> None:
    """Fill `out` with the jobs whose name contains `only`, by all METHODS but those of `without`.

    Where an illegal access takes the CUDA context away, a new process goes on with the next job.
    """
    stop = time.monotonic() + budget_s
    device = "cpu" if smoke else "cuda"
    if unknown := [name for name in without if name not in METHODS]:
        raise HwsearchError(f"--without: {unknown[0]!r}; accepted: {', '.join(METHODS)}")
    methods = {name: method for name, method in METHODS.items() if name not in without}
    results: Results = {"format": 1, "jobs": {}, "rows": [], "sweep": [], "ceilings": {}}
    if resume and out.exists():
        results = json.loads(out.read_text())
    results["machine"] = machine(device)
    results.setdefault("before", nvml_state())
    try:
        if not results["ceilings"]:
            results["ceilings"] = ceilings(device, smoke)
        done = {name for name, state in results["jobs"].items() if state != LATE}
        todo = {name: job for name, job in _jobs(smoke, sweep).items() if only in name and name not in done}
        refused = _trials(list(todo.values()), device, stop, budget_s)
        results["trials"] = [f"{trial}: {wrong}" for trial, wrong in refused.items() if wrong]
        for name, job in todo.items():
            _do(name, job, results, refused, device, stop, out, methods)
    except DeviceLost as lost:
        _save(results, out)
        print(f"device lost: {lost}; going on in a new process", file=sys.stderr, flush=True)
        _again(stop - time.monotonic())
    results["after"] = nvml_state()
    _save(results, out)


def _jobs(smoke: bool, sweep: bool) -> dict[str, Case | Sweep]:
    """By name, most important first."""
    if smoke:
        chosen = smoke_cases()
        small = [Sweep(chosen[0], s.kernel, s.variants[:2]) for s in list(sweeps())[:1]] if sweep else []
        jobs: list[Case | Sweep] = [*chosen, *small]
    else:
        every, first = cases(), target_cases()
        jobs = [*every[:first], *(sweeps() if sweep else ()), *every[first:]]
    return {job.name: job for job in jobs}


def _trials(jobs: list[Case | Sweep], device: str, stop: float, budget_s: float) -> Refused:
    # The defaults of every case first.
    trials = [trial for job in jobs if isinstance(job, Case) for trial in _default_trials(job)]
    trials += [trial_of(job.case, v) for job in jobs if isinstance(job, Sweep) for v in job.variants]
    seconds = min(budget_s * TRIALS_SHARE, max(0.0, stop - time.monotonic()))
    return try_all(list(dict.fromkeys(trials)), device, seconds, workers() if device == "cuda" else 1)


def check(smoke: bool) -> bool:
    """Print what is wrong with the default tiles on small batches, in this process; True for nothing."""
    device = "cpu" if smoke else "cuda"
    chosen = [c for c in cases()[: 2 * target_cases()] if c.workload in ("2048", "mix-512", "tiny")]
    right = True
    for case in chosen:
        for trial in _default_trials(case):
            wrong = run_trial(trial, device)
            right &= not wrong
            print(f"{case.name} rope={trial.variant.rope}: {wrong or 'right'}", flush=True)
    return right


def _default_trials(case: Case) -> list[Trial]:
    return [trial_of(case, Variant("rotation", tiles_of(case), rope)) for rope in (False, True)]


def _do(
    name: str,
    job: Case | Sweep,
    results: Results,
    refused: Refused,
    device: str,
    stop: float,
    out: Path,
    methods: Methods,
) -> None:
    if time.monotonic() > stop:
        results["jobs"][name] = LATE
        return
    # If this job takes the process down, the next one passes over it.
    results["jobs"][name] = "did not end"
    _save(results, out)
    start = time.monotonic()
    try:
        if isinstance(job, Sweep):
            results["sweep"] += run_sweep(job, device, refused)
        else:
            results["rows"] += measure(job, device, refused, methods)
            check_device(device)
        results["jobs"][name] = "done"
    except DeviceLost as lost:
        results["jobs"][name] = f"device lost: {lost}"
        raise
    except Exception as error:
        results["jobs"][name] = reason(error)
        check_device(device)
    finally:
        _save(results, out)
        print(
            f"{name}: {results['jobs'][name]}, {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True
        )


def _save(results: Results, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(results, indent=1) + "\n")


def _again(seconds: float) -> None:
    arguments = [a for a in sys.argv if a != "--resume"]
    os.execv(
        sys.executable, [sys.executable, *arguments, "--resume", "--budget-seconds", str(max(seconds, 0))]
    )


def measure(case: Case, device: str, refused: Refused, methods: Methods) -> list[Row]:
    """Each method on one case, checked and then timed: rows of forward, backward and what is done once."""
    batch = make_batch(case, device)
    truths = {rope: truth(batch, rope) for rope in (False, True)}
    ours = {trial.variant.rope: refused.get(trial, "") for trial in _default_trials(case)}
    ready: dict[str, Prepared] = {}
    # Relative error of what ran, the reason of what did not.
    checks: dict[tuple[str, str], float | str] = {}
    for name, method in methods.items():
        rope = "rope" in name
        try:
            if name.startswith("triton") and ours[rope] and not ours[rope].startswith(UNKNOWN):
                raise RuntimeError(ours[rope])
            ready[name] = method(batch)
        except Exception as error:
            checks |= {(name, direction): reason(error) for direction in PASSES}
            check_device(device)
        else:
            found = _checked(ready[name], batch, truths[rope], device)
            checks |= {(name, direction): what for direction, what in found.items()}
    rows = [
        _row(case, direction, name) | {"reason": what}
        for (name, direction), what in checks.items()
        if isinstance(what, str)
    ]
    for direction in PASSES:
        served = [name for name in ready if not isinstance(checks[name, direction], str)]
        calls = {name: _call(ready[name], direction) for name in served}
        for name, timing in interleaved(calls, device, ROUNDS[device]).items():
            rows.append(_timed_row(case, direction, name, timing) | {"error": checks[name, direction]})
    once = {name: prepared.prepare for name, prepared in ready.items() if prepared.prepare is not None}
    timings = interleaved(once, device, ROUNDS[device])
    rows += [_timed_row(case, "prepare", name, timing) for name, timing in timings.items()]
    return rows


def _checked(prepared: Prepared, batch: Batch, true: Truth, device: str) -> dict[str, float | str]:
    """Relative error of forward and of backward on memory that held NaN, or why there is none."""
    results: dict[str, float | str] = dict.fromkeys(PASSES, "forward failed")
    direction = "forward"
    try:
        _poison(batch.q)
        out = prepared.call()
        results[direction] = _judged(true.error({"out": prepared.packed(out.detach())}))
        direction = "backward"
        _poison(batch.q)
        gradients = prepared.split(torch.autograd.grad(out, prepared.leaves, prepared.dout))
        found = {name: prepared.packed(x) for name, x in zip(("dq", "dk", "dv"), gradients, strict=True)}
        results[direction] = _judged(true.error(found))
    except Exception as error:
        results[direction] = reason(error)
        check_device(device)
    return results


def _judged(error: float) -> float | str:
    # A wrong answer has no speed.
    return error if error <= LARGEST_ERROR else f"wrong: relative error {error:.2g}"


def _poison(like: Tensor) -> None:
    """Leaves NaN in what the allocator is about to hand out, so that an element never written shows."""
    held = [torch.full_like(like, float("nan")) for _ in range(4)]
    del held


def _call(prepared: Prepared, direction: str) -> Callable[[], object]:
    if direction == "forward":
        return prepared.call
    out = prepared.call()
    return lambda: torch.autograd.grad(out, prepared.leaves, prepared.dout, retain_graph=True)


def _row(case: Case, direction: str, method: str) -> Row:
    return {
        "workload": case.workload,
        "tokens": case.tokens,
        "heads": case.heads,
        "head_size": case.head_size,
        "window": case.window,
        "pass": direction,
        "method": method,
    }


def _timed_row(case: Case, direction: str, method: str, timing: Timing | str) -> Row:
    row = _row(case, direction, method)
    if isinstance(timing, str):
        return row | {"reason": timing}
    row |= {"seconds": timing.seconds, "first": timing.first, "second": timing.second}
    row |= {"spread": timing.spread, "host": timing.host}
    if direction in PASSES:
        row["tflops"] = case.useful_flops(direction) / timing.seconds / 1e12
    return row
