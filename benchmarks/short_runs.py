"""Do short runs rank shapes as runs of eight times the tokens do? With and without CompleteP.

    python benchmarks/short_runs.py --out DIR [--shapes sizes] [--seeds 2] [--tokens 4194304] [--part 0/2]

Trains small shapes, of equal body parameters or (sizes) of different ones, on Python's standard library, each
for the whole budget and, as a run of its own with a schedule of its own, for an eighth of it. Kendall's tau
between the ranks by held-out loss, four ways: the eighth as its own run, and an eighth (what pruning sees), a
quarter and half way into the whole one. Beside it the same between two seeds: no judge agrees with the truth
better than the truth itself.

What is trained stands in DIR/runs.jsonl and is not trained again; a run that was killed goes on from its last
checkpoint. The tables are of whatever is there. One thread; processes with --part 0/2 and 1/2 share a DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from scipy.stats import kendalltau

from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.search.contest.recipe import STAGES, contest_recipe
from hwsearch.search.contest.score import spread
from hwsearch.shape import parse_shape
from hwsearch.shape.parameters import body_parameters
from hwsearch.training import train
from hwsearch.training.token_cache import token_cache
from hwsearch.training.unigram import unigram_loss

# Chosen before any of them was trained. Equal: the same body parameters within 2 %, from wide to deep. Sizes:
# 28 to 257 thousand of them, as far apart as the ends of a front of latency and quality.
SHAPES = {
    "equal": (
        "L2-h64-a4-i128", "L4-h48-a3-i80", "L1-h96-a6-i160", "L3-h48-a3-i128",
        "L6-h32-a2-i100", "L2-h48-a3-i224", "L8-h32-a2-i64",
    ),
    "sizes": (
        "L1-h48-a3-i128", "L2-h48-a3-i128", "L6-h32-a2-i64", "L3-h48-a3-i128",
        "L2-h80-a5-i160", "L4-h64-a4-i192", "L4-h80-a5-i160",
    ),
}  # fmt: skip
SUFFIX = "-v320-p64"  # with more words a run of minutes learns their frequencies and little else
BASE = "L3-h48-a3-i128"  # the learning rate was chosen at this one
LEARNING_RATE = 4e-3
TOKENS_PER_STEP, SEQUENCE_LENGTH = 512, 64

Way = tuple[bool, int, int]  # CompleteP or not, share of the tokens, eighths of that run
WAYS: tuple[Way, ...] = tuple(
    (completep, share, STAGES) for completep in (True, False) for share in (1, STAGES)
)
TO_JUDGE = (
    (1, 1, "1/8x, inside the 1x run"),
    (1, 2, "1/4x, inside the 1x run"),
    (1, 4, "1/2x, inside the 1x run"),
    (1, STAGES, "1x, a run of its own"),
    (STAGES, 1, "1x, inside the 8x run"),
    (STAGES, 2, "2x, inside the 8x run"),
    (STAGES, 4, "4x, inside the 8x run"),
)


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
    parser.add_argument("--shapes", choices=SHAPES, default="equal")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1 << 22, help="of a whole run")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="train every N-th case, from I on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, first, step = arguments.out / "runs.jsonl", *map(int, arguments.part.split("/"))
    shapes = SHAPES[arguments.shapes]
    for case in cases(shapes, arguments.seeds)[first::step]:
        if case not in read(table, arguments.tokens):
            line = json.dumps(
                asdict(run(case, arguments.out, arguments.tokens)) | {"whole": arguments.tokens}
            )
            with open(table, "a", encoding="utf-8") as file:
                file.write(line + "\n")
    done = {case: trained for case, trained in read(table, arguments.tokens).items() if case.shape in shapes}
    print(report(done, arguments.tokens))


def cases(shapes: tuple[str, ...], seeds: int) -> list[Case]:
    """What decides most first, so that a run which is stopped early has it."""
    order = itertools.product((True, False), range(seeds), (1, STAGES), shapes)
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
    text = token_cache([], vocab_size=parse_shape(BASE + SUFFIX).vocab_size, tokens=tokens)
    unigram = unigram_loss(text)
    ways = [way for way in WAYS if any(column(done, *way, seed) for seed in seeds_of(done))]
    rows = []
    for seed, completep in itertools.product(seeds_of(done), (True, False)):
        whole = column(done, completep, STAGES, STAGES, seed)
        for share, stage, name in TO_JUDGE:
            rows.append(
                (completep, name, column(done, completep, share, stage, seed), "8x", whole, str(seed))
            )
    for completep in (True, False):
        whole = column(done, completep, STAGES, STAGES, seeds_of(done)[0])
        rows.append(
            (completep, "1x, the mean of both seeds", mean_column(done, completep, 1), "8x", whole, "0")
        )
    for seed in seeds_of(done):
        both = [column(done, completep, STAGES, STAGES, seed) for completep in (True, False)]
        rows.append((True, "8x", both[0], "8x, plain", both[1], str(seed)))
    for completep, share, stage in ways:
        losses = [column(done, completep, share, stage, seed) for seed in seeds_of(done)]
        for first, second in itertools.combinations(losses, 2):
            rows.append((completep, f"{share}x", first, f"{share}x", second, "two"))
    return "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, 1 thread, torch {torch.__version__}, float32;"
            f" 8x = {tokens:,} tokens ({tokens // TOKENS_PER_STEP} steps), 1x = {tokens // STAGES:,},"
            f" peak rate {LEARNING_RATE:g} at {BASE}, the reference; word frequencies alone give"
            f" {unigram:.3f} nats",
            "",
            *losses_table(done, ways),
            "",
            "| learning rates | ranks by | reference / frequencies | against | tau | p | n | seed |",
            "|---" * 8 + "|",
            *(line for row in rows for line in tau_row(*row, unigram)),
            "",
            *noise_lines(done, ways),
        ]
    )


def seeds_of(done: dict[Case, Trained]) -> list[int]:
    return sorted({case.seed for case in done})


def shapes_of(done: dict[Case, Trained]) -> list[str]:
    return list(dict.fromkeys(case.shape for case in done))


def losses_table(done: dict[Case, Trained], ways: list[Way]) -> list[str]:
    columns = [(way, seed) for way in ways for seed in seeds_of(done)]
    heads = [f"{rates(way[0])} {way[1]}x s{seed}" for way, seed in columns]
    lines = [f"| shape | body | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for shape in shapes_of(done):
        found = [column(done, *way, seed).get(shape) for way, seed in columns]
        cells = " | ".join("" if loss is None else f"{loss:.4f}" for loss in found)
        lines.append(f"| {shape} | {body_parameters(parse_shape(shape + SUFFIX)):,} | {cells} |")
    return lines


def noise_lines(done: dict[Case, Trained], ways: list[Way]) -> list[str]:
    """Standard deviations: of one run by its two seeds, and of the shapes."""
    lines = []
    for way in ways:
        first, *others = (column(done, *way, seed) for seed in seeds_of(done))
        pairs = [(first[shape], other[shape]) for other in others for shape in other if shape in first]
        noise, shapes = spread(pairs), statistics.stdev(first.values()) if len(first) > 1 else math.nan
        found = "unknown" if noise is None else f"{noise:.4f} ({len(pairs)} shapes twice)"
        lines.append(
            f"{rates(way[0])}, {way[1]}x: noise of one run {found}, spread of {len(first)} shapes"
            f" {shapes:.4f} nats (standard deviations)"
        )
    return lines


def column(done: dict[Case, Trained], completep: bool, share: int, stage: int, seed: int) -> dict[str, float]:
    """Held-out loss by shape after `stage` eighths of the runs of that share."""
    found = {shape: done.get(Case(shape, completep, seed, share)) for shape in shapes_of(done)}
    return {shape: trained.losses[stage - 1] for shape, trained in found.items() if trained}


def mean_column(done: dict[Case, Trained], completep: bool, share: int) -> dict[str, float]:
    """Of all seeds at the end of those runs, for shapes that have more than one."""
    losses = [column(done, completep, share, STAGES, seed) for seed in seeds_of(done)]
    both = set.intersection(*map(set, losses)) if len(losses) > 1 else set()
    return {shape: statistics.fmean(of[shape] for of in losses) for shape in shapes_of(done) if shape in both}


def tau_row(
    completep: bool,
    name: str,
    losses: dict[str, float],
    against: str,
    truth: dict[str, float],
    seed: str,
    unigram: float,
) -> list[str]:
    """None for less than three shapes; p is of ranks that have nothing to do with each other."""
    both = [shape for shape in losses if shape in truth]
    if len(both) < 3:
        return []
    tau = kendalltau([losses[shape] for shape in both], [truth[shape] for shape in both])
    learned = f"{losses[BASE] / unigram:.2f}" if BASE in losses else ""
    return [
        f"| {rates(completep)} | {name} | {learned} | {against} | {tau.statistic:.2f} | {tau.pvalue:.3f}"
        f" | {len(both)} | {seed} |"
    ]


def rates(completep: bool) -> str:
    return "CompleteP" if completep else "plain"


if __name__ == "__main__":
    main()
