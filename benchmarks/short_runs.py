"""Do short runs rank shapes as runs of eight times the tokens do? With and without CompleteP.

    python benchmarks/short_runs.py --out DIR [--seeds 2] [--tokens 1048576] [--part 0/2]

Trains small shapes on Python's standard library, each for the whole budget and, as a run of its own with its
own decay, for an eighth of it. Kendall's tau between the ranks by held-out loss, four ways: an eighth into
the whole run (what pruning sees), a quarter and half way in it, and the eighth as its own run. Beside it the
same between two seeds of whole runs: no judge agrees with the truth better than the truth with itself.

What is trained stands in DIR/runs.jsonl and is not trained again; a run that was killed goes on from its last
checkpoint. The tables are of whatever is there. One thread; processes with --part 0/2 and 1/2 share a DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from scipy.stats import kendalltau

from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.search.contest_recipe import STAGES, contest_recipe
from hwsearch.shape import parse_shape
from hwsearch.shape.parameters import body_parameters
from hwsearch.training import train

# Chosen before any of them was trained: the same body parameters within 3 %, from wide to deep.
SHAPES = (
    "L2-h128-a8-i256", "L8-h64-a4-i128", "L4-h96-a6-i160", "L2-h80-a5-i576",
    "L6-h80-a5-i120", "L3-h112-a7-i176", "L4-h64-a4-i336",
)  # fmt: skip
SUFFIX = "-v320-p64"  # with more words a run of minutes learns their frequencies and little else
BASE = "L4-h96-a6-i160"  # the learning rate was chosen at this one
LEARNING_RATE = 4e-3
TOKENS_PER_STEP, SEQUENCE_LENGTH = 512, 64


@dataclass(frozen=True)
class Case:
    """`share` of the tokens: 1 or STAGES."""

    shape: str
    completep: bool
    seed: int
    share: int

    @property
    def name(self) -> str:
        return f"{self.shape}-{'completep' if self.completep else 'plain'}-s{self.seed}-{self.share}x"


@dataclass(frozen=True)
class Trained:
    """A finished case; `losses` after every eighth of its steps, nats per hidden token of held-out text."""

    case: Case
    tokens: int
    losses: list[float]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1 << 22, help="of a whole run")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="train every N-th case, from I on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, first, step = arguments.out / "runs.jsonl", *map(int, arguments.part.split("/"))
    for case in cases(arguments.seeds)[first::step]:
        if case not in read(table, arguments.tokens):
            line = json.dumps(
                asdict(run(case, arguments.out, arguments.tokens)) | {"whole": arguments.tokens}
            )
            with open(table, "a", encoding="utf-8") as file:
                file.write(line + "\n")
    print(report(read(table, arguments.tokens), arguments.tokens))


def cases(seeds: int) -> list[Case]:
    """What decides most first, so that a run which is stopped early has it."""
    order = itertools.product((True, False), range(seeds), (1, STAGES), SHAPES)
    return [Case(shape, completep, seed, share) for completep, seed, share, shape in order]


def read(path: Path, tokens: int) -> dict[Case, Trained]:
    """Finished cases of this budget; a torn last line is trained again."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.pop("whole") == tokens:
            case = Case(**row.pop("case"))
            found[case] = Trained(case, **row)
    return found


def run(case: Case, out: Path, tokens: int) -> Trained:
    folder = out / f"{case.name}-{tokens}"
    recipe = contest_recipe(
        tokens * case.share // STAGES,
        learning_rate=LEARNING_RATE,
        tokens_per_step=TOKENS_PER_STEP,
        sequence_length=SEQUENCE_LENGTH,
        seed=case.seed,
    )
    result = train(
        parse_shape(case.shape + SUFFIX),
        [],
        folder,
        recipe,
        resume=True,
        rates_of=parse_shape(BASE + SUFFIX) if case.completep else None,
        report=lambda line: None,
    )
    if result.interrupted:
        raise KeyboardInterrupt
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "held_out" and line["step"]]
    print(f"{case.name}: {losses[-1]:.4f} nats, {result.tokens_per_second:,.0f} tokens/s", flush=True)
    shutil.rmtree(folder)  # the checkpoints of all cases together would fill a small disk
    return Trained(case, result.tokens, losses, result.tokens / result.tokens_per_second)


def report(done: dict[Case, Trained], tokens: int) -> str:
    short = tokens // STAGES
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, 1 thread, torch {torch.__version__}, float32;"
        f" {len(SHAPES)} shapes, 8x = {tokens:,} tokens ({tokens // TOKENS_PER_STEP} steps), 1x = {short:,},"
        f" peak rate {LEARNING_RATE:g} chosen at {BASE}",
        "",
    ]
    seeds = sorted({case.seed for case in done})
    lines += [*losses_table(done, seeds), ""]
    lines += [
        "| learning rates | ranks by | against ranks by | tau | n | seed |",
        "|---|---|---|---|---|---|",
    ]
    for completep in (True, False):
        for seed in seeds:
            whole = column(done, completep, seed, STAGES, STAGES)
            ways = {
                "1x, inside the 8x run": column(done, completep, seed, STAGES, 1),
                "2x, inside the 8x run": column(done, completep, seed, STAGES, 2),
                "4x, inside the 8x run": column(done, completep, seed, STAGES, STAGES // 2),
                "1x, a run of its own": column(done, completep, seed, 1, STAGES),
            }
            for name, losses in ways.items():
                lines.append(tau_row(completep, name, losses, "8x", whole, str(seed)))
        if len(seeds) > 1:
            first, second = (column(done, completep, seed, STAGES, STAGES) for seed in seeds[:2])
            lines.append(tau_row(completep, "8x", first, "8x", second, "0 against 1"))
    for seed in seeds:
        both = [column(done, completep, seed, STAGES, STAGES) for completep in (True, False)]
        lines.append(tau_row(True, "8x", both[0], "8x, plain", both[1], str(seed)))
    return "\n".join(lines)


def losses_table(done: dict[Case, Trained], seeds: list[int]) -> list[str]:
    heads = [f"{way} s{seed}" for seed in seeds for way in ("CompleteP 1x", "8x", "plain 1x", "8x")]
    lines = [f"| shape | body | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for shape in SHAPES:
        cells = []
        for seed, completep, stage in itertools.product(seeds, (True, False), (1, STAGES)):
            loss = column(done, completep, seed, STAGES, stage).get(shape)
            cells.append("" if loss is None else f"{loss:.4f}")
        lines.append(f"| {shape} | {body_parameters(parse_shape(shape + SUFFIX)):,} | {' | '.join(cells)} |")
    return lines


def column(done: dict[Case, Trained], completep: bool, seed: int, share: int, stage: int) -> dict[str, float]:
    """Held-out loss by shape after `stage` eighths of the runs of that share."""
    found = {shape: done.get(Case(shape, completep, seed, share)) for shape in SHAPES}
    return {shape: trained.losses[stage - 1] for shape, trained in found.items() if trained}


def tau_row(
    completep: bool, name: str, losses: dict[str, float], against: str, truth: dict[str, float], seed: str
) -> str:
    both = [shape for shape in losses if shape in truth]
    tau = math.nan
    if len(both) > 2:
        tau = kendalltau([losses[shape] for shape in both], [truth[shape] for shape in both]).statistic
    rates = "CompleteP" if completep else "plain"
    return f"| {rates} | {name} | {against} | {tau:.2f} | {len(both)} | {seed} |"


if __name__ == "__main__":
    main()
