"""Real tokens per second of a training step, beside transformers' ModernBertForMaskedLM in the same run.

    OMP_NUM_THREADS=1 python benchmarks/training.py --out training.json
    python benchmarks/training.py --device cuda --out training.json
    python benchmarks/training.py --device cuda --case 1024 --out training-1024.json  # a third of it

Sides: hwsearch; transformers as it comes (DataCollatorForLanguageModeling, dynamic padding, sdpa, AdamW,
clipping); transformers at its best (sparse_prediction, grouping by length, its fastest attention on the
device, no clipping, collation in processes of its own on a GPU). Either is its own Trainer, and beside it
a bare loop that does the same for a step without Trainer's bookkeeping. Same documents, shape, dtype and
loss. The sweep finds each side's fastest micro-batch (Trainer takes the bare loop's), then one step each in
turn (A B A B); medians, and the median of each round's ratio. The bound is the time of the weights'
matrix products alone. Peak: bytes allocated in a step over those alive before it (weights and moments),
gradients included.

On the CPU with one thread the clock is processor time, which other work on the machine disturbs less.
On a GPU hwsearch and transformers at its best take torch.compile where it is faster, tried at the fastest
micro-batch without it. Trainer needs accelerate, from the dev extra.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch._dynamo.config
import transformers
from attention_machine import machine
from data import cache_of, word_tokenizer
from numpy.typing import NDArray
from peak_memory import peak_bytes
from trainer_side import TrainerStep
from training_sides import Setting, Task, TrainStep, hwsearch_step, products_step, transformers_step

from hwsearch.files import write_whole
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.shape import EncoderShape
from hwsearch.shape.presets import PRESETS

T = TypeVar("T")

OURS, BOUND = "hwsearch", "products alone"
TRAINER, TRAINER_AT_BEST = "Trainer", "Trainer, best"
AS_IT_COMES, AT_BEST = "bare loop", "bare loop, best"
MIX, ROWS_1024, ROWS_8192 = "normal:256,64,32..512", "1024", "8192"
# A fourteenth of base: as wide a vocabulary for its layers, a head as large.
SMALL = EncoderShape(
    num_hidden_layers=10,
    hidden_size=256,
    num_attention_heads=4,
    intermediate_size=384,
    vocab_size=8192,
    max_position_embeddings=1024,
)
TINY = EncoderShape(
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=2,
    intermediate_size=48,
    vocab_size=512,
    max_position_embeddings=1024,
)
PAPER_RATE = 312_000  # tokens/s on one H100, base, 1024 tokens (arXiv 2412.13663, derived from table 3)


@dataclass(frozen=True)
class Plan:
    """Sizes of a measurement.

    Attributes:
        micro_tokens: the sweep's micro-batches.
        step_tokens: of one optimizer step.
        steps_of_data: documents of so many steps, again and again.
        warm_up: steps before a time counts, and steps that the sweep times.
        targets: case, against which side, hwsearch's least ratio to it.
    """

    shape: EncoderShape
    cases: tuple[str, ...]
    micro_tokens: tuple[int, ...]
    step_tokens: int
    steps_of_data: int
    warm_up: int
    targets: tuple[tuple[str, str, float], ...]


CPU_TARGETS = ((MIX, TRAINER, 2.0), (MIX, TRAINER_AT_BEST, 1.1))
SMOKE = Plan(TINY, (MIX, ROWS_1024), (1024, 2048), 2048, 4, 1, CPU_TARGETS)
ON_CPU = Plan(SMALL, (MIX, ROWS_1024), (1024, 2048, 4096), 8192, 25, 3, CPU_TARGETS)
ON_GPU = Plan(
    PRESETS["modernbert-base"],
    (MIX, ROWS_1024, ROWS_8192),
    (16_384, 32_768, 65_536),
    262_144,
    16,
    3,
    ((ROWS_1024, TRAINER_AT_BEST, 1.5), (ROWS_8192, TRAINER_AT_BEST, 1.5)),
)


def lengths_of(case: str, tokens: int) -> NDArray[np.int64]:
    """Of documents with some `tokens` tokens together."""
    if case == MIX:
        drawn = np.random.default_rng(42).normal(256, 64, tokens // 256)
        return np.clip(drawn, 32, 512).astype(np.int64)
    return np.full(max(1, tokens // int(case)), int(case), np.int64)


def task_of(case: str, plan: Plan, device: torch.device, theirs: Any, tokenizer: Any) -> Task:
    lengths = lengths_of(case, plan.step_tokens * plan.steps_of_data)
    return Task(
        shape=plan.shape,
        cache=cache_of(lengths, tokenizer),
        lengths=lengths,
        sequence_length=512 if case == MIX else int(case),
        theirs=theirs,
        step_tokens=plan.step_tokens,
        device=device,
        workers=4 if device.type == "cuda" else 0,
    )


def attentions_of(side: str, device: torch.device) -> list[str]:
    """What the sweep tries of transformers."""
    if side == OURS:
        return [""]
    if side == AS_IT_COMES or device.type == "cpu":  # where eager was never the fastest
        return ["sdpa"]
    return ["sdpa", "flex_attention", *(["flash_attention_2"] if find_spec("flash_attn") else [])]


MAKERS: dict[str, Callable[[Task, Setting], TrainStep]] = {
    OURS: hwsearch_step,
    TRAINER: TrainerStep,
    TRAINER_AT_BEST: TrainerStep,
    AS_IT_COMES: transformers_step,
    AT_BEST: transformers_step,
    BOUND: products_step,
}


def rate(step: TrainStep, device: torch.device) -> float:
    """Real tokens per second of one step."""
    on_gpu = device.type == "cuda"
    clock = time.process_time if not on_gpu and torch.get_num_threads() == 1 else time.perf_counter
    if on_gpu:
        torch.cuda.synchronize()
    began = clock()
    tokens = step()
    if on_gpu:
        torch.cuda.synchronize()
    return tokens / (clock() - began)


def warmed(side: str, task: Task, setting: Setting, steps: int) -> TrainStep:
    torch.manual_seed(0)
    step = MAKERS[side](task, setting)
    for _ in range(steps):
        step()
    return step


def fastest(side: str, plan: Plan, task: Task) -> tuple[Setting | None, dict[str, float]]:
    """The fastest setting of the sweep, None where none runs, and every setting's tokens per second."""
    rates: dict[Setting, float] = {}
    on_gpu = task.device.type == "cuda"
    sizes = [tokens for tokens in plan.micro_tokens if tokens >= task.sequence_length]
    for attention in attentions_of(side, task.device):
        found: dict[Setting, float] = {}
        for tokens in sorted(sizes, reverse=True):
            setting = Setting(tokens, attention=attention, at_best=side == AT_BEST)
            if r := swept_rate(side, task, setting, plan.warm_up):
                # Borrowed machines have minutes: a GPU that a smaller batch fills less is not asked for more.
                if on_gpu and found and r < max(found.values()):
                    break
                found[setting] = r
        if found and side != AS_IT_COMES and on_gpu:
            compiled = replace(max(found, key=found.__getitem__), compiled=True)
            if r := swept_rate(side, task, compiled, plan.warm_up):
                found[compiled] = r
        rates |= found
    best = max(rates, key=rates.__getitem__, default=None)
    return best, {str(setting): r for setting, r in rates.items()}


def swept_rate(side: str, task: Task, setting: Setting, steps: int) -> float | None:
    """Real tokens per second, or None for what does not run here."""
    found = attempted(side, setting, lambda: median_rate(side, task, setting, steps))
    release(task.device)
    if found:
        print(f"{side}: {setting}: {found:,.0f} tokens/s", flush=True)
    return found


def attempted(side: str, setting: Setting, run: Callable[[], T]) -> T | None:
    """What `run` returns; None, and a line that says why, for what does not run on this machine."""
    try:
        return run()
    except Exception as error:  # whatever kernels, compilers and other people's training loops raise
        reason = str(error).strip().partition("\n")[0]
        print(f"{side}: {setting}: left out: {type(error).__name__}: {reason:.200}", flush=True)
        return None


def median_rate(side: str, task: Task, setting: Setting, steps: int) -> float:
    step = warmed(side, task, setting, steps)
    return statistics.median(rate(step, task.device) for _ in range(steps))


def release(device: torch.device) -> None:
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def compare(case: str, task: Task, plan: Plan, rounds: int) -> list[dict[str, Any]]:
    """A row of the table for each side."""
    chosen: dict[str, Setting | None] = {}
    swept: dict[str, dict[str, float]] = {}
    for side in (OURS, AS_IT_COMES, AT_BEST):
        chosen[side], swept[side] = fastest(side, plan, task)
    chosen |= {TRAINER: chosen[AS_IT_COMES], TRAINER_AT_BEST: chosen[AT_BEST], BOUND: chosen[OURS]}
    settings = {side: setting for side in MAKERS if (setting := chosen[side]) is not None}
    if OURS not in settings:
        raise SystemExit(f"{OURS}: no setting runs on this machine")
    steps: dict[str, TrainStep] = {}
    for side, setting in settings.items():
        if (step := attempted(side, setting, partial(warmed, side, task, setting, plan.warm_up))) is not None:
            steps[side] = step
    rates: dict[str, list[float]] = {side: [] for side in steps}
    for _ in range(rounds):
        for side, step in steps.items():
            rates[side].append(rate(step, task.device))
    peaks = {side: peak_of(step, task.device) for side, step in steps.items() if side != BOUND}
    for step in steps.values():
        if isinstance(step, TrainerStep):
            step.close()
    return [
        {
            "case": case,
            "side": side,
            "setting": asdict(settings[side]),
            "tokens_per_second": statistics.median(rates[side]),
            "rounds": rates[side],
            "hwsearch_over_it": statistics.median(np.divide(rates[OURS], rates[side]).tolist()),
            "of_products_alone": statistics.median(np.divide(rates[side], rates[BOUND]).tolist()),
            "peak_bytes": peaks.get(side),
            "sweep": swept.get(side, {}),
        }
        for side in steps
    ]


def peak_of(step: TrainStep, device: torch.device) -> int | None:
    """None where it cannot be known: torch's profiler sees its own thread alone."""
    if isinstance(step, TrainerStep) and device.type == "cpu":
        return None
    return peak_bytes(step, device)


def table(case: str, rows: list[dict[str, Any]], chosen: dict[str, str]) -> str:
    lines = [
        f"\n{case}\n",
        "| side | micro-batch | tokens/s | lowest..highest | hwsearch over it | of products | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}"
        lines.append(
            f"| {row['side']} | {chosen[row['side']]} | {row['tokens_per_second']:,.0f}"
            f" | {min(row['rounds']):,.0f}..{max(row['rounds']):,.0f}"
            f" | {row['hwsearch_over_it']:.2f} | {row['of_products_alone']:.2f} | {peak} |"
        )
    return "\n".join(lines)


def judged(plan: Plan, rows: list[dict[str, Any]], on_gpu: bool) -> list[dict[str, Any]]:
    """Targets of the project: what was asked, what was found in the cases so far."""
    by_name = {(row["case"], row["side"]): row for row in rows}
    found = [
        {
            "target": f"{case}: hwsearch over {side}",
            "asked": asked,
            "found": by_name[case, side]["hwsearch_over_it"],
        }
        for case, side, asked in plan.targets
        if (case, side) in by_name
    ]
    if on_gpu and (ROWS_1024, OURS) in by_name:
        measured = by_name[ROWS_1024, OURS]["tokens_per_second"] / PAPER_RATE
        paper = f"{ROWS_1024}: hwsearch over the paper's {PAPER_RATE:,} tokens/s on an H100"
        found.append({"target": paper, "asked": 1.3, "found": measured})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", help="this one alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a tiny shape: whether it runs, in seconds")
    parser.add_argument("--out", type=Path, help="JSON with every round")
    args = parser.parse_args()
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    plan = SMOKE if args.smoke else ON_GPU if on_gpu else ON_CPU
    if args.case and args.case not in plan.cases:
        parser.error(f"--case: {args.case}; accepted: {', '.join(plan.cases)}")
    # Variants of all models of one class are counted together; past the usual 8 they would run eagerly.
    torch._dynamo.config.recompile_limit = 64
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    found = machine(args.device) | {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "transformers": transformers.__version__,
        "load_before": os.getloadavg(),
        "shape": plan.shape.sizes(),
        "step_tokens": plan.step_tokens,
        "dtype": "bf16 by autocast" if on_gpu else "float32",
    }
    print(
        f"{found['date']}, {found['device'] if on_gpu else found['cpu']}, {found['threads']} threads, load"
        f" {found['load_before'][0]:.1f}; torch {found['torch']}, transformers {found['transformers']};"
        f" {plan.shape}, {found['dtype']}, {plan.step_tokens:,} tokens a step; {args.rounds} rounds",
        flush=True,
    )
    tokenizer = word_tokenizer(plan.shape.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder), plan.shape.max_position_embeddings)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    rows: list[dict[str, Any]] = []
    for case in [args.case] if args.case else plan.cases:
        task = task_of(case, plan, device, theirs, tokenizer)
        measured = compare(case, task, plan, args.rounds)
        names = {row["side"]: str(Setting(**row["setting"])) for row in measured}
        print(table(case, measured, names), flush=True)
        rows += measured
        found["load_after"] = os.getloadavg()
        if args.out:  # after each case: borrowed machines end without a word
            document = {"machine": found, "rows": rows, "targets": judged(plan, rows, on_gpu)}
            write_whole(args.out, json.dumps(document, indent=1) + "\n")
        release(device)
    print()
    for each in judged(plan, rows, on_gpu):
        verdict = "met" if each["found"] >= each["asked"] else "missed"
        print(f"{each['target']}: {each['found']:.2f}, asked {each['asked']}: {verdict}")
    print(f"load at the end {found['load_after'][0]:.1f}")


if __name__ == "__main__":
    main()
